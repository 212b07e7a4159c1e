"""Entropy maximisation (EM): unknown labels pull their scores towards 'undecided' instead of 'no'."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .boostlu import with_boostlu
from .losses import assumed_targets, bce_entries, check_inputs, reduce


def entropy_entries(logits: Tensor, eps: float = 0.0) -> Tensor:
    """Entropy in nats of each entry's probability p, [B, C]: ``-p log(p + eps) - (1 - p) log(1 - p + eps)``.

    Parameters
    ----------
    logits : float [B, C]. eps : see `bce_entries`.
    """
    return bce_entries(logits, torch.sigmoid(logits), eps)


def em(logits: Tensor, observed: Tensor, *, alpha: float, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Entropy maximisation: cross-entropy of observed labels, ``-alpha * entropy`` of unknown ones.

    With eps = 0 the derivative at an unknown logit x is ``alpha * x * p * (1 - p)``: weak on confident scores, 0 at
    p = 0.5. The loss may be negative. A negative alpha minimises entropy instead.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. alpha : a finite number.
    eps : see `bce_entries`. reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : alpha is infinite or not a number.

    Source: released code of Zhou et al., ECCV 2022 ("Acknowledging the unknown"), losses.py lines 55-72 (with
    eps = 1e-5). It knows no observed negatives; here they have their cross-entropy.
    """
    check_inputs(logits, observed)
    if not math.isfinite(alpha):
        raise UsageError(f"em: alpha = {alpha!r}: expected a finite number")
    known = bce_entries(logits, assumed_targets(observed, logits.dtype), eps)
    entries = torch.where(observed == State.UNKNOWN, -alpha * entropy_entries(logits, eps), known)
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


class EntropyMaximisation(Method):
    """Entropy maximisation on unknown labels (EM).

    Unknown negatives end near a probability of 0.5: where a threshold is needed, its authors advise 0.75.

    Source: Zhou et al., ECCV 2022. Their released alpha is 0.2 on VOC, 0.1 on COCO and NUS-WIDE, 0.01 on CUB.
    """

    level = "A"
    hyperparameters = {
        "alpha": Hyper(
            0.1,
            "weight of the unknown labels' entropy; negative minimises it",
            low=-100.0,
            high=100.0,
            search=("log", 0.01, 1.0),
        )
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return em(logits, labels.state, alpha=self.hyper["alpha"])


EntropyMaximisationBoostLU = with_boostlu(EntropyMaximisation)
