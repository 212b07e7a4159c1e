"""Arrays too large for memory, built once: resumable, verified, safe when two processes build the same one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.errors import DataError, MlbenchError
from mlbench.images.sidecar import (
    Chunk,
    Sidecar,
    array_digest,
    parse_chunk,
    read_sidecar,
    refuse_damage,
    sample,
    write_sidecar,
)
from mlbench.locks import locked

#: Told how many rows of how many are done.
Advance = Callable[[int, int], None]
_CANNOT_CLAIM = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}


@dataclass(frozen=True)
class Recipe:
    """How an array is made: `fill` gives rows [start, stop); the rest goes into the sidecar.

    sources : SHA-256 of the source file of each row in [start, stop); none where rows are not files.
    origin : SHA-256 of the array that rows are computed from. about : what else decided the content.
    """

    fill: Callable[[int, int], np.ndarray]
    sources: Callable[[int, int], Sequence[str]] = lambda start, stop: ()
    origin: str = ""
    about: dict[str, Any] = field(default_factory=dict)


def cached_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: type,
    recipe: Recipe,
    chunk: int = 256,
    advance: Advance | None = None,
) -> np.ndarray:
    """The array kept at `path`, memory-mapped for reading; built by `recipe` if it is not there.

    The file appears only when complete. A killed build goes on at the chunk it had reached; a second builder waits
    for the first. Disk space is claimed before the first write, so a full disk is an error and not a crash. Beside
    the array stand its hashes (`Sidecar`); on opening, shape, file size and a few chunks are compared with them. An
    array without hashes gets them now.

    Raises
    ------
    DataError
        The file is damaged, of another shape, or was computed from another array than ``recipe.origin``.
    MlbenchError
        The cache cannot be written (no room, no rights).
    """
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock"), wait=True):
                if not path.exists():
                    _build(path, shape, dtype, recipe, chunk, advance)
        except OSError as error:
            raise MlbenchError(f"cannot write the cache in {path.parent}: {error.strerror or error}") from error
    array = _open(path, shape, dtype)
    sidecar = read_sidecar(path) or _complete(path, array, recipe, chunk)
    if (sidecar.shape, sidecar.dtype) != (array.shape, str(array.dtype)):
        raise DataError(f"{path}: its .json tells of another array; delete both, and they are built anew")
    if recipe.origin and sidecar.origin and recipe.origin != sidecar.origin:
        raise DataError(f"{path}: computed from other data than there is now; delete it, and it is built anew")
    refuse_damage(path, array, sample(sidecar))
    return array


def array_sha256(path: Path, array: np.ndarray) -> str:
    """SHA-256 of the bytes of the cached `array` at `path`: as its sidecar says, or computed where it has none."""
    sidecar = read_sidecar(path)
    return sidecar.sha256 if sidecar else array_digest(array)


def verify_array(path: Path, array: np.ndarray) -> None:
    """Compare every byte of the cached `array` at `path` with its sidecar; DataError names the damaged rows."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        return
    refuse_damage(path, array, sidecar.chunks)
    if array_digest(array) != sidecar.sha256:
        raise DataError(f"{path}: its .json contradicts itself; delete both, and they are built anew")


def _open(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Map the array at `path`; DataError unless it is whole and as expected."""
    try:
        array = np.load(path, mmap_mode="r")
        whole = os.path.getsize(path) == array.offset + array.nbytes
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: damaged cache file ({error}); delete it, and it is built anew") from None
    if not whole or array.shape != shape or array.dtype != dtype:
        found = f"{array.dtype} {list(array.shape)}" + ("" if whole else " in a file of another size")
        wanted = f"{np.dtype(dtype)} {list(shape)}"
        raise DataError(f"{path}: damaged cache file ({found}, expected {wanted}); delete it, and it is built anew")
    return array


def _build(path: Path, shape: tuple, dtype: type, recipe: Recipe, chunk: int, advance: Advance | None) -> None:
    part, progress = path.with_suffix(".part"), path.with_suffix(".progress")
    chunks, array = _interrupted(part, progress, shape, dtype)
    if array is None:
        progress.unlink(missing_ok=True)  # before the new file, of which it would tell something wrong
        array = _claim(part, shape, dtype)
    whole = hashlib.sha256(array[: chunks[-1].stop].data if chunks else b"")
    progress.write_text("".join(map(_line, chunks)))  # without the half line that a kill may leave
    with open(progress, "a") as log:
        for start in range(chunks[-1].stop if chunks else 0, shape[0], chunk):
            stop, now = min(start + chunk, shape[0]), time.time()
            # Files are hashed before they are decoded: one that changes in between is then found to have changed.
            sources = tuple(recipe.sources(start, stop))
            array[start:stop] = recipe.fill(start, stop)
            array.flush()
            whole.update(array[start:stop].data)
            chunks.append(Chunk(start, stop, array_digest(array[start:stop]), now, sources))
            log.write(_line(chunks[-1]))
            log.flush()
            if advance is not None:
                advance(stop, shape[0])
    found = Sidecar(shape, str(array.dtype), whole.hexdigest(), tuple(chunks), recipe.origin, about=recipe.about)
    del array
    write_sidecar(path, found)  # first, so that no array stands without one
    os.replace(part, path)
    progress.unlink(missing_ok=True)


def _complete(path: Path, array: np.ndarray, recipe: Recipe, chunk: int) -> Sidecar:
    """The sidecar of an array that has none, kept beside it where the folder can be written."""
    chunks, whole = [], hashlib.sha256()
    for start in range(0, len(array), chunk):
        stop, now = min(start + chunk, len(array)), time.time()
        whole.update(array[start:stop].data)
        chunks.append(Chunk(start, stop, array_digest(array[start:stop]), now, tuple(recipe.sources(start, stop))))
    # What such an array was computed from is not known.
    found = Sidecar(array.shape, str(array.dtype), whole.hexdigest(), tuple(chunks), "", True, recipe.about)
    with suppress(MlbenchError):
        write_sidecar(path, found)
    return found


def _line(chunk: Chunk) -> str:
    return json.dumps(asdict(chunk)) + "\n"


def _interrupted(part: Path, progress: Path, shape: tuple, dtype: type) -> tuple[list[Chunk], np.memmap | None]:
    """The chunks an interrupted build finished, and its array; ([], None) if there is none that can be used."""
    try:
        lines = progress.read_text().splitlines()
        array = np.lib.format.open_memmap(part, mode="r+")
    except (OSError, ValueError):
        return [], None
    chunks: list[Chunk] = []
    if array.shape == shape and array.dtype == dtype:
        with suppress(ValueError, TypeError, AttributeError):  # a kill may leave half a line
            for line in lines:
                chunk = parse_chunk(json.loads(line))
                reached = chunks[-1].stop if chunks else 0
                fits = chunk.start == reached and chunk.stop <= shape[0]
                if not fits or array_digest(array[reached : chunk.stop]) != chunk.sha256:
                    break
                chunks.append(chunk)
    return (chunks, array) if chunks else ([], None)


def _claim(part: Path, shape: tuple, dtype: type) -> np.memmap:
    """A new array of zeros at `part` with its disk space claimed; nothing is left behind where there is no room."""
    array = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
    array.flush()
    try:
        with open(part, "rb+") as handle:
            _reserve(handle.fileno(), os.fstat(handle.fileno()).st_size, part.parent)
    except OSError:
        del array
        os.unlink(part)
        raise
    return array


def _reserve(handle: int, size: int, folder: Path) -> None:
    """Claim `size` bytes for an open file, or at least see that they are free where the system cannot claim them."""
    try:
        os.posix_fallocate(handle, 0, size)
    except AttributeError:  # macOS, Windows
        pass
    except OSError as error:
        if error.errno not in _CANNOT_CLAIM:
            raise
    else:
        return
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
