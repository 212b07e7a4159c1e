"""GPR loss: the GR loss, with pseudo-labels of a vision-language model where it is sure (AEVLP)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Step

from .generalised_robust import GUESS, GRParameters, gr_entries, gr_schedule, gr_weight
from .losses import bce_entries, reduce
from .observed_only import EXPECTED_POSITIVES, check_expected, count_penalty
from .vlpl import TEMPERATURE, check_pseudo, check_share, class_shares


def grid_scores(whole: Tensor, cells: Tensor, eta: Tensor | float = 0.0) -> Tensor:
    """Scores [B, C] of images from those of the whole image and of its cells: what `gpr` was published with.

    Of each class the highest score of a cell if that exceeds `eta`, else the lowest, averaged with the whole image's.

    Parameters
    ----------
    whole : float [B, C]. cells : float [B, G, C], shares of the classes in each of G cells.
    eta : a number, or [B, 1]. Published: min(share of the image's observed positive, 0 on VOC, .3 on COCO and NUS-WIDE,
        .005 on CUB); 0 always takes the highest.

    Source: Tran et al., ICCV 2025 (AEVLP), released code.
    """
    most, least = cells.amax(dim=1), cells.amin(dim=1)
    return (whole + torch.where(most > eta, most, least)) / 2


def likely_positive(shares: Tensor, threshold: float, best: int) -> Tensor:
    """bool [B, C]: the classes whose share is at least `threshold` and among an image's `best` highest (ties too)."""
    lowest = shares.topk(min(best, shares.shape[1]), dim=1).values[:, -1:]
    return (shares >= threshold) & (shares >= lowest)


def gpr(
    logits: Tensor,
    observed: Tensor,
    *,
    pseudo: Tensor,
    epoch: int,
    epochs: int,
    expected: float,
    negative: Tensor | None = None,
    clip: tuple[float, float] = (0.7, 0.5),
    share: float = 0.9,
    penalty: float = 0.001,
    count_negatives: bool = True,
    eps: float = 0.0,
    reduction: str = "mean",
    **guess: Any,
) -> Tensor:
    """GPR loss: `gr`, but unknown labels in `pseudo` are soft positives, those in `negative` weighted negatives.

    With V the weight of `gr`, an unknown label in `pseudo` has ``1 - V'`` times the cross-entropy with the soft target
    `share`, V' being V clipped to 1 - `clip`; one in `negative` has V times that of a negative. To each of the B*C
    entries `penalty` times `count_penalty` is added, so that their mean is the published loss.

    Parameters
    ----------
    logits : float [B, C] of the whole batch. observed : int8 [B, C] of `State` codes.
    pseudo, negative : bool [B, C]; only unknown labels are looked up in them, in `pseudo` first.
    epoch, epochs : see `gr_schedule`. expected : mean number of positives of an image, at least 0.
    clip : (l1, l2) from 0 to 1, l1 at least l2. share : from 0 to 1. penalty : a finite weight, at least 0.
    count_negatives : see `gr`. eps : see `bce_entries`, of observed and pseudo-labels (1e-7 in the released code).
    reduction : "mean" over B*C, "sum" or "none". guess : `w`, `b`, `mu`, `sigma`, `linear_init`, `q2`, `q3` as in `gr`.

    Raises
    ------
    UsageError : a value outside the ranges above, or a mask of another shape or type.

    Source: Tran et al., ICCV 2025 (arXiv 2508.20381), released code (Fsoft-AIC/AEVLP @0bad82a). There pseudo-negatives
    are coded as the unknown labels are, so that they never count.
    """
    check_pseudo("gpr", pseudo, logits)
    check_expected("gpr", expected)
    check_share("gpr", share)
    if not 0 <= clip[1] <= clip[0] <= 1:
        raise UsageError(f"gpr: clip = {clip!r}: expected (l1, l2) with 0 <= l2 <= l1 <= 1")
    if not 0 <= penalty < math.inf:
        raise UsageError(f"gpr: penalty = {penalty!r}: expected a number from 0")
    powers = {name: guess.pop(name) for name in ("q2", "q3") if name in guess}
    parameters = gr_schedule(epoch, epochs, **guess)
    entries = gr_entries(logits, observed, parameters, **powers, count_negatives=count_negatives, eps=eps)
    unknown, weight = observed == State.UNKNOWN, gr_weight(logits, parameters)
    if negative is not None:
        check_pseudo("gpr", negative, logits)
        denied = weight * bce_entries(logits, torch.zeros_like(logits), eps)
        entries = torch.where(unknown & negative, denied, entries)
    believed = bce_entries(logits, torch.full_like(logits, share), eps)
    sure = (1 - weight.clamp(1 - clip[0], 1 - clip[1])) * believed
    entries = torch.where(unknown & pseudo, sure, entries)
    return reduce(entries + penalty * count_penalty(logits, observed, expected), reduction)


class GeneralisedPseudoLabels(Method):
    """GR loss with pseudo-positives of a vision-language model, and the number of predicted positives held near its
    mean (GPR, the loss of AEVLP).

    The model's scores come in a file (``--side vl_scores=FILE``, docs/vl_scores.md): nothing here runs such a model.

    Faithful: the loss, its parameters for each data set, a pseudo-positive where the score passes a threshold and is
    among an image's best.

    Substituted: the published scores are CLIP ViT-B/16's of the whole image and of a grid of cells, put together by
    the score of the observed positive; a file has one score an image and class, made before any label was hidden
    (`grid_scores` makes it of cells). The graph network over text features, random and frozen in the released code, is
    left out. Pseudo-negatives, which never count there, are an argument of the loss alone: which labels they are is not
    in our sources. The mean number of labels is that of the full training labels where it is not given, side
    information either way.

    Cost: in training and at inference that of `an`; the scores are made once, elsewhere.

    Source: Tran et al., ICCV 2025 (arXiv 2508.20381), released code.
    """

    level = "B"
    supervision = ("observed", "vl_scores", "label_count")
    inputs = ("vl_scores",)
    batch_global = True
    hyperparameters = {
        **GUESS,
        "threshold": Hyper(
            0.5,
            "share from which an unknown label is a pseudo-positive",
            low=0.0,
            high=1.0,
            search=("linear", 0.1, 0.9),
        ),
        "best": Hyper(3, "pseudo-positives an image has at most", low=1, high=100_000),
        "clip_start": Hyper(0.7, "l1: a pseudo-positive weighs at most so much", low=0.0, high=1.0),
        "clip_end": Hyper(0.5, "l2: and at least so much", low=0.0, high=1.0),
        "share": Hyper(0.9, "soft target of a pseudo-positive", low=0.0, high=1.0),
        "penalty": Hyper(0.001, "weight of the deviation from the mean number of positives", low=0.0, high=1e3),
        "expected_positives": EXPECTED_POSITIVES,
        "temperature": TEMPERATURE,
    }

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        hyper = self.hyper
        values = self.task.inputs["vl_scores"]["values"]
        shares = step.gather(class_shares(batch.side["vl_scores"].float(), values, hyper["temperature"]))
        logits, labels = step.gather(network(batch.inputs).logits).float(), step.whole()
        pseudo = likely_positive(shares, hyper["threshold"], hyper["best"]) & labels.unknown
        labels.note("corrected", pseudo)
        return gpr(
            logits,
            labels.state,
            pseudo=pseudo,
            epoch=step.epoch,
            epochs=step.epochs,
            expected=hyper["expected_positives"] or self.task.label_count,
            clip=(hyper["clip_start"], hyper["clip_end"]),
            **{name: (hyper[f"{name}_start"], hyper[f"{name}_end"]) for name in GRParameters._fields},
            **{name: hyper[name] for name in ("share", "penalty", "q2", "q3")},
        )
