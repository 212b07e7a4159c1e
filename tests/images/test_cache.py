"""The cache of arrays: built once, resumed after a stop, safe for two builders, and clear when the disk is full."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlbench.errors import DataError, MlbenchError
from mlbench.images import cache
from mlbench.images.cache import Recipe, array_sha256, cached_array, verify_array
from mlbench.images.sidecar import read_sidecar, sidecar_file, write_sidecar

SHAPE = (23, 3)
WHOLE = np.arange(69, dtype=np.int32).reshape(SHAPE)


class Filler:
    """Gives the rows of `WHOLE` and notes which were asked for; raises when `stop_at` is reached."""

    def __init__(self, stop_at: int | None = None, error: Exception | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.stop_at, self.error = stop_at, error or RuntimeError("stopped")

    def __call__(self, start: int, stop: int) -> np.ndarray:
        if self.stop_at is not None and start >= self.stop_at:
            raise self.error
        self.asked.append((start, stop))
        return WHOLE[start:stop]


def build(path: Path, fill: Callable[[int, int], np.ndarray], advance: cache.Advance | None = None) -> np.ndarray:
    return cached_array(path, SHAPE, np.int32, Recipe(fill), chunk=5, advance=advance)


def test_an_array_is_built_in_chunks_once_and_mapped_afterwards(tmp_path: Path) -> None:
    fill, again, seen = Filler(), Filler(stop_at=0), []
    path = tmp_path / "deep" / "er" / "a.npy"
    array = build(path, fill, lambda done, total: seen.append((done, total)))
    assert (array == WHOLE).all()
    assert array.dtype == np.int32
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    assert fill.asked == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    assert seen == [(stop, 23) for _, stop in fill.asked]
    assert (build(path, again) == WHOLE).all()
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.json", "a.lock", "a.npy"]


def test_an_interrupted_build_goes_on_at_the_chunk_it_had_reached(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(RuntimeError):
        build(path, Filler(stop_at=10))
    assert not path.exists()
    rest = Filler()
    assert (build(path, rest) == WHOLE).all()
    assert rest.asked == [(10, 15), (15, 20), (20, 23)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.lock", "a.npy"]


@pytest.mark.parametrize("progress", ["", "1o", "99", "-5", None])
def test_a_build_whose_progress_cannot_be_read_starts_anew(tmp_path: Path, progress: str | None) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(RuntimeError):
        build(path, Filler(stop_at=10))
    if progress is None:
        path.with_suffix(".part").unlink()
    else:
        path.with_suffix(".progress").write_text(progress)
    fill = Filler()
    assert (build(path, fill) == WHOLE).all()
    assert fill.asked[0] == (0, 5)


def test_a_half_written_part_file_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(RuntimeError):
        build(path, Filler(stop_at=10))
    part = path.with_suffix(".part")
    part.write_bytes(part.read_bytes()[:100])
    assert (build(path, Filler()) == WHOLE).all()


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    build(path, Filler())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"a\.npy: damaged .*delete it"):
        build(path, Filler())


def test_an_empty_array_is_built_too(tmp_path: Path) -> None:
    array = cached_array(tmp_path / "a.npy", (0, 3), np.float32, Recipe(Filler()))
    assert array.shape == (0, 3)


def test_errors_of_the_source_pass_through(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="broken image"):
        build(tmp_path / "a.npy", Filler(stop_at=5, error=DataError("x.png: broken image")))


BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from mlbench.images.cache import Recipe, cached_array

built = 0
def fill(start, stop):
    global built
    built += 1
    time.sleep(0.05)
    return np.arange(69, dtype=np.int32).reshape(23, 3)[start:stop]

print("ready", flush=True)
sys.stdin.readline()
array = cached_array(Path(sys.argv[1]), (23, 3), np.int32, Recipe(fill), chunk=5)
print(built, int(array.sum()), flush=True)
"""


def test_two_processes_that_build_at_once_build_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "a.npy")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    builders = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for builder in builders:
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        builder.stdin.write("go\n")
        builder.stdin.flush()
    answers = sorted(tuple(map(int, builder.communicate(timeout=60)[0].split())) for builder in builders)
    assert answers == [(0, int(WHOLE.sum())), (5, int(WHOLE.sum()))]


def test_a_second_thread_waits_for_the_first_builder(tmp_path: Path) -> None:
    slow = Filler()
    started = threading.Event()

    def fill(start: int, stop: int) -> np.ndarray:
        started.set()
        time.sleep(0.02)
        return slow(start, stop)

    first = threading.Thread(target=build, args=(tmp_path / "a.npy", fill))
    first.start()
    started.wait(10)
    assert (build(tmp_path / "a.npy", Filler(stop_at=0)) == WHOLE).all()
    first.join()
    assert len(slow.asked) == 5


def test_a_disk_without_room_is_an_error_before_the_first_image(tmp_path: Path, monkeypatch) -> None:
    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    fill = Filler()
    with pytest.raises(MlbenchError, match=rf"cannot write the cache in {tmp_path}: No space left on device"):
        build(tmp_path / "a.npy", fill)
    assert fill.asked == []
    assert [p.name for p in tmp_path.iterdir()] == ["a.lock"]
    monkeypatch.undo()
    assert (build(tmp_path / "a.npy", fill) == WHOLE).all()


def test_the_room_is_claimed_for_the_whole_array(tmp_path: Path, monkeypatch) -> None:
    claimed = []
    monkeypatch.setattr(os, "posix_fallocate", lambda handle, start, size: claimed.append((start, size)))
    build(tmp_path / "a.npy", Filler())
    assert claimed == [(0, (tmp_path / "a.npy").stat().st_size)]


def test_without_posix_fallocate_the_free_space_is_looked_at(tmp_path: Path, monkeypatch) -> None:
    def refuses(*arguments: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    room = shutil.disk_usage(tmp_path)
    for name, change in (
        ("absent", lambda patch: patch.delattr(os, "posix_fallocate")),
        ("refused", lambda patch: patch.setattr(os, "posix_fallocate", refuses)),
    ):
        with monkeypatch.context() as patch:
            change(patch)
            assert (build(tmp_path / name / "a.npy", Filler()) == WHOLE).all()
            patch.setattr(shutil, "disk_usage", lambda folder: room._replace(free=100))
            with pytest.raises(MlbenchError, match="No space left on device"):
                build(tmp_path / name / "b.npy", Filler())
        assert not list((tmp_path / name).glob("b.p*"))


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MlbenchError, match=r"cannot write the cache in .*file/sub: Not a directory"):
        build(tmp_path / "file" / "sub" / "a.npy", Filler())


# --- hashes -----------------------------------------------------------------------------------------------------------


def sha256(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


def flip_byte(path: Path, back: int) -> None:
    content = bytearray(path.read_bytes())
    content[-back] ^= 1
    path.write_bytes(content)


def test_the_sidecar_holds_the_hashes_of_every_chunk_and_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    recipe = Recipe(Filler(), lambda start, stop: [f"file {row}" for row in range(start, stop)], "o", {"rule": "x"})
    array = cached_array(path, SHAPE, np.int32, recipe, chunk=5)
    sidecar = read_sidecar(path)
    assert sidecar.sha256 == sha256(WHOLE) == array_sha256(path, array)
    bounds = [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    assert [(c.start, c.stop) for c in sidecar.chunks] == bounds
    assert [c.sha256 for c in sidecar.chunks] == [sha256(WHOLE[start:stop]) for start, stop in bounds]
    assert sidecar.sources == [f"file {row}" for row in range(23)]
    assert (sidecar.origin, sidecar.about, sidecar.completed) == ("o", {"rule": "x"}, False)


def test_a_resumed_build_has_the_hashes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(RuntimeError):
        build(path, Filler(stop_at=10))
    with open(path.with_suffix(".progress"), "a") as log:
        log.write('{"start": 10, "st')  # what a kill leaves
    build(path, Filler())
    build(tmp_path / "b.npy", Filler())
    resumed, straight = read_sidecar(path), read_sidecar(tmp_path / "b.npy")
    assert resumed.sha256 == straight.sha256 == sha256(WHOLE)
    assert [c.sha256 for c in resumed.chunks] == [c.sha256 for c in straight.chunks]


def test_a_resumed_build_does_not_trust_rows_that_are_not_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(RuntimeError):
        build(path, Filler(stop_at=15))
    flip_byte(path.with_suffix(".part"), back=(23 - 7) * 12)  # in rows 5 to 10
    rest = Filler()
    assert (build(path, rest) == WHOLE).all()
    assert rest.asked == [(5, 10), (10, 15), (15, 20), (20, 23)]


def test_damage_in_a_looked_at_chunk_is_found_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    cached_array(path, SHAPE, np.int32, Recipe(Filler()), chunk=8)  # 3 chunks: all are looked at
    flip_byte(path, back=1)
    with pytest.raises(DataError, match=r"a\.npy: damaged, rows 16 to 22 are not what was written; delete it"):
        build(path, Filler())
    path.unlink()
    assert (build(path, Filler()) == WHOLE).all()


def test_full_verification_finds_damage_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = cached_array(path, SHAPE, np.int32, Recipe(Filler()), chunk=1)
    verify_array(path, array)
    del array
    for row in (3, 17):
        flip_byte(path, back=(23 - row) * 12)
    with pytest.raises(DataError, match="damaged, rows 3 to 3, 17 to 17 are"):
        verify_array(path, np.load(path, mmap_mode="r"))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 1}', '{"format": 2}', '{"format": 1, "shape": [23, 3], "chunks": [3]}']
)
def test_a_broken_sidecar_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.npy"
    build(path, Filler())
    sidecar_file(path).write_text(content)
    with pytest.raises(DataError, match=r"a\.json: damaged .*delete it and a\.npy"):
        build(path, Filler())


def test_a_sidecar_with_gaps_or_of_another_array_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    build(path, Filler())
    good = json.loads(sidecar_file(path).read_text())
    sidecar_file(path).write_text(json.dumps({**good, "chunks": good["chunks"][1:]}))
    with pytest.raises(DataError, match="leave gaps"):
        build(path, Filler())
    sidecar_file(path).write_text(json.dumps({**good, "dtype": "int64"}))
    with pytest.raises(DataError, match="tells of another array"):
        build(path, Filler())


def test_an_array_of_another_shape_or_kind_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", WHOLE[:20])
    with pytest.raises(DataError, match=r"int32 \[20, 3\], expected int32 \[23, 3\]"):
        build(tmp_path / "a.npy", Filler())
    np.save(tmp_path / "a.npy", WHOLE.astype(np.int64))
    with pytest.raises(DataError, match=r"int64 \[23, 3\], expected int32"):
        build(tmp_path / "a.npy", Filler())
    np.save(tmp_path / "a.npy", WHOLE)
    with open(tmp_path / "a.npy", "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="in a file of another size"):
        build(tmp_path / "a.npy", Filler())
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(DataError, match="damaged cache file"):
        build(tmp_path / "a.npy", Filler())


def test_an_array_from_before_there_were_hashes_is_kept_and_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, WHOLE)
    before = path.stat()
    never = Recipe(Filler(stop_at=0), lambda start, stop: ["x"] * (stop - start), origin="known now")
    assert (cached_array(path, SHAPE, np.int32, never, chunk=5) == WHOLE).all()
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    sidecar = read_sidecar(path)
    assert (sidecar.sha256, sidecar.completed, sidecar.origin) == (sha256(WHOLE), True, "")
    assert sidecar.sources == ["x"] * 23
    written = sidecar_file(path).stat().st_mtime_ns
    cached_array(path, SHAPE, np.int32, never, chunk=5)
    assert sidecar_file(path).stat().st_mtime_ns == written


def test_an_array_in_a_folder_that_cannot_be_written_is_still_read(tmp_path: Path, monkeypatch) -> None:
    np.save(tmp_path / "a.npy", WHOLE)

    def refuse(*arguments: object) -> None:
        raise MlbenchError("read-only")

    monkeypatch.setattr(cache, "write_sidecar", refuse)
    array = build(tmp_path / "a.npy", Filler(stop_at=0))
    assert array_sha256(tmp_path / "a.npy", array) == sha256(WHOLE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_an_array_computed_from_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    cached_array(path, SHAPE, np.int32, Recipe(Filler(), origin="one"))
    cached_array(path, SHAPE, np.int32, Recipe(Filler(stop_at=0), origin="one"))
    with pytest.raises(DataError, match="computed from other data"):
        cached_array(path, SHAPE, np.int32, Recipe(Filler(stop_at=0), origin="two"))
    write_sidecar(path, read_sidecar(path))
    cached_array(path, SHAPE, np.int32, Recipe(Filler(stop_at=0), origin="one"))


def test_a_build_killed_without_warning_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    code = BUILDER.replace("time.sleep(0.05)", "print(start, flush=True); time.sleep(30 if start == 15 else 0)")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    builder = subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes)  # type: ignore[call-overload]
    builder.stdin.write("go\n")
    builder.stdin.flush()
    while builder.stdout.readline() != "15\n":
        pass
    builder.send_signal(signal.SIGKILL)
    builder.communicate(timeout=60)
    assert not path.exists()
    rest = Filler()
    assert (build(path, rest) == WHOLE).all()
    assert rest.asked == [(15, 20), (20, 23)]
    assert read_sidecar(path).sha256 == sha256(WHOLE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.lock", "a.npy"]
