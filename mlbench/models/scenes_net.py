"""The small network for the embedded data set ``scenes``."""

from __future__ import annotations

import torch
from torch import nn


class ScenesNet(nn.Module):
    """A trunk of four 3x3 convolutions: images float [B, 3, 64, 64] to feature maps [B, 64, 8, 8], ReLU at the end.

    Each convolution is followed by GroupNorm and not by BatchNorm, whose statistics depend on how a batch is cut into
    processes; so one and two processes agree. Three strides of 2 keep it cheap on a CPU. It takes images normalised as
    (x / 255 - 0.5) / 0.25; weights have PyTorch's default initialisation and come from the global generator, except
    that the last normalisation starts with a gain of 8: a digit fills a few of the 64 cells, and without it the mean
    over all cells that feeds the classifier differs so little between pictures that training idles for some epochs.

    Attributes
    ----------
    out_channels : channels of the feature maps, 64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 64
        self.layers = nn.Sequential(
            *_block(3, 16, stride=2),
            *_block(16, 32, stride=2),
            *_block(32, 64, stride=2),
            *_block(64, self.out_channels, stride=1, gain=8.0),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def _block(channels: int, out_channels: int, stride: int, gain: float = 1.0) -> list[nn.Module]:
    norm = nn.GroupNorm(8, out_channels)
    nn.init.constant_(norm.weight, gain)
    convolution = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return [convolution, norm, nn.ReLU(inplace=True)]
