"""Random changes of images in training: an image's depend on (data set, repetition, epoch, sample id) and nothing else.

The transforms are torchvision's (v2), on uint8 images at the size the network takes; a random crop is cut from the
decoded image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mlbench.inputs.pixels import squash
from mlbench.provenance import usable_cores
from mlbench.seeds import derive, keyed_bits

if TYPE_CHECKING:
    from mlbench.datasets.base import ImageSource
    from mlbench.settings import Recipe


@dataclass(frozen=True)
class Augmentation:
    """How an image is changed, in the order crop, Cutout, RandAugment, colour jitter; nothing by default.

    crop : least and most share of the image's area that is cut out (sides from 3:4 to 4:3) and resized. cutout : side
    of a square that is painted over in one random colour, as a share of the image's; its centre is anywhere in it.
    randaugment : operations of RandAugment; magnitude : of them, up to 30. jitter : strength of brightness, contrast,
    saturation and hue; jitter_chance : of an image to be jittered.

    Source: Cutout with a random colour as in the released code of ASL and its successors (recalled, not checked).
    """

    crop: tuple[float, ...] = ()
    cutout: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    jitter: tuple[float, ...] = ()
    jitter_chance: float = 0.8

    @classmethod
    def of(cls, recipe: Recipe) -> Augmentation:
        """That of a run's training settings."""
        strength = recipe.randaugment_magnitude
        return cls(recipe.crop, recipe.cutout, recipe.randaugment, strength, recipe.jitter, recipe.jitter_chance)

    @property
    def moves(self) -> bool:
        """Whether what is in the image may lie elsewhere afterwards."""
        return bool(self.crop or self.randaugment)

    @property
    def draws_from_torch(self) -> bool:
        """Whether `change` uses torch's own generator, which is left as it was: no other thread may draw meanwhile."""
        return bool(self.randaugment or any(self.jitter))

    def crops(self, images: ImageSource, rows: np.ndarray, hashes: np.ndarray, seed: int, size: int) -> np.ndarray:
        """Random crops uint8 [B, size, size, 3] of the decoded images `rows`, whose sample ids hash to `hashes` [B]."""

        def cut(image: np.ndarray, key: int) -> np.ndarray:
            height, width = image.shape[:2]
            box = crop_box(height, width, self.crop, np.random.Generator(np.random.PCG64(key)))
            top, left, tall, wide = box
            return squash(np.ascontiguousarray(image[top : top + tall, left : left + wide]), size)

        keys = keyed_bits(hashes, derive("crop", seed)).tolist()
        jobs = zip(rows.tolist(), keys, strict=True)
        return np.stack(list(_threads().map(lambda job: cut(images.load(job[0]), job[1]), jobs)))

    def change(self, pixels: np.ndarray, hashes: np.ndarray, seed: int) -> np.ndarray:
        """Images uint8 [B, H, W, 3], whose sample ids hash to `hashes` [B], after all but the crop."""
        if not (self.cutout or self._transforms):
            return pixels
        found = np.empty_like(pixels)
        for at, (image, key) in enumerate(zip(pixels, keyed_bits(hashes, seed).tolist(), strict=True)):
            found[at] = self._changed(image, key)
        return found

    def _changed(self, image: np.ndarray, key: int) -> np.ndarray:
        if self.cutout:
            image = cut_out(image, self.cutout, np.random.Generator(np.random.PCG64(key)))
        if not self._transforms:
            return image
        with _seeded(derive("transforms", key)):
            changed = torch.from_numpy(image.copy()).permute(2, 0, 1)
            for transform in self._transforms:
                changed = transform(changed)
        return changed.permute(1, 2, 0).numpy()

    @cached_property
    def _transforms(self) -> Sequence[Any]:
        from torchvision.transforms import v2

        found: list[Any] = []
        if self.randaugment:
            found.append(v2.RandAugment(num_ops=self.randaugment, magnitude=self.magnitude))
        if any(self.jitter):
            found.append(v2.RandomApply([v2.ColorJitter(*self.jitter)], p=self.jitter_chance))
        return found


def crop_box(
    height: int, width: int, area: tuple[float, ...], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part of an image, with a share of its area between those of `area`.

    The sides' ratio is drawn evenly in its logarithm from 3:4 to 4:3; after ten draws that do not fit, the largest part
    in the middle that has such a ratio. As torchvision's RandomResizedCrop.
    """
    for _ in range(10):
        wanted = height * width * random.uniform(area[0], area[1])
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        wide, tall = round(np.sqrt(wanted * ratio)), round(np.sqrt(wanted / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            top, left = random.integers(height - tall + 1), random.integers(width - wide + 1)
            return int(top), int(left), int(tall), int(wide)
    wide, tall = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def cut_out(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """`image` uint8 [H, W, 3] with a square painted over, its sides `share` of the image's, where it lies inside."""
    found = image.copy()
    places = []
    for side in image.shape[:2]:
        length, centre = int(share * side + 0.5), int(random.integers(side))
        start = centre - length // 2
        places.append(slice(max(0, start), min(side, start + length)))
    found[tuple(places)] = random.integers(0, 256, size=3, dtype=np.uint8)
    return found


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's generator on the CPU at `seed` inside, and where it was afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(usable_cores())  # Pillow lets go of the interpreter while it decodes and resizes
