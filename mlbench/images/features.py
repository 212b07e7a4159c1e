"""Feature maps of a frozen backbone, extracted once and cached: the data of track `head`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlbench.datasets.base import Split
from mlbench.images.cache import Advance, Recipe, array_sha256, cached_array
from mlbench.images.pixels import load_pixels, pixel_key, pixels_sha256
from mlbench.images.tensors import normalise
from mlbench.paths import cache_dir


@dataclass(frozen=True)
class Features:
    """Un-augmented features of one split: maps float16 [N, D, h, w] (memory-mapped), pooled float32 [N, D].

    `pooled` is the mean of the stored maps over positions, taken in float32.
    """

    maps: np.ndarray
    pooled: np.ndarray


def feature_file(split: Split, size: int, name: str) -> Path:
    """Where the cache keeps the feature maps of `split` at `size` from the backbone that `name` identifies."""
    key = hashlib.sha256(f"{pixel_key(split, size)}\0{name}".encode()).hexdigest()[:32]
    return cache_dir() / "features" / f"{key}-maps.npy"


def load_features(
    split: Split,
    size: int,
    backbone: nn.Module,
    name: str,
    device: torch.device,
    advance: Advance | None = None,
) -> Features:
    """Features of `split` at `size` from `backbone`, whose architecture and weights `name` identifies."""
    pixels = load_pixels(split, size)
    mean: Any = backbone.mean
    std: Any = backbone.std
    backbone = backbone.to(device).eval()

    @torch.inference_mode()
    def extract(start: int, stop: int) -> np.ndarray:
        images = normalise(torch.from_numpy(np.array(pixels[start:stop])).to(device), mean, std)
        return backbone(images).half().cpu().numpy()

    path = feature_file(split, size, name)
    shape = extract(0, 1).shape[1:] if len(split) else (1, 1, 1)
    about = {"backbone": name, "size": size, "versions": {"torch": torch.__version__}}
    recipe = Recipe(extract, origin=pixels_sha256(split, size), about=about)
    maps = cached_array(path, (len(split), *shape), np.float16, recipe, 32, advance)

    def pool(start: int, stop: int) -> np.ndarray:
        return maps[start:stop].astype(np.float32).mean(axis=(2, 3))

    recipe = Recipe(pool, origin=array_sha256(path, maps), about=about)
    beside = path.with_name(path.name.replace("-maps", "-pooled"))
    pooled = cached_array(beside, (len(split), shape[0]), np.float32, recipe)
    return Features(maps, pooled)
