"""Distribution-balanced loss (DB): weights and offsets from how many positives each class has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State
from mlbench.annotation.sparse import count_states
from mlbench.errors import UsageError
from mlbench.methods import Hyper, Method, Step
from mlbench.methods.labels import Labels

from .losses import check_inputs, reduce


def db(
    logits: Tensor,
    observed: Tensor,
    *,
    counts: Tensor | Sequence[float],
    images: int,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.2,
    kappa: float = 0.05,
    lam: float = 2.0,
    reduction: str = "mean",
) -> Tensor:
    """Distribution-balanced loss on assume-negative targets.

    With n_c positives of class c among N images, an image's entry of class c weighs ``w = alpha + sigmoid(beta * (r -
    mu))``, ``r = (1 / n_c) / (sum of 1 / n_j over the image's positives j)``; an image without positives has the
    largest weight, 1 + alpha. With ``z = logit - kappa / lam * log(N / n_c - 1)`` a positive costs ``2 w sigmoid(-z)**2
    * softplus(-z)``, a negative ``2 w sigmoid(lam z)**2 * softplus(lam z) / lam``. The squares take part in the
    gradient.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    counts : numbers [C], positives of each class in the training images; taken as at least 1 and at most N - 1.
    images : N, from 2. alpha, beta, kappa : from 0. mu : finite. lam : above 0.
    reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : counts of another length, or a value outside the ranges above.

    Source: Wu et al., ECCV 2020; released code (wutong16/DistributionBalancedLoss @14460d0) with its configuration for
    COCO, which divides by 0 where a class has no positive or nothing else.
    """
    check_inputs(logits, observed)
    counts = torch.as_tensor(counts)
    if counts.shape != logits.shape[1:]:
        raise UsageError(f"db: counts {list(counts.shape)}: expected one number a class, [{logits.shape[1]}]")
    if images < 2:
        raise UsageError(f"db: images = {images!r}: expected a whole number from 2")
    for name, value in (("alpha", alpha), ("beta", beta), ("kappa", kappa)):
        if not 0 <= value < math.inf:
            raise UsageError(f"db: {name} = {value!r}: expected a number from 0")
    if not math.isfinite(mu) or not 0 < lam < math.inf:
        raise UsageError(f"db: mu = {mu!r}, lam = {lam!r}: expected finite numbers, that of lam above 0")
    counts = counts.to(logits).clamp(1, images - 1)
    positive = observed == State.POSITIVE
    together = (positive / counts).sum(dim=1, keepdim=True)
    repeated = (1 / counts) / together.masked_fill(together == 0, 1.0)
    weights = alpha + torch.sigmoid(beta * (repeated - mu)).masked_fill(together == 0, 1.0)
    scores = logits - kappa / lam * torch.log(images / counts - 1)
    entries = weights * torch.where(positive, _focal(scores), _focal(-lam * scores) / lam)
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


def _focal(scores: Tensor) -> Tensor:
    """``2 * sigmoid(-scores)**2 * softplus(-scores)``."""
    return -2 * torch.exp(2 * functional.logsigmoid(-scores)) * functional.logsigmoid(scores)


class DistributionBalanced(Method):
    """Distribution-balanced loss (DB), with the positives that were observed of each class.

    Rare classes weigh more, by how rare the image's other labels are, and negatives of a class that is right already
    weigh less.

    Faithful: the loss with all its parts, the released configuration for COCO as default.

    Substituted: the counts of positives are those of the observed labels (with the true ones it is `db_label_count`);
    every unknown label is taken as negative; images are not sampled by class.

    Source: Wu et al., ECCV 2020, released code.
    """

    level = "A"
    hyperparameters = {
        "alpha": Hyper(0.1, "least weight of an entry", low=0.0, high=100.0),
        "beta": Hyper(10.0, "steepness of the weight", low=0.0, high=1e3),
        "mu": Hyper(0.2, "share of an image's rarity at which the weight is halfway", low=-10.0, high=10.0),
        "kappa": Hyper(0.05, "share of a class's log-odds taken off its logits", low=0.0, high=10.0),
        "lam": Hyper(2.0, "factor on the logits of negatives", low=1e-3, high=100.0, search=("choice", 1.0, 2.0, 5.0)),
    }

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        settings = {name: self.hyper[name] for name in DistributionBalanced.hyperparameters}
        return db(logits, labels.state, counts=self.counts, images=self.task.num_train, **settings)

    @property
    def counts(self) -> Tensor:
        """Training positives of each class, [C]."""
        return torch.from_numpy(count_states(self.task.labels.observed, State.POSITIVE))


class TrueCounts(DistributionBalanced):
    """Distribution-balanced loss (DB), with the true number of positives of each class.

    The numbers come from the full training labels, which is side information. All else is `db`.

    Source: Wu et al., ECCV 2020, released code.
    """

    supervision = ("observed", "label_count")

    @property
    def counts(self) -> Tensor:
        return torch.from_numpy(self.task.class_counts)
