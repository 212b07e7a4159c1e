"""Multi-label distillation (L2D): probabilities label by label, and how the embeddings of labels lie to each other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Step, Uses
from mlbench.models.heads import Classifier

from .losses import bce, reduce


def mld(logits: Tensor, teacher: Tensor, *, reduction: str = "mean") -> Tensor:
    """Divergence of the student's probability from the teacher's, a binary one for each label.

    ``KL(Bern(sigma(teacher)) || Bern(sigma(logits)))``, from logits: exact at any size, where the released code, which
    clamps probabilities at 1e-8, is not a number in float32 beyond about 17.

    Parameters
    ----------
    logits, teacher : float [B, C]; the teacher gets no gradient. reduction : "mean" as published: the sum over labels,
        its mean over the B images. "sum", or "none" for the entries.

    Source: Yang et al., ICCV 2023 (L2D); released code, read for facts.
    """
    if logits.shape != teacher.shape or logits.ndim != 2:
        raise UsageError(f"mld: logits {list(logits.shape)} and {list(teacher.shape)}: expected both [B, C]")
    teacher = teacher.detach()
    p, log_odds = torch.sigmoid(teacher), functional.logsigmoid
    entries = p * (log_odds(teacher) - log_odds(logits)) + (1 - p) * (log_odds(-teacher) - log_odds(-logits))
    return entries.sum() / len(logits) if reduction == "mean" else reduce(entries, reduction)


def structure_distance(embeddings: Tensor, teacher: Tensor) -> Tensor:
    """How differently n embeddings lie to each other in two networks, a scalar.

    Euclidean distances of all pairs, each matrix by its own mean over pairs of two; smooth L1 (beta 1) of the two
    matrices, summed over n x n and divided by n.

    Parameters
    ----------
    embeddings, teacher : float [n, d] and [n, d'], n from 2; the teacher gets no gradient.
    """

    def shape(points: Tensor) -> Tensor:
        squares = (points[:, None] - points[None]).square().sum(dim=2)
        itself = torch.eye(len(points), dtype=torch.bool, device=points.device)
        distances = squares.clamp(min=1e-12).sqrt().masked_fill(itself, 0.0)
        return distances / (distances.sum() / (len(points) * (len(points) - 1)))

    return functional.smooth_l1_loss(shape(embeddings), shape(teacher.detach()), reduction="sum") / len(embeddings)


def led(
    embeddings: Tensor,
    teacher: Tensor,
    observed: Tensor,
    *,
    class_weight: float = 100.0,
    instance_weight: float = 1000.0,
) -> Tensor:
    """Label-wise embedding distillation: `structure_distance` within each class, and within each image.

    ``class_weight`` times the sum over classes of that of the embeddings of the images that have the class, and
    ``instance_weight`` times the sum over images of that of the image's positive classes; where there are two at least.
    The sum of none is 0.

    Parameters
    ----------
    embeddings, teacher : float [B, C, d] and [B, C, d'], of the whole batch; the teacher gets no gradient.
    observed : int8 [B, C] of `State` codes. In the released code positives are the rows that are not all 0, in student
        and teacher apart, which fails where an embedding is 0.

    Source: Yang et al., ICCV 2023 (L2D); released code, read for facts.
    """
    positive = observed == State.POSITIVE
    if embeddings.shape[:2] != positive.shape or teacher.shape[:2] != positive.shape:
        given = f"{list(embeddings.shape)}, {list(teacher.shape)} and {list(positive.shape)}"
        raise UsageError(f"led: embeddings and labels {given}: expected [B, C, d], [B, C, d'] and [B, C]")
    found = 0.0 * embeddings.sum()
    for weight, ours, theirs, shown in (
        (class_weight, embeddings.transpose(0, 1), teacher.transpose(0, 1), positive.T),
        (instance_weight, embeddings, teacher, positive),
    ):
        for place in (shown.sum(dim=1) > 1).nonzero()[:, 0].tolist():
            rows = shown[place]
            found = found + weight * structure_distance(ours[place, rows], theirs[place, rows])
    return found


class LabelDistillation(Method):
    """L2D: a teacher's probabilities label by label, and the structure of its label-wise embeddings, are taught.

    The teacher is `teacher.method` under the same protocol, data and seeds, trained once and found by its key; student
    and teacher have the run's head, with an embedding for each class (ml_decoder).

    Faithful: cross-entropy summed over classes and images, 10 times the label-wise divergence, embeddings within
    classes (100) and within images (1000), the teacher in evaluation mode. Corrected: positives are those observed; the
    divergence is computed from logits. Substituted: the teacher's backbone is the run's, unless teacher.backbone names
    another (there ResNet-101 for a ResNet-34), and it is trained as the run is; unknown labels are assumed negative.

    With one positive an image nothing is compared within images.

    Cost: what the head costs at inference; a training step has a forward of the teacher more.

    Source: Yang et al., ICCV 2023 (arXiv 2308.06453); released code, read for facts.
    """

    level = "B"
    batch_global = True
    stochastic = True  # dropout in the head, and in the teacher's training
    needs_head = "embeddings"
    default_head = "ml_decoder"
    hyperparameters = {
        "divergence": Hyper(10.0, "weight of the label-wise divergence", low=0.0, high=1e6, search=("log", 1.0, 100.0)),
        "class_weight": Hyper(100.0, "weight of embeddings within classes", low=0.0, high=1e6),
        "instance_weight": Hyper(1000.0, "weight of embeddings within images", low=0.0, high=1e6),
        "teacher.method": Hyper("an", "method that trains the teacher", choices=("an", "asl")),
        "teacher.backbone": Hyper("", "backbone of the teacher; empty: that of the run"),
    }

    @classmethod
    def uses_for(cls, hyper: Mapping[str, Any]) -> Mapping[str, Uses]:
        return {"teacher": Uses(hyper["teacher.method"], backbone=hyper["teacher.backbone"] or None)}

    @cached_property
    def teacher(self) -> Classifier:
        return self.task.used_classifier("teacher")

    def training_step(self, network: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            theirs = self.teacher.head.embed(self.teacher.backbone(batch.inputs))  # type: ignore[operator]
            taught = self.teacher.head.classify(theirs)  # type: ignore[operator]
        ours = network.head.embed(network.backbone(batch.inputs))
        logits = step.gather(network.head.classify(ours))
        ours, theirs, taught = (step.gather(own) for own in (ours, theirs, taught))
        observed = step.whole().state
        weights = {name: self.hyper[name] for name in ("class_weight", "instance_weight")}
        return {
            "labels": bce(logits, observed, reduction="sum"),
            "divergence": self.hyper["divergence"] * mld(logits, taught),
            "embeddings": led(ours, theirs, observed, **weights),
        }
