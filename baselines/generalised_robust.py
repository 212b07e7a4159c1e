"""GR loss: unknown labels as positive or negative by a probability read off the score, both with a robust loss."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .losses import assumed_targets, bce_entries, check_inputs, reduce


class GRParameters(NamedTuple):
    """What `gr_entries` takes in one epoch, see there."""

    w: float
    b: float
    mu: float
    sigma: float


def gr_schedule(
    epoch: int,
    epochs: int,
    *,
    w: tuple[float, float] = (0.0, 2.0),
    b: tuple[float, float] = (-2.0, -2.0),
    mu: tuple[float, float] = (0.5, 0.8),
    sigma: tuple[float, float] = (2.0, 0.5),
    linear_init: int = 0,
) -> GRParameters:
    """The parameters of epoch `epoch`, each on a line from its first value to its last.

    With n = `linear_init` epochs at the start, `mu` and `sigma` are at ``max(epoch - n, 0) / (epochs - n)`` of their
    line, so that the last epoch has the last value; `w` and `b` are a step behind, at ``max(epoch - n - 1, 0) /
    (epochs - n)``, and never reach theirs.

    Parameters
    ----------
    epoch : from 1 to `epochs`. w, b, mu, sigma : first and last value; those of sigma above 0.

    Raises
    ------
    UsageError : an epoch or a value outside these ranges.

    Source: released code of the GR loss (yan4xi1/GRLoss, losses.py).
    """
    if not 1 <= epoch <= epochs:
        raise UsageError(f"gr: epoch {epoch} of {epochs}: expected a whole number from 1 to the number of epochs")
    if not 0 <= linear_init < epochs:
        raise UsageError(f"gr: linear_init = {linear_init}: expected a whole number from 0, less than {epochs} epochs")
    for name, ends in (("w", w), ("b", b), ("mu", mu), ("sigma", sigma)):
        if len(ends) != 2 or not all(math.isfinite(end) for end in ends):
            raise UsageError(f"gr: {name} = {ends!r}: expected two finite numbers, the first value and the last")
    if min(sigma) <= 0:
        raise UsageError(f"gr: sigma = {sigma!r}: expected numbers above 0")
    behind = max(epoch - linear_init - 1, 0) / (epochs - linear_init)
    share = max(epoch - linear_init, 0) / (epochs - linear_init)
    return GRParameters(_between(w, behind), _between(b, behind), _between(mu, share), _between(sigma, share))


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def gr_weight(logits: Tensor, parameters: GRParameters) -> Tensor:
    """V of `gr`, [B, C] without gradient: the weight of an unknown label of these logits."""
    p = torch.sigmoid(logits.detach())
    return torch.exp(-(((p - parameters.mu) / parameters.sigma) ** 2) / 2)


def gr_entries(
    logits: Tensor,
    observed: Tensor,
    parameters: GRParameters,
    *,
    q2: float = 0.01,
    q3: float = 1.0,
    count_negatives: bool = True,
    eps: float = 0.0,
) -> Tensor:
    """Entries [B, C] of `gr` under the `parameters` of one epoch."""
    check_inputs(logits, observed)
    for name, value in (("q2", q2), ("q3", q3)):
        if not 0 < value < math.inf:
            raise UsageError(f"gr: {name} = {value!r}: expected a number above 0")
    p = torch.sigmoid(logits.detach())
    likely = torch.sigmoid(parameters.w * p + parameters.b)
    weight = gr_weight(logits, parameters)
    # 1 - p**q and 1 - (1 - p)**q by logarithms: p**0.01 is far from 0 where p itself has underflowed.
    as_positive = -torch.expm1(q2 * functional.logsigmoid(logits)) / q2
    as_negative = -torch.expm1(q3 * functional.logsigmoid(-logits)) / q3
    guessed = weight * (likely * as_positive + (1 - likely) * as_negative)
    known = bce_entries(logits, assumed_targets(observed, logits.dtype), eps)
    entries = torch.where(observed == State.UNKNOWN, guessed, known)
    left_out = observed == State.UNSPECIFIED
    if not count_negatives:
        left_out = left_out | (observed == State.NEGATIVE)
    return entries.masked_fill(left_out, 0.0)


def gr(
    logits: Tensor,
    observed: Tensor,
    *,
    epoch: int,
    epochs: int,
    w: tuple[float, float] = (0.0, 2.0),
    b: tuple[float, float] = (-2.0, -2.0),
    mu: tuple[float, float] = (0.5, 0.8),
    sigma: tuple[float, float] = (2.0, 0.5),
    q2: float = 0.01,
    q3: float = 1.0,
    linear_init: int = 0,
    count_negatives: bool = True,
    eps: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """GR loss: observed labels have their cross-entropy, an unknown one with probability p
    ``V * (K * (1 - p**q2) / q2 + (1 - K) * (1 - (1 - p)**q3) / q3)``.

    ``K = sigmoid(w * p + b)`` is the guess that it is positive, ``V = exp(-((p - mu) / sigma)**2 / 2)`` its weight; no
    gradient flows through either. Their parameters change with the epoch, see `gr_schedule`.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    epoch, epochs, w, b, mu, sigma, linear_init : see `gr_schedule`; the defaults are those of the released code.
    q2, q3 : above 0; towards 0 they make a cross-entropy, at 1 an absolute error.
    count_negatives : observed negatives have their cross-entropy; False leaves them out, as the released code does with
        labels of that kind (its own data has none).
    eps : see `bce_entries`, of the observed labels only (1e-7 in the released code).
    reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : a value outside the ranges above.

    Source: released code of Chen et al., IJCAI 2024 (yan4xi1/GRLoss @5e13f7f, losses.py). There, p**q2 of a p that has
    underflowed gives a wrong value and a gradient that is no number; not so here.
    """
    parameters = gr_schedule(epoch, epochs, w=w, b=b, mu=mu, sigma=sigma, linear_init=linear_init)
    entries = gr_entries(logits, observed, parameters, q2=q2, q3=q3, count_negatives=count_negatives, eps=eps)
    return reduce(entries, reduction)


class GeneralisedRobust(Method):
    """GR loss: an unknown label is taken as positive by so much as its score says so, and weighs less if undecided.

    Faithful: the loss, its schedule by epoch, its parameters for each data set (those of VOC from its own code, the
    others from code that builds on it).

    Substituted: the loss of observed positives is the stable form (1e-7 is added inside the logarithm there); the
    released code selects by validation mAP on full labels whatever it is told, as protocol single_positive does; it
    ends when validation is two points below its best, ours does not. Its epochs with a frozen backbone (none by
    default) are left out, and so is its learned guess, which does not run as released.

    Source: Chen et al., IJCAI 2024, released code.
    """

    level = "A"
    hyperparameters = {
        "w_start": Hyper(0.0, "slope of the guess that an unknown label is positive, at first", low=-1e3, high=1e3),
        "w_end": Hyper(2.0, "the same, towards the end", low=-1e3, high=1e3, search=("linear", 0.0, 10.0)),
        "b_start": Hyper(-2.0, "offset of that guess, at first", low=-1e3, high=1e3),
        "b_end": Hyper(-2.0, "the same, towards the end", low=-1e3, high=1e3, search=("linear", -8.0, -1.0)),
        "mu_start": Hyper(0.5, "probability at which an unknown label weighs most, at first", low=-10.0, high=10.0),
        "mu_end": Hyper(0.8, "the same, in the last epoch", low=-10.0, high=10.0),
        "sigma_start": Hyper(2.0, "width of that weight, at first", low=1e-3, high=1e3),
        "sigma_end": Hyper(0.5, "the same, in the last epoch", low=1e-3, high=1e3),
        "q2": Hyper(0.01, "power of the loss as a positive", low=1e-6, high=10.0),
        "q3": Hyper(1.0, "power of the loss as a negative", low=1e-6, high=10.0),
        "count_negatives": Hyper(True, "observed negatives count; the released code leaves them out"),
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        hyper = self.hyper
        return gr(
            logits,
            labels.state,
            epoch=step.epoch,
            epochs=step.epochs,
            **{name: (hyper[f"{name}_start"], hyper[f"{name}_end"]) for name in GRParameters._fields},
            **{name: hyper[name] for name in ("q2", "q3", "count_negatives")},
        )
