"""Where the images of a batch lie in a view: moves pixels there, and heat maps back, by one and the same matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mlbench.errors import UsageError

#: The reflection of left and right.
MIRROR = np.diag([-1.0, 1.0, 1.0])


def rotation(degrees: np.ndarray) -> np.ndarray:
    """Matrices [B, 3, 3] that turn images counterclockwise by `degrees` [B], as seen."""
    angle = np.deg2rad(degrees)
    matrices = np.tile(np.eye(3), (len(angle), 1, 1))
    matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angle)
    matrices[:, 1, 0] = np.sin(angle)
    matrices[:, 0, 1] = -matrices[:, 1, 0]
    return matrices


def translation(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Matrices [B, 3, 3] that move images by shares [B] of their side."""
    matrices = np.tile(np.eye(3), (len(down), 1, 1))
    matrices[:, 0, 2], matrices[:, 1, 2] = -2 * right, -2 * down
    return matrices


@dataclass(frozen=True, eq=False)
class Placement:
    """A view as drawn for the images of one batch.

    matrix : float64 [B, 3, 3], takes a point (x, y, 1) of the view to the image's point seen there. Coordinates go from
        -1 to 1 between the outer *edges* of the image, so that image and heat map have the same ones, whatever their
        resolution. The matrices of transforms applied one after the other multiply in that order.
    """

    matrix: np.ndarray

    def image(self, images: Tensor) -> Tensor:
        """The view [B, C, H, W] of images [B, C, H, W]; black (0, the mean colour) where there is no image.

        Whole pixels are moved without change where the transform takes pixels to pixels; else bilinear.
        """
        return _sample(images, self.matrix)

    def align(self, maps: Tensor) -> Tensor:
        """Bring heat maps [B, C, h, w] of the view back to the frame of the untransformed image.

        0 where the view does not show the image: `valid` says which cells are to be compared. Whole cells are moved
        without change where the transform takes cells to cells; else bilinear. Differentiable.
        """
        return _sample(maps, np.linalg.inv(self.matrix))

    def valid(self, maps: Tensor) -> Tensor:
        """Bool [B, 1, h, w]: cells of `align(maps)` that depend on nothing but cells wholly covered by the image."""
        height, width = maps.shape[-2:]
        shape = [len(self.matrix), 1, height, width]
        seen = functional.affine_grid(torch.from_numpy(self.matrix[:, :2]), shape, align_corners=False)
        half = np.abs(self.matrix[:, :2, :2]) @ np.array([1 / width, 1 / height])
        covered = (seen.abs() + torch.from_numpy(half)[:, None, None] <= 1 + 1e-6).all(dim=-1)
        back = _sample(covered[:, None].double(), np.linalg.inv(self.matrix))
        return (back > 1 - 1e-6).to(maps.device)


def _sample(values: Tensor, matrix: np.ndarray) -> Tensor:
    """Values [B, C, h, w] seen through matrices [B, 3, 3]; 0 outside."""
    height, width = values.shape[-2:]
    if height != width and np.abs(matrix[:, (0, 1), (1, 0)]).max() > 1e-9:
        raise UsageError(f"a view that turns is for square images and heat maps, got {height} x {width}")
    linear, moved = matrix[:, :2, :2], matrix[:, :2, 2] * np.array([width, height]) / 2
    whole = np.abs(linear - linear.round()).max() < 1e-9 and np.abs(moved - moved.round()).max() < 1e-6
    if whole and not moved.round().any() and (linear.round() == np.eye(2)).all():
        return values
    if whole and not moved.round().any() and (linear.round() == MIRROR[:2, :2]).all():
        return values.flip(-1)
    kind = torch.promote_types(values.dtype, torch.float32)  # coordinates in half precision would miss the cells
    theta = torch.from_numpy(matrix[:, :2]).to(values.device, kind)
    grid = functional.affine_grid(theta, list(values.shape), align_corners=False)
    mode = "nearest" if whole else "bilinear"
    return functional.grid_sample(values.to(kind), grid, mode=mode, padding_mode="zeros", align_corners=False)


def overlaps(maps: Tensor, maps_other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two sets of maps on the pieces into which their grids together cut the image.

    The same as repeating each value over its block of the grid of least common multiples (7x7 and 6x6: 42x42), for all
    sums over that grid, in which a piece counts as often as its area says; but 12x12 values in place of 42x42.

    Parameters
    ----------
    maps : [B, C, h, w] of any type. maps_other : [B, C, h', w'].

    Returns
    -------
    Both maps [B, C, p, q], and float32 [p, q]: cells of the common grid that each piece covers.

    Source of that grid: released code of Guo et al., CVPR 2019 (VAC), main.py lines 226-230.
    """
    found, widths = [maps, maps_other], []
    for axis in (-2, -1):
        sides = [each.shape[axis] for each in found]
        common = math.lcm(*sides)
        cuts = sorted({cut for side in sides for cut in range(0, common, common // side)})
        widths.append(torch.tensor([*cuts[1:], common]) - torch.tensor(cuts))
        found = [
            each.index_select(axis, torch.tensor([cut * side // common for cut in cuts], device=each.device))
            for each, side in zip(found, sides, strict=True)
        ]
    return found[0], found[1], torch.outer(*widths).float().to(maps.device)
