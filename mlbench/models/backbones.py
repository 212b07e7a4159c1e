"""Backbones: images [B, 3, H, W] to feature maps [B, D, h, w], without pooling and without classifier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mlbench.errors import DataError, MlbenchError
from mlbench.models.weights import StartWeights, WeightsFile, find_weights, load_weights
from mlbench.registry import Registry

Colour = tuple[float, float, float]
Parts = Mapping[str, nn.Module]

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """What is registered in the group ``mlbench.backbones``: all that is known of a backbone without building it.

    Parameters
    ----------
    make : builds the parts, in order; their names are torchvision's, so that its files fit.
    out_channels : channels D of the feature maps.
    stride : pixels of the image for one position of the maps, along each side.
    mean, std : the normalisation ``(x / 255 - mean) / std`` of RGB images that it takes.
    """

    make: Callable[[], Parts]
    out_channels: int
    stride: int
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD


class Trunk(nn.Sequential):
    """A built backbone: the parts in order, the values of its `Backbone` entry, and which weights it holds."""

    name: str
    out_channels: int
    stride: int
    mean: Colour
    std: Colour
    start: StartWeights


def _resnet(architecture: str) -> Parts:
    import torchvision

    network = torchvision.models.get_model(architecture, weights=None)
    return {name: part for name, part in network.named_children() if name not in ("avgpool", "fc")}


def _resnet50_keras() -> Parts:
    parts = _resnet("resnet50")
    for name in ("layer2", "layer3", "layer4"):
        first = parts[name].get_submodule("0")
        first.get_submodule("conv1").stride = (2, 2)  # type: ignore[assignment]
        first.get_submodule("conv2").stride = (1, 1)  # type: ignore[assignment]
    return parts


def _vgg16() -> Parts:
    import torchvision

    # Built without storage: the classifier that is thrown away has 124 million weights to draw.
    with torch.device("meta"):
        features = torchvision.models.vgg16(weights=None).features[:-1]
    features.to_empty(device="cpu")
    for layer in features:
        if isinstance(layer, nn.Conv2d):  # torchvision's rule
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return {"features": features}


def _mobilenet_v2() -> Parts:
    import torchvision

    return {"features": torchvision.models.mobilenet_v2(weights=None).features}


def _scenes() -> Parts:
    from mlbench.models.scenes_net import ScenesNet

    return {"scenes": ScenesNet()}


RESNET18 = Backbone(partial(_resnet, "resnet18"), 512, 32)
RESNET34 = Backbone(partial(_resnet, "resnet34"), 512, 32)
RESNET50 = Backbone(partial(_resnet, "resnet50"), 2048, 32)
RESNET101 = Backbone(partial(_resnet, "resnet101"), 2048, 32)
#: ResNet-50 with the stride in the first 1x1 convolution of a stage (as in the first paper and Keras) and not in the
#: 3x3 convolution; the two take the same keys, but the weights of one are wrong for the other.
RESNET50_KERAS = Backbone(_resnet50_keras, 2048, 32)
#: Ends after the ReLU of conv5_3: without the last max-pool, so that its maps are twice as fine as those of the
#: residual networks.
VGG16 = Backbone(_vgg16, 512, 16)
MOBILENET_V2 = Backbone(_mobilenet_v2, 1280, 32)
SCENES = Backbone(_scenes, 64, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def _backbone(name: str, found: object) -> Backbone:
    if not isinstance(found, Backbone):
        raise MlbenchError("is not a mlbench.models.backbones.Backbone")
    return found


#: Backbones by name, ours and those that other packages register.
BACKBONES: Registry[Backbone] = Registry("mlbench.backbones", "backbone", _backbone)


def build_backbone(name: str, weights: WeightsFile | Path | str | None = None, allow_random: bool = True) -> Trunk:
    """Build backbone `name`; its `start` attribute says which weights it holds.

    Parameters
    ----------
    name : one of `BACKBONES`.
    weights : a local file. None: a random start from the global generator, unless `allow_random` is False.
    allow_random : with False and no `weights` given, ImageNet weights are looked for as `find_weights` does, and it
        is an error if there are none.

    Returns
    -------
    A `Trunk` with the attributes out_channels, stride, mean, std and start, on the CPU, in training mode.

    Raises
    ------
    UsageError : no such backbone.
    DataError : no weights, or weights that do not fit.
    """
    backbone = BACKBONES[name]
    if isinstance(weights, (str, Path)) or (weights is None and not allow_random):
        weights = find_weights(name, weights)
    if weights is None and not allow_random:
        raise DataError(f"backbone '{name}': {StartWeights.of(name, None).note}. Give a weights file")
    trunk = Trunk(OrderedDict(backbone.make()))
    trunk.name, trunk.out_channels, trunk.stride = name, backbone.out_channels, backbone.stride
    trunk.mean, trunk.std = backbone.mean, backbone.std
    trunk.start = StartWeights("random", None, "random start: no weights were given")
    if weights is not None:
        load_weights(trunk, weights)
    return trunk
