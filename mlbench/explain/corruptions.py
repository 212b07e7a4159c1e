"""A named, seeded set of image corruptions at five severities, applied to one picture at a time."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from mlbench.errors import UsageError, unknown
from mlbench.seeds import derive

#: The set; every draw in it is named by it, and another version may differ in parameters and draws.
NAME, VERSION = "photometric", 1
SEVERITIES = (1, 2, 3, 4, 5)

#: Side of the pictures that the published parameters were made for (ImageNet-C), in pixels.
_REFERENCE_SIDE = 224


@dataclass(frozen=True)
class Corruption:
    """One way to spoil a picture.

    apply : ``apply(image, parameter)``, of uint8 [3, H, W]. parameters : one for each severity, 1 to 5.
    reason : what the parameter is and why these. random : whether it draws from torch's global generator.
    """

    apply: Callable[[Tensor, float], Tensor]
    parameters: tuple[float, float, float, float, float]
    reason: str
    random: bool = False


def _noise(image: Tensor, sigma: float) -> Tensor:
    return functional.gaussian_noise(image, 0.0, sigma)


def _blur(image: Tensor, sigma: float) -> Tensor:
    sigma *= min(image.shape[-2:]) / _REFERENCE_SIDE
    side = min(
        2 * math.ceil(3 * sigma) + 1, 2 * min(image.shape[-2:]) - 1
    )  # more than the picture reflects at its edges
    return functional.gaussian_blur(image, [side, side], [sigma, sigma])


def _pixelate(image: Tensor, share: float) -> Tensor:
    height, width = image.shape[-2:]
    small = [max(1, round(height * share)), max(1, round(width * share))]
    coarse = functional.resize(image, small, InterpolationMode.BILINEAR, antialias=True)
    return functional.resize(coarse, [height, width], InterpolationMode.NEAREST_EXACT)


def _jpeg(image: Tensor, quality: float) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format="JPEG", quality=int(quality))
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


#: Every one leaves each thing where it is, so that boxes and region proposals of the clean picture stay right. "As
#: ImageNet-C" is Hendrycks and Dietterich, ICLR 2019, the code released with it; there too pictures are spoilt at the
#: size the network takes.
CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(
        _noise, (0.08, 0.12, 0.18, 0.26, 0.38), "sd in shares of white, as ImageNet-C", random=True
    ),
    "gaussian_blur": Corruption(
        _blur, (1, 2, 3, 4, 6), "sd in pixels of a side of 224, scaled with the picture's, as ImageNet-C"
    ),
    "pixelate": Corruption(
        _pixelate, (0.6, 0.5, 0.4, 0.3, 0.25), "side in shares, shrunk (antialiased) and blown up, as ImageNet-C"
    ),
    "jpeg": Corruption(_jpeg, (25, 18, 15, 10, 7), "quality of the compression (Pillow), as ImageNet-C"),
    "brightness": Corruption(
        functional.adjust_brightness,
        (1.2, 1.4, 1.6, 1.8, 2.0),
        "factor; lifts mid-grey by 0.1 to 0.5, which is what ImageNet-C adds to the value of every pixel",
    ),
    "contrast": Corruption(
        functional.adjust_contrast,
        (0.4, 0.3, 0.2, 0.1, 0.05),
        "factor, as ImageNet-C, to the distance from the mean grey (there from the mean of each channel)",
    ),
    "saturation": Corruption(
        functional.adjust_saturation,
        (0.8, 0.6, 0.4, 0.2, 0.0),
        "factor, in even steps down to grey (ours: ImageNet-C's mix of less and more has no order)",
    ),
}


def corrupt(picture: np.ndarray, name: str, severity: int, sample: str) -> np.ndarray:
    """`picture` uint8 [H, W, 3] under corruption `name` at `severity` (1 to 5): a new uint8 [H, W, 3].

    Draws depend on the set, the corruption, the severity and the id of the `sample` alone: on no order, batch or
    process.

    Raises
    ------
    UsageError : an unknown corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise UsageError(f"severity {severity}: expected 1 to {SEVERITIES[-1]}")
    corruption = CORRUPTIONS[name]
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    with torch.random.fork_rng(devices=[], enabled=corruption.random):
        if corruption.random:
            torch.random.default_generator.manual_seed(derive(NAME, VERSION, name, severity, sample))
        spoilt = corruption.apply(image, corruption.parameters[severity - 1])
    return spoilt.permute(1, 2, 0).contiguous().numpy()
