"""Hashes of files are computed once, and again as soon as anything tells that a file may be another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlbench.errors import DataError, MlbenchError
from mlbench.images import file_hashes
from mlbench.images.file_hashes import count_unhashed, file_sizes, hash_files, index_file

NAMES = tuple(f"{number:02d}.bin" for number in range(20))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty files, and a clock that says they were written long ago."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(bytes([number]) * (100 + number))
    later(monkeypatch)
    return folder


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the clock is an hour ahead of the file system's."""
    now = time.time_ns
    monkeypatch.setattr(file_hashes.time, "time_ns", lambda: now() + 3600 * 10**9)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    found: list[str] = []
    plain = file_hashes._hash_one
    monkeypatch.setattr(file_hashes, "_hash_one", lambda path: found.append(os.path.basename(path)) or plain(path))
    return found


def by_hand(root: Path, names: tuple[str, ...] = NAMES) -> list[bytes]:
    return [hashlib.sha256((root / name).read_bytes()).digest() for name in names]


def found(root: Path, names: tuple[str, ...] = NAMES) -> list[bytes]:
    return [row.tobytes() for row in hash_files(root, names)]


def test_files_are_hashed_once(root: Path, read: list[str]) -> None:
    assert count_unhashed(root, NAMES) == 20
    assert found(root) == by_hand(root)
    assert sorted(read) == list(NAMES)
    read.clear()
    again = (NAMES[3], NAMES[0], NAMES[3])
    assert found(root, again) == by_hand(root, again)
    assert found(root) == by_hand(root)
    assert (read, count_unhashed(root, NAMES)) == ([], 0)
    assert found(root, ()) == []


def test_a_part_that_was_hashed_is_not_forgotten_for_another(root: Path, read: list[str]) -> None:
    found(root, NAMES[:5])
    found(root, NAMES[10:])
    read.clear()
    found(root)
    assert sorted(read) == list(NAMES[5:10])


def faked_back(path: Path) -> None:
    """Other bytes in the same file, its modification time put back."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced_by_an_older_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def written_with_a_clock_ahead(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, (4e9, 4e9))


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def exchanged(path: Path) -> None:
    other = path.with_name("08.bin")
    path.rename(path.with_name("aside"))
    other.rename(path)
    path.with_name("aside").rename(other)


@pytest.mark.parametrize(
    "change", [faked_back, replaced_by_an_older_file, written_with_a_clock_ahead, longer, exchanged]
)
def test_a_changed_file_is_read_again_whatever_its_times_say(root: Path, read: list[str], change) -> None:
    found(root)
    read.clear()
    change(root / "07.bin")
    assert found(root) == by_hand(root)
    assert "07.bin" in read
    assert len(read) <= 2


def test_a_file_changed_just_before_it_was_hashed_is_hashed_once_more(root: Path, read: list[str], monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("MLBENCH_CACHE", str(root / "cache"))
    plain, names = file_hashes._hash_one, []
    monkeypatch.setattr(file_hashes, "_hash_one", lambda path: names.append(path) or plain(path))
    found(root)
    found(root)  # within the same tick a change would leave no trace
    assert len(names) == 40
    later(monkeypatch)
    found(root)
    found(root)
    assert len(names) == 60


def test_a_file_that_is_written_while_it_is_read_is_an_error(root: Path, monkeypatch) -> None:
    calls: list[int] = []

    def moving(found: os.stat_result) -> tuple[int, ...]:
        calls.append(1)
        return len(calls), found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev

    monkeypatch.setattr(file_hashes, "_state", moving)
    with pytest.raises(DataError, match=r"00\.bin: is being written while it is read"):
        found(root, NAMES[:1])


def test_missing_files_are_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 3 images missing: .*files/a, .*files/b$"):
        hash_files(root, ("b", "00.bin", "a"))


def test_an_interrupted_first_hash_goes_on(root: Path, read: list[str], monkeypatch) -> None:
    monkeypatch.setattr(file_hashes, "_BATCH", 8)
    steps: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        steps.append((done, total))
        if done == 16:
            raise KeyboardInterrupt

    monkeypatch.setattr(file_hashes, "_SAVE_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        hash_files(root, NAMES, stop)
    assert steps == [(8, 20), (16, 20)]
    read.clear()
    assert found(root) == by_hand(root)
    assert len(read) == 12


def test_what_was_hashed_before_an_error_is_kept(root: Path, read: list[str], monkeypatch) -> None:
    monkeypatch.setattr(file_hashes, "_BATCH", 8)
    plain = file_hashes._hash_one

    def fail(path: str):
        if len(read) == 12:
            raise DataError(f"{path}: Input/output error")
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(file_hashes, "_hash_one", fail)
        with pytest.raises(DataError, match="Input/output error"):
            hash_files(root, NAMES)
    read.clear()
    found(root)
    assert len(read) == 12


@pytest.mark.parametrize("damage", ["empty", "bit", "cut"])
def test_a_damaged_index_is_not_believed(root: Path, read: list[str], damage: str, caplog) -> None:
    found(root)
    path = index_file(root)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes({"empty": b"", "bit": bytes(content), "cut": bytes(content[:-90])}[damage])
    read.clear()
    assert found(root) == by_hand(root)
    assert len(read) == 20
    assert "damaged; the images are hashed again" in caplog.text


def test_a_cache_that_cannot_be_written_costs_only_time(root: Path, own_cache: Path, read: list[str]) -> None:
    own_cache.write_text("no folder")
    for _ in range(2):
        assert found(root) == by_hand(root)
    assert len(read) == 40


def test_without_locks_files_are_hashed_all_the_same(root: Path, monkeypatch) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise MlbenchError("this file system has no locks")

    monkeypatch.setattr(file_hashes, "locked", refuse)
    assert found(root) == by_hand(root)
    assert count_unhashed(root, NAMES) == 0


HASHER = """
import sys
from pathlib import Path
from mlbench.images import file_hashes
now = file_hashes.time.time_ns
file_hashes.time.time_ns = lambda: now() + 3600 * 10**9
read, plain = [], file_hashes._hash_one
file_hashes._hash_one = lambda path: read.append(path) or plain(path)
print("ready", flush=True)
sys.stdin.readline()
file_hashes.hash_files(Path(sys.argv[1]), sys.argv[2:])
print(len(read), flush=True)
"""


def test_of_two_processes_one_hashes(root: Path) -> None:
    command = [sys.executable, "-c", HASHER, str(root), *NAMES]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sorted(int(process.communicate(timeout=60)[0]) for process in both) == [0, 20]


def test_progress_is_logged_where_it_takes_long(root: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(file_hashes, "_BATCH", 8)
    monkeypatch.setattr(file_hashes, "_TELL_SECONDS", -1.0)
    found(root)
    assert [line.split(", once: ")[1].split(",")[0] for line in caplog.messages] == ["8 of 20", "16 of 20"]


def test_sizes_are_those_of_regular_files(root: Path) -> None:
    (root / "folder").mkdir()
    sizes = file_sizes(root, ("00.bin", "none", "folder", "a\0b", "05.bin"))
    np.testing.assert_array_equal(sizes, [100, -1, -1, -1, 105])
