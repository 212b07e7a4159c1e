"""Images of one split at one size, as uint8 ready to be gathered into batches; decoded once and cached."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
from PIL import Image

from mlbench.datasets.base import Split
from mlbench.images.cache import Advance, cached_array
from mlbench.paths import cache_dir
from mlbench.provenance import usable_cores

#: Resize rule: the whole image warped to a square (aspect not kept), Pillow's antialiased bilinear filter.
RESIZE_RULE = "squash_bilinear"


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


def load_pixels(split: Split, size: int, advance: Advance | None = None) -> np.ndarray:
    """All images of `split` at `size`: uint8 [N, size, size, 3], from memory or memory-mapped from the cache."""
    ready = getattr(split.images, "array", None)
    if ready is not None and ready.shape[1:3] == (size, size):
        return ready

    def decode(start: int, stop: int) -> np.ndarray:
        return np.stack(list(pool.map(lambda row: squash(split.images.load(row), size), range(start, stop))))

    path = cache_dir() / "pixels" / f"{pixel_key(split, size)}.npy"
    # Pillow releases the interpreter lock while it decodes and resizes, so threads are enough.
    with ThreadPoolExecutor(usable_cores()) as pool:
        return cached_array(path, (len(split), size, size, 3), np.uint8, decode, advance=advance)
