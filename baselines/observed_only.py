"""Losses that take no unknown label as negative: ignore unknown (IU, IUN), expected positive regularisation (EPR).

Source of all: Cole et al., CVPR 2021.
"""

from __future__ import annotations

import math

from torch import Tensor

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .boostlu import with_boostlu
from .losses import assumed_targets, bce_entries, check_inputs, reduce

EXPECTED_POSITIVES = Hyper(
    0.0, "mean number of positives of an image (k); 0: that of the full training labels", low=0.0, high=1e6
)


def iu(logits: Tensor, observed: Tensor, *, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Ignore unknown: cross-entropy of the observed positives and negatives, 0 elsewhere.

    The mean divides by all B*C entries, not by the number of observed ones.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. eps : see `bce_entries`.
    reduction : "mean" over B*C, "sum" or "none".

    Source: Cole et al., CVPR 2021.
    """
    check_inputs(logits, observed)
    entries = bce_entries(logits, assumed_targets(observed, logits.dtype), eps)
    known = (observed == State.POSITIVE) | (observed == State.NEGATIVE)
    return reduce(entries.masked_fill(~known, 0.0), reduction)


def iun(logits: Tensor, observed: Tensor, *, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Loss of the row with all true negatives: `iu` on labels that hold them (Cole et al., CVPR 2021).

    Only the observed positives and the negatives count; a positive that is not observed stays unknown.
    """
    return iu(logits, observed, eps=eps, reduction=reduction)


def epr(logits: Tensor, observed: Tensor, *, expected: float, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Expected positive regularisation: `iu` of the positives, plus a penalty on how many positives are predicted.

    The penalty is ``(m - expected)**2 / C**2``, where m is the mean over the batch of an image's summed probabilities:
    the square of the batch's mean deviation, not the mean of squares. It is one number, added to each of the B*C
    entries, so that their mean is the published loss. Unspecified entries add nothing to m, observed negatives
    do as any other.

    Parameters
    ----------
    logits : float [B, C] of the whole batch. observed : int8 [B, C] of `State` codes.
    expected : mean number of positives of an image (k), at least 0.
    eps : see `bce_entries`. reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : `expected` is negative, infinite or not a number.

    Source: released code of Cole et al., CVPR 2021, losses.py lines 15-23 and 145-156 (with eps = 1e-5).
    """
    check_inputs(logits, observed)
    check_expected("epr", expected)
    targets = assumed_targets(observed, logits.dtype)
    entries = bce_entries(logits, targets, eps).masked_fill(observed != State.POSITIVE, 0.0)
    return reduce(entries + count_penalty(logits, observed, expected), reduction)


def count_penalty(logits: Tensor, observed: Tensor, expected: float) -> Tensor:
    """The penalty of `epr`, a scalar: ``((m - expected) / C)**2``."""
    predicted = logits.sigmoid().masked_fill(observed == State.UNSPECIFIED, 0.0).sum(dim=1).mean()
    return ((predicted - expected) / logits.shape[1]) ** 2


def check_expected(loss: str, expected: float) -> None:
    """UsageError unless `expected` is a finite number from 0."""
    if not 0 <= expected < math.inf:
        raise UsageError(f"{loss}: expected = {expected!r}: expected a mean number of positives from 0")


class IgnoreUnknown(Method):
    """Binary cross-entropy on the observed labels only (IU).

    With single positives nothing ever says no, and every score may grow without bound.

    Source: Cole et al., CVPR 2021.
    """

    level = "A"

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return iu(logits, labels.state)


class PositivesAndAllNegatives(Method):
    """Binary cross-entropy on the observed positives and all true negatives (IUN, an oracle).

    Source: Cole et al., CVPR 2021. Their released code (losses.py lines 58-70) looks for a negative's code that its
    full labels do not have, and so trains on positives only; not so here.
    """

    level = "A"
    supervision = ("oracle_negatives",)

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return iun(logits, labels.state)


class ExpectedPositives(Method):
    """Loss on the observed positives, with the number of predicted positives held near its mean (EPR).

    The mean number of positives comes from the full training labels or is given, which is side information either way.

    Source: Cole et al., CVPR 2021; learning rate and batch size were tuned there for each data set.
    """

    level = "A"
    supervision = ("observed", "label_count")
    batch_global = True
    hyperparameters = {"expected_positives": EXPECTED_POSITIVES}

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        expected = self.hyper["expected_positives"] or self.task.label_count
        return epr(logits, labels.state, expected=expected)


IgnoreUnknownBoostLU = with_boostlu(IgnoreUnknown)
PositivesAndAllNegativesBoostLU = with_boostlu(PositivesAndAllNegatives)
ExpectedPositivesBoostLU = with_boostlu(ExpectedPositives)
