"""Images of one split at one size, as uint8 ready to be gathered into batches; decoded once and cached."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

import mlbench
from mlbench.datasets.base import ImageSource, Split, SubsetImages
from mlbench.images.decode import FileImages
from mlbench.inputs.cache import Advance, Recipe, cache_file, cached_array
from mlbench.inputs.checked import CheckedArray, Rows
from mlbench.inputs.sidecar import array_digest
from mlbench.provenance import usable_cores

#: Resize rule: the whole image warped to a square (aspect not kept), Pillow's antialiased bilinear filter.
RESIZE_RULE = "squash_bilinear"

#: Counts changes of what `mlbench.images.decode` makes of a file.
DECODE_RULE = 1


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


def content_sha256(split: Split) -> str:
    """SHA-256 over the content of the images of `split`, in row order: equal only where every image is."""
    return hashlib.sha256(split.content().data).hexdigest()


def pixel_recipe(split: Split, size: int) -> dict[str, Any]:
    """All that decides the pixels of `split` at `size`; sample ids, file names and places do not."""
    return {
        "content": content_sha256(split),
        "size": size,
        "rule": RESIZE_RULE,
        **decoding(),
    }


def decoding() -> dict[str, Any]:
    """What decides the pixels that a file is decoded to."""
    return {"decode": DECODE_RULE, "versions": _versions(), "harness": mlbench.HARNESS_VERSION}


def pixel_file(split: Split, size: int) -> Path:
    """Where the cache keeps the images of `split` at `size`."""
    return cache_file("pixels", pixel_recipe(split, size))


def load_pixels(split: Split, size: int, advance: Advance | None = None) -> Rows:
    """All images of `split` at `size`: uint8 [N, size, size, 3], from memory or memory-mapped from the cache.

    The cache is checked as it is read (`CheckedArray`), and images are only decoded from the files whose content is
    part of the data set's fingerprint.

    Raises
    ------
    DataError
        An image cannot be decoded or has changed since its file was hashed, or the cache is damaged.
    """
    ready = in_memory(split, size)
    if ready is not None:
        return ready
    about = pixel_recipe(split, size)
    live = LivePixels(split, size)
    rows = min(256, max(16, 2**24 // (3 * size * size)))  # about 16 MiB
    recipe = Recipe(lambda start, stop: live[start:stop], about)
    return cached_array(cache_file("pixels", about), live.shape, np.uint8, recipe, rows, advance)


def pixels_sha256(split: Split, size: int) -> str:
    """SHA-256 over the bytes of ``load_pixels(split, size)`` in row order."""
    pixels = load_pixels(split, size)
    return pixels.sha256 if isinstance(pixels, CheckedArray) else array_digest(pixels)


def file_digests(split: Split) -> np.ndarray | None:
    """SHA-256 of the image file of each row, uint8 [N, 32]; None if the images are no files."""
    images: ImageSource = split.images
    rows = np.arange(len(split))
    while isinstance(images, SubsetImages):
        rows, images = images.rows[rows], images.source
    return images.digests(rows) if isinstance(images, FileImages) else None


def files_sha256(split: Split) -> str:
    """SHA-256 over the SHA-256 of every image file (64 hex digits a line); empty if the images are no files."""
    found = file_digests(split)
    return (
        ""
        if found is None
        else hashlib.sha256("".join(f"{row.tobytes().hex()}\n" for row in found).encode()).hexdigest()
    )


def in_memory(split: Split, size: int) -> np.ndarray | None:
    ready = getattr(split.images, "array", None)
    return ready if ready is not None and ready.shape[1:3] == (size, size) else None


def _versions() -> dict[str, str | None]:
    """Of what decodes and resizes: other versions may give other bits."""
    codecs = ("libjpeg_turbo", "jpg", "webp", "jpg_2000", "libtiff", "avif")
    return {"pillow": PIL.__version__} | {name: _version(name) for name in codecs}


@cache
def _version(codec: str) -> str | None:
    """Version of one of Pillow's decoders, None where it is not there or unknown to this Pillow."""
    for kind in (features.version_feature, features.version_codec, features.version_module):
        with suppress(ValueError):
            return kind(codec)
    return None
