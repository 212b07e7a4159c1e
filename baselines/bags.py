"""An image as a bag of proposals whose best instance decides for each class: MIML-FCN, and with privileged boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from mlbench.annotation import State
from mlbench.errors import UsageError, unknown
from mlbench.methods import Batch, Hyper, Method, Phase, Step, Task
from mlbench.proposals import Regions, split_proposals
from mlbench.runner.side import PROPOSAL_HYPERPARAMETERS

from .context_regions import best_of_regions
from .distillation_losses import label_loss
from .losses import REDUCTIONS, bce
from .wsddn import POOLING, hidden_layers, in_pieces, pool_regions


def privileged_loss(
    logits: Tensor,
    observed: Tensor,
    slack: Tensor,
    privileged: Tensor,
    *,
    share: float = 0.5,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy l of a bag's scores, and its distance from what a privileged bag foretold: ``l + share |l - s|``.

    Gradients go to both streams: s learns to predict l, and the classifier learns more (a factor 1 + `share`) where its
    loss is above the prediction than where it is below (1 - `share`). With `share` up to 1 the loss is convex in
    logits and predictions together; with 1 it is the objective of an SVM+ with slack s, ``s + 2 max(l - s, 0)``.

    Parameters
    ----------
    logits : float [B, C], the bags' scores. observed : int8 [B, C] of `State` codes; unknown labels count as negative.
    slack : float [B, C], the loss that the second stream predicts. privileged : bool [B], which bags have a privileged
        one; the loss of the others is l.
    share : from 0 (no second stream) to 1.
    reduction : "mean" over the B bags of sums over classes, "sum", or "none" for the entries [B, C].

    Raises
    ------
    UsageError : shapes that do not fit, an unknown reduction, `share` not in [0, 1].

    Source: Yang et al., CVPR 2017 (MIML-FCN+): a second stream that predicts the first one's loss, by a loss that is
    convex and fit for SGD. The formula is ours (unverified).
    """
    entries = bce(logits, observed, reduction="none")
    if slack.shape != logits.shape or privileged.shape != logits.shape[:1]:
        raise UsageError(
            f"privileged loss: logits {list(logits.shape)}, slack {list(slack.shape)}, privileged "
            f"{list(privileged.shape)}: expected [B, C] twice and [B]"
        )
    if not 0 <= share <= 1:
        raise UsageError(f"privileged loss: share = {share}: expected 0 to 1")
    apart = (entries - slack).abs().masked_fill(~privileged[:, None] | (observed == State.UNSPECIFIED), 0.0)
    entries = entries + share * apart
    if reduction == "none":
        return entries
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    return entries.sum() / len(entries) if reduction == "mean" else entries.sum()


class Stream(nn.Module):
    """Scores of bags: layers that all instances share (convolutions of 1x1 over the bag), and the best of each class.

    Parameters
    ----------
    channels : of the maps. classes : C. cells, hidden, dropout, pooling : as of `mlbench.baselines.wsddn.Detector`.
    """

    def __init__(self, channels: int, classes: int, cells: int, hidden: int, dropout: float, pooling: str) -> None:
        super().__init__()
        self.cells, self.pooling = cells, pooling
        width = channels * cells**2
        self.hidden = hidden_layers(width, hidden, dropout)
        self.score = nn.Linear(hidden or width, classes)

    def instances(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Scores [B, R, C] of boxes [B, R, 4] in maps [B, D, h, w]."""
        return self.score(self.hidden(pool_regions(features, boxes, self.cells, self.pooling).flatten(2))).float()

    def forward(self, features: Tensor, regions: Regions) -> Tensor:
        """Scores [B, C] of the bags; 0 of a bag without instance."""
        scores = torch.cat([self.instances(*piece) for piece in in_pieces(features, regions.boxes)])
        return best_of_regions(scores, regions.valid)


class BagClassifier(nn.Module):
    """A backbone, and the stream that classifies."""

    def __init__(self, backbone: nn.Module, head: Stream) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor, regions: Regions) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W] and their proposals."""
        return self.head(self.backbone(images), regions)


class PrivilegedClassifier(BagClassifier):
    """A second stream beside the classifier, which sees privileged bags."""

    def __init__(self, backbone: nn.Module, head: Stream, slack: Stream) -> None:
        super().__init__(backbone, head)
        self.slack = slack

    def both(self, images: Tensor, regions: Regions, privileged: Regions) -> tuple[Tensor, Tensor]:
        """Logits [B, C], and the loss [B, C] that the privileged bags foretell; these do not train the backbone."""
        features = self.backbone(images)
        return self.head(features, regions), self.slack(features.detach(), privileged)


def privileged_bags(boxes: Sequence[Tensor]) -> Regions:
    """Ground-truth boxes float [m, 5] of each image (class, x1, y1, x2, y2) as bags; which class a box has is left out.

    Bags have at least one place, so that there is something to pool where no image has a box.
    """
    padded = pad_sequence([functional.pad(each[:, 1:], (0, 1)) for each in boxes], batch_first=True)
    if not padded.shape[1]:
        padded = padded.new_zeros(len(boxes), 1, 5)
    return split_proposals(padded)


class InstanceMax(Method):
    """Each proposal is scored for each class, the best one counts (MIML-FCN).

    Faithful: proposals as instances, layers shared by all of them, the highest score of each class as the image's.

    Substituted: regions pooled from the run's backbone, proposals of selective search. Not known to us, and so ours:
    the bag's loss (cross-entropy, summed over classes), number and width of the shared layers, how many proposals. Left
    out: relations between instances.

    Cost: an image takes one pass of the backbone, and the shared layers once a proposal; the proposals come on top.

    Source: Yang et al., CVPR 2017 (MIML-FCN+), first stream.
    """

    needs_head = "none"
    level = "B"
    inputs: ClassVar[tuple[str, ...]] = ("proposals",)
    stochastic = True  # dropout
    hyperparameters = {
        **PROPOSAL_HYPERPARAMETERS,
        "cells": Hyper(3, "cells of a pooled region along a side (ours)", low=1, high=14),
        "hidden": Hyper(256, "width of the two layers that all instances share, 0: none (ours)", low=0, high=8192),
        "dropout": Hyper(0.5, "dropout after each of them (ours)", low=0.0, high=0.9),
        "pooling": Hyper("align", "align (interpolated; ours) or max", choices=POOLING),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.refuse_boostlu()

    def stream(self, backbone: nn.Module) -> Stream:
        settings = {name: self.hyper[name] for name in ("cells", "hidden", "dropout", "pooling")}
        return Stream(backbone.out_channels, self.task.num_classes, **settings)  # type: ignore[arg-type]

    def network(self, phase: Phase) -> BagClassifier:
        backbone = self.task.backbone()
        return BagClassifier(backbone, self.stream(backbone))

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        return label_loss(network(batch.inputs, split_proposals(batch.side["proposals"])), batch.labels.state)

    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        return network(batch.inputs, split_proposals(batch.side["proposals"]))


class PrivilegedBoxes(InstanceMax):
    """MIML-FCN and a second stream that is shown ground-truth boxes in training (MIML-FCN-BB; an approximation).

    Uses box annotations. An image without boxes has the plain loss.

    Faithful: the second stream, its bag of boxes, that it predicts the first one's loss, one convex loss for both;
    boxes are looked at in training alone.

    Substituted: what `miml_fcn` tells; the formula of that loss and its weight are ours (`privileged_loss`,
    unverified); boxes enter by the pooled features of the run's backbone, without their class, and train it through the
    first stream only.

    Cost: an image takes what `miml_fcn` takes; the second stream is for training.

    Source: Yang et al., CVPR 2017 (MIML-FCN+), bounding boxes as privileged information.
    """

    level = "C"
    supervision = ("observed", "boxes")
    inputs = ("proposals", "boxes")
    hyperparameters = {
        **InstanceMax.hyperparameters,
        "share": Hyper(0.5, "weight of the distance from the predicted loss (ours)", low=0.0, high=1.0),
    }

    def network(self, phase: Phase) -> PrivilegedClassifier:
        backbone = self.task.backbone()
        return PrivilegedClassifier(backbone, self.stream(backbone), self.stream(backbone))

    def training_step(self, network: Any, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        privileged = privileged_bags(batch.side["boxes"])
        logits, slack = network.both(batch.inputs, split_proposals(batch.side["proposals"]), privileged)
        seen = privileged.valid.any(dim=1)
        return privileged_loss(logits, batch.labels.state, slack, seen, share=self.hyper["share"])
