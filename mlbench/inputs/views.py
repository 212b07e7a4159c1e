"""Views: a transform of the image together with the transform of the heat map that answers it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mlbench.errors import UsageError
from mlbench.inputs.augment import Augmentation
from mlbench.inputs.placement import MIRROR, Placement, rotation, translation
from mlbench.seeds import derive, keyed_bits


@dataclass(frozen=True)
class OneOf:
    """A value drawn for each image and epoch from `values` with equal chances."""

    values: tuple[float, ...] | tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("OneOf: expected at least one value to draw from")

    def pick(self, hashes: np.ndarray, seed: int) -> np.ndarray:
        """Float64 [B], or [B, 2] of pairs, for id hashes [B]."""
        return np.asarray(self.values, dtype=float)[keyed_bits(hashes, seed) % np.uint64(len(self.values))]


@dataclass(frozen=True)
class Between:
    """A number drawn for each image and epoch from `low` to `high`; of a pair, each of the two."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            raise UsageError(f"Between: {self.low} to {self.high}: expected finite numbers, the lower one first")

    def pick(self, hashes: np.ndarray, seed: int) -> np.ndarray:
        """Float64 [B, 2] for id hashes [B]; a single number is the first."""
        bits = np.stack([keyed_bits(hashes, derive(seed, axis)) for axis in ("first", "second")], axis=1)
        return self.low + (self.high - self.low) * (bits >> np.uint64(11)) / 2.0**53


#: 90, 180 or 270 degrees: heat maps turn without interpolation.
QUARTER_TURNS = OneOf((90.0, 180.0, 270.0))


def whole_shifts(limit: int) -> OneOf:
    """Every move by at most `limit` whole cells down or up and right or left, but for none at all."""
    if limit < 1:
        raise UsageError(f"whole_shifts: limit = {limit}: expected at least 1 cell")
    steps = [float(step) for step in range(-limit, limit + 1)]
    return OneOf(tuple((down, right) for down in steps for right in steps if (down, right) != (0.0, 0.0)))


@dataclass(frozen=True)
class View:
    """One view of an image in a batch. The transforms combine, in the order of the fields.

    name : by which the batch has it.
    flip : mirror left and right.
    size : side in pixels of the square image (None: the run's image size). The image is resized from the original,
        never from another view.
    cells : cells of the heat map more (or, negative, fewer) than that, each a stride of the backbone. -1 gives the
        second size of VAC: 192 beside 224, 256 beside 288.
    rotate : degrees counterclockwise; exact for multiples of 90.
    shift : cells down and right; exact for whole ones. What comes in is 0, and left out of the comparison.

    augment : random changes of the image, drawn for this view alone (with the run's own flips, if it has any), in place
        of those that the run's training settings have for all views. Heat maps of such a view cannot be brought back.

    `rotate` and `shift` may be drawn for each image and epoch: `OneOf`, `Between`. Draws depend on the name of the
    view and on data set, repetition, epoch and sample id, never on the method or on the rest of the batch.

    Raises
    ------
    UsageError : an angle or a shift that is not finite.
    """

    name: str
    flip: bool = False
    size: int | None = None
    cells: int = 0
    rotate: float | OneOf | Between = 0.0
    shift: tuple[float, float] | OneOf | Between = (0.0, 0.0)
    augment: Augmentation | None = None

    def __post_init__(self) -> None:
        for key, value, shapes in (("rotate", self.rotate, [()]), ("shift", self.shift, [(2,)])):
            if isinstance(value, Between):
                continue
            each = value.values if isinstance(value, OneOf) else (value,)
            if any(np.shape(one) not in shapes or not np.isfinite(one).all() for one in each):
                wanted = "a finite number of degrees" if key == "rotate" else "two finite numbers of cells"
                raise UsageError(f"view '{self.name}': {key} = {value}: expected {wanted}, OneOf such, or Between")

    def side(self, image_size: int, stride: int) -> int:
        """Pixels along a side where the run's image size is `image_size`.

        Raises
        ------
        UsageError : less than one cell is left, or the view moves by cells and the side holds no whole number of them.
        """
        side = (self.size or image_size) + self.cells * stride
        if side < stride:
            raise UsageError(
                f"view '{self.name}': {self.cells} cells of {stride} pixels off {self.size or image_size} leave nothing"
            )
        if self.shift != (0.0, 0.0) and side % stride:
            raise UsageError(
                f"view '{self.name}' moves by cells of {stride} pixels: image size {side} is no multiple of it"
            )
        return side

    def place(self, count: int, cells: float, hashes: np.ndarray | None = None, seed: int = 0) -> Placement:
        """The transform of `count` images.

        Parameters
        ----------
        cells : cells of the heat map along a side (pixels of the image by the stride).
        hashes : uint64 [count] of the sample ids (`mlbench.seeds.id_hashes`); None where nothing is drawn.
        seed : of data set, repetition and epoch.

        Raises
        ------
        UsageError : something is to be drawn and there are no hashes.
        """
        drawn = any(isinstance(value, OneOf | Between) for value in (self.rotate, self.shift))
        if drawn and hashes is None:
            raise UsageError(f"view '{self.name}' is drawn for each image: expected the hashes of the sample ids")
        keys = np.zeros(count, dtype=np.uint64) if hashes is None else hashes

        def values(name: str, value: float | tuple[float, float] | OneOf | Between) -> np.ndarray:
            draw = value if isinstance(value, OneOf | Between) else OneOf((value,))  # type: ignore[arg-type]
            return draw.pick(keys, derive("view", self.name, name, seed))

        turns, shifts = values("rotate", self.rotate).reshape(count, -1)[:, 0], values("shift", self.shift) / cells
        start = MIRROR if self.flip else np.eye(3)
        return Placement(start @ rotation(turns) @ translation(shifts[:, 0], shifts[:, 1]))

    def image(self, images: Tensor, stride: int = 1) -> Tensor:
        """Transform images [B, 3, H, W] (already at this view's size) by a view that draws nothing."""
        return self.place(len(images), images.shape[-1] / stride).image(images)

    def align(self, maps: Tensor) -> Tensor:
        """Bring heat maps [B, C, h, w] of a view that draws nothing back to the frame of the untransformed image.

        Mirroring reverses the width axis exactly (what `grid_sample` does only where edges, or else corners, are
        taken for -1 and 1 by grid and sampling alike).
        """
        return self.place(len(maps), maps.shape[-1]).align(maps)
