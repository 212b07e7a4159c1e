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
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .boostlu import with_boostlu
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


def large_loss_mask(losses: Tensor, unknown: Tensor, count: int, strict: bool = False) -> Tensor:
    """Bool [B, C]: the unknown entries whose loss reaches the `count`-th largest among unknown entries.

    One threshold for the whole batch; entries tied with it are all chosen. With fewer unknown entries than `count`
    all of them are chosen, and never an observed one. No gradient flows through the choice.

    Parameters
    ----------
    losses : float [B, C]. unknown : bool [B, C]. count : from 0.
    strict : choose only what exceeds the `count`-th largest: `count` - 1 entries, fewer where there are ties.
    """
    count = min(count, losses.numel())
    if count == 0:
        return torch.zeros_like(unknown)
    candidates = losses.detach().masked_fill(~unknown, -math.inf)
    # Where unknown entries run out, the threshold is -inf and every one of them is chosen.
    threshold = torch.topk(candidates.flatten(), count).values[-1]
    return unknown & (candidates > threshold if strict else candidates >= threshold)


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
    return _rejected(logits, observed, large_loss_count(logits.numel(), epoch, delta), eps, reduction)[0]


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
    return _corrected(logits, observed, large_loss_count(logits.numel(), epoch, delta), eps, reduction)[0]


def llcp(
    logits: Tensor, observed: Tensor, *, epoch: int, delta: float, eps: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Large-loss correction, permanent: as `llct`, but `delta` percent of the entries in every epoch from the second.

    The loss only; which labels are to stay positive says `llcp_mask`.

    Parameters
    ----------
    As of `llr`, but delta is the share itself.

    Source: released code of Kim et al., CVPR 2022, losses.py lines 43-58, and of Kim et al., CVPR 2023, losses.py lines
    47-64.
    """
    return _corrected(logits, observed, large_loss_count(logits.numel(), min(epoch, 2), delta), eps, reduction)[0]


def llcp_mask(
    logits: Tensor, observed: Tensor, *, epoch: int, delta: float, strict: bool = False, eps: float = 0.0
) -> Tensor:
    """Bool [B, C]: the entries that `llcp` makes positive for good, by default those that its loss turns.

    Parameters
    ----------
    As of `llcp`. strict : leave out the entries at the threshold, as the released code of Kim et al., CVPR 2022, has it
        (losses.py line 51): of k entries k - 1 become permanent, none where k is 1. That of Kim et al., CVPR 2023, does
        not (losses.py line 55).
    """
    count = large_loss_count(logits.numel(), min(epoch, 2), delta)
    return _choose(logits, observed, count, eps, strict)[1]


def _choose(logits: Tensor, observed: Tensor, count: int, eps: float, strict: bool = False) -> tuple[Tensor, Tensor]:
    """Assume-negative losses [B, C], and which `count` unknown entries have the largest."""
    check_inputs(logits, observed)
    losses = bce_entries(logits, assumed_targets(observed, logits.dtype), eps)
    return losses, large_loss_mask(losses, observed == State.UNKNOWN, count, strict)


def _rejected(logits: Tensor, observed: Tensor, count: int, eps: float, reduction: str) -> tuple[Tensor, Tensor]:
    """Assume-negative loss without the `count` unknown entries of the largest loss, and which these are."""
    losses, chosen = _choose(logits, observed, count, eps)
    return reduce(losses.masked_fill(chosen | (observed == State.UNSPECIFIED), 0.0), reduction), chosen


def _corrected(logits: Tensor, observed: Tensor, count: int, eps: float, reduction: str) -> tuple[Tensor, Tensor]:
    """Assume-negative loss with the `count` unknown entries of the largest loss as positives, and which these are."""
    losses, chosen = _choose(logits, observed, count, eps)
    losses = torch.where(chosen, bce_entries(logits, torch.ones_like(logits), eps), losses)
    return reduce(losses.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction), chosen


class LargeLossRejection(Method):
    """LL-R: the unknown labels with the largest loss are left out, more of them each epoch.

    Source: Kim et al., CVPR 2022; delta 0.5 % an epoch as in the BoostLU paper's released settings (the LL paper tuned
    it for each data set, from 0.1 to 0.5, and did not publish its choices).
    """

    level = "A"
    batch_global = True
    hyperparameters = {
        "delta": Hyper(
            0.5, "percent of a batch's entries rejected more each epoch", low=0.0, high=100.0, search=("log", 0.02, 2.0)
        )
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        count = large_loss_count(logits.numel(), step.epoch, self.hyper["delta"])
        loss, rejected = _rejected(logits, labels.state, count, 0.0, "mean")
        labels.note("rejected", rejected)
        return loss


class LargeLossCorrection(Method):
    """LL-Ct: the unknown labels with the largest loss are taken as positive for the step, more of them each epoch.

    Source: Kim et al., CVPR 2022; delta 0.2 % an epoch as in the BoostLU paper's released settings.
    """

    level = "A"
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
        count = large_loss_count(logits.numel(), step.epoch, self.hyper["delta"])
        loss, corrected = _corrected(logits, labels.state, count, 0.0, "mean")
        labels.note("corrected", corrected)
        return loss


class LargeLossPermanent(Method):
    """LL-Cp: in each step the unknown labels with the largest loss become positive, and stay so.

    What a step makes positive is an observed positive from the next epoch on, and never chosen again. The first epoch
    changes nothing.

    Source: Kim et al., CVPR 2022; delta 0.1 % of a batch as in the BoostLU paper's released settings. Started from the
    command line, the LL paper's released code changes no label (it compares the scheme's name by identity).
    """

    level = "A"
    batch_global = True
    hyperparameters = {
        "delta": Hyper(
            0.1,
            "percent of a batch's entries made positive in each step",
            low=0.0,
            high=100.0,
            search=("log", 0.01, 1.0),
        ),
        "strict": Hyper(
            False, "leave the entries at the threshold out of the permanent ones, as the LL paper's released code does"
        ),
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        epoch, delta = step.epoch, self.hyper["delta"]
        count = large_loss_count(logits.numel(), min(epoch, 2), delta)
        loss, chosen = _corrected(logits, labels.state, count, 0.0, "mean")
        if self.hyper["strict"]:
            chosen = llcp_mask(logits, labels.state, epoch=epoch, delta=delta, strict=True)
        labels.change(chosen, State.POSITIVE)
        return loss


LargeLossRejectionBoostLU = with_boostlu(LargeLossRejection)
LargeLossCorrectionBoostLU = with_boostlu(LargeLossCorrection)
LargeLossPermanentBoostLU = with_boostlu(LargeLossPermanent)
