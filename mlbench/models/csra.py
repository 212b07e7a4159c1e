"""Class-specific residual attention: each class pools its map by the mean and by an attention of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlbench.errors import UsageError
from mlbench.models.heads import ClassificationHead, boostlu, check_features, class_activation_maps, without_autocast
from mlbench.settings import Hyper

#: Temperatures of the softmax by number of blocks, as released.
TEMPERATURES = {1: (1,), 2: (1, 99), 4: (1, 2, 4, 99), 6: (1, 2, 3, 4, 5, 99), 8: (1, 2, 3, 4, 5, 6, 7, 99)}
#: The temperature that stands for the maximum.
MAXIMUM = 99


def attend(scores: Tensor, temperature: float) -> Tensor:
    """Class scores [B, C, P] of P positions to [B, C]: their mean under ``softmax(temperature * scores)`` over P.

    At a temperature of 99 it is the largest score, as released, and not the mean that comes close to it.

    Source: Zhu and Wu, ICCV 2021 (CSRA).
    """
    if temperature == MAXIMUM:
        return scores.max(dim=2).values
    return (scores * torch.softmax(temperature * scores, dim=2)).sum(dim=2)


class ResidualAttention(ClassificationHead):
    """CSRA: the mean of a class's map, plus `residual` times its mean under an attention of its own.

    The map of class c is ``w_c . f(u) / ||w_c||`` at each place u: no bias, and the length of a weight does not count.
    `blocks` of such heads, each with its own weights [C, D] and temperature (`TEMPERATURES`), are added up, so that
    the mean counts `blocks` times. ``maps`` are the sum of the blocks' maps. BoostLU, where asked for, boosts each
    block's map before both ways of pooling (ours: the papers do not combine the two).

    Source: Zhu and Wu, ICCV 2021; the paper's residual is 0.1 with 1 block on VOC 2007 and 0.5 with 4 on COCO.
    """

    hyperparameters = {
        "residual": Hyper(0.1, "weight of the attention beside the mean", low=0.0, high=100.0, search=("linear", 0, 1)),
        "blocks": Hyper(1, "blocks with weights and temperature of their own", choices=tuple(TEMPERATURES)),
    }
    gives = ("maps",)

    def __init__(self, channels: int, classes: int, residual: float = 0.1, blocks: int = 1) -> None:
        super().__init__()
        if channels < 1 or classes < 1:
            raise UsageError(f"a head needs at least one channel and one class, got {channels} and {classes}")
        if blocks not in TEMPERATURES:
            raise UsageError(f"head.blocks = {blocks}: expected one of {', '.join(map(str, TEMPERATURES))}")
        self.residual, self.temperatures = residual, TEMPERATURES[blocks]
        self.weight = nn.Parameter(torch.empty(blocks, classes, channels))
        bound = 1 / math.sqrt(channels)  # of a 1x1 convolution in PyTorch
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] of feature maps [B, D, h, w]."""
        with without_autocast(features.device):
            blocks = self._scores(features, self.weight, boosted=True)
            pooled = [
                block.flatten(2).mean(dim=2) + self.residual * attend(block.flatten(2), temperature)
                for block, temperature in zip(blocks, self.temperatures, strict=True)
            ]
            return torch.stack(pooled).sum(dim=0)

    def maps(self, features: Tensor, boosted: bool = False) -> Tensor:
        """Class activation maps [B, C, h, w]: their mean is the logit's part that is not attention."""
        with without_autocast(features.device):
            return torch.stack(self._scores(features, self.weight, boosted)).sum(dim=0)

    def heat_maps(self, features: Tensor) -> Tensor:
        """Maps whose weights are data: gradients reach the features alone."""
        with without_autocast(features.device):
            return torch.stack(self._scores(features, self.weight.detach(), boosted=False)).sum(dim=0)

    def extra_repr(self) -> str:
        blocks, classes, channels = self.weight.shape
        return f"{channels}, {classes}, blocks={blocks}, residual={self.residual:g}, {self.spec}"

    def _scores(self, features: Tensor, weight: Tensor, boosted: bool) -> list[Tensor]:
        """Each block's maps [B, C, h, w]."""
        check_features(features, weight.shape[2])
        weight = weight / weight.norm(dim=2, keepdim=True)
        maps = class_activation_maps(features.to(weight.dtype), weight.flatten(0, 1)).chunk(len(weight), dim=1)
        return [boostlu(block, self.alpha) for block in maps] if boosted else list(maps)
