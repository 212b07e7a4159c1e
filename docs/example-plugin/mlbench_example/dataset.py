"""A data set for mlbench: coloured bars on noise, made from nothing; read your own files from `root` instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets import ArrayImages, Dataset, Split

CLASSES = ("red", "green", "blue")


def load_shapes(root: Path | None) -> Dataset:
    """Coloured bars on noise, 60 training and 40 test pictures of 32 pixels; no files needed."""
    splits = {}
    for part, count, seed in (("train", 60, 1), ("test", 40, 2)):
        random = np.random.default_rng(seed)
        present = random.random((count, 3)) < 0.5
        present[np.arange(count), np.arange(count) % 3] = True
        pixels = random.integers(0, 100, (count, 32, 32, 3), dtype=np.uint8)
        for row, c in zip(*np.nonzero(present), strict=True):
            pixels[row, 4:28, 10 * c + 1 : 10 * c + 10, c] = 255
        labels = np.where(present, State.POSITIVE, State.NEGATIVE).astype(np.int8)
        splits[part] = Split(tuple(f"{part}/{row}" for row in range(count)), labels, ArrayImages(pixels))
    return Dataset("example_shapes", "1", CLASSES, splits, source="this page")
