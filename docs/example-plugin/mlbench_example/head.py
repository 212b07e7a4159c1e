"""A head for mlbench: feature maps [B, D, h, w] to logits [B, C]."""

from __future__ import annotations

import math

import torch
from torch import nn

from mlbench.methods import Hyper
from mlbench.models.heads import ClassificationHead


class LogMeanExp(ClassificationHead):
    """A logit at each position, pooled by the log of the mean of exponentials: between mean and maximum.

    Source: Pinheiro and Collobert, CVPR 2015.
    """

    version = 1
    hyperparameters = {"sharpness": Hyper(4.0, "0 is the mean, infinity the maximum", low=0.01, high=100.0)}

    def __init__(self, channels: int, classes: int, sharpness: float = 4.0) -> None:
        super().__init__()
        self.layer, self.sharpness = nn.Conv2d(channels, classes, 1), sharpness

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of feature maps [B, D, h, w]."""
        maps = self.layer(features).flatten(2).float()
        pooled = torch.logsumexp(self.sharpness * maps, dim=2) - math.log(maps.shape[2])
        return pooled / self.sharpness
