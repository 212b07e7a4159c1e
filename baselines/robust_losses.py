"""Losses made for labels that are missing: Hill, and self-paced loss correction (SPLC)."""

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


def hill(
    logits: Tensor,
    observed: Tensor,
    *,
    lam: float = 1.5,
    margin: float = 1.0,
    gamma: float = 2.0,
    reduction: str = "mean",
) -> Tensor:
    """Hill loss: a negative or unknown label with probability p costs ``(lam - p) * p**2``, less again as p nears 1.

    A positive costs ``-(1 - q)**gamma * log(q)`` with ``q = sigmoid(logit - margin)``; the power takes part in the
    gradient. With lam 1.5 the slope of the other labels is 3 p**2 (1 - p)**2: none at either end.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. lam, margin : finite. gamma : from 0.
    reduction : "sum" as published, "mean" over B*C or "none".

    Raises
    ------
    UsageError : a value outside the ranges above.

    Source: released code of Zhang et al., 2021 (arXiv 2112.07368; xinyu1205/robust-loss-mlml @dcfa4d5, losses.py). In
    float32 it is not a number as soon as a logit lies below about -103; not so here.
    """
    check_inputs(logits, observed)
    _check_numbers("hill", gamma, lam=lam, margin=margin)
    p = torch.sigmoid(logits)
    entries = torch.where(observed == State.POSITIVE, _focused(logits - margin, gamma), (lam - p) * p**2)
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


def splc(
    logits: Tensor,
    observed: Tensor,
    *,
    epoch: int,
    tau: float = 0.6,
    margin: float = 1.0,
    gamma: float = 2.0,
    first_epoch: int = 2,
    reduction: str = "mean",
) -> Tensor:
    """Self-paced loss correction: a focal loss in which unknown labels with a high score count as positive.

    Which these are says `splc_mask`, anew in each step; none before `first_epoch`. With z = logit - `margin` for an
    observed positive and z = logit elsewhere, a positive (corrected ones too, without a margin) costs
    ``-(1 - s)**gamma * log(s)``, s = sigmoid(z), and everything else ``-s**gamma * log(1 - s)``. The powers take part
    in the gradient, the choice does not.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. epoch : from 1.
    tau : from 0 to 1. margin : finite. gamma : from 0. first_epoch : from 1.
    reduction : "sum" as published, "mean" over B*C or "none".

    Raises
    ------
    UsageError : a value outside the ranges above.

    Source: released code of Zhang et al., 2021 (arXiv 2112.07368; xinyu1205/robust-loss-mlml @dcfa4d5, losses.py); it
    counts epochs from 0 and corrects from its 1 on. Negatives and unknown labels have one code there; here an observed
    negative is never corrected.
    """
    corrected = splc_mask(logits, observed, epoch=epoch, tau=tau, first_epoch=first_epoch)
    return reduce(_splc_entries(logits, observed, corrected, margin, gamma), reduction)


def splc_mask(logits: Tensor, observed: Tensor, *, epoch: int, tau: float = 0.6, first_epoch: int = 2) -> Tensor:
    """Bool [B, C]: the unknown entries that `splc` takes as positive, those with a probability above `tau`.

    Parameters
    ----------
    As of `splc`.
    """
    check_inputs(logits, observed)
    if epoch < 1 or first_epoch < 1:
        raise UsageError(f"splc: epoch {epoch}, first_epoch {first_epoch}: expected whole numbers from 1")
    if not 0 <= tau <= 1:
        raise UsageError(f"splc: tau = {tau!r}: expected a probability from 0 to 1")
    if epoch < first_epoch:
        return torch.zeros_like(logits, dtype=torch.bool)
    return (observed == State.UNKNOWN) & (torch.sigmoid(logits.detach()) > tau)


def _splc_entries(logits: Tensor, observed: Tensor, corrected: Tensor, margin: float, gamma: float) -> Tensor:
    _check_numbers("splc", gamma, margin=margin)
    positive = observed == State.POSITIVE
    scores = torch.where(positive, logits - margin, logits)
    entries = torch.where(positive | corrected, _focused(scores, gamma), _focused(-scores, gamma))
    return entries.masked_fill(observed == State.UNSPECIFIED, 0.0)


def _focused(scores: Tensor, gamma: float) -> Tensor:
    """``-(1 - s)**gamma * log(s)`` with s = sigmoid(scores): no power of a number that underflowed to 0."""
    return torch.exp(gamma * functional.logsigmoid(-scores)) * -functional.logsigmoid(scores)


def _check_numbers(loss: str, gamma: float, **values: float) -> None:
    if not 0 <= gamma < math.inf:
        raise UsageError(f"{loss}: gamma = {gamma!r}: expected a number from 0")
    for name, value in values.items():
        if not math.isfinite(value):
            raise UsageError(f"{loss}: {name} = {value!r}: expected a finite number")


MARGIN = Hyper(
    1.0, "taken off the logits of observed positives", low=-100.0, high=100.0, search=("choice", 0.0, 0.5, 1.0)
)
GAMMA = Hyper(2.0, "power of a focal weight", low=0.0, high=100.0)


class Hill(Method):
    """Hill loss: a label that is not known to be there costs most near the middle and nothing at either end.

    Faithful: the loss, summed over the batch.

    Substituted: the recipe. Printed rows had 448 px without normalisation, strong augmentation, a rate laid out over 80
    epochs and left after 31, averaged weights, and the best epoch on the test images.

    Source: Zhang et al., 2021 ("Simple and robust loss design for multi-label learning with missing labels"), released
    code.
    """

    level = "A"
    reduction = "sum"
    hyperparameters = {
        "lam": Hyper(1.5, "lambda in (lambda - p) p^2", low=-100.0, high=100.0, search=("linear", 1.2, 2.0)),
        "margin": MARGIN,
        "gamma": GAMMA,
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return hill(logits, labels.state, reduction="sum", **{name: self.hyper[name] for name in Hill.hyperparameters})


class SelfPacedCorrection(Method):
    """Self-paced loss correction (SPLC): from the second epoch unknown labels with a high score count as positive.

    Corrections are made anew in each step and kept nowhere; `mlbench explain labels` holds them against the hidden
    truth.

    Faithful: the loss, summed over the batch, its margin, threshold and second epoch.

    Substituted: the recipe, as for `hill`.

    Source: Zhang et al., 2021 ("Simple and robust loss design for multi-label learning with missing labels"), released
    code; its tau is 0.6, and 0.65 where a quarter of the labels are missing.
    """

    level = "A"
    reduction = "sum"
    hyperparameters = {
        "tau": Hyper(0.6, "probability above which an unknown label counts as positive", low=0.0, high=1.0),
        "first_epoch": Hyper(2, "epoch of the first corrections", low=1, high=100000),
        "margin": MARGIN,
        "gamma": GAMMA,
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        hyper = self.hyper
        corrected = splc_mask(
            logits, labels.state, epoch=step.epoch, tau=hyper["tau"], first_epoch=hyper["first_epoch"]
        )
        labels.note("corrected", corrected)
        return _splc_entries(logits, labels.state, corrected, hyper["margin"], hyper["gamma"]).sum()
