"""Assume negative (AN): plain, with smoothed targets (LS), weighted (WAN), and with BoostLU in inference only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Method, Phase, Step, Uses
from mlbench.methods.labels import Labels

from .boostlu import with_boostlu
from .losses import assumed_targets, bce, bce_entries, check_inputs, reduce


def an(logits: Tensor, observed: Tensor, *, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Assume-negative loss: `bce` with unknown taken as negative (Cole et al., CVPR 2021, section 3)."""
    return bce(logits, observed, eps=eps, reduction=reduction)


def ls(
    logits: Tensor, observed: Tensor, *, smoothing: float = 0.1, eps: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Assume-negative loss with smoothed targets: ``1 - smoothing`` for a positive, ``smoothing`` for the rest.

    A negative's target is `smoothing` itself, not half of it.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. smoothing : from 0 (which is `an`) to 0.5.
    eps : see `bce_entries`. reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : `smoothing` is not from 0 to 0.5.

    Source: released code of Cole et al., CVPR 2021, losses.py lines 118-129 (with eps = 1e-5).
    """
    check_inputs(logits, observed)
    if not 0 <= smoothing <= 0.5:
        raise UsageError(f"ls: smoothing = {smoothing!r}: expected a number from 0 to 0.5")
    targets = assumed_targets(observed, logits.dtype)
    entries = bce_entries(logits, targets * (1 - smoothing) + (1 - targets) * smoothing, eps)
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


def wan(logits: Tensor, observed: Tensor, *, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Assume-negative loss with each assumed negative weighted by ``1 / (C - 1)``.

    With single positives, the negatives of an image then weigh as much as its positive. Observed negatives, of which
    the source has none, keep weight 1.

    Parameters
    ----------
    logits : float [B, C], C from 2. observed : int8 [B, C] of `State` codes.
    eps : see `bce_entries`. reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : there is one class only.

    Source: released code of Cole et al., CVPR 2021, losses.py lines 131-143 (with eps = 1e-5).
    """
    entries = bce(logits, observed, eps=eps, reduction="none")
    classes = logits.shape[1]
    if classes == 1:
        raise UsageError("wan: one class: the weight 1 / (C - 1) needs at least two")
    return reduce(torch.where(observed == State.UNKNOWN, entries / (classes - 1), entries), reduction)


class AssumeNegative(Method):
    """Binary cross-entropy with every unknown label taken as negative (AN).

    Source: Cole et al., CVPR 2021, section 3.
    """

    level = "A"

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return an(logits, labels.state)


class LabelSmoothing(Method):
    """Assume negative with smoothed targets, 0.9 and 0.1 (LS).

    Source: Cole et al., CVPR 2021.
    """

    level = "A"
    hyperparameters = {
        "smoothing": Hyper(
            0.1, "target of a negative; a positive's is 1 minus it", low=0.0, high=0.5, search=("linear", 0.01, 0.3)
        )
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return ls(logits, labels.state, smoothing=self.hyper["smoothing"])


class WeakAssumeNegative(Method):
    """Assume negative with the assumed negatives weighted by 1 / (C - 1) (WAN).

    Source: Cole et al., CVPR 2021.
    """

    level = "A"

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return wan(logits, labels.state)


class AssumeNegativeBoostLUInference(Method):
    """AN as trained, evaluated with BoostLU on its attribution maps (scenario i of the BoostLU paper).

    Nothing is trained here: the weights are those of `an` under the same protocol, data and seeds, taken from the
    store by key. Its epoch was selected without BoostLU; which of the two the paper used for selection is not stated.
    The released code has no such mode (one alpha for both phases).

    Source: Kim et al., CVPR 2023, scenario "only in inference phase"; alpha 5 (released settings).
    """

    level = "A"
    head = {"alpha_infer": 5.0}
    uses = {"trained": Uses("an")}
    hyperparameters = {
        # Another alpha in training would give a run of its own with the very same numbers: it is refused.
        "head.alpha_train": Hyper(
            1.0, "fixed: nothing is trained here, the weights are those of 'an'", low=1.0, high=1.0
        )
    }

    def phases(self) -> Sequence[Phase]:
        return []

    def network(self, phase: Phase) -> nn.Module:
        network = super().network(phase)
        network.load_state_dict(self.task.artefacts["trained"])
        return network


AssumeNegativeBoostLU = with_boostlu(AssumeNegative)
LabelSmoothingBoostLU = with_boostlu(LabelSmoothing)
WeakAssumeNegativeBoostLU = with_boostlu(WeakAssumeNegative)
