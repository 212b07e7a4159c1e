"""A person's box and the regions that tell most about it: R-CNN and R*CNN on single crops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Phase, Step
from mlbench.proposals import split_proposals
from mlbench.runner.side import PROPOSAL_HYPERPARAMETERS
from mlbench.seeds import keyed_bits

from .distillation_losses import label_loss
from .wsddn import POOLING, hidden_layers, in_pieces, pool_regions


def context_regions(boxes: Tensor, valid: Tensor, low: float = 0.2, high: float = 0.75) -> Tensor:
    """Which regions are context of the whole image: bool [B, R], overlap (IoU) with it from `low` to `high`.

    Parameters
    ----------
    boxes : float [B, R, 4], shares of width and height: the overlap is the area. valid : bool [B, R].

    Raises
    ------
    UsageError : `low` and `high` are not in order between 0 and 1.

    Source: Gkioxari et al., ICCV 2015 (R*CNN); released code, lib/fast_rcnn/config.py.
    """
    if not 0 <= low <= high <= 1:
        raise UsageError(f"context regions: overlap from {low} to {high}: expected 0 <= low <= high <= 1")
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)
    return valid & (area >= low) & (area <= high)


def draw_regions(shown: Tensor, rows: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """At most `count` of the regions bool [B, R] of each image: their places int64 [B, k], and which of these are some.

    Drawn under `seed` for each (row, region) apart, so that they depend neither on the batch an image is in nor on the
    number of processes. rows : int64 [B].
    """
    places = rows.cpu().numpy()[:, None] * np.int64(shown.shape[1]) + np.arange(shown.shape[1])
    keys = torch.from_numpy((keyed_bits(places.astype(np.uint64), seed) >> np.uint64(2)).astype(np.int64))
    order = keys.to(shown.device).masked_fill(~shown, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    index = order[:, :count]
    return index, shown.take_along_dim(index, dim=1)


def best_of_regions(scores: Tensor, shown: Tensor) -> Tensor:
    """The highest score of each class: float [B, C] of regions [B, R, C] where `shown` [B, R]; 0 where none is."""
    best = scores.masked_fill(~shown[..., None], -torch.inf).amax(dim=1)
    return torch.where(shown.any(dim=1, keepdim=True), best, 0.0)


def with_best_context(person: Tensor, context: Tensor, shown: Tensor) -> Tensor:
    """Logits [B, C]: the person's [B, C] and, of each class, the highest of the context [B, R, C] where `shown` [B, R].

    An image without context has the person's.

    Source: Gkioxari et al., ICCV 2015 (R*CNN), equation of the score.
    """
    return person + best_of_regions(context, shown)


class RegionClassifier(nn.Module):
    """Pooled features of boxes through two layers that all boxes share; linear layers for the person and the context.

    Parameters
    ----------
    backbone : gives maps [B, D, h, w]. classes : C. with_context : whether there is the second linear layer.
    cells, hidden, dropout, pooling : as of `mlbench.baselines.wsddn.Detector`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        with_context: bool,
        cells: int = 7,
        hidden: int = 4096,
        dropout: float = 0.5,
        pooling: str = "align",
    ) -> None:
        super().__init__()
        self.cells, self.pooling = cells, pooling
        self.backbone = backbone
        width: int = backbone.out_channels * cells**2  # type: ignore[operator,assignment]
        self.hidden = hidden_layers(width, hidden, dropout)
        self.person = nn.Linear(hidden or width, classes)
        if with_context:
            self.context = nn.Linear(hidden or width, classes)

    def regions(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Features [B, R, d] after the shared layers, of boxes [B, R, 4] in maps [B, D, h, w]."""
        return self.hidden(pool_regions(features, boxes, self.cells, self.pooling).flatten(2))

    def forward(self, images: Tensor, boxes: Tensor | None = None, shown: Tensor | None = None) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W] and, with context, of its boxes [B, R, 4] where `shown` [B, R]."""
        features = self.backbone(images)
        whole = features.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(images), 1, 4)
        person = self.person(self.regions(features, whole)[:, 0]).float()
        if boxes is None or shown is None:
            return person
        context = torch.cat([self.context(self.regions(*piece)).float() for piece in in_pieces(features, boxes)])
        return with_best_context(person, context, shown)


class PersonRegion(Method):
    """The person's box through a region classifier (R-CNN; that is, Fast R-CNN on the given box).

    Faithful: pooled maps of the box, two fully connected layers, a logit for each attribute, mirrored images
    (`train.augment`). Substituted: the image is the crop of the box, warped to a square, and not the photograph with
    its short side at 600 px; so jittered boxes (overlap from 0.5) are left out. No layer is frozen. Unspecified labels
    are ignored, as published, where the protocol leaves them out of training.

    Source: Girshick, ICCV 2015, as trained in released code of Gkioxari et al., ICCV 2015 (R*CNN).
    """

    needs_head = "none"
    level = "B"
    tracks = ("full",)
    stochastic = True  # dropout
    hyperparameters = {
        "cells": Hyper(3, "cells of a pooled region along a side (published: 7)", low=1, high=14),
        "hidden": Hyper(256, "width of the two fully connected layers, 0: none (published: 4096)", low=0, high=8192),
        "dropout": Hyper(0.5, "dropout after each of them", low=0.0, high=0.9),
        "pooling": Hyper("align", "align (interpolated) or max (published)", choices=POOLING),
    }

    def network(self, phase: Phase) -> nn.Module:
        given = {name: self.hyper[name] for name in ("cells", "hidden", "dropout", "pooling")}
        return RegionClassifier(self.task.backbone(), self.task.num_classes, "proposals" in self.inputs, **given)

    def logits(self, network: nn.Module, batch: Batch, step: Step | None) -> Tensor:
        """Logits [B, C]; `step` is None in inference."""
        return network(batch.inputs)

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        return label_loss(self.logits(network, batch, step), batch.labels.state)

    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        return self.logits(network, batch, None)


class ContextRegion(PersonRegion):
    """The person's box and, for each attribute, the one region that tells most (R*CNN).

    Faithful: the sum of the box's score and the highest of the regions that overlap it by 0.2 to 0.75; layers shared
    by both; 10 regions drawn for each image in training, all of them in inference. Substituted, beside what `rcnn`
    tells: regions are proposals inside the crop, where published ones reach beyond the person.

    Source: Gkioxari et al., ICCV 2015 (R*CNN); released code, lib/fast_rcnn/config.py.
    """

    level = "B"
    inputs = ("proposals",)
    hyperparameters = {
        **PersonRegion.hyperparameters,
        **PROPOSAL_HYPERPARAMETERS,
        "low": Hyper(0.2, "least overlap of a context region with the box", low=0.0, high=1.0),
        "high": Hyper(0.75, "largest overlap", low=0.0, high=1.0),
        "drawn": Hyper(10, "context regions of an image in a training step", low=1, high=10000),
    }

    @classmethod
    def check_together(cls, values: Mapping[str, Any]) -> None:
        if values["low"] > values["high"]:
            raise UsageError(f"low = {values['low']} is above high = {values['high']}: no region overlaps so")

    def logits(self, network: nn.Module, batch: Batch, step: Step | None) -> Tensor:
        boxes, _, valid = split_proposals(batch.side["proposals"])
        shown = context_regions(boxes, valid, self.hyper["low"], self.hyper["high"])
        if step is not None:
            seed = self.task.generator(f"context {step.phase} {step.epoch}").initial_seed()
            index, shown = draw_regions(shown, batch.index, self.hyper["drawn"], seed)
            boxes = boxes.take_along_dim(index[..., None], dim=1)
        return network(batch.inputs, boxes, shown)
