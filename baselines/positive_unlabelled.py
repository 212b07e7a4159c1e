"""Positive-unlabelled learning: what is not observed positive is unlabelled, not negative."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .losses import check_inputs, reduce


def pu_mlc_loss(
    logits: Tensor,
    observed: Tensor,
    *,
    alpha: float = 1.0,
    gamma: float = 0.55,
    eps: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Positive-unlabelled loss of PU-MLC: a class's mean probability goes down, that of its positives up.

    In each class ``p = sigmoid(x / s)``, ``s = min(alpha * deviation of its logits in the batch, 1)``; with m the mean
    of p over all images, positives among them, the loss of the class is ``m**gamma * log(m)`` less the mean of
    ``log(p)`` over its observed positives (0 where it has none). No gradient flows through s and m**gamma. Observed
    negatives are unlabelled as all others; unspecified entries are left out.

    Parameters
    ----------
    logits : float [B, C] of the whole batch. observed : int8 [B, C] of `State` codes.
    alpha : above 0. gamma : from 0.
    eps : 0, or a small positive number added inside both logarithms (1e-10 in the released code).
    reduction : "sum" over classes as published, "mean" over the C classes, or "none" ([C]).

    Raises
    ------
    UsageError : a value outside the ranges above.

    Source: Yuan et al., ICME 2024; released code (TAKELAMAG/PU-MLC @5c54d37, vpu_loss.py). There a class whose logits
    are all the same, as in a batch of one, is divided by 0; here its s is 1, also where they differ by rounding alone.
    """
    check_inputs(logits, observed)
    if not 0 < alpha < math.inf:
        raise UsageError(f"pu_mlc_loss: alpha = {alpha!r}: expected a number above 0")
    if not 0 <= gamma < math.inf:
        raise UsageError(f"pu_mlc_loss: gamma = {gamma!r}: expected a number from 0")
    if not 0 <= eps < math.inf:
        raise UsageError(f"pu_mlc_loss: eps = {eps!r}: expected 0 or a small positive number such as 1e-10")
    counted, positive = observed != State.UNSPECIFIED, observed == State.POSITIVE
    log_p = functional.logsigmoid(logits / _scale(logits.detach(), counted, alpha))
    number = counted.sum(dim=0)
    # The least number above 0 stands for a class without any entry, whose loss is 0 in the end.
    log_mean = log_p.masked_fill(~counted, -math.inf).logsumexp(dim=0) - torch.log(number.clamp(min=1).to(logits))
    log_mean = log_mean.masked_fill(number == 0, 0.0)
    weight = torch.exp(gamma * log_mean.detach())
    if eps > 0:
        log_p, log_mean = torch.log(torch.exp(log_p) + eps), torch.log(torch.exp(log_mean) + eps)
    positives = positive.sum(dim=0)
    found = log_p.masked_fill(~positive, 0.0).sum(dim=0) / positives.clamp(min=1)
    return reduce(weight * log_mean - found, reduction)


def _scale(logits: Tensor, counted: Tensor, alpha: float) -> Tensor:
    """``min(alpha * deviation, 1)`` of each class over the counted entries of the batch, [C]; 1 where they are equal.

    Equal up to rounding: what is left of it would be blown up to a loss of any size. Deviations are taken from one of
    the entries, so that their own rounding is in proportion to them and not to the logits.
    """
    first = logits.gather(0, counted.to(torch.uint8).argmax(dim=0, keepdim=True))
    moved = (logits - first).masked_fill(~counted, 0.0)
    number = counted.sum(dim=0).clamp(min=1)
    centred = (moved - moved.sum(dim=0) / number).masked_fill(~counted, 0.0)
    deviation = torch.sqrt((centred**2).sum(dim=0) / number)
    rounding = 4 * torch.finfo(logits.dtype).eps * first[0].abs()
    return (alpha * deviation).clamp(max=1.0).masked_fill(deviation <= rounding, 1.0)


class PositiveUnlabelled(Method):
    """The loss of PU-MLC alone: labels that are not observed positive are unlabelled, not negative.

    This is not the paper's row. That one adds a network with word vectors and a branch beside the backbone, and mixes
    images, none of which is here.

    Faithful: the loss, summed over classes, with its temperature from the batch, here the whole one over all processes
    (the released code sees the part of one).

    Substituted: a class whose logits do not differ in the batch has temperature 1, where the released code divides by
    0; the term of mixed images is left out.

    Source: Yuan et al., ICME 2024, released code.
    """

    level = "C"
    batch_global = True
    reduction = "sum"
    hyperparameters = {
        "alpha": Hyper(1.0, "temperature by the deviation of a class's logits", low=1e-3, high=1e3),
        "gamma": Hyper(
            0.55, "power of a class's mean probability as weight", low=0.0, high=100.0, search=("linear", 0.1, 1.0)
        ),
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return pu_mlc_loss(logits, labels.state, alpha=self.hyper["alpha"], gamma=self.hyper["gamma"], reduction="sum")
