"""Pseudo-labels of a vision-language model (VLPL), and the model's scores taken as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Phase, Step

from .entropy import entropy_entries
from .losses import assumed_targets, bce_entries, check_inputs, reduce

if TYPE_CHECKING:
    from mlbench.methods.task import Task

TEMPERATURE = Hyper(
    0.01, "of the softmax over classes, where the file has cosines (0.01: CLIP's own)", low=1e-4, high=10.0
)


def class_shares(scores: Tensor, values: str, temperature: float = 0.01) -> Tensor:
    """Scores [B, C] as shares from 0 to 1: of cosines, the softmax over the classes of cosine / `temperature`.

    Parameters
    ----------
    scores : float [B, C], as the file has them. values : what they are: "cosine", "softmax" or "probability", the last
        two being shares already.
    """
    if values == "cosine":
        return torch.softmax(scores / temperature, dim=1)
    return scores


def smoothed_entries(logits: Tensor, share: float, eps: float = 0.0) -> Tensor:
    """Cross-entropy [B, C] with the target `share`: of a pseudo-positive that is believed so much."""
    return bce_entries(logits, torch.full_like(logits, share), eps)


def vlpl(
    logits: Tensor,
    observed: Tensor,
    *,
    pseudo: Tensor,
    alpha: float,
    beta: float = 0.7,
    share: float = 0.9,
    eps: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Vision-language pseudo-labels: `em`, but unknown labels in `pseudo` are positives of less weight.

    An unknown label in `pseudo` has `beta` times the cross-entropy with the soft target `share`; another unknown one
    -`alpha` times its entropy. The loss may be negative.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. pseudo : bool [B, C], the model's positives; only
        unknown labels are looked up in it.
    alpha, beta : finite weights. share : from 0 to 1. eps : see `bce_entries`.
    reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : a weight that is not finite, a share outside of 0 to 1, or `pseudo` of another shape or type.

    Source: Xing et al., CVPRW 2024, released code, losses.py (with eps = 1e-5). It knows no observed negatives; here
    they have their cross-entropy.
    """
    check_inputs(logits, observed)
    check_pseudo("vlpl", pseudo, logits)
    for name, weight in (("alpha", alpha), ("beta", beta)):
        if not math.isfinite(weight):
            raise UsageError(f"vlpl: {name} = {weight!r}: expected a finite number")
    check_share("vlpl", share)
    known = bce_entries(logits, assumed_targets(observed, logits.dtype), eps)
    likely = beta * smoothed_entries(logits, share, eps)
    open_ = torch.where(pseudo, likely, -alpha * entropy_entries(logits, eps))
    entries = torch.where(observed == State.UNKNOWN, open_, known)
    return reduce(entries.masked_fill(observed == State.UNSPECIFIED, 0.0), reduction)


def check_pseudo(loss: str, pseudo: Tensor, logits: Tensor) -> None:
    """UsageError unless `pseudo` is bool of the logits' shape."""
    if pseudo.shape != logits.shape or pseudo.dtype != torch.bool:
        raise UsageError(f"{loss}: pseudo is {pseudo.dtype} {list(pseudo.shape)}: expected bool {list(logits.shape)}")


def check_share(loss: str, share: float) -> None:
    """UsageError unless `share` is a number from 0 to 1."""
    if not 0 <= share <= 1:
        raise UsageError(f"{loss}: share = {share!r}: expected a number from 0 to 1")


class VisionLanguagePseudoLabels(Method):
    """Positives that a vision-language model sees are learnt from, all other unknown labels made undecided (VLPL).

    The model's scores come in a file (``--side vl_scores=FILE``, docs/vl_scores.md): nothing here runs such a model.

    Faithful: the loss with its weights, a pseudo-positive where the softmax over the classes passes 0.3, one learning
    rate for backbone and head, settings of the released code on its data sets.

    Substituted: the model sees each image once, as whoever made the file showed it to it; the released code shows it
    the training image of each step, mirrored as that is and normalised for ImageNet. Which model and prompt: those of
    the file (published: CLIP ViT-L/14 at 336 px, the bare label).

    Cost: in training and at inference that of `an`; the scores are made once, elsewhere.

    Source: Xing et al., CVPRW 2024 (arXiv 2310.15985), released code.
    """

    level = "A"
    supervision = ("observed", "vl_scores")
    inputs = ("vl_scores",)
    hyperparameters = {
        "threshold": Hyper(
            0.3,
            "share above which an unknown label is taken as positive",
            low=0.0,
            high=1.0,
            search=("linear", 0.1, 0.9),
        ),
        "alpha": Hyper(
            0.1, "weight of the other unknown labels' entropy", low=-100.0, high=100.0, search=("log", 0.01, 1.0)
        ),
        "beta": Hyper(0.7, "weight of a pseudo-positive", low=0.0, high=100.0),
        "share": Hyper(0.9, "soft target of a pseudo-positive", low=0.0, high=1.0),
        "warmup": Hyper(0, "epochs before pseudo-positives count", low=0, high=1000),
        "temperature": TEMPERATURE,
    }

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        logits = network(batch.inputs).logits.float()
        shares = class_shares(
            batch.side["vl_scores"].float(), self.task.inputs["vl_scores"]["values"], self.hyper["temperature"]
        )
        pseudo = (shares > self.hyper["threshold"]) & batch.labels.unknown & (step.epoch > self.hyper["warmup"])
        batch.labels.note("corrected", pseudo)
        return vlpl(
            logits,
            batch.labels.state,
            pseudo=pseudo,
            alpha=self.hyper["alpha"],
            beta=self.hyper["beta"],
            share=self.hyper["share"],
        )


class VisionLanguageZeroShot(Method):
    """The scores of a vision-language model as they are: nothing is trained, no label of the data set is used.

    The row beside which methods that take such scores stand: what they had before they learnt anything.

    Scores: those of the file (``--side vl_scores=FILE``, docs/vl_scores.md), which say nothing but an order: no
    threshold makes labels of them.

    Cost: nothing here; the scores are made once, elsewhere.

    Source: Radford et al., ICML 2021 (CLIP), for the use; ours as a row.
    """

    supervision = ("vl_scores",)
    inputs = ("vl_scores",)
    scores = "rank"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.refuse_boostlu()

    def phases(self) -> Sequence[Phase]:
        return []

    def network(self, phase: Phase) -> nn.Module:
        return nn.Identity()

    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        return batch.side["vl_scores"].float()
