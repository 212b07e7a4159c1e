"""Attention heat maps are refined while attributes are learned: they are to cover little of the image (AR)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Step
from mlbench.models.heads import Head

from .losses import bce, reduce


def attention_area(maps: Tensor) -> Tensor:
    """The share of the cells that each heat map attends to: ``exp(H(softmax(M))) / (h w)``, float [N, L].

    From 1 / (h w), all attention in one cell, to 1, a map that is the same everywhere. A number added to a map changes
    nothing.

    Parameters
    ----------
    maps : float [N, L, h, w], M.

    Raises
    ------
    UsageError : maps of another shape.

    Source: ours, for `ar`; H is the entropy in nats.
    """
    if maps.ndim != 4 or 0 in maps.shape[2:]:
        raise UsageError(f"attention area: maps {list(maps.shape)}: expected [N, L, h, w]")
    logs = maps.flatten(2).log_softmax(dim=2)
    entropy = -(logs.exp() * logs).sum(dim=2)
    return entropy.exp() / logs.shape[2]


def refinement_loss(maps: Tensor, observed: Tensor, *, reduction: str = "mean") -> Tensor:
    """`attention_area` of the labels observed positive, 0 for all others.

    Parameters
    ----------
    maps : float [B, C, h, w], class activation maps. observed : int8 [B, C] of `State` codes.
    reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : shapes that do not fit, an unknown reduction.

    Source: Guo, Fan and Wang, 2017 (AR), which has an exponential loss on heat maps; this form is ours, the published
    one was not at hand.
    """
    area = attention_area(maps)
    if observed.shape != area.shape:
        raise UsageError(f"refinement loss: maps {list(maps.shape)} and observed labels {list(observed.shape)}")
    return reduce(torch.where(observed == State.POSITIVE, area, 0.0), reduction)


class RefinedAttention(Method):
    """An exponential loss refines the heat maps of the attributes a person has (AR; an approximation).

    Faithful: a network with class activation maps, its classification loss and an exponential loss of the heat maps,
    added up. Substituted: the published formula, which was not at hand; here it is the exponential of the entropy of a
    map under a softmax over positions, by the number of cells (`attention_area`), for observed positives. Also ours:
    its weight, cross-entropy with unknown labels negative as the classification loss, maps without ReLU and scaling,
    and that the loss reaches the classifier as well as the trunk. Backbone and schedule are the run's.

    Source: Guo, Fan and Wang, 2017 (AR), from its abstract.
    """

    needs_head = "maps"
    level = "C"
    tracks = ("full",)  # heat maps need more than the pooled features that a linear head is given
    hyperparameters = {
        "attention_weight": Hyper(
            1.0, "weight of the heat maps' loss (unpublished)", low=0.0, high=1e6, search=("log", 0.1, 10.0)
        )
    }

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert batch.labels is not None
        output, observed = network(batch.inputs), batch.labels.state
        maps = cast(Head, network.head).maps(output.features)
        attention = self.hyper["attention_weight"] * refinement_loss(maps, observed)
        return {"classification": bce(output.logits, observed), "attention": attention}
