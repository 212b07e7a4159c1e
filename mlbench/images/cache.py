"""Arrays too large for memory, built once: resumable, safe when two processes build the same one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mlbench.errors import DataError, MlbenchError
from mlbench.locks import locked

#: Told how many rows of how many are done.
Advance = Callable[[int, int], None]


def cached_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: type,
    fill: Callable[[int, int], np.ndarray],
    chunk: int = 256,
    advance: Advance | None = None,
) -> np.ndarray:
    """The array kept at `path`, memory-mapped for reading; built by ``fill(start, stop)`` if it is not there.

    The file appears only when complete. A killed build goes on at the chunk it had reached; a second builder waits
    for the first. Disk space is claimed before the first write, so a full disk is an error and not a crash.
    """
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock"), wait=True):
                if not path.exists():
                    _build(path, shape, dtype, fill, chunk, advance)
        except OSError as error:
            raise MlbenchError(f"cannot write the cache in {path.parent}: {error.strerror or error}") from error
    try:
        return np.load(path, mmap_mode="r")
    except ValueError as error:
        raise DataError(f"{path}: damaged cache file ({error}); delete it, and it is built anew") from None


def _build(path: Path, shape: tuple, dtype: type, fill: Callable, chunk: int, advance: Advance | None) -> None:
    part, progress = path.with_suffix(".part"), path.with_suffix(".progress")
    done, array = _interrupted(part, progress, shape, dtype)
    if array is None:
        progress.unlink(missing_ok=True)  # before the new file, of which it would tell something wrong
        array = _claim(part, shape, dtype)
    for start in range(done, shape[0], chunk):
        stop = min(start + chunk, shape[0])
        array[start:stop] = fill(start, stop)
        array.flush()
        progress.write_text(str(stop))
        if advance is not None:
            advance(stop, shape[0])
    del array
    os.replace(part, path)
    progress.unlink(missing_ok=True)


def _interrupted(part: Path, progress: Path, shape: tuple, dtype: type) -> tuple[int, np.memmap | None]:
    """How many rows an interrupted build has, and its array; (0, None) if there is none that can be used."""
    try:
        done = int(progress.read_text())
        array = np.lib.format.open_memmap(part, mode="r+")
    except (OSError, ValueError):
        return 0, None
    fits = array.shape == shape and array.dtype == dtype and 0 < done <= shape[0]
    return (done, array) if fits else (0, None)


def _claim(part: Path, shape: tuple, dtype: type) -> np.memmap:
    """A new array of zeros at `part` with its disk space claimed; nothing is left behind where there is no room."""
    array = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
    array.flush()
    try:
        with open(part, "rb+") as handle:
            os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size)
    except OSError:
        del array
        os.unlink(part)
        raise
    return array
