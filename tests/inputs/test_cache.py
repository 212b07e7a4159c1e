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
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlbench.errors import DataError, MlbenchError
from mlbench.inputs import cache, checked
from mlbench.inputs.cache import Recipe, cached_array, open_cached
from mlbench.inputs.checked import CheckedArray
from mlbench.inputs.sidecar import read_sidecar, sidecar_file, write_sidecar

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


def build(path: Path, fill: Callable[[int, int], np.ndarray], advance: cache.Advance | None = None) -> CheckedArray:
    return cached_array(path, SHAPE, np.int32, Recipe(fill), chunk=5, advance=advance)


def test_an_array_is_built_in_chunks_once_and_mapped_afterwards(tmp_path: Path) -> None:
    fill, again, seen = Filler(), Filler(stop_at=0), []
    path = tmp_path / "deep" / "er" / "a.npy"
    array = build(path, fill, lambda done, total: seen.append((done, total)))
    assert (array == WHOLE).all()
    assert array.dtype == np.int32
    assert not array[:].flags.writeable
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
from mlbench.inputs.cache import Recipe, cached_array

built = 0
def fill(start, stop):
    global built
    built += 1
    time.sleep(0.05)
    return np.arange(69, dtype=np.int32).reshape(23, 3)[start:stop]

print("ready", flush=True)
sys.stdin.readline()
array = cached_array(Path(sys.argv[1]), (23, 3), np.int32, Recipe(fill), chunk=5)
print(built, int(np.asarray(array).sum()), flush=True)
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
    array = cached_array(path, SHAPE, np.int32, Recipe(Filler(), {"rule": "x"}, "o"), chunk=5)
    sidecar = read_sidecar(path)
    assert sidecar.sha256 == sha256(WHOLE) == array.sha256
    bounds = [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    assert [(c.start, c.stop) for c in sidecar.chunks] == bounds
    assert [c.sha256 for c in sidecar.chunks] == [sha256(WHOLE[start:stop]) for start, stop in bounds]
    assert (sidecar.key, sidecar.origin, sidecar.about) == ("a", "o", {"rule": "x"})


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


def test_damage_is_found_when_its_rows_are_first_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    build(path, Filler())
    flip_byte(path, back=(23 - 7) * 12)  # in rows 5 to 9
    array = build(path, Filler(stop_at=0))
    for rows in (slice(0, 5), slice(10, 23, 3), slice(4, None, -1), 22, -1, np.array([11, -2, 4]), np.arange(23) > 9):
        assert (array[rows] == WHOLE[rows]).all()
    for rows in (7, -16, slice(None), slice(9, 3, -2), [1, 8], np.arange(23) == 5, np.s_[6, 1:], WHOLE > 60, ...):
        with pytest.raises(DataError, match=r"a\.npy: damaged, rows 5 to 9 are not what was written; delete it"):
            build(path, Filler(stop_at=0))[rows]
    for whole in (np.asarray, np.array, lambda array: array == WHOLE, lambda array: array.first(2)[5:6]):
        with pytest.raises(DataError, match="rows 5 to 9"):
            whole(array)
    path.unlink()
    assert (build(path, Filler()) == WHOLE).all()


def test_a_checked_array_reads_like_the_array_it_keeps(tmp_path: Path) -> None:
    array = build(tmp_path / "a.npy", Filler())
    assert (len(array), array.shape, array.dtype, array.ndim, array.nbytes) == (23, SHAPE, np.int32, 2, WHOLE.nbytes)
    for rows in (slice(0, 0), slice(20, 99), [], 3, np.int64(3), np.array([3, 3, 0]), np.s_[2:9, ::2], WHOLE % 2 == 0):
        np.testing.assert_array_equal(build(tmp_path / "a.npy", Filler())[rows], WHOLE[rows])
    first = array.first(2)
    assert first.shape == (23, 2)
    np.testing.assert_array_equal(first, WHOLE[:, :2])
    assert np.asarray(array, dtype=np.float64).dtype == np.float64
    with pytest.raises(IndexError):
        array[23]


def test_each_chunk_is_hashed_once_when_it_is_read_and_all_at_the_end(tmp_path: Path, monkeypatch) -> None:
    array, hashed = build(tmp_path / "a.npy", Filler()), []
    digest = checked.array_digest
    monkeypatch.setattr(checked, "array_digest", lambda rows: hashed.append(int(rows[0, 0]) // 15) or digest(rows))
    for rows, new in ((slice(3, 6), [0, 1]), ([0, 22, 21], [4]), (4, []), (slice(None), [2, 3]), (slice(None), [])):
        hashed.clear()
        array[rows]
        assert sorted(hashed) == new
    array.verify()
    assert sorted(hashed) == [0, 1, 2, 3, 4]


def test_an_array_that_nothing_was_read_of_needs_no_second_look(tmp_path: Path, monkeypatch) -> None:
    array, asked = build(tmp_path / "a.npy", Filler()), []
    monkeypatch.setattr(CheckedArray, "verify", lambda self: asked.append(self))
    checked.verify_read(array)
    checked.verify_read(WHOLE)
    assert asked == []
    array.first(2)[3]
    checked.verify_read(array)
    assert len(asked) == 1


def test_verification_finds_damage_anywhere_and_after_the_first_look(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = cached_array(path, SHAPE, np.int32, Recipe(Filler()), chunk=1)
    assert (array == WHOLE).all()
    array.verify()
    with open(path, "r+b") as file:
        for row in (3, 17):
            file.seek(path.stat().st_size - (23 - row) * 12)
            file.write(b"\xff")
    with pytest.raises(DataError, match="damaged, rows 3 to 3, 17 to 17 are"):
        array.verify()
    with pytest.raises(DataError, match="damaged, rows 3 to 3, 17 to 17 are"):
        open_cached(path).verify()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 2}', '{"format": 1}', '{"format": 2, "shape": [23, 3], "chunks": [3]}']
)
def test_a_broken_sidecar_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.npy"
    build(path, Filler())
    sidecar_file(path).write_text(content)
    with pytest.raises(DataError, match=r"a\.json: damaged .*delete it and a\.npy"):
        build(path, Filler())


def test_a_digit_changed_in_a_sidecar_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    build(path, Filler())
    good = json.loads(sidecar_file(path).read_text())
    for name, other in (("sha256", "0" * 64), ("origin", "other"), ("about", {"rule": "y"})):
        sidecar_file(path).write_text(json.dumps({**good, name: other}))
        with pytest.raises(DataError, match=r"a\.json: damaged \(it is not what was written\)"):
            build(path, Filler())


def test_arrays_that_were_exchanged_together_with_their_sidecars_are_found_out(tmp_path: Path) -> None:
    one, two = tmp_path / "one.npy", tmp_path / "two.npy"
    build(one, Filler())
    cached_array(two, SHAPE, np.int32, Recipe(lambda start, stop: -WHOLE[start:stop]))
    for left, right in ((one, two), (sidecar_file(one), sidecar_file(two))):
        left.rename(tmp_path / "aside")
        right.rename(left)
        (tmp_path / "aside").rename(right)
    for path in (one, two):
        with pytest.raises(DataError, match=r"belongs to (one|two)\.npy; delete it"):
            build(path, Filler())


def test_a_sidecar_with_gaps_or_of_another_array_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    build(path, Filler())
    good = read_sidecar(path)
    write_sidecar(path, replace(good, chunks=good.chunks[1:]))
    with pytest.raises(DataError, match="leave gaps"):
        build(path, Filler())
    write_sidecar(path, replace(good, dtype="int64"))
    with pytest.raises(DataError, match="tells of another array"):
        build(path, Filler())


def test_an_array_of_another_shape_or_kind_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "a.npy", Filler())
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


def test_an_array_without_hashes_is_built_anew_and_not_believed(tmp_path: Path, caplog) -> None:
    path = tmp_path / "a.npy"
    build(path, Filler())
    sidecar_file(path).unlink()
    flip_byte(path, back=1)
    fill = Filler()
    assert (build(path, fill) == WHOLE).all()
    assert fill.asked[0] == (0, 5)
    assert "its hashes are gone; it is built anew" in caplog.text
    sidecar_file(path).unlink()
    with pytest.raises(DataError, match=r"a\.npy: its \.json is gone"):
        open_cached(path)


def test_a_whole_array_in_a_folder_that_cannot_be_written_is_still_read(tmp_path: Path, monkeypatch) -> None:
    build(tmp_path / "a.npy", Filler())

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(cache, "locked", refuse)
    assert (build(tmp_path / "a.npy", Filler(stop_at=0)) == WHOLE).all()
    sidecar_file(tmp_path / "a.npy").unlink()
    with pytest.raises(MlbenchError, match=r"cannot write the cache in .*: Read-only file system"):
        build(tmp_path / "a.npy", Filler(stop_at=0))


def test_an_array_made_in_another_way_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    cached_array(path, SHAPE, np.int32, Recipe(Filler(), {"rule": 1, "mean": (0.5,)}))
    cached_array(path, SHAPE, np.int32, Recipe(Filler(stop_at=0), {"rule": 1, "mean": (0.5,)}))
    with pytest.raises(DataError, match=r"made in another way \(rule 1, expected 2\); delete it"):
        cached_array(path, SHAPE, np.int32, Recipe(Filler(stop_at=0), {"rule": 2, "mean": [0.5]}))


@pytest.mark.parametrize(("about", "origin"), [({"rule": 2}, ""), ({"rule": 1}, "of other pixels")])
def test_a_build_is_not_resumed_by_another_recipe(tmp_path: Path, about: dict, origin: str) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(RuntimeError):
        cached_array(path, SHAPE, np.int32, Recipe(lambda a, b: -Filler(stop_at=10)(a, b), {"rule": 1}), chunk=5)
    fill = Filler()
    assert (cached_array(path, SHAPE, np.int32, Recipe(fill, about, origin), chunk=5) == WHOLE).all()
    assert fill.asked[0] == (0, 5)


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
