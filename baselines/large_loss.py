"""Large loss matters (LL): unknown labels with a large loss are likely false negatives.

Source: Kim et al., CVPR 2022; with BoostLU: Kim et al., CVPR 2023. Formulas as in the released code, with its known
faults corrected: the count of rejected entries is exact (no float drift), and only unknown entries are ever chosen.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.labels import Labels
from mlbench.methods import Hyper, Method, Step

from .losses import assumed_targets, bce_entries, check_inputs, reduce


def large_loss_count(entries: int, epoch: int, delta: float) -> int:
    """How many entries are chosen: ``ceil(entries * (epoch - 1) * delta / 100)``, in exact arithmetic.

    The released code lowers a float by delta / 100 each epoch; with delta 0.5 and batches of 16 that gives one entry
    more in epoch 6 on VOC (9 for 8) and COCO (33 for 32).

    Parameters
    ----------
    entries : B * C of the batch at hand, all entries and not only unknown ones.
    epoch : from 1; nothing is chosen in the first. delta : percent an epoch, at least 0, read by its decimal digits.

    Raises
    ------
    UsageError : epoch below 1, or a delta that is negative, infinite or not a number.
    """
    if epoch < 1:
        raise UsageError(f"large loss: epoch {epoch}: expected a whole number from 1")
    if not 0 <= delta < math.inf:
        raise UsageError(f"large loss: delta = {delta!r}: expected a percentage from 0")
    return math.ceil(entries * (epoch - 1) * Fraction(str(delta)) / 100)


def large_loss_mask(losses: Tensor, unknown: Tensor, count: int) -> Tensor:
    """Bool [B, C]: the unknown entries whose loss reaches the `count`-th largest among unknown entries.

    One threshold for the whole batch; entries tied with it are all chosen. With fewer unknown entries than `count`
    all of them are chosen, and never an observed one. No gradient flows through the choice.

    Parameters
    ----------
    losses : float [B, C]. unknown : bool [B, C]. count : from 0.
    """
    count = min(count, losses.numel())
    if count == 0:
        return torch.zeros_like(unknown)
    candidates = losses.detach().masked_fill(~unknown, -math.inf)
    # Where unknown entries run out, the threshold is -inf and every one of them is chosen.
    threshold = torch.topk(candidates.flatten(), count).values[-1]
    return unknown & (candidates >= threshold)


def llr(
    logits: Tensor, observed: Tensor, *, epoch: int, delta: float, eps: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Large-loss rejection: assume-negative loss, with the chosen unknown entries' loss set to 0.

    The mean still divides by all B*C entries. In epoch 1 nothing is rejected.

    Parameters
    ----------
    logits : float [B, C] of the whole batch. observed : int8 [B, C] of `State` codes.
    epoch : from 1. delta : percent of the batch's entries rejected more with each epoch (see `large_loss_count`).
    eps : see `bce_entries`. reduction : "mean" over B*C, "sum" or "none".

    Source: released code of Kim et al., CVPR 2022, losses.py lines 40-58.
    """
    check_inputs(logits, observed)
    losses = bce_entries(logits, assumed_targets(observed, logits.dtype), eps)
    losses = losses.masked_fill(observed == State.UNSPECIFIED, 0.0)
    chosen = large_loss_mask(losses, observed == State.UNKNOWN, large_loss_count(losses.numel(), epoch, delta))
    return reduce(losses.masked_fill(chosen, 0.0), reduction)


def llct(
    logits: Tensor, observed: Tensor, *, epoch: int, delta: float, eps: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Large-loss correction, temporary: as `llr`, but the chosen unknown entries count as positives, in this step only.

    They are chosen by their loss as negatives. In epoch 1 nothing is corrected.

    Parameters
    ----------
    As of `llr`.

    Source: released code of Kim et al., CVPR 2022, losses.py lines 40-58.
    """
    check_inputs(logits, observed)
    losses = bce_entries(logits, assumed_targets(observed, logits.dtype), eps)
    chosen = large_loss_mask(losses, observed == State.UNKNOWN, large_loss_count(losses.numel(), epoch, delta))
    losses = torch.where(chosen, bce_entries(logits, torch.ones_like(logits), eps), losses)
    return reduce(losses.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


class LargeLossRejection(Method):
    """LL-R: the unknown labels with the largest loss are left out, more of them each epoch.

    Source: Kim et al., CVPR 2022; delta 0.5 % an epoch as in the BoostLU paper's released settings (the LL paper tuned
    it for each data set, from 0.1 to 0.5, and did not publish its choices).
    """

    batch_global = True
    hyperparameters = {
        "delta": Hyper(
            0.5, "percent of a batch's entries rejected more each epoch", low=0.0, high=100.0, search=("log", 0.02, 2.0)
        )
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return llr(logits, labels.state, epoch=step.epoch, delta=self.hyper["delta"])


class LargeLossRejectionBoostLU(LargeLossRejection):
    """LL-R with BoostLU between classifier and pooling, in training and inference (alpha 5).

    Source: Kim et al., CVPR 2023, scenario ii; losses are computed on the boosted logits.
    """

    head = {"alpha_train": 5.0, "alpha_infer": 5.0}


class LargeLossCorrection(Method):
    """LL-Ct: the unknown labels with the largest loss are taken as positive for the step, more of them each epoch.

    Source: Kim et al., CVPR 2022; delta 0.2 % an epoch as in the BoostLU paper's released settings.
    """

    batch_global = True
    hyperparameters = {
        "delta": Hyper(
            0.2,
            "percent of a batch's entries corrected more each epoch",
            low=0.0,
            high=100.0,
            search=("log", 0.02, 2.0),
        )
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return llct(logits, labels.state, epoch=step.epoch, delta=self.hyper["delta"])


class LargeLossCorrectionBoostLU(LargeLossCorrection):
    """LL-Ct with BoostLU between classifier and pooling, in training and inference (alpha 5).

    Source: Kim et al., CVPR 2023; losses are computed on the boosted logits.
    """

    head = {"alpha_train": 5.0, "alpha_infer": 5.0}
