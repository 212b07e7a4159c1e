"""Asymmetric pseudo-labelling on top of entropy maximisation (EM + APL): the least likely labels become soft negatives.

Source: Zhou et al., ECCV 2022 ("Acknowledging the unknown").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Step, Task
from mlbench.methods.labels import Labels

from .boostlu import with_boostlu
from .entropy import EntropyMaximisation, em
from .losses import bce_entries, reduce


def em_apl(
    logits: Tensor,
    observed: Tensor,
    *,
    soft: Tensor,
    pseudo: Tensor,
    alpha: float,
    beta: float,
    eps: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Entropy maximisation with pseudo-labels: `em`, and ``beta`` times the cross-entropy with a soft target.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    soft : float [B, C], targets from 0 to 1; read where pseudo. pseudo : bool [B, C], the entries that have a
        pseudo-label, whatever is observed there. alpha : see `em`. beta : a finite number from 0.
    eps : see `bce_entries`. reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : alpha or beta out of range, or `soft` and `pseudo` not of the logits' shape.

    Source: released code of Zhou et al., ECCV 2022, losses.py lines 75-96 (with eps = 1e-5). It keeps a pseudo-label p
    as -p among the observed labels, so that an observed negative there reads as a soft label of 1.
    """
    entries = em(logits, observed, alpha=alpha, eps=eps, reduction="none")
    if soft.shape != logits.shape or pseudo.shape != logits.shape or pseudo.dtype != torch.bool:
        raise UsageError(
            f"em_apl: soft {list(soft.shape)} and pseudo {list(pseudo.shape)} ({pseudo.dtype}): expected numbers and "
            f"booleans of the logits' shape {list(logits.shape)}"
        )
    if not 0 <= beta < math.inf:
        raise UsageError(f"em_apl: beta = {beta!r}: expected a number from 0")
    targets = torch.where(pseudo, soft.to(logits.dtype), 0.0)
    return reduce(torch.where(pseudo, beta * bce_entries(logits, targets, eps), entries), reduction)


def apl_quota(unknown: Tensor, theta: float, rounds: int) -> Tensor:
    """How many labels of each class get a pseudo-label in one round, int64 [C]: ``floor(theta * unknown / rounds)``.

    In exact arithmetic; the released code's floats may lose one where the number is whole.

    Parameters
    ----------
    unknown : int [C], unknown training labels of each class at the start. theta : from 0 to 1. rounds : from 1.

    Raises
    ------
    UsageError : theta or rounds out of range.
    """
    if not 0 <= theta <= 1 or rounds < 1:
        raise UsageError(
            f"pseudo-labels: theta = {theta!r} in {rounds} rounds: expected 0 to 1, and at least one round"
        )
    share = Fraction(str(theta)) / rounds
    return torch.tensor([math.floor(share * count) for count in unknown.tolist()], dtype=torch.int64)


def least_likely(logits: Tensor, unknown: Tensor, quota: Tensor) -> Tensor:
    """Bool [N, C]: for each class the `quota` unknown entries with the lowest logits, the first rows among equals.

    Where a class has fewer unknown entries than its quota, all of them.

    Parameters
    ----------
    logits : float [N, C], finite. unknown : bool [N, C]. quota : int64 [C].
    """
    order = logits.masked_fill(~unknown, math.inf).argsort(dim=0, stable=True)
    among_first = torch.arange(len(logits))[:, None] < quota
    return torch.zeros_like(unknown).scatter(0, order, among_first) & unknown


class EntropyWithPseudoLabels(EntropyMaximisation):
    """Entropy maximisation with asymmetric pseudo-labelling (EM + APL): the least likely labels become soft negatives.

    After each epoch from `warmup` on, all training images are looked at (mirrored at random, as in training). Of each
    class the same number of unknown labels with the lowest probability p get p as their target for good; by the end of
    training a share `theta` of the labels that were unknown. No label becomes positive.

    Source: Zhou et al., ECCV 2022, algorithm 1. Their released code stops at the first epoch that is no new best on
    validation; here all epochs are trained and the protocol's rule selects.
    """

    level = "A"
    hyperparameters = {
        **EntropyMaximisation.hyperparameters,
        "beta": Hyper(
            0.2, "weight of the pseudo-labels' cross-entropy", low=0.0, high=100.0, search=("log", 0.01, 1.0)
        ),
        "theta": Hyper(0.9, "share of the unknown labels that get a pseudo-label by the end", low=0.0, high=1.0),
        "warmup": Hyper(0, "epochs before the first pseudo-labels; 0: half of all", low=0),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        epochs = task.train.epochs
        self.warmup = self.hyper["warmup"] or max(1, epochs // 2)
        if self.warmup >= epochs:
            raise UsageError(
                f"method '{self.name}': warmup = {self.warmup} of {epochs} epochs leaves none with pseudo-labels: "
                "expected fewer than train.epochs"
            )

    @classmethod
    def dense_bytes(cls, hyper: Mapping[str, Any]) -> int:
        return 40  # logits, the order of each class, and soft labels for most of the unknown ones

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        alpha, beta = self.hyper["alpha"], self.hyper["beta"]
        return em_apl(logits, labels.state, soft=labels.value, pseudo=labels.pseudo, alpha=alpha, beta=beta)

    def after_epoch(self, network: nn.Module, step: Step) -> None:
        if not self.warmup <= step.epoch < step.epochs:
            return
        # Numbered past the last epoch, the flips are drawn anew and not those that this epoch trained on.
        logits = self.task.predict(network, augment=True, epoch=step.epochs + step.epoch)
        labels = self.task.labels
        at_start = torch.from_numpy(labels.observed == State.UNKNOWN).sum(dim=0)
        quota = apl_quota(at_start, self.hyper["theta"], step.epochs - self.warmup)
        chosen = least_likely(logits, torch.from_numpy(labels.state == State.UNKNOWN), quota)
        rows, classes = torch.nonzero(chosen, as_tuple=True)
        self.task.change_labels(rows, classes, State.NEGATIVE, logits[chosen].sigmoid())


EntropyWithPseudoLabelsBoostLU = with_boostlu(EntropyWithPseudoLabels)
