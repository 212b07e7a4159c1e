"""IGNORE: unknown labels whose evidence lies in the object that was labelled are left out.

Three views of an image: as it is, strongly augmented, and with everything masked but where the observed label was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError, unknown
from mlbench.inputs.augment import Augmentation
from mlbench.inputs.views import View
from mlbench.methods import Batch, Hyper, Method, Step, Task

from .losses import assumed_targets, bce_entries, check_inputs

NORMALISATIONS = ("batch", "image")


def normalised_maps(maps: Tensor, shown: Tensor, *, over: str = "batch") -> Tensor:
    """Heat maps [B, h, w] brought to a common range, as the mask is cut from them.

    "batch" : ``(map - min) / max`` with least and largest value over the images of the batch, at each place apart: as
    in the released code, where values leave [0, 1], signs turn where the largest is negative, and a batch with one
    labelled image gives 0 everywhere. Where the largest is 0 the result is 0. "image" : ``(map - min) / (max - min)``
    of each image by itself, 0 where that is 0.

    Parameters
    ----------
    maps : float [B, h, w]. shown : bool [B], the images that have an observed positive; others take no part.
    over : "batch" or "image".
    """
    if over not in NORMALISATIONS:
        raise unknown("normalisation", over, NORMALISATIONS)
    if over == "image":
        least, most = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
        below = most - least
    elif not shown.any():
        return torch.zeros_like(maps)
    else:
        least, below = maps[shown].amin(dim=0), maps[shown].amax(dim=0)
    return torch.where(below == 0, 0.0, (maps - least) / torch.where(below == 0, 1.0, below))


def masked_images(images: Tensor, maps: Tensor, shown: Tensor, *, threshold: float = 0.8) -> Tensor:
    """Images [b, 3, H, W] with 0, the mean colour, wherever their normalised map [b, h, w] is not above `threshold`.

    Maps are resized bilinearly, corners not aligned. Images that are not `shown` (bool [b]) stay whole. No gradient.
    """
    with torch.no_grad():
        large = functional.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)
        return torch.where((large > threshold) | ~shown[:, None, None, None], images, 0.0)


def updated_thresholds(
    logits: Tensor, masked: Tensor, observed: Tensor, *, change: Tensor, level: Tensor, decay: float = 0.999
) -> tuple[Tensor, Tensor]:
    """The running thresholds after a batch: the change of observed positives under the mask, and each class's logit.

    ``G = decay * G + (1 - decay) * mean over observed positives |x - x_masked|`` and
    ``A = decay * A + (1 - decay) * mean over the batch x``. Without an observed positive G stays.

    Parameters
    ----------
    logits, masked : float [B, C] of the image as it is and masked. observed : [B, C] of `State` codes.
    change : G, a scalar. level : A, [C].
    """
    positive = observed == State.POSITIVE
    moved = (logits - masked).abs()[positive]
    change = decay * change + (1 - decay) * moved.mean() if len(moved) else change
    return change, decay * level + (1 - decay) * logits.mean(dim=0)


def rejected_entries(logits: Tensor, masked: Tensor, observed: Tensor, *, change: Tensor, level: Tensor) -> Tensor:
    """Bool [B, C]: unknown entries that the mask changes by more than `change` and that lie above `level`."""
    return (observed == State.UNKNOWN) & ((logits - masked).abs() > change) & (logits > level)


def ignore_terms(
    logits: Tensor,
    observed: Tensor,
    *,
    strong: Tensor,
    rejected: Tensor,
    positive_weight: float = 0.5,
    consistency_weight: float = 0.5,
    eps: float = 0.0,
) -> dict[str, Tensor]:
    """The three terms of `ignore`, by name."""
    check_inputs(logits, observed)
    check_inputs(strong, observed)
    if rejected.shape != logits.shape or rejected.dtype != torch.bool:
        raise UsageError(
            f"ignore: rejected {list(rejected.shape)} ({rejected.dtype}): expected bool {list(logits.shape)}"
        )
    positive, counted = observed == State.POSITIVE, ~rejected & (observed != State.UNSPECIFIED)
    confirmed = bce_entries(logits, torch.ones_like(logits), eps)[positive].sum() / positive.sum().clamp(min=1)
    entries = bce_entries(strong, assumed_targets(observed, strong.dtype), eps)
    assumed = entries.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)
    return {
        "positives": positive_weight * confirmed,
        "assumed": assumed,
        "consistency": consistency_weight * (strong - logits).square().mean(),
    }


def ignore(
    logits: Tensor,
    observed: Tensor,
    *,
    strong: Tensor,
    rejected: Tensor,
    positive_weight: float = 0.5,
    consistency_weight: float = 0.5,
    eps: float = 0.0,
) -> Tensor:
    """Loss of IGNORE: positives on the plain view, assumed labels on the strong one, and the two are to agree.

    ``a`` times the mean over observed positives of ``-log p``, the mean over entries that are not rejected of the
    assume-negative cross-entropy of the strong view, and ``r`` times the mean squared difference of the logits
    (gradients to both). Each mean divides by what it counts: rejected and unspecified entries are not in the second.
    Without an observed positive the first is 0.

    Parameters
    ----------
    logits, strong : float [B, C] of the two views, of the whole batch. observed : int8 [B, C] of `State` codes.
    rejected : bool [B, C] of `rejected_entries`, all False in the first epochs.
    positive_weight, consistency_weight : a and r. eps : see `bce_entries` (in the released code 1e-5).

    Source: released code of Song et al., ECCV 2024 (SPML-IGNORE), losses.py, read for facts.
    """
    terms = ignore_terms(
        logits,
        observed,
        strong=strong,
        rejected=rejected,
        positive_weight=positive_weight,
        consistency_weight=consistency_weight,
        eps=eps,
    )
    return torch.stack(list(terms.values())).sum()


class Ignore(Method):
    """IGNORE: an unknown label that the image loses where the labelled object is masked out is not called negative.

    An image is seen as it is, strongly augmented, and with all masked but where the class activation map of its
    observed label is high. From epoch `warmup` + 1, unknown labels whose logit the mask changes by more than that of
    observed labels usually changes, and which lie above their class's mean logit, are left out of the loss.

    Faithful: three forwards with gradients in two, the mask by minimum and maximum over the batch at each place as the
    released code has it, running thresholds (updated before the loss, also in the first epochs; they are in the
    checkpoint), the three terms. `ignore_per_image` cuts the mask from each image by itself. Corrected: where the
    largest value is 0 nothing is divided by it; several observed positives (whose highest map counts) or none in a
    batch do not fail. Substituted: stable logarithms (there p + 1e-5); RandAugment by torchvision, on the image at its
    final size.

    Cost: one forward at inference; a training step has three, and gradients of two.

    Source: Song et al., ECCV 2024; released code (no licence stated: read for facts).
    """

    level = "A"
    tracks = ("full",)  # cached features have no other view
    batch_global = True
    needs_head = "maps"
    normalised: ClassVar[str] = "batch"
    hyperparameters = {
        "warmup": Hyper(3, "epochs before labels are left out", low=0),
        "positive_weight": Hyper(0.5, "of observed positives (the README's ResNet run: 0.1)", low=0.0, high=1e6),
        "consistency_weight": Hyper(0.5, "of the squared difference of two views' logits", low=0.0, high=1e6),
        "threshold": Hyper(0.8, "of the normalised map, above which the image is seen", low=-1e6, high=1e6),
        "decay": Hyper(0.999, "of the running thresholds", low=0.0, high=1.0),
        "operations": Hyper(3, "of RandAugment in the strong view", low=0, high=20),
        "magnitude": Hyper(5, "of those operations", low=0, high=30),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.change = torch.zeros((), device=task.device)
        self.levels = torch.zeros(task.num_classes, device=task.device)

    @classmethod
    def views_for(cls, hyper: Mapping[str, Any]) -> tuple[View, ...]:
        strong = Augmentation(randaugment=hyper["operations"], magnitude=hyper["magnitude"])
        return View("weak"), View("strong", augment=strong)

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert batch.labels is not None
        images, labels = batch.views["weak"], step.whole()
        weak = network(images)
        strong = step.gather(network(batch.views["strong"]).logits)
        with torch.no_grad():
            masked = step.gather(network(self._masked(network, images, weak.features, batch, step)).logits)
        logits = step.gather(weak.logits)
        rejected = self._rejected(logits.detach(), masked, labels.state, step)
        labels.note("rejected", rejected)
        return ignore_terms(
            logits,
            labels.state,
            strong=strong,
            rejected=rejected,
            positive_weight=self.hyper["positive_weight"],
            consistency_weight=self.hyper["consistency_weight"],
        )

    def _masked(self, network: Any, images: Tensor, features: Tensor, batch: Batch, step: Step) -> Tensor:
        """This process's images, masked by maps that are normalised over the whole batch."""
        assert batch.labels is not None
        positive = batch.labels.positive
        maps = network.head.maps(features)
        own = maps.masked_fill(~positive[:, :, None, None], -torch.inf).amax(dim=1)
        shown = positive.any(dim=1)
        own = torch.where(shown[:, None, None], own, 0.0)
        index = step.gather(batch.index)
        everyone = step.gather(shown.int()).bool()
        whole = normalised_maps(step.gather(own), everyone, over=self.normalised)
        rows = (index[None, :] == batch.index[:, None]).int().argmax(dim=1)
        return masked_images(images, whole[rows], shown, threshold=self.hyper["threshold"])

    def _rejected(self, logits: Tensor, masked: Tensor, observed: Tensor, step: Step) -> Tensor:
        """The entries left out of this step, by thresholds that know this batch."""
        self.change, self.levels = updated_thresholds(
            logits, masked, observed, change=self.change, level=self.levels, decay=self.hyper["decay"]
        )
        if step.epoch <= self.hyper["warmup"]:
            return torch.zeros_like(observed, dtype=torch.bool)
        return rejected_entries(logits, masked, observed, change=self.change, level=self.levels)

    def state_dict(self) -> dict[str, Tensor]:
        return {"change": self.change.cpu(), "levels": self.levels.cpu()}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        self.change, self.levels = (saved[name].to(self.task.device) for name in ("change", "levels"))


class IgnorePerImage(Ignore):
    """IGNORE with the mask cut from each image by itself. Ours.

    As `ignore`, but an image's map is brought from its own least to its own largest value: what is kept of an image
    does not depend on the others in its batch, and something of each is kept.

    Cost: as `ignore`.

    Source: ours, beside Song et al., ECCV 2024, whose words ask for it more than for what their code does.
    """

    level = "B"
    normalised = "image"
