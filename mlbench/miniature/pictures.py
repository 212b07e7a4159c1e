"""Photographs of a miniature: a crop of a real one, and in the box of each object a texture that tells its class."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from mlbench.datasets.folders import look_into
from mlbench.errors import UsageError
from mlbench.images.decode import decode_image
from mlbench.seeds import derive

#: Width and height of the pictures, which differ as photographs do.
SIZES = ((128, 96), (96, 128), (112, 112), (128, 112))

_LARGEST = 640  # side that a photograph is reduced to before it is cut
_KEPT = 64  # photographs held at a time
_GOLDEN = 0.6180339887498949
_OPACITY = 224  # of a texture, in 1/256
_QUALITY = 85


@dataclass(frozen=True)
class Thing:
    """An object of a picture: the number of its class, and its box in whole pixels, x2 and y2 exclusive."""

    kind: int
    box: tuple[int, int, int, int]


class Studio:
    """Makes the pictures of a miniature; the same `seed`, photographs and names give the same files.

    `photographs` is a folder with pictures in it, None: the two that scikit-learn ships. UsageError if it has none.
    """

    def __init__(self, seed: int, photographs: Path | None = None) -> None:
        self.seed = seed
        if photographs is None:
            from sklearn.datasets import load_sample_images

            self.files = [Path(name) for name in sorted(load_sample_images().filenames)]
        else:
            if not photographs.is_dir():
                raise UsageError(f"--photographs {photographs}: no such folder")
            self.files = [photographs / name for name in look_into(photographs).images]
            if not self.files:
                raise UsageError(f"--photographs {photographs}: no pictures in it")
        self.described = "scikit-learn" if photographs is None else f"{len(self.files)} of {photographs.name}"
        self._load = lru_cache(_KEPT)(_photograph)

    def stream(self, *names: str | int) -> np.random.RandomState:
        """Random numbers of their own for `names`."""
        return np.random.RandomState(derive("miniature", self.seed, *names) % 2**32)

    def size(self, name: str) -> tuple[int, int]:
        """Width and height of picture `name`."""
        return SIZES[self.stream("size", name).randint(0, len(SIZES))]

    def take(self, name: str, things: Sequence[Thing], path: Path) -> None:
        """Write picture `name`, with `things` in it, as the JPEG `path`."""
        random, (width, height) = self.stream("picture", name), self.size(name)
        canvas = _cut(random, self._load(self.files[random.randint(0, len(self.files))]), width, height)
        for thing in things:
            x1, y1, x2, y2 = thing.box
            part = canvas[y1:y2, x1:x2]
            part += ((texture(thing.kind, y2 - y1, x2 - x1) - part) * _OPACITY) >> 8
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(canvas.astype(np.uint8)).save(path, format="JPEG", quality=_QUALITY)


def texture(kind: int, height: int, width: int) -> np.ndarray:
    """int64 [height, width, 3]: two colours of class `kind`, in its pattern (plain, stripes, chequered)."""
    hue = kind * _GOLDEN % 1.0
    colours = [(hue, 0.9, 0.95), ((hue + 0.15) % 1.0, 0.8, 0.35)]
    first, second = (np.array([round(255 * v) for v in colorsys.hsv_to_rgb(*c)], dtype=np.int64) for c in colours)
    period = 3 + kind // 4 % 3
    down, across = np.arange(height)[:, None] // period % 2, np.arange(width)[None, :] // period % 2
    patterns = (np.zeros((height, width)), down + 0 * across, across + 0 * down, (down + across) % 2)
    return np.where(patterns[kind % 4][..., None] == 0, first, second)


def place(random: np.random.RandomState, kinds: Sequence[int], size: tuple[int, int]) -> list[Thing]:
    """A box for each of `kinds` in a picture of `size`: of different sides, none over another."""
    if not kinds:
        return []
    width, height = size
    columns = int(np.ceil(np.sqrt(len(kinds) * width / height)))
    rows = -(-len(kinds) // columns)
    cells = random.permutation(columns * rows)[: len(kinds)]
    things = []
    for kind, cell in zip(kinds, cells, strict=True):
        row, column = divmod(int(cell), columns)
        left, right = column * width // columns, (column + 1) * width // columns
        top, bottom = row * height // rows, (row + 1) * height // rows
        x1, x2 = _within(random, left, right)
        y1, y2 = _within(random, top, bottom)
        things.append(Thing(int(kind), (x1, y1, x2, y2)))
    return things


def _within(random: np.random.RandomState, first: int, last: int) -> tuple[int, int]:
    """Part of a line from `first` to `last`: more than half of it, a pixel at least."""
    length = max(1, (last - first) * int(random.randint(60, 96)) // 100)
    start = first + int(random.randint(0, last - first - length + 1))
    return start, start + length


def _photograph(path: Path) -> np.ndarray:
    image = Image.fromarray(decode_image(path))
    image.thumbnail((_LARGEST, _LARGEST))
    return np.asarray(image)


def _cut(random: np.random.RandomState, photograph: np.ndarray, width: int, height: int) -> np.ndarray:
    """int64 [height, width, 3]: a piece of a photograph of the same shape, between a third and all of it."""
    there_y, there_x = photograph.shape[:2]
    scale = min(there_x / width, there_y / height) * (0.35 + 0.65 * random.random_sample())
    w, h = (max(1, min(int(side * scale), there)) for side, there in ((width, there_x), (height, there_y)))
    x, y = int(random.randint(0, there_x - w + 1)), int(random.randint(0, there_y - h + 1))
    piece = Image.fromarray(np.ascontiguousarray(photograph[y : y + h, x : x + w]))
    if random.randint(0, 2):
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(piece.resize((width, height), Image.Resampling.BILINEAR), dtype=np.int64)
