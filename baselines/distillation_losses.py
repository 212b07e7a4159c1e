"""Losses of the distillation methods: plain functions of logits, probabilities and features.

Means over images of sums over classes or features, as in the released code of MLIC-KD-WSD. Nothing that comes from the
teacher gets a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms

from mlbench.errors import UsageError, unknown
from mlbench.proposals import Regions

from .losses import bce, bce_entries


def label_loss(logits: Tensor, observed: Tensor) -> Tensor:
    """`bce` summed over classes, its mean over images; the loss without distillation."""
    return bce(logits, observed, reduction="sum") / len(logits)


def prediction_loss(logits: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Half the squared distance of probabilities, ``1/(2N) sum_n || p_T - sigmoid(z / t) ||^2``; no gradient to p_T.

    Parameters
    ----------
    logits : float [N, C], z. teacher : float [N, C], probabilities p_T. temperature : t, above 0.

    Raises
    ------
    UsageError : shapes that do not fit, a temperature that is not above 0.

    Source: Liu et al., ACM MM 2018 (MLIC-KD-WSD), prediction-level transfer.
    """
    _check(logits, teacher, temperature)
    return (teacher.detach() - torch.sigmoid(logits / temperature)).square().sum() / (2 * len(logits))


def soft_label_loss(logits: Tensor, teacher: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Cross-entropy of ``sigmoid(scale * z)`` with the teacher's probabilities, summed over classes, mean over images.

    Parameters
    ----------
    logits : float [N, C]. teacher : float [N, C], probabilities. scale : a number or float [C], one over temperature.

    Source: released code of Liu et al., ACM MM 2018, train_stage2.prototxt (scale learned, 0.2 at the start).
    """
    _check(logits, teacher, 1.0)
    return bce_entries(logits * scale, teacher.detach()).sum() / len(logits)


def kd_loss(logits: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Hinton's distillation with a binary term a class: ``t^2 BCE(sigmoid(z / t), p_T)``, summed over classes.

    Parameters
    ----------
    logits : float [N, C], z. teacher : float [N, C], probabilities p_T, softened already. temperature : t.

    Source: Hinton et al., 2015; the multi-label form is ours (unverified), the paper compared with gives none.
    """
    _check(logits, teacher, temperature)
    return temperature**2 * soft_label_loss(logits, teacher, 1 / temperature)


def region_loss(teacher: Tensor, student: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    """``1/(2N) sum_n 1/|R_n| sum_R || s_R (phi_T - phi_S) ||^2`` over the regions kept; no gradient to the teacher.

    Parameters
    ----------
    teacher, student : float [N, R, ...], pooled features. weights : float [N, R], s_R. kept : bool [N, R]; an image
        without a region adds 0.

    Raises
    ------
    UsageError : shapes that do not fit.

    Source: Liu et al., ACM MM 2018 (MLIC-KD-WSD), feature-level transfer.
    """
    if teacher.shape != student.shape or not teacher.shape[:2] == weights.shape == kept.shape:
        raise UsageError(
            f"region loss: features {list(teacher.shape)} and {list(student.shape)}, weights {list(weights.shape)}, "
            f"kept {list(kept.shape)}: expected [N, R, ...] twice and [N, R] twice"
        )
    squares = (teacher.detach() - student).flatten(2).square().sum(dim=2)
    entries = (squares * weights.detach().square()).masked_fill(~kept, 0.0)
    return (entries.sum(dim=1) / kept.sum(dim=1).clamp(min=1)).sum() / (2 * len(teacher))


def hint_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """``1/(2N) sum_n || u_T - u_S ||^2`` of maps [N, D, h, w]; the teacher's are averaged to the student's grid first.

    Source: Romero et al., ICLR 2015 (FitNets), equation 3.
    """
    target = functional.adaptive_avg_pool2d(teacher.detach(), student.shape[-2:])
    if target.shape != student.shape:
        raise UsageError(f"hint: maps {list(teacher.shape)} and {list(student.shape)}: expected as many channels")
    return (target - student).square().sum() / (2 * len(student))


def attention_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Sum over stages of the mean squared difference of normalised attention ``Q = vec(mean_c A_c^2) / ||.||_2``.

    Parameters
    ----------
    teacher, student : maps [N, D, h, w] stage by stage; of two grids the larger map is averaged to the smaller one.

    Raises
    ------
    UsageError : not as many stages.

    Source: Zagoruyko and Komodakis, ICLR 2017; released code, utils.py lines 18-23 (a mean over positions as well).
    """
    if len(teacher) != len(student) or not teacher:
        raise UsageError(f"attention loss: {len(teacher)} and {len(student)} stages: expected as many, at least one")
    terms = []
    for first, second in zip(teacher, student, strict=True):
        grid = [min(pair) for pair in zip(first.shape[-2:], second.shape[-2:], strict=True)]
        one, other = (
            functional.normalize(functional.adaptive_avg_pool2d(maps, grid).square().mean(dim=1).flatten(1))
            for maps in (first.detach(), second)
        )
        terms.append(functional.mse_loss(other, one))
    return torch.stack(terms).sum()


def keep_regions(
    scores: Tensor, regions: Regions, *, count: int = 10, iou: float = 0.4, over: str = "max"
) -> tuple[Tensor, Tensor, Tensor]:
    """The regions whose features are transferred: the best after non-maximum suppression over all classes together.

    Parameters
    ----------
    scores : float [B, R, C], the teacher's. count : regions kept of an image, at most.
    iou : a region that overlaps a better one by more is left out.
    over : a region's own score s_R is the "max" or the "sum" of its scores over classes.

    Returns
    -------
    index int64 [B, K] of the regions kept, best first; weights float [B, K], s_R by the largest s_R of the image; and
    bool [B, K], False where an image has fewer than K, whose index is 0 and weight 0.

    Source: Liu et al., ACM MM 2018, where neither number, threshold nor s_R is given (unverified); 0.4 is the
    threshold of the WSDDN code's test.
    """
    if over not in ("max", "sum"):
        raise unknown("score of a region", over, ("max", "sum"))
    strength = scores.amax(dim=2) if over == "max" else scores.sum(dim=2)
    shape = (len(scores), min(count, scores.shape[1]))
    index = torch.zeros(shape, dtype=torch.int64, device=scores.device)
    weights, kept = strength.new_zeros(shape), torch.zeros(shape, dtype=torch.bool, device=scores.device)
    for image, (own, boxes, valid) in enumerate(zip(strength, regions.boxes, regions.valid, strict=True)):
        rows = torch.nonzero(valid)[:, 0]
        best = rows[nms(boxes[rows].to(own.dtype), own[rows], iou)[: shape[1]]]
        index[image, : len(best)], kept[image, : len(best)] = best, True
        weights[image, : len(best)] = own[best] / own[best].max().clamp(min=torch.finfo(own.dtype).tiny)
    return index, weights, kept


def _check(logits: Tensor, teacher: Tensor, temperature: float) -> None:
    if logits.ndim != 2 or teacher.shape != logits.shape:
        raise UsageError(f"distillation: logits {list(logits.shape)}, teacher {list(teacher.shape)}: expected [N, C]")
    if not temperature > 0:
        raise UsageError(f"distillation: temperature = {temperature}: expected above 0")
