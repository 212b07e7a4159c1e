"""Pseudo-label consistency (PLC): what a network is sure of on an image it is to say of it strongly augmented, too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.inputs.augment import Augmentation
from mlbench.inputs.views import View
from mlbench.methods import Batch, Hyper, Method, Step

from .assume_negative import an
from .losses import bce_entries, check_inputs

#: The strong view: Cutout, RandAugment and colour jitter.
STRONG = Augmentation(cutout=0.5, randaugment=2, magnitude=9, jitter=(0.4, 0.4, 0.4, 0.1), jitter_chance=0.8)


def plc_targets(logits: Tensor, observed: Tensor, *, threshold: float = 0.6) -> tuple[Tensor, Tensor]:
    """Hard targets bool [B, C] from the plain view, and the entries used, bool [B, C]. No gradient.

    Target 1 where the probability is at least `threshold`, or the label is observed positive; 0 where it is below
    ``1 - threshold``. Entries in between, and unspecified ones, are not used.

    Parameters
    ----------
    logits : float [B, C] of the plain view. observed : int8 [B, C] of `State` codes. threshold : from 0.5 to 1.
    """
    check_inputs(logits, observed)
    if not 0.5 <= threshold <= 1:
        raise UsageError(f"plc: threshold = {threshold!r}: expected a probability from 0.5 to 1")
    probability = torch.sigmoid(logits.detach())
    positive = (probability >= threshold) | (observed == State.POSITIVE)
    negative = (probability < 1 - threshold) & ~positive
    return positive, (positive | negative) & (observed != State.UNSPECIFIED)


def plc(logits: Tensor, observed: Tensor, *, strong: Tensor, threshold: float = 0.6, eps: float = 0.0) -> Tensor:
    """Cross-entropy of the strong view with the plain view's hard targets, its mean over the entries used.

    Where none is used it is 0.

    Parameters
    ----------
    logits : float [B, C] of the plain view, which is taught nothing. observed : int8 [B, C] of `State` codes.
    strong : float [B, C] of the strong view. threshold : see `plc_targets`. eps : see `bce_entries`.

    Source: Xie et al., NeurIPS 2022 (LAC); released code, first_stage.py, read for facts.
    """
    check_inputs(strong, observed)
    targets, used = plc_targets(logits, observed, threshold=threshold)
    entries = bce_entries(strong, targets.to(strong.dtype), eps)
    return entries.masked_fill(~used, 0.0).sum() / used.sum().clamp(min=1)


class PseudoLabelConsistency(Method):
    """Pseudo-label consistency: a strongly augmented image is to be labelled as the network labels the plain one.

    Faithful: both views through the network as one batch, assumed negatives on the plain view, hard targets with
    threshold 0.6, one mean over the entries used, strong view of Cutout, RandAugment and colour jitter. Substituted:
    the run's backbone and head (there Query2Label over ResNet-50 with frozen statistics; --head q2l comes closest);
    torchvision's RandAugment, on the image at its final size. The published recipe (AdamW, one cycle, EMA 0.9997) is
    asked for by train.KEY.

    Cost: one forward at inference; a training step has two views in one forward.

    Source: Xie et al., NeurIPS 2022 ("Label-Aware Global Consistency"), first stage; released code (no licence stated:
    read for facts).
    """

    level = "B"
    tracks = ("full",)  # cached features have no other view
    batch_global = True
    views = (View("weak"), View("strong", augment=STRONG))
    hyperparameters = {
        "threshold": Hyper(0.6, "probability from which a label is trusted", low=0.5, high=1.0),
        "weight": Hyper(1.0, "of the consistency", low=0.0, high=1e6, search=("log", 0.1, 10.0)),
    }

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        both = network(torch.cat([batch.views["weak"], batch.views["strong"]])).logits
        weak, strong = (step.gather(logits) for logits in both.chunk(2))
        observed = step.whole().state
        consistency = plc(weak, observed, strong=strong, threshold=self.hyper["threshold"])
        return {"labels": an(weak, observed), "consistency": self.hyper["weight"] * consistency}
