"""Backbones: images [B, 3, H, W] to feature maps [B, D, h, w], without pooling and without classifier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlbench.errors import DataError, MlbenchError
from mlbench.models.weights import StartWeights, WeightsFile, find_weights, load_weights
from mlbench.registry import OWN_PACKAGE, Registry

Colour = tuple[float, float, float]
Parts = Mapping[str, nn.Module]

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """What is registered in the group ``mlbench.backbones``: all that is known of a backbone without building it.

    Parameters
    ----------
    make : builds, drawing from the global generator, a module from images [B, 3, H, W] to maps [B, D, h, w], or the
        parts of one, in order. The names of its parameters are those of the weights files that fit. Tokens of a
        transformer are given as the map of their positions, behind its last norm. The module may define
        ``adapt_weights(state, ordered) -> (state, remark)``, the tensors of a file under its own keys (`ordered`: in
        the order they were written in, which .safetensors does not keep), and ``set_input_size(side)``, called once
        with the run's image size, after weights are loaded.
    out_channels : channels D of the feature maps.
    stride : pixels of the image for one position of the maps, along each side.
    mean, std : the normalisation ``(x / 255 - mean) / std`` of RGB images that it takes. The images are those of
        `mlbench.inputs.pixels.RESIZE_RULE`, whatever the backbone, so that all see the same pixels.
    stages : modules in it whose outputs are maps, the end of three stages: for hints, attention and branches between.
        None where there are no such: methods that need them refuse the backbone.
    library : the package that computes it, with its version, where a run's identity is to name it; of what another
        package registers, that package is named by itself.
    cached : finds the weights file in the library's own cache on this machine, or None; it must not download.
    """

    make: Callable[[], nn.Module | Parts]
    out_channels: int
    stride: int
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    stages: tuple[str, ...] = ()
    library: str = ""
    cached: Callable[[], Path | None] | None = None


class Trunk(nn.Sequential):
    """A built backbone: the parts in order, the values of its `Backbone` entry, and which weights it holds."""

    name: str
    out_channels: int
    stride: int
    mean: Colour
    std: Colour
    stages: tuple[str, ...]
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


def _scenes_2() -> Parts:
    from mlbench.models.scenes_net import ScenesNet2

    return {"scenes": ScenesNet2()}


_LAYERS = ("layer2", "layer3", "layer4")

RESNET18 = Backbone(partial(_resnet, "resnet18"), 512, 32, stages=_LAYERS)
RESNET34 = Backbone(partial(_resnet, "resnet34"), 512, 32, stages=_LAYERS)
RESNET50 = Backbone(partial(_resnet, "resnet50"), 2048, 32, stages=_LAYERS)
RESNET101 = Backbone(partial(_resnet, "resnet101"), 2048, 32, stages=_LAYERS)
#: ResNet-50 with the stride in the first 1x1 convolution of a stage (as in the first paper and Keras) and not in the
#: 3x3 convolution; the two take the same keys, but the weights of one are wrong for the other.
RESNET50_KERAS = Backbone(_resnet50_keras, 2048, 32, stages=_LAYERS)
#: Ends after the ReLU of conv5_3: without the last max-pool, so that its maps are twice as fine as those of the
#: residual networks.
VGG16 = Backbone(_vgg16, 512, 16, stages=("features.15", "features.22", "features.29"))
MOBILENET_V2 = Backbone(_mobilenet_v2, 1280, 32, stages=("features.6", "features.13", "features.18"))
SCENES = Backbone(
    _scenes,
    *(64, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    stages=("scenes.layers.5", "scenes.layers.8", "scenes.layers.11"),
)
SCENES_2 = Backbone(
    _scenes_2,
    *(64, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    stages=("scenes.layers.2", "scenes.layers.6", "scenes.layers.9"),
)


def _backbone(name: str, found: object) -> Backbone:
    if not isinstance(found, Backbone):
        raise MlbenchError("is not a mlbench.models.backbones.Backbone")
    return found


#: Backbones by name, ours and those that other packages register.
BACKBONES: Registry[Backbone] = Registry("mlbench.backbones", "backbone", _backbone)


def library_of(name: str) -> str:
    """What a run's identity says of where backbone `name` comes from: "timm 1.0.31"; empty for what is ours."""
    owner = BACKBONES.owner(name)
    return BACKBONES[name].library or ("" if owner.package == OWN_PACKAGE else str(owner))


def build_backbone(
    name: str,
    weights: WeightsFile | Path | str | None = None,
    allow_random: bool = True,
    image_size: int | None = None,
) -> Trunk:
    """Build backbone `name`; its `start` attribute says which weights it holds.

    Parameters
    ----------
    name : one of `BACKBONES`.
    weights : a local file. None: a random start from the global generator, unless `allow_random` is False.
    allow_random : with False and no `weights` given, ImageNet weights are looked for as `find_weights` does, and it
        is an error if there are none.
    image_size : pixels along a side of the images it will be given, for backbones that are made for one size; None:
        the size it is made for.

    Returns
    -------
    A module with the attributes of `Trunk`, on the CPU, in training mode.

    Raises
    ------
    UsageError : no such backbone, or it does not take images of this size.
    DataError : no weights, or weights that do not fit.
    """
    backbone = BACKBONES[name]
    if isinstance(weights, (str, Path)) or (weights is None and not allow_random):
        weights = find_weights(name, weights)
    if weights is None and not allow_random:
        raise DataError(f"backbone '{name}': {StartWeights.of(name, None).note}. Give a weights file")
    made = backbone.make()
    trunk: Any = made if isinstance(made, nn.Module) else Trunk(OrderedDict(made))
    trunk.name, trunk.out_channels, trunk.stride = name, backbone.out_channels, backbone.stride
    trunk.mean, trunk.std, trunk.stages = backbone.mean, backbone.std, backbone.stages
    trunk.start = StartWeights("random", None, "random start: no weights were given")
    if weights is not None:
        load_weights(trunk, weights)
    if image_size is not None and hasattr(trunk, "set_input_size"):
        trunk.set_input_size(image_size)
    built: Trunk = trunk
    return built
