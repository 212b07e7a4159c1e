"""Crops of many shapes, the heavy augmentation of the network that SRN is compared with, as a view of the batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mlbench.errors import UsageError
from mlbench.inputs.placement import Placement
from mlbench.inputs.views import View
from mlbench.methods import Hyper
from mlbench.seeds import derive, keyed_bits

#: Widths and heights of a crop by the side of the image it is cut from: 256, 224, 192, 168 and 128 of 256 px.
SIZES = (1.0, 0.875, 0.75, 0.65625, 0.5)

#: Left and top by the room that is left: the corners and the centre.
PLACES = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))

#: Every place with every width and height: float64 [125, 4] of left, top, width, height.
BOXES = np.array([(*place, width, height) for place in PLACES for width in SIZES for height in SIZES])

CROPPING = {
    "crop_cells": Hyper(
        1,
        "cells along a side that the image crops are cut from has more (published: 256 px beside 224)",
        low=0,
        high=64,
    )
}


def cut(images: Tensor, boxes: np.ndarray, side: int) -> Tensor:
    """Crops of images, each resized to a square: bilinear, from the crop's own pixels alone.

    Parameters
    ----------
    images : float [B, D, S, S]. boxes : float [B, 4]: left and top by the room that is left (0 to 1), width and
        height by S. Widths and heights are rounded to whole pixels, as are left and top after them.
    side : pixels along a side of the result, float [B, D, side, side].

    Raises
    ------
    UsageError : images that are not square.

    Source: released code of Zhu et al., CVPR 2017 (SRN), data_transformer.cpp, which rounds down instead.
    """
    whole = images.shape[-1]
    if images.ndim != 4 or images.shape[-2] != whole:
        raise UsageError(f"crops: images {list(images.shape)}: expected [B, D, S, S]")
    pieces = []
    for image, (left, top, *size) in zip(images, boxes, strict=True):
        width, height = (max(1, round(each * whole)) for each in size)
        x, y = round(left * (whole - width)), round(top * (whole - height))
        piece = image[None, :, y : y + height, x : x + width]
        pieces.append(functional.interpolate(piece, size=(side, side), mode="bilinear", align_corners=False))
    return torch.cat(pieces)


@dataclass(frozen=True, eq=False)
class Cut(Placement):
    """Crops as drawn for the images of one batch.

    boxes : float64 [B, 4], see `cut`. share : side of the view by that of the image it is cut from.
    """

    boxes: np.ndarray
    share: float

    def image(self, images: Tensor) -> Tensor:
        return cut(images, self.boxes, round(images.shape[-1] * self.share))


@dataclass(frozen=True)
class Crops(View):
    """A crop at a corner or in the centre, its width and height drawn from `SIZES`, resized to the run's image size.

    It is cut from an image `cells` cells larger than that. Draws depend on what those of any `View` depend on. Other
    transforms of a view do not combine with it.

    Source: Zhu et al., CVPR 2017 (SRN): crop and resize of its released data_transformer.cpp. The sizes are recalled,
    and that code can limit how far width and height differ: whether it was used so is not known (unverified).
    """

    def __post_init__(self) -> None:
        if (self.flip, self.size, self.rotate, self.shift) != (False, None, 0.0, (0.0, 0.0)) or self.cells < 0:
            raise UsageError(f"view '{self.name}': crops combine with no other transform and want cells of 0 or more")

    def place(self, count: int, cells: float, hashes: np.ndarray | None = None, seed: int = 0) -> Placement:
        if hashes is None:
            raise UsageError(f"view '{self.name}' is drawn for each image: expected the hashes of the sample ids")
        draws = keyed_bits(hashes, derive("view", self.name, "crop", seed)) % np.uint64(len(BOXES))
        boxes = BOXES[draws]
        matrix = np.tile(np.eye(3), (count, 1, 1))
        matrix[:, (0, 1), (0, 1)] = boxes[:, 2:]
        matrix[:, :2, 2] = (2 * boxes[:, :2] - 1) * (1 - boxes[:, 2:])
        return Cut(matrix, boxes, (cells - self.cells) / cells)
