"""Reference rows: full labels as the upper bound, and two that never look at an image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.annotation.sparse import LabelMatrix, count_states
from mlbench.methods import Batch, Method, Phase, Step
from mlbench.methods.labels import Labels

from .boostlu import with_boostlu
from .losses import bce


def full(logits: Tensor, observed: Tensor, *, eps: float = 0.0, reduction: str = "mean") -> Tensor:
    """Loss of the full-label row: `bce` on labels that hide nothing (Cole et al., CVPR 2021).

    Where the source itself leaves a label unknown, that label is taken as negative.
    """
    return bce(logits, observed, eps=eps, reduction=reduction)


def log_odds(observed: LabelMatrix) -> np.ndarray:
    """Log-odds of each class over the rows that count: ``log((n + 1/2) / (N - n + 1/2))``.

    n is the number of observed positives. Unknown counts as negative, as in `an`, so that this is the constant
    the assume-negative loss itself would settle on (but for the two halves, which keep it finite); unspecified
    entries count nowhere.

    Parameters
    ----------
    observed : int8 [N, C] of `State` codes.

    Returns
    -------
    float64 [C].
    """
    positive = count_states(observed, State.POSITIVE)
    counted = len(observed) - count_states(observed, State.UNSPECIFIED)
    return np.log((positive + 0.5) / (counted - positive + 0.5))


class Full(Method):
    """Binary cross-entropy on the full labels (upper bound; shown with its supervision).

    Source: Cole et al., CVPR 2021, "Full label" row of the single-positive table.
    """

    level = "A"
    supervision = ("full",)

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return full(logits, labels.state)


FullBoostLU = with_boostlu(Full)


class _Untrained(Method):
    """Scores that depend on no image: what a metric gives for nothing."""

    needs_head = "none"

    def phases(self) -> Sequence[Phase]:
        return []

    def network(self, phase: Phase) -> nn.Module:
        return nn.Identity()


class Prior(_Untrained):
    """Null control: every image gets each class's observed frequency in training, as log-odds (see `log_odds`)."""

    @cached_property
    def _scores(self) -> Tensor:
        return torch.from_numpy(log_odds(self.task.labels.observed).astype(np.float32))

    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        return self._scores.to(batch.index.device).expand(len(batch.index), -1)


class Random(_Untrained):
    """Null control: standard normal scores drawn for each row, different for each seed and data set.

    A row's draw depends on its number alone, so the n-th images of two parts get the same scores.
    """

    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        classes = self.task.num_classes
        rows = [
            torch.randn(classes, generator=self.task.generator(f"row {row}"), dtype=torch.float32)
            for row in batch.index.tolist()
        ]
        return torch.stack(rows).to(batch.index.device)
