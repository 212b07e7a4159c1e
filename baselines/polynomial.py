"""Poly-1: cross-entropy with the first term of its expansion weighted up."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .losses import assumed_targets, bce_entries, check_inputs, reduce


def poly1(
    logits: Tensor,
    observed: Tensor,
    *,
    epsilon: float = 2.0,
    gamma: float = 0.0,
    alpha: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Poly-1 on assume-negative targets: ``(1 - p_t)**gamma * (cross-entropy + epsilon * (1 - p_t))``.

    p_t is the probability given to the target; the power takes part in the gradient. With both 0 it is `an`.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. epsilon : finite. gamma : from 0.
    alpha : from 0 to 1: positives weigh so much and the rest 1 minus it. None: all weigh 1.
    reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : a value outside the ranges above.

    Source: Leng et al., ICLR 2022 (arXiv 2204.12511).
    """
    check_inputs(logits, observed)
    if not math.isfinite(epsilon):
        raise UsageError(f"poly1: epsilon = {epsilon!r}: expected a finite number")
    if not 0 <= gamma < math.inf:
        raise UsageError(f"poly1: gamma = {gamma!r}: expected a number from 0")
    if alpha is not None and not 0 <= alpha <= 1:
        raise UsageError(f"poly1: alpha = {alpha!r}: expected a share from 0 to 1, or None")
    targets = assumed_targets(observed, logits.dtype)
    # The cross-entropy with the opposite target is -log(1 - p_t): nothing underflows on the way.
    wrong = -bce_entries(logits, 1 - targets)
    entries = bce_entries(logits, targets) + epsilon * torch.exp(wrong)
    if gamma:
        entries = torch.exp(gamma * wrong) * entries
    if alpha is not None:
        entries = (alpha * targets + (1 - alpha) * (1 - targets)) * entries
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


class PolyOne(Method):
    """Poly-1 cross-entropy with every unknown label taken as negative.

    Faithful: the loss, its epsilon (2) in the form for labels that do not exclude each other.

    Substituted: the recipe; the paper's own experiments are of single labels.

    Source: Leng et al., ICLR 2022.
    """

    level = "A"
    hyperparameters = {
        "epsilon": Hyper(
            2.0, "weight of 1 - p_t beside the cross-entropy", low=-100.0, high=100.0, search=("linear", -1.0, 4.0)
        ),
        "gamma": Hyper(0.0, "power of the weight 1 - p_t; 0 is none", low=0.0, high=100.0),
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return poly1(logits, labels.state, epsilon=self.hyper["epsilon"], gamma=self.hyper["gamma"])
