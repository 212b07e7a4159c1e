"""The small networks for the embedded data sets ``scenes`` and ``scenes-2``."""

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


class ScenesNet2(nn.Module):
    """The trunk for ``scenes-2``: images float [B, 3, 64, 64] to feature maps [B, 64, 8, 8], ReLU at the end.

    As `ScenesNet`, with three differences that make its runs alike:

    * Every run starts from the same weights, drawn once and for all from a seed of this network's own. Seeds still draw
      the classifier, the order of the images and whatever a method draws.
    * SiLU in place of ReLU but at the end. Where ReLU has its kink, rounding alone leads two runs apart before they
      end; through smooth layers they stay together.
    * The first convolution takes patches of 4x4, and a dilated one lets a position see 44 pixels and not 31: a digit
      whole. There is no early plateau, which runs of `ScenesNet` leave after some epochs, not all after as many.

    Attributes
    ----------
    out_channels : channels of the feature maps, 64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 64
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_START)
            self.layers = nn.Sequential(
                *_smooth(3, 32, side=4, stride=4),
                *_smooth(32, 64, side=3, stride=2, padding=1),
                _Residual(64),
                *_smooth(64, self.out_channels, side=1),
            )
        self.layers[-1] = nn.ReLU(inplace=True)
        nn.init.constant_(self.layers[-2].weight, 8.0)  # type: ignore[arg-type]  # a layer's, and no module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


#: Seed of the weights that all runs of `ScenesNet2` start from.
_START = 1


class _Residual(nn.Module):
    """A dilated convolution with normalisation, added to what it gets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution, norm, self.activation = _smooth(channels, channels, side=3, padding=2, dilation=2)
        self.layers = nn.Sequential(convolution, norm)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.activation(maps + self.layers(maps))


def _smooth(channels: int, out_channels: int, side: int, **convolution: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Convolution of `side` x `side`, normalisation and SiLU."""
    layer = nn.Conv2d(channels, out_channels, side, bias=False, **convolution)  # type: ignore[arg-type]
    return layer, nn.GroupNorm(8, out_channels), nn.SiLU(inplace=True)


def _block(channels: int, out_channels: int, stride: int, gain: float = 1.0) -> list[nn.Module]:
    norm = nn.GroupNorm(8, out_channels)
    nn.init.constant_(norm.weight, gain)
    convolution = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return [convolution, norm, nn.ReLU(inplace=True)]
