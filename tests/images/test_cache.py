"""The cache of arrays: built once, resumed after a stop, safe for two builders, and clear when the disk is full."""

from __future__ import annotations

import errno
import os
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
from mlbench.images.cache import cached_array

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
    return cached_array(path, SHAPE, np.int32, fill, chunk=5, advance=advance)


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
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.lock", "a.npy"]


def test_an_interrupted_build_goes_on_at_the_chunk_it_had_reached(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(RuntimeError):
        build(path, Filler(stop_at=10))
    assert not path.exists()
    rest = Filler()
    assert (build(path, rest) == WHOLE).all()
    assert rest.asked == [(10, 15), (15, 20), (20, 23)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.lock", "a.npy"]


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
    array = cached_array(tmp_path / "a.npy", (0, 3), np.float32, Filler())
    assert array.shape == (0, 3)


def test_errors_of_the_source_pass_through(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="broken image"):
        build(tmp_path / "a.npy", Filler(stop_at=5, error=DataError("x.png: broken image")))


BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from mlbench.images.cache import cached_array

built = 0
def fill(start, stop):
    global built
    built += 1
    time.sleep(0.05)
    return np.arange(69, dtype=np.int32).reshape(23, 3)[start:stop]

print("ready", flush=True)
sys.stdin.readline()
array = cached_array(Path(sys.argv[1]), (23, 3), np.int32, fill, chunk=5)
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


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MlbenchError, match=r"cannot write the cache in .*file/sub: Not a directory"):
        build(tmp_path / "file" / "sub" / "a.npy", Filler())
