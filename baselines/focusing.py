"""Losses on assume-negative targets that turn from easy entries to hard ones: focal and asymmetric (ASL)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .boostlu import with_boostlu
from .losses import assumed_targets, bce_entries, check_inputs, reduce


def focal(logits: Tensor, observed: Tensor, *, gamma: float = 2.0, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Focal loss on assume-negative targets: cross-entropy times ``(1 - p_t)**gamma``.

    p_t is the probability given to the target. The weight takes part in the gradient; there is no weight for the
    classes' balance (the alpha of the detection paper). ``gamma = 0`` is `an`.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. gamma : from 0.
    eps : see `bce_entries`; it enters the cross-entropy, not the weight. reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : gamma is negative, infinite or not a number.

    Source: Lin et al., ICCV 2017; gamma 2 is recalled from there, not checked.
    """
    check_inputs(logits, observed)
    _check_from_zero("focal", gamma=gamma)
    targets = assumed_targets(observed, logits.dtype)
    # The cross-entropy with the opposite target is -log(1 - p_t): no power of a number that underflowed to 0.
    weight = torch.exp(-gamma * bce_entries(logits, 1 - targets))
    entries = weight * bce_entries(logits, targets, eps)
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


def asl(
    logits: Tensor,
    observed: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    margin: float = 0.05,
    detach: bool = True,
    eps: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Asymmetric loss on assume-negative targets.

    A positive costs ``-(1 - p)**gamma_pos * log(p)``, a negative ``-s**gamma_neg * log(1 - s)`` with
    ``s = max(p - margin, 0)``: nothing where p is at most the margin. All zero gives `an`.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    gamma_neg, gamma_pos : from 0. margin : from 0 to below 1.
    detach : leave the weights (the powers) out of the gradient. The released class says so by default; its variant
        "optimized" does not, nor does the analysis of gradients that its authors point to.
    eps : 0, or the least argument that a logarithm gets, below 1 (1e-8 in the released code). Unlike elsewhere here
        it is a floor, not added; below it there is no gradient through the logarithm.
    reduction : "sum" as published, "mean" over B*C or "none".

    Raises
    ------
    UsageError : a value outside the ranges above.

    Source: released code of Ridnik et al., ICCV 2021, losses.py lines 6-57. Its flag for `detach` turns gradients on
    again for a caller who had them off; not so here.
    """
    check_inputs(logits, observed)
    _check_from_zero("asl", gamma_neg=gamma_neg, gamma_pos=gamma_pos)
    for name, value in (("margin", margin), ("eps", eps)):
        if not 0 <= value < 1:
            raise UsageError(f"asl: {name} = {value!r}: expected a number from 0 to below 1")
    positive_loss, negative_loss = -functional.logsigmoid(logits), -functional.logsigmoid(-logits)
    positive_weight = torch.exp(-gamma_pos * negative_loss)
    shifted = torch.sigmoid(logits) - margin
    counts = shifted > 0
    # Where nothing counts, a harmless number: the power's slope at 0 may be infinite, and 0 times that is no number.
    negative_weight = torch.where(counts, shifted, 0.5) ** gamma_neg
    if margin > 0:
        negative_loss = -torch.log(torch.sigmoid(-logits) + margin)
    if detach:
        positive_weight, negative_weight = positive_weight.detach(), negative_weight.detach()
    if eps > 0:
        # max(p, eps) inside the logarithm, written where it does not lose digits.
        highest = -math.log(eps)
        positive_loss, negative_loss = positive_loss.clamp(max=highest), negative_loss.clamp(max=highest)
    negative = (negative_weight * negative_loss).masked_fill(~counts, 0.0)
    entries = torch.where(observed == State.POSITIVE, positive_weight * positive_loss, negative)
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


def _check_from_zero(loss: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise UsageError(f"{loss}: {name} = {value!r}: expected a number from 0")


class Focal(Method):
    """Focal loss with every unknown label taken as negative.

    Source: Lin et al., ICCV 2017. The settings behind the published single-positive numbers are not released.
    """

    level = "A"
    hyperparameters = {
        "gamma": Hyper(2.0, "power of the weight 1 - p_t; 0 is 'an'", low=0.0, high=100.0, search=("linear", 0.5, 4.0))
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return focal(logits, labels.state, gamma=self.hyper["gamma"])


class Asymmetric(Method):
    """Asymmetric loss with every unknown label taken as negative (ASL), summed over the batch.

    Source: Ridnik et al., ICCV 2021; defaults of its released class. Its training on COCO sets gamma_pos to 0. The
    settings behind the published single-positive numbers are not released.
    """

    level = "A"
    reduction = "sum"
    hyperparameters = {
        "gamma_neg": Hyper(4.0, "power of a negative's weight", low=0.0, high=100.0, search=("linear", 0.0, 6.0)),
        "gamma_pos": Hyper(1.0, "power of a positive's weight", low=0.0, high=100.0, search=("choice", 0.0, 1.0)),
        "margin": Hyper(0.05, "probability up to which a negative costs nothing", low=0.0, high=0.99),
        "detach": Hyper(True, "leave the weights out of the gradient"),
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return asl(
            logits, labels.state, reduction="sum", **{key: self.hyper[key] for key in Asymmetric.hyperparameters}
        )


FocalBoostLU = with_boostlu(Focal)
AsymmetricBoostLU = with_boostlu(Asymmetric)
