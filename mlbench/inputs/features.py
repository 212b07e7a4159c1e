"""Feature maps of a frozen backbone, extracted once and cached: the data of track `head`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import mlbench
from mlbench.datasets.base import Split
from mlbench.inputs.cache import Advance, Recipe, cache_file, cached_array
from mlbench.inputs.checked import Rows
from mlbench.inputs.pixels import load_pixels, pixel_recipe, pixels_sha256
from mlbench.inputs.tensors import normalise


@dataclass(frozen=True)
class Features:
    """Un-augmented features of one split: maps float16 [N, D, h, w] (memory-mapped), pooled float32 [N, D].

    `pooled` is the mean of the stored maps over positions, taken in float32. `maps` is None where only that was asked
    for: it takes a fiftieth of the room, or less.
    """

    maps: Rows | None
    pooled: Rows


def feature_recipe(split: Split, size: int, backbone: nn.Module, name: str, device: torch.device) -> dict[str, Any]:
    """All that decides the feature maps: pixels, normalisation, architecture, weights, libraries and arithmetic."""
    pixels = pixel_recipe(split, size)
    state = backbone.state_dict()
    weights = hashlib.sha256()
    for key in sorted(state):
        weights.update(f"{key} {state[key].dtype} {tuple(state[key].shape)}\n".encode())
        weights.update(state[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    mean: Any = backbone.mean
    std: Any = backbone.std
    return {
        "content": pixels["content"],
        "size": size,
        "pixels": pixels,
        "backbone": name,
        "architecture": hashlib.sha256(repr(backbone).encode()).hexdigest(),
        "weights": weights.hexdigest(),
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "versions": _versions(backbone),
        "arithmetic": _arithmetic(device),
        "harness": mlbench.HARNESS_VERSION,
    }


def feature_file(split: Split, size: int, backbone: nn.Module, name: str, device: torch.device) -> Path:
    """Where the cache keeps the feature maps of `split` at `size` from `backbone`."""
    return cache_file("features", feature_recipe(split, size, backbone, name, device), "-maps")


def load_features(
    split: Split,
    size: int,
    backbone: nn.Module,
    name: str,
    device: torch.device,
    advance: Advance | None = None,
    pixels_of: Callable[[Split, int], Rows] = load_pixels,
    maps: bool = True,
) -> Features:
    """Features of `split` at `size` from `backbone`, which `name` tells of in words; as in `feature_recipe`.

    `pixels_of` gives the pixels they are made of. Without `maps` the pooled ones are made on the way, the same to the
    bit, and no map is kept.
    """
    pixels = pixels_of(split, size)
    about = feature_recipe(split, size, backbone, name, device)
    backbone = backbone.to(device).eval()

    @torch.inference_mode()
    def extract(start: int, stop: int) -> np.ndarray:
        images = normalise(torch.from_numpy(np.array(pixels[start:stop])).to(device), about["mean"], about["std"])
        with torch.autocast(device.type, enabled=False):
            return backbone(images).half().cpu().numpy()

    def mean(found: np.ndarray) -> np.ndarray:
        # As the file has it: a network may give another order of axes in memory, and sums would go by that.
        return np.ascontiguousarray(found, dtype=np.float32).mean(axis=(2, 3))

    path = cache_file("features", about, "-maps")
    shape = extract(0, 1).shape[1:] if len(split) else (1, 1, 1)
    origin = pixels_sha256(split, size)
    if not maps and not path.exists():
        recipe = Recipe(lambda start, stop: mean(extract(start, stop)), about, origin=origin)
        means = cache_file("features", about, "-means")
        return Features(None, cached_array(means, (len(split), shape[0]), np.float32, recipe, 32, advance))
    kept = cached_array(path, (len(split), *shape), np.float16, Recipe(extract, about, origin=origin), 32, advance)
    pool = Recipe(lambda start, stop: mean(kept[start:stop]), about, origin=kept.sha256)
    pooled = cached_array(cache_file("features", about, "-pooled"), (len(split), shape[0]), np.float32, pool)
    return Features(kept, pooled)


def _versions(backbone: nn.Module) -> dict[str, str]:
    """Of the packages that the layers of `backbone` come from."""
    packages = {"torch"} | {type(module).__module__.partition(".")[0] for module in backbone.modules()}
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in sorted(packages - {"mlbench"})}
    return {name: str(version) for name, version in found.items() if version is not None}


def _arithmetic(device: torch.device) -> str:
    """What decides the rounding: kind of device (its model where it is a GPU), number format, reduced products."""
    kind = str(torch.get_default_dtype()).removeprefix("torch.")
    if device.type != "cuda":
        return f"{device.type} {kind}"
    reduced = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    return f"{torch.cuda.get_device_name(device)} {kind} tf32 {reduced}"
