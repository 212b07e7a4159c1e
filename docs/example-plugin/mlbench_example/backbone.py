"""A backbone for mlbench: images float [B, 3, H, W] to feature maps [B, D, H / stride, W / stride]."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from mlbench.models.backbones import Backbone


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(4, outputs), nn.ReLU())


def make() -> OrderedDict[str, nn.Module]:
    """The parts in order, drawn from the global generator; a weights file has their names."""
    return OrderedDict(first=_block(3, 16), second=_block(16, 32), third=_block(32, 32))


NET = Backbone(make, out_channels=32, stride=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
