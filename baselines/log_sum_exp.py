"""Losses that hold the highest negatives against the lowest positives by log-sum-exp: two-way and ZLPR."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlbench.annotation import State
from mlbench.errors import UsageError, unknown
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .losses import REDUCTIONS, check_inputs, reduce

#: What becomes of unknown labels.
UNKNOWN_AS = ("negative", "left_out")


def _sides(observed: Tensor, unknown_as: str, loss: str) -> tuple[Tensor, Tensor]:
    """Bool [B, C]: positives and negatives."""
    if unknown_as not in UNKNOWN_AS:
        raise unknown("rule for unknown labels", unknown_as, UNKNOWN_AS, f"{loss}: unknown_as")
    negative = observed == State.NEGATIVE
    return observed == State.POSITIVE, negative | (observed == State.UNKNOWN) if unknown_as == "negative" else negative


def _log_sum_exp(values: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """Of the `chosen` entries along `dim`; minus infinity where there are none."""
    return values.masked_fill(~chosen, -math.inf).logsumexp(dim=dim)


def _log_one_plus_exp(values: Tensor) -> Tensor:
    """``log(1 + exp(values))``, 0 at minus infinity."""
    return torch.logaddexp(values, torch.zeros_like(values))


def twoway(
    logits: Tensor,
    observed: Tensor,
    *,
    tp: float = 4.0,
    tn: float = 1.0,
    unknown_as: str = "negative",
    reduction: str = "mean",
) -> Tensor:
    """Two-way loss: in each image and in each class, the highest negative is to score below the lowest positive.

    Of a row or a column v of the matrix it is ``log(1 + exp(tn * LSE(v / tn) + tp * LSE(-v / tp)))``, the first
    log-sum-exp over its negatives and the second over its positives. Rows and columns without a positive do not count;
    those without a negative have loss 0. Only differences of logits matter: no threshold is learned.

    Parameters
    ----------
    logits : float [B, C] of the whole batch. observed : int8 [B, C] of `State` codes.
    tp, tn : temperatures, above 0.
    unknown_as : "negative", or "left_out" of both sides (what the released code does with a label coded -1: a form for
        partial labels that nobody has published).
    reduction : "mean", as published, over the classes with a positive in the batch, plus that over the images with one;
        "sum" of them all; or "none", [C + B], first the classes.

    Raises
    ------
    UsageError : a temperature that is not above 0, or an unknown name.

    Source: Kobayashi, CVPR 2023; released code (tk1980/TwoWayMultiLabelLoss @ef8b2d6, criterion.py), which masks by
    adding -100 where minus infinity is meant, and gives no number for a batch without positives (here 0).
    """
    check_inputs(logits, observed)
    for name, value in (("tp", tp), ("tn", tn)):
        if not 0 < value < math.inf:
            raise UsageError(f"twoway: {name} = {value!r}: expected a temperature above 0")
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    positive, negative = _sides(observed, unknown_as, "twoway")
    ways = []
    for dim in (0, 1):
        high = tn * _log_sum_exp(logits / tn, negative, dim)
        low = tp * _log_sum_exp(-logits / tp, positive, dim)
        ways.append(_log_one_plus_exp(high + low))
    if reduction == "mean":
        counted = [positive.any(dim=dim).sum().clamp(min=1) for dim in (0, 1)]
        return ways[0].sum() / counted[0] + ways[1].sum() / counted[1]
    return reduce(torch.cat(ways), reduction)


def zlpr(logits: Tensor, observed: Tensor, *, unknown_as: str = "negative", reduction: str = "mean") -> Tensor:
    """Zero-bounded log-sum-exp ranking: positives are to score above 0, negatives below.

    Of an image it is ``log(1 + sum of exp(x)) + log(1 + sum of exp(-x))``, the first sum over its negatives and the
    second over its positives.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. unknown_as : "negative", or "left_out".
    reduction : "mean" over the B images, "sum", or "none" ([B]).

    Raises
    ------
    UsageError : an unknown name.

    Source: Su et al., 2022 (arXiv 2208.02955).
    """
    check_inputs(logits, observed)
    positive, negative = _sides(observed, unknown_as, "zlpr")
    below = _log_one_plus_exp(_log_sum_exp(logits, negative, 1))
    above = _log_one_plus_exp(_log_sum_exp(-logits, positive, 1))
    return reduce(below + above, reduction)


UNKNOWN_LABELS = Hyper("negative", "what becomes of unknown labels (left_out is ours)", choices=UNKNOWN_AS)


class TwoWay(Method):
    """Two-way multi-label loss: negatives below positives in each image, and in each class over the batch.

    The batch that the loss sees is part of it: here the whole one, over all processes.

    Faithful: the loss and its temperatures; unknown labels count as negatives, as missing ones do in print.

    Substituted: the recipe (224 px, SGD, strong augmentation, 40 epochs) and its batch, of which the released code sees
    the part of one process, 128 images.

    Scores: logits that only order; the loss is the same when all move together, so that no threshold means anything.

    Source: Kobayashi, CVPR 2023, released code.
    """

    level = "A"
    batch_global = True
    scores = "rank"
    hyperparameters = {
        "tp": Hyper(4.0, "temperature of the positives", low=1e-3, high=1e3, search=("log", 1.0, 8.0)),
        "tn": Hyper(1.0, "temperature of the negatives", low=1e-3, high=1e3),
        "unknown_as": UNKNOWN_LABELS,
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return twoway(logits, labels.state, **{name: self.hyper[name] for name in TwoWay.hyperparameters})


class ZeroBounded(Method):
    """Zero-bounded log-sum-exp and pairwise rank-based loss (ZLPR): positives above 0, negatives below, by image.

    Faithful: the loss, which has no parameter; unknown labels count as negatives.

    Substituted: the recipe; the paper is of text classification.

    Source: Su et al., 2022 (arXiv 2208.02955).
    """

    level = "A"
    hyperparameters = {"unknown_as": UNKNOWN_LABELS}

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return zlpr(logits, labels.state, unknown_as=self.hyper["unknown_as"])
