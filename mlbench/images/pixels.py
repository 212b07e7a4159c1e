"""Images of one split at one size, as uint8 ready to be gathered into batches; decoded once and cached."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import PIL
from PIL import Image, features

from mlbench.datasets.base import ImageSource, Split, SubsetImages
from mlbench.errors import DataError, MlbenchError
from mlbench.images.cache import Advance, Recipe, array_sha256, cached_array, verify_array
from mlbench.images.decode import first_few
from mlbench.images.sidecar import array_digest, read_sidecar, write_sidecar
from mlbench.paths import cache_dir
from mlbench.provenance import usable_cores

#: Resize rule: the whole image warped to a square (aspect not kept), Pillow's antialiased bilinear filter.
RESIZE_RULE = "squash_bilinear"

#: Seconds by which a file's time may lie behind the clock (coarse file systems).
_SLACK = 2.0


@runtime_checkable
class FileSource(Protocol):
    """What an `ImageSource` that reads files may add, so that changed files are noticed."""

    def digest(self, row: int) -> str:
        """SHA-256 of the file behind image `row`, 64 hex digits."""
        ...

    def modified(self, row: int) -> float:
        """When that file was last written, in seconds since 1970."""
        ...


class LivePixels:
    """Images of `split` decoded and resized at every access, indexed like the cached array and equal to it bit by bit.

    `pixels[rows]` with a slice or an integer array gives uint8 [len(rows), size, size, 3].
    """

    def __init__(self, split: Split, size: int) -> None:
        self.images, self.size = split.images, size
        self.shape = (len(split), size, size, 3)
        # Pillow releases the interpreter lock while it decodes and resizes, so threads are enough.
        self._pool = ThreadPoolExecutor(usable_cores())

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        chosen = np.arange(self.shape[0])[rows].tolist()
        out = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for at, image in enumerate(self._pool.map(lambda row: squash(self.images.load(row), self.size), chosen)):
            out[at] = image
        return out


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 RGB [H, W, 3] to [size, size, 3] by `RESIZE_RULE`."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def pixel_key(split: Split, size: int) -> str:
    """Name of the cache entry: a digest of all the pixels depend on (ids, file names and sizes, rule, library)."""
    head = {"size": size, "rule": RESIZE_RULE, "pillow": PIL.__version__}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for row, sample in enumerate(split.ids):
        digest.update(f"\n{sample}\0{split.images.describe(row)}".encode())
    return digest.hexdigest()[:32]


def pixel_file(split: Split, size: int) -> Path:
    """Where the cache keeps the images of `split` at `size`."""
    return cache_dir() / "pixels" / f"{pixel_key(split, size)}.npy"


def load_pixels(split: Split, size: int, advance: Advance | None = None) -> np.ndarray:
    """All images of `split` at `size`: uint8 [N, size, size, 3], from memory or memory-mapped from the cache.

    The cache is checked in passing: a few chunks against their hashes, and files written since they were decoded
    against theirs (`verify_pixels` checks everything).

    Raises
    ------
    DataError
        An image cannot be decoded, the cache is damaged, or images changed under the same names and sizes.
    """
    ready = _in_memory(split, size)
    if ready is not None:
        return ready
    live, path = LivePixels(split, size), pixel_file(split, size)
    recipe = Recipe(
        fill=lambda start, stop: live[start:stop],
        sources=lambda start, stop: file_digests(split.images, range(start, stop)),
        about={"rule": RESIZE_RULE, "size": size, "versions": _versions()},
    )
    rows = min(256, max(16, 2**24 // (3 * size * size)))  # about 16 MiB
    array = cached_array(path, live.shape, np.uint8, recipe, rows, advance)
    check_sources(split, path, everything=False)
    return array


def verify_pixels(split: Split, size: int) -> str | None:
    """Check every byte of the cached images of `split` at `size`, and every file they were decoded from.

    Returns
    -------
    SHA-256 of the pixels; None if they are not in the cache.

    Raises
    ------
    DataError
        Naming the damaged rows, or the files that changed since they were decoded.
    """
    path = pixel_file(split, size)
    if _in_memory(split, size) is None:
        if not path.exists():
            return None
        verify_array(path, load_pixels(split, size))
        check_sources(split, path, everything=True)
    return pixels_sha256(split, size)


def cached_sizes(split: Split) -> list[int]:
    """Sides in pixels at which the images of `split` are in the cache, ascending."""
    sizes = set()
    for path in (cache_dir() / "pixels").glob("*.npy"):
        with suppress(OSError, ValueError), path.open("rb") as file:  # of another version, or being removed
            np.lib.format.read_magic(file)
            shape = np.lib.format.read_array_header_1_0(file)[0]
            sizes |= {shape[1]} if len(shape) == 4 and shape[0] == len(split) else set()
    return sorted(size for size in sizes if pixel_file(split, size).exists())


def pixels_sha256(split: Split, size: int) -> str:
    """SHA-256 over the bytes of ``load_pixels(split, size)`` in row order."""
    ready = _in_memory(split, size)
    if ready is not None:
        return array_digest(ready)
    path = pixel_file(split, size)
    sidecar = read_sidecar(path) if path.exists() else None
    return sidecar.sha256 if sidecar else array_sha256(path, load_pixels(split, size))


def files_sha256(split: Split, size: int) -> str:
    """SHA-256 over the SHA-256 of every image file (64 hex digits a line) that `load_pixels` has decoded.

    Empty if the images of `split` are no files.
    """
    path = pixel_file(split, size)
    if not path.exists():
        load_pixels(split, size)
    sidecar = read_sidecar(path)
    digests = sidecar.sources if sidecar else file_digests(split.images, range(len(split)))
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest() if digests else ""


def _in_memory(split: Split, size: int) -> np.ndarray | None:
    ready = getattr(split.images, "array", None)
    return ready if ready is not None and ready.shape[1:3] == (size, size) else None


def _versions() -> dict[str, str | None]:
    return {"pillow": PIL.__version__, "libjpeg_turbo": features.version("libjpeg_turbo")}


def _files(images: ImageSource, rows: Iterable[int]) -> tuple[FileSource | None, list[int]]:
    """The files behind `rows` and their rows there; None if they are no files."""
    chosen = list(rows)
    while isinstance(images, SubsetImages):
        chosen = images.rows[chosen].tolist()
        images = images.source
    return (images, chosen) if isinstance(images, FileSource) else (None, chosen)


def file_digests(images: ImageSource, rows: Iterable[int]) -> list[str]:
    files, chosen = _files(images, rows)
    if files is None:
        return []
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(files.digest, chosen))


def check_sources(split: Split, path: Path, everything: bool) -> None:
    """DataError if files behind `split` are not those that were decoded; of all rows, or of those written since."""
    sidecar = read_sidecar(path)
    files, rows = _files(split.images, range(len(split)))
    if sidecar is None or files is None or not sidecar.sources:
        return
    now, before = time.time(), sidecar.sources
    suspects = [
        row
        for chunk in sidecar.chunks
        for row in range(chunk.start, chunk.stop)
        if everything or files.modified(rows[row]) > chunk.hashed_at - _SLACK
    ]
    changed = [
        row for row, digest in zip(suspects, file_digests(split.images, suspects), strict=True) if digest != before[row]
    ]
    if changed:
        raise DataError(
            f"{len(changed)} of {len(split)} images changed since they were decoded, under the same name and size: "
            f"{first_few([split.ids[row] for row in changed])}; put back the old ones, or delete {path} to decode anew"
        )
    if suspects:  # written since, with the same content: not looked at again
        with suppress(MlbenchError):
            chunks = tuple(replace(chunk, hashed_at=now) for chunk in sidecar.chunks)
            write_sidecar(path, replace(sidecar, chunks=chunks))
