"""Ranking losses: every observed positive is to score above every other label. WARP and LSEP.

A loss of this family belongs to an image, not to an entry: with ``reduction = "none"`` it is [B], the mean divides by
B. Unknown labels stand on the lower side, as negatives do; unspecified ones on neither. An image without observed
positives, or with nothing below them, has loss 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Phase, Prediction, Step, Task
from mlbench.methods.labels import Labels
from mlbench.models.heads import Classifier
from mlbench.settings import TrainSettings

from .losses import bce, check_inputs, reduce


def _sides(observed: Tensor) -> tuple[Tensor, Tensor]:
    """Bool [B, C]: labels to rank high, and labels to rank low."""
    positive = observed == State.POSITIVE
    return positive, ~positive & (observed != State.UNSPECIFIED)


def rank_weights(count: int) -> Tensor:
    """``L(r) = 1 + 1/2 + ... + 1/r`` for r from 0 to `count`: float64 [count + 1], of which the first is 0.

    (Much-copied code adds 1 to each 1/i by operator precedence.)
    """
    steps = torch.arange(count + 1, dtype=torch.float64)
    return torch.cat([steps[:1], (1.0 / steps[1:]).cumsum(0)])


def violator_ranks(logits: Tensor, observed: Tensor) -> Tensor:
    """Rank of each observed positive, int64 [P] in row-major order: how many labels below come within the margin of 1.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    """
    positive, low = _sides(observed)
    image, label = positive.nonzero(as_tuple=True)
    hinge = 1 - logits[image, label][:, None] + logits[image]
    return ((hinge > 0) & low[image]).sum(dim=1)


def sampled_ranks(logits: Tensor, observed: Tensor, draws: Tensor) -> Tensor:
    """`violator_ranks` as WARP estimates them: lower labels are drawn until one comes within the margin, the s-th say;
    the rank is then ``floor((C - 1) / s)``, and 0 if none of the draws does.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    draws : float [P, S] from 0 to below 1, a row for each observed positive in row-major order: each number picks one
        of the image's lower labels, with replacement. S is the patience (C - 1 in the source).

    Raises
    ------
    UsageError : `draws` has another number of rows.

    Source: Weston et al., IJCAI 2011, as used by Gong et al., ICLR 2014.
    """
    positive, low = _sides(observed)
    image, label = positive.nonzero(as_tuple=True)
    if draws.ndim != 2 or len(draws) != len(image):
        raise UsageError(f"warp: draws {list(draws.shape)}: expected one row for each of {len(image)} positives")
    count = low.sum(dim=1)[image]
    place = (draws * count[:, None]).long().clamp(max=max(0, observed.shape[1] - 1))
    lower_first = low.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[image]
    picked = lower_first.gather(1, place)
    violates = (1 - logits[image, label][:, None] + logits[image].gather(1, picked) > 0) & (count > 0)[:, None]
    tries = violates.to(torch.uint8).argmax(dim=1) + 1
    return torch.where(violates.any(dim=1), (observed.shape[1] - 1) // tries, 0)


def warp_loss(logits: Tensor, observed: Tensor, *, draws: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """WARP: ``sum_j sum_k L(r_j) max(0, 1 - f_j + f_k)`` over observed positives j and lower labels k of an image.

    r_j is the number of lower labels within the margin of j, or with `draws` its estimate by sampling; no gradient
    flows through it. ``L(r)`` is the sum of 1/i up to r.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. draws : see `sampled_ranks`.
    reduction : "mean" over the B images, "sum", or "none" ([B]).

    Source: Gong et al., ICLR 2014.
    """
    check_inputs(logits, observed)
    positive, low = _sides(observed)
    image, label = positive.nonzero(as_tuple=True)
    scores = logits.detach()
    ranks = violator_ranks(scores, observed) if draws is None else sampled_ranks(scores, observed, draws)
    weights = rank_weights(logits.shape[1]).to(logits)[ranks]
    hinge = (1 - logits[image, label][:, None] + logits[image]).clamp(min=0)
    entries = weights * hinge.masked_fill(~low[image], 0.0).sum(dim=1)
    return reduce(logits.new_zeros(len(logits)).index_add(0, image, entries), reduction)


def lsep_loss(logits: Tensor, observed: Tensor, *, reduction: str = "mean") -> Tensor:
    """Log-sum-exp pairwise loss: ``log(1 + sum_u sum_v exp(f_v - f_u))``, observed positives u, lower labels v.

    The double sum is a product, so that its logarithm is two log-sum-exps: exact for any logits, and linear in C.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    reduction : "mean" over the B images, "sum", or "none" ([B]).

    Source: Li, Song and Luo, CVPR 2017. They sample pairs where there are many; here all count.
    """
    check_inputs(logits, observed)
    positive, low = _sides(observed)
    pairs = logits.masked_fill(~low, -math.inf).logsumexp(dim=1)
    pairs = pairs + (-logits).masked_fill(~positive, -math.inf).logsumexp(dim=1)
    return reduce(torch.logaddexp(pairs, torch.zeros_like(pairs)), reduction)


def highest(scores: Tensor, count: int | Tensor) -> Tensor:
    """Bool [B, C]: the `count` highest scores of each image (one number, or int64 [B, 1]); ties to the lower index."""
    places = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return places < count


class WeightedApproximateRanking(Method):
    """Weighted approximate ranking (WARP); decides for the k highest scores, whatever their level.

    Each observed positive is to score above all other labels by a margin of 1, and what it lacks weighs more the lower
    it ranks.

    Faithful: loss, weights, three labels an image (recalled, not checked in the paper). The default rank is exact;
    ``rank = "sampled"`` is the published estimate, which saved time once.

    Substituted: the run's backbone, which may start from trained weights, for a network trained from nothing.

    Cost: an image takes the plain classifier: the backbone and a linear layer.

    Source: Gong et al., ICLR 2014; the row on COCO was made by Wang et al., CVPR 2016.
    """

    level = "A"
    decision_rule = "the top_k highest scores"
    hyperparameters = {
        "rank": Hyper("exact", "rank: counted (ours), or estimated (published)", choices=("exact", "sampled")),
        "top_k": Hyper(3, "labels decided for, for each image (published)", low=1),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        if self.hyper["top_k"] > task.num_classes:
            raise UsageError(f"top_k = {self.hyper['top_k']}: expected 1 to {task.num_classes}, the number of classes")

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        draws = self._draws(labels, step).to(logits.device) if self.hyper["rank"] == "sampled" else None
        return warp_loss(logits, labels.state, draws=draws)

    def _draws(self, labels: Labels, step: Step) -> Tensor:
        """Draws for each observed positive, which depend on the step and the image's row, not on who computes it."""
        counts = zip(labels.index.tolist(), labels.positive.sum(dim=1).tolist(), strict=True)
        patience = self.task.num_classes - 1
        found = [
            torch.rand(count, patience, generator=self.task.generator(f"rank {step.step} {row}"), dtype=torch.float64)
            for row, count in counts
        ]
        return torch.cat(found)

    def predict(self, network: nn.Module, batch: Batch) -> Prediction:
        logits = network(batch.inputs).logits
        return Prediction(logits, highest(logits, self.hyper["top_k"]))


class Decision(nn.Module):
    """The small network that decides on pooled features: 100 units, 10 units, then one output for each of `outputs`."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        layers = [nn.Linear(channels, 100), nn.ReLU(), nn.Linear(100, 10), nn.ReLU(), nn.Linear(10, outputs)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Float [B, outputs] of feature maps [B, D, h, w]."""
        return self.layers(features.mean(dim=(2, 3)))


class PairwiseRanking(Method):
    """Log-sum-exp pairwise ranking, then decisions learned on the frozen scores (LSEP).

    The second phase learns, from pooled features, a threshold for each class (``decision = "threshold"``: a label is
    taken if its score is above) or the number of labels (``"count"``: 1 to `max_count`, and that many highest scores
    are taken). Both learn from observed labels only: with one positive an image, every count is 1. Images without
    observed positives have no count to learn from.

    Faithful: the loss, both decisions, the sizes 100 and 10 (as others describe them, not checked).

    Substituted: the run's backbone for VGG-16; all pairs count, where the paper samples some of many; what the decision
    network looks at is recalled and not checked.

    Cost: an image takes the plain classifier, and three small linear layers.

    Source: Li, Song and Luo, CVPR 2017.
    """

    needs_head = "weight"
    level = "A"
    decision_rule = "as the learned decision says: score above the threshold of its class, or that many highest scores"
    hyperparameters = {
        "decision": Hyper("threshold", "what the second phase learns (both published)", choices=("threshold", "count")),
        "max_count": Hyper(4, "largest number of labels that can be learned (published); more count as so many", low=1),
    }

    def phases(self) -> Sequence[Phase]:
        return [
            Phase("ranking"),
            Phase("decision", train=_decision_as_head, roles=("decision",), selection="last"),
        ]

    def network(self, phase: Phase) -> Classifier:
        network: Any = super().network(phase)
        if phase.name == "decision":
            network.load_state_dict(self.task.artefacts["ranking"])
            counting = self.hyper["decision"] == "count"
            outputs = self.hyper["max_count"] if counting else self.task.num_classes
            network.decision = Decision(network.head.weight.shape[1], outputs)
        return network

    def training_step(self, network: Any, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        labels = batch.labels
        logits, features = network(batch.inputs)
        if step.phase == "ranking":
            return lsep_loss(logits, labels.state)
        decided = network.decision(features)
        if self.hyper["decision"] == "threshold":
            return bce(logits - decided, labels.state)
        # Class 0 stands for one label; images without any are left out of the sum, not of the mean.
        target = labels.positive.sum(dim=1).clamp(max=self.hyper["max_count"]) - 1
        return functional.cross_entropy(decided, target, ignore_index=-1, reduction="sum") / len(target)

    def predict(self, network: Any, batch: Batch) -> Tensor | Prediction:
        logits, features = network(batch.inputs)
        if not hasattr(network, "decision"):
            return logits  # the first phase has none yet
        decided = network.decision(features)
        if self.hyper["decision"] == "threshold":
            return Prediction(logits, logits > decided)
        return Prediction(logits, highest(logits, decided.argmax(dim=1, keepdim=True) + 1))


def _decision_as_head(train: TrainSettings) -> Mapping[str, Any]:
    """The decision learns at the rate of the head."""
    factors = train.lr_multipliers
    return {"lr_multipliers": {**factors, "decision": factors.get("head", 1.0)}}
