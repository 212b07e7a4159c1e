"""Online label estimation (ROLE): estimates of all labels are learned beside the classifier; its linear start (LI).

Source of all: Cole et al., CVPR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.methods import Batch, Hyper, Method, Phase, Step
from mlbench.models.heads import Classifier, HeadSpec
from mlbench.settings import TrainSettings

from .boostlu import with_boostlu
from .losses import assumed_targets, bce_entries, check_inputs, reduce
from .observed_only import EXPECTED_POSITIVES, check_expected, count_penalty

#: Where the estimates start, as probabilities: undecided ones are drawn between 1 - START_UNKNOWN and START_UNKNOWN.
START_UNKNOWN, START_KNOWN = 0.6, 0.995


def role(
    logits: Tensor,
    observed: Tensor,
    *,
    estimates: Tensor,
    expected: float,
    eps: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Regularised online label estimation: the sum of `role_terms`.

    Parameters
    ----------
    As of `role_terms`. reduction : "mean" over B*C, "sum" or "none".
    """
    terms = role_terms(logits, observed, estimates=estimates, expected=expected, eps=eps, reduction=reduction)
    return terms["positives"] + terms["agreement"] + terms["count"]


def role_terms(
    logits: Tensor,
    observed: Tensor,
    *,
    estimates: Tensor,
    expected: float,
    eps: float = 0.0,
    reduction: str = "mean",
) -> dict[str, Tensor]:
    """The three terms of `role`, each the mean of what it is for classifier and estimates, who take turns as target.

    "positives": cross-entropy of the observed positives. "agreement": cross-entropy of each with the other's
    probabilities as fixed targets. "count": ``((m - expected) / C)**2``, m being the batch's mean of an image's summed
    probabilities; one number, added to each of the B*C entries as in `epr`. Observed negatives count in the last two
    only. Unspecified entries count nowhere.

    Parameters
    ----------
    logits : float [B, C] of the whole batch. observed : int8 [B, C] of `State` codes.
    estimates : float [B, C], the logits of the label estimates of the same images.
    expected : mean number of positives of an image (k), at least 0.
    eps : see `bce_entries`. reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : `expected` is negative, infinite or not a number; shapes or types that do not fit.

    Source: released code of Cole et al., CVPR 2021, losses.py lines 158-186 (with eps = 1e-5).
    """
    check_inputs(logits, observed)
    check_inputs(estimates, observed)
    check_expected("role", expected)
    positive = observed == State.POSITIVE
    targets = assumed_targets(observed, logits.dtype)

    def of_positives(x: Tensor) -> Tensor:
        return bce_entries(x, targets, eps).masked_fill(~positive, 0.0)

    def towards(x: Tensor, target: Tensor) -> Tensor:
        entries = bce_entries(x, target.detach().sigmoid(), eps)
        return entries.masked_fill(observed == State.UNSPECIFIED, 0.0)

    penalties = count_penalty(logits, observed, expected) + count_penalty(estimates, observed, expected)
    entries = {
        "positives": of_positives(logits) + of_positives(estimates),
        "agreement": towards(logits, estimates) + towards(estimates, logits),
        "count": penalties.expand_as(logits),
    }
    return {name: reduce(both / 2, reduction) for name, both in entries.items()}


def start_estimates(observed: np.ndarray, generator: torch.Generator) -> Tensor:
    """Logits float32 [N, C] the estimates start from.

    An observed positive has probability 0.995, an observed negative 0.005; for the others the logit is drawn uniformly
    between those of 0.4 and 0.6.

    Parameters
    ----------
    observed : int8 [N, C] of `State` codes.

    Source: released code of Cole et al., CVPR 2021, models.py lines 110-124.
    """
    labels = torch.from_numpy(np.array(observed))
    sure, widest = (math.log(p / (1 - p)) for p in (START_KNOWN, START_UNKNOWN))
    start = widest * (2 * torch.rand(labels.shape, generator=generator) - 1)
    start[labels == State.POSITIVE] = sure
    start[labels == State.NEGATIVE] = -sure
    return start


class LabelEstimates(nn.Module):
    """A free logit for each training image and class, [N, C].

    One dense parameter and no embedding with sparse gradients: Adam's momentum then moves the rows outside a batch too,
    as in the released code.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(start)

    def forward(self, rows: Tensor) -> Tensor:
        return self.logits[rows]


class OnlineLabelEstimation(Method):
    """Regularised online label estimation (ROLE): estimates of all labels are learned beside the classifier.

    The mean number of positives comes from the full training labels or is given, which is side information either way.
    The estimates (role "estimates") learn at ten times the rate, unless `train.lr_multipliers` says otherwise.

    Source: Cole et al., CVPR 2021; learning rate and batch size were tuned there for each data set.
    """

    level = "A"
    supervision = ("observed", "label_count")
    batch_global = True
    hyperparameters = {"expected_positives": EXPECTED_POSITIVES}

    @classmethod
    def dense_bytes(cls, hyper: Mapping[str, Any]) -> int:
        return 20  # estimate, gradient, Adam's two moments; drawn beside the labels

    def phases(self) -> Sequence[Phase]:
        return [Phase(train=_faster_estimates)]

    def network(self, phase: Phase) -> nn.Module:
        return self._with_estimates(self.task.classifier(self.head_spec()))

    def _with_estimates(self, network: Classifier) -> nn.Module:
        start = start_estimates(np.asarray(self.task.labels.observed), self.task.generator("estimates"))
        network.add_module("estimates", LabelEstimates(start))
        return network

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        return role_terms(
            step.gather(network(batch.inputs).logits),
            step.whole().state,
            estimates=step.gather(network.get_submodule("estimates")(batch.index)),
            expected=self.hyper["expected_positives"] or self.task.label_count,
        )


class LinearlyStartedEstimation(OnlineLabelEstimation):
    """ROLE from a linear start (ROLE + LI): first a linear layer on untouched features, then everything.

    Phase `linear` trains layer and estimates on pooled features of the pretrained backbone, images not augmented; the
    epoch chosen on validation hands both over to phase `finetune`. On cached features the second phase would only go on
    with the first. With BoostLU, the first phase has none: pooled features have no maps to boost.

    Source: Cole et al., CVPR 2021; released code since February 2022 (before, both phases shared one learning rate).
    """

    needs_head = "weight"
    level = "A"
    tracks = ("full",)
    hyperparameters = {
        **OnlineLabelEstimation.hyperparameters,
        "linear_epochs": Hyper(25, "epochs of the linear phase", low=1),
        "linear_lr": Hyper(1e-3, "learning rate of the linear phase", low=1e-8, high=10.0, search=("log", 1e-5, 1e-2)),
        "linear_batch_size": Hyper(16, "images in a batch of the linear phase", low=1),
    }

    def phases(self) -> Sequence[Phase]:
        def linear(train: TrainSettings) -> Mapping[str, Any]:
            multipliers = {"estimates": _faster_estimates(train)["lr_multipliers"]["estimates"]}
            chosen = {key: self.hyper[f"linear_{key}"] for key in ("epochs", "lr", "batch_size")}
            return chosen | {"lr_multipliers": multipliers}

        return [Phase("linear", train=linear, source="pooled"), Phase("finetune", train=_faster_estimates)]

    def network(self, phase: Phase) -> nn.Module:
        if phase.name == "linear":
            return self._with_estimates(self.task.classifier(HeadSpec(), self.task.feature_width()))
        network = super().network(phase)
        network.load_state_dict({**network.state_dict(), **self.task.artefacts["linear"]})
        return network


def _faster_estimates(train: TrainSettings) -> Mapping[str, Any]:
    return {"lr_multipliers": {"estimates": 10.0, **train.lr_multipliers}}


OnlineLabelEstimationBoostLU = with_boostlu(OnlineLabelEstimation)
LinearlyStartedEstimationBoostLU = with_boostlu(LinearlyStartedEstimation)
