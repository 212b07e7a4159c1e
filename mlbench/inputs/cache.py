"""Arrays too large for memory, built once: resumable, verified, safe when two processes build the same one."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.datasets.base import Advance as Advance
from mlbench.errors import DataError, MlbenchError
from mlbench.inputs.checked import CheckedArray
from mlbench.inputs.sidecar import (
    Chunk,
    Sidecar,
    array_digest,
    is_earlier,
    key_of,
    parse_chunk,
    plain,
    read_sidecar,
    sidecar_file,
    write_sidecar,
)
from mlbench.locks import locked
from mlbench.paths import cache_dir

#: Folders of the cache that hold arrays.
ROOMS = ("pixels", "features", "proposals")

log = logging.getLogger(__name__)

_CANNOT_CLAIM = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}


@dataclass(frozen=True)
class Recipe:
    """How an array is made: `fill` gives rows [start, stop).

    about : all that decides the content, as JSON has it. origin : SHA-256 of the array that rows are computed from.
    """

    fill: Callable[[int, int], np.ndarray]
    about: dict[str, Any] = field(default_factory=dict)
    origin: str = ""


def cache_file(room: str, about: dict[str, Any], ending: str = "") -> Path:
    """Where the cache keeps the array that `about` decides, in the folder `room`."""
    return cache_dir() / room / f"{key_of(about)}{ending}.npy"


def cached_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: type,
    recipe: Recipe,
    chunk: int = 256,
    advance: Advance | None = None,
) -> CheckedArray:
    """The array kept at `path`, memory-mapped for reading; built by `recipe` if it is not there.

    The file appears only when complete. A killed build goes on at the chunk it had reached, if it was of the same
    recipe; a second builder waits for the first. Disk space is claimed before the first write, so a full disk is an
    error and not a crash. Beside the array stand its hashes and what decided its content (`Sidecar`), which are
    compared with `recipe` on opening; every chunk is hashed when it is first read (`CheckedArray`). An array whose
    hashes are gone is not believed but built anew.

    Raises
    ------
    DataError
        The file is damaged, of another shape, another array's, or was made in another way than `recipe` says.
    MlbenchError
        The cache cannot be written (no room, no rights).
    """
    if not _complete(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock"), wait=True):
                if not _complete(path):
                    _build(path, shape, dtype, recipe, chunk, advance)
        except OSError as error:
            raise MlbenchError(f"cannot write the cache in {path.parent}: {error.strerror or error}") from error
    return _opened(path, shape, dtype, recipe)


def open_cached(path: Path) -> CheckedArray:
    """The array kept at `path`, as its sidecar tells of it; DataError if it has none, or is damaged."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        raise DataError(f"{path}: its .json is gone, so that nothing tells whether it is whole; delete it")
    return CheckedArray(path, _mapped(path, sidecar.shape, np.dtype(sidecar.dtype)), sidecar)


def find_cached(content: str) -> Iterator[tuple[Path, Sidecar]]:
    """All cached arrays made of images whose content (``about["content"]``) is this; damaged sidecars are left out."""
    for path in _arrays():
        with suppress(DataError):
            sidecar = read_sidecar(path)
            if sidecar is not None and sidecar.about.get("content") == content:
                yield path, sidecar


def find_unusable() -> tuple[list[Path], list[str]]:
    """Cached arrays that nothing reads any more, of an earlier format; and a message for each damaged sidecar."""
    earlier, damaged = [], []
    for path in _arrays():
        try:
            read_sidecar(path)
        except DataError as error:
            if is_earlier(path):
                earlier.append(path)
            else:
                damaged.append(str(error))
    return earlier, damaged


def _arrays() -> list[Path]:
    return sorted(path for room in ROOMS for path in (cache_dir() / room).glob("*.npy"))


def _complete(path: Path) -> bool:
    return path.exists() and sidecar_file(path).exists()


def _opened(path: Path, shape: tuple[int, ...], dtype: type, recipe: Recipe) -> CheckedArray:
    array = _mapped(path, shape, np.dtype(dtype))
    sidecar = read_sidecar(path)
    if sidecar is None or (sidecar.shape, sidecar.dtype) != (array.shape, str(array.dtype)):
        raise DataError(f"{path}: its .json tells of another array; delete both, and they are built anew")
    if recipe.origin != sidecar.origin:
        raise DataError(f"{path}: computed from other data than there is now; delete it, and it is built anew")
    about = plain(recipe.about)
    if about != sidecar.about:
        names = sorted(
            name for name in about.keys() | sidecar.about.keys() if about.get(name) != sidecar.about.get(name)
        )
        differences = ", ".join(f"{name} {sidecar.about.get(name)!r}, expected {about.get(name)!r}" for name in names)
        raise DataError(f"{path}: made in another way ({differences}); delete it, and it is built anew")
    return CheckedArray(path, array, sidecar)


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Map the array at `path`; DataError unless it is whole and as expected."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # never an archive or a pickle, whatever its first bytes
        whole = os.path.getsize(path) == array.offset + array.nbytes
    except Exception as error:  # a damaged header can raise nearly anything
        raise DataError(f"{path}: damaged cache file ({error}); delete it, and it is built anew") from None
    if not whole or array.shape != shape or array.dtype != dtype:
        found = f"{array.dtype} {list(array.shape)}" + ("" if whole else " in a file of another size")
        wanted = f"{dtype} {list(shape)}"
        raise DataError(f"{path}: damaged cache file ({found}, expected {wanted}); delete it, and it is built anew")
    return array


def _build(path: Path, shape: tuple, dtype: type, recipe: Recipe, chunk: int, advance: Advance | None) -> None:
    if path.exists():
        log.warning("%s: its hashes are gone; it is built anew", path)
        path.unlink()  # nobody may see it beside the new array's hashes
    part, progress = path.with_suffix(".part"), path.with_suffix(".progress")
    head = {"dtype": str(np.dtype(dtype)), "shape": shape, "about": recipe.about, "origin": recipe.origin}
    chunks, array = _interrupted(part, progress, plain(head))
    if array is None:
        progress.unlink(missing_ok=True)  # before the new file, of which it would tell something wrong
        array = _claim(part, shape, dtype)
    whole = hashlib.sha256(array[: chunks[-1].stop].data if chunks else b"")
    progress.write_text("".join(map(_line, (head, *map(asdict, chunks)))))  # without the half line a kill may leave
    with open(progress, "a") as log_file:
        for start in range(chunks[-1].stop if chunks else 0, shape[0], chunk):
            stop = min(start + chunk, shape[0])
            rows: np.ndarray = np.ascontiguousarray(recipe.fill(start, stop), dtype=dtype)
            chunks.append(Chunk(start, stop, array_digest(rows)))  # of what was made, not of what a disk gives back
            whole.update(rows.data)
            array[start:stop] = rows
            array.flush()
            log_file.write(_line(asdict(chunks[-1])))
            log_file.flush()
            if advance is not None:
                advance(stop, shape[0])
    found = Sidecar(
        path.stem, shape, str(array.dtype), whole.hexdigest(), tuple(chunks), recipe.origin, plain(recipe.about)
    )
    del array
    write_sidecar(path, found)  # first, so that no array stands without one
    os.replace(part, path)
    progress.unlink(missing_ok=True)


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content) + "\n"


def _interrupted(part: Path, progress: Path, head: Any) -> tuple[list[Chunk], np.memmap | None]:
    """The chunks that an interrupted build of the same recipe finished, and its array; ([], None) if there is none."""
    try:
        lines = progress.read_text().splitlines()
        array = np.lib.format.open_memmap(part, mode="r+")
        same = json.loads(lines[0]) == head and [str(array.dtype), list(array.shape)] == [head["dtype"], head["shape"]]
    except Exception:  # a damaged header can raise nearly anything
        return [], None
    chunks: list[Chunk] = []
    with suppress(ValueError, TypeError, AttributeError):  # a kill may leave half a line
        for line in lines[1:] if same else ():
            chunk = parse_chunk(json.loads(line))
            reached = chunks[-1].stop if chunks else 0
            fits = chunk.start == reached and chunk.stop <= array.shape[0]
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
