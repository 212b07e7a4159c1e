"""Partial-BCE: cross-entropy of the known labels, weighted up where few are known (Durand et al., CVPR 2019).

Three losses carry that name in public code. They differ in what the weight looks at and what the sum is divided by, and
have three names here (`NORMALIZATIONS`).
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from mlbench.annotation import State
from mlbench.annotation.sparse import count_states
from mlbench.errors import UsageError, unknown
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .losses import bce_entries, check_inputs, reduce

NORMALIZATIONS = ("image_share", "dataset_proportion", "known_count")


def known_weight(share: Tensor, *, alpha: float = -4.45, beta: float = 5.45, gamma: float = 1.0) -> Tensor:
    """``g(share) = alpha * share**gamma + beta``: 1 where all labels are known, about 5 where a tenth is.

    Parameters
    ----------
    share : float tensor of any shape, known labels by classes, from 0 to 1.
    alpha, beta, gamma : finite, gamma from 0, and g at least 0 at both ends.

    Raises
    ------
    UsageError : a value outside these ranges.

    Source: Durand et al., CVPR 2019; the three numbers as in public re-implementations, unverified in the paper.
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        if not math.isfinite(value) or (name == "gamma" and value < 0):
            raise UsageError(f"partial_bce: {name} = {value!r}: expected a finite number, gamma from 0")
    if beta < 0 or alpha + beta < -1e-9:
        raise UsageError(
            f"partial_bce: alpha = {alpha!r}, beta = {beta!r}: weights {beta:g} to {alpha + beta:g} below 0"
        )
    return alpha * share**gamma + beta


def partial_bce(
    logits: Tensor,
    observed: Tensor,
    *,
    normalization: str = "image_share",
    alpha: float = -4.45,
    beta: float = 5.45,
    gamma: float = 1.0,
    proportion: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of the known labels of an image, weighted by how few they are; 0 for all other entries.

    With n known labels of C, each known entry is multiplied by

    * ``g(n / C)`` for "image_share", the paper's: an image's loss is then ``g(n / C) / C`` times a sum;
    * ``C / n * g(proportion)`` for "dataset_proportion": g of one share for the whole data set times the mean over
      the image's known labels (an image without one gives 0, where the source divides by 0);
    * ``1 + 1 / (1 + n)`` for "known_count", without g; published as a sum over the batch.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. normalization : one of `NORMALIZATIONS`.
    alpha, beta, gamma : of g, see `known_weight`. proportion : share of all labels that are known, from 0 to 1; needed
        for "dataset_proportion" and refused elsewhere.
    reduction : "mean" over B*C (for the first two the published loss), "sum" or "none".

    Raises
    ------
    UsageError : an unknown normalisation, or a number outside its range.

    Source: Durand et al., CVPR 2019 (no official code; the formula is unverified in the paper); for the second a
    public re-implementation of it, model/losses/partialbce.py lines 10-33; for the third the released code of
    Ben-Baruch et al., CVPR 2022, partial_asymmetric_loss.py lines 85-94.
    """
    if normalization not in NORMALIZATIONS:
        raise unknown("normalization", normalization, NORMALIZATIONS, "partial_bce")
    if (proportion is not None) != (normalization == "dataset_proportion"):
        raise UsageError(f"partial_bce: proportion = {proportion!r}: needed by 'dataset_proportion' and by no other")
    check_inputs(logits, observed)
    known_entries = (observed == State.POSITIVE) | (observed == State.NEGATIVE)
    # The negative's loss as the positive's of -x: weights above 1 would show digits lost in x - log(sigmoid(x)).
    signed = torch.where(observed == State.POSITIVE, logits, -logits)
    entries = bce_entries(signed, torch.ones_like(signed)).masked_fill(~known_entries, 0.0)
    known = known_entries.sum(dim=1, keepdim=True).to(logits.dtype)
    classes = logits.shape[1]
    if normalization == "image_share":
        weight = known_weight(known / classes, alpha=alpha, beta=beta, gamma=gamma)
    elif normalization == "known_count":
        weight = 1 + 1 / (1 + known)
    else:
        assert proportion is not None
        if not 0 <= proportion <= 1:
            raise UsageError(f"partial_bce: proportion = {proportion!r}: expected a share from 0 to 1")
        share = torch.tensor(proportion, dtype=logits.dtype, device=logits.device)
        weight = known_weight(share, alpha=alpha, beta=beta, gamma=gamma) * classes / known.clamp(min=1)
    return reduce(weight * entries, reduction)


class PartialBCE(Method):
    """Cross-entropy of the known labels, weighted up for images of which few are known (Partial-BCE).

    "known_count" is published as a sum over the batch; here all three are means over B*C, so that a learning rate
    means the same.

    Source: Durand et al., CVPR 2019, without its graph network over the labels; no official code, and neither formula
    nor weights (those of public re-implementations) are verified in the paper.
    """

    level = "A"
    hyperparameters = {
        "normalization": Hyper("image_share", "what the weight looks at", choices=NORMALIZATIONS),
        "alpha": Hyper(-4.45, "slope of the weight over the known share", low=-1000.0, high=1000.0),
        "beta": Hyper(5.45, "weight where nothing is known", low=0.0, high=1000.0),
        "gamma": Hyper(1.0, "power of the known share", low=0.0, high=10.0),
    }

    @cached_property
    def _proportion(self) -> float:
        """Known entries by all entries of the training labels."""
        observed = self.task.labels.observed
        known = sum(int(count_states(observed, state).sum()) for state in (State.POSITIVE, State.NEGATIVE))
        return known / (self.task.num_train * self.task.num_classes)

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        proportion = self._proportion if self.hyper["normalization"] == "dataset_proportion" else None
        settings = {name: self.hyper[name] for name in PartialBCE.hyperparameters}
        return partial_bce(logits, labels.state, proportion=proportion, **settings)
