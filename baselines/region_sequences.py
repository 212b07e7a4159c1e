"""Labels written region by region, the best of all regions and words counting: MCG-CNN-LSTM and RLSD.

An LSTM starts from a region's code and writes a few words, each a softmax over the classes and the end. A class's score
is the highest log-odds it has at any word of any region, so that half is the threshold it was trained for. Which label
belongs to which region nobody says: the LSTM reads its own words in training as in inference, and learns from the
image's labels through that maximum. How a region's sequence is trained was not known to us; this is ours.

Both systems need private parts: regions of MCG, or a localisation network trained on Visual Genome. Public proposals
stand in for them, so both are approximations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlbench.methods import Batch, Hyper, Method, Phase, Step, Task
from mlbench.proposals import Regions, split_proposals
from mlbench.runner.side import PROPOSAL_HYPERPARAMETERS

from .context_regions import best_of_regions
from .decoders import StateDecoder
from .distillation_losses import keep_regions, label_loss
from .wsddn import POOLING, hidden_layers, in_pieces, pool_regions


def softmax_log_odds(logits: Tensor) -> Tensor:
    """``log(p / (1 - p))`` of softmax probabilities, exact at any logit: ``z_c - log sum over others of exp(z_k)``.

    Parameters
    ----------
    logits : float [..., K], K from 2; the result has the same shape.
    """
    highest = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, logits.argmax(dim=-1, keepdim=True), True)
    total = logits.logsumexp(dim=-1, keepdim=True)
    # 1 - p is taken from p where p is at most half, and from the others' sum where it is more.
    small = (logits - total).masked_fill(highest, -torch.inf).exp()
    rest = logits.masked_fill(highest, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return logits - torch.where(highest, rest, total + torch.log1p(-small))


def region_label_logits(logits: Tensor, valid: Tensor) -> Tensor:
    """A class's highest log-odds over all words of all regions: float [B, C].

    Parameters
    ----------
    logits : float [B, R, T, C + 1] of T words in each of R regions, the last column for the end.
    valid : bool [B, R], which regions there are; an image without any has 0.

    Source: Zhang et al. (RLSD), the maximum over regions; the maximum over words is ours.
    """
    return best_of_regions(softmax_log_odds(logits)[..., :-1].amax(dim=2), valid)


class RegionCoder(nn.Module):
    """Region codes, and the LSTM that writes labels from each.

    Parameters
    ----------
    channels : of the maps. decoder : starts from vectors as wide as a code.
    cells, hidden, dropout, pooling : as of `mlbench.baselines.wsddn.Detector`; without hidden layers a code is the
        pooled region itself.
    """

    def __init__(
        self, channels: int, decoder: StateDecoder, cells: int, hidden: int, dropout: float, pooling: str
    ) -> None:
        super().__init__()
        self.cells, self.pooling = cells, pooling
        self.hidden = hidden_layers(channels * cells**2, hidden, dropout)
        self.decoder = decoder

    def words(self, features: Tensor, boxes: Tensor, length: int) -> Tensor:
        """Logits [B, R, length, C + 1] of boxes [B, R, 4] in maps [B, D, h, w]."""
        codes = self.hidden(pool_regions(features, boxes, self.cells, self.pooling).flatten(2))
        found = self.decoder.run_free(self.decoder.start(codes.flatten(0, 1)), length)
        return found.float().unflatten(0, boxes.shape[:2])


class RegionWriter(nn.Module):
    """A backbone, and the `RegionCoder` that all regions share."""

    def __init__(self, backbone: nn.Module, head: RegionCoder, length: int) -> None:
        super().__init__()
        self.backbone, self.head, self.length = backbone, head, length

    def forward(self, images: Tensor, regions: Regions) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W] and their regions."""
        pieces = in_pieces(self.backbone(images), regions.boxes, regions.valid)
        found = [region_label_logits(self.head.words(maps, boxes, self.length), valid) for maps, boxes, valid in pieces]
        return torch.cat(found)


_WRITING = {
    **PROPOSAL_HYPERPARAMETERS,
    "embedding": Hyper(64, "numbers a word is embedded in (ours)", low=1, high=4096),
    "units": Hyper(256, "units of the LSTM (ours)", low=1, high=8192),
    "length": Hyper(3, "words written of a region (ours)", low=1, high=100),
    "pooling": Hyper("align", "align (interpolated; ours) or max", choices=POOLING),
}


class RegionSequence(Method):
    """An LSTM writes labels from a fixed CNN's features of each proposal (MCG-CNN-LSTM; an approximation).

    Faithful: a sequence for each proposal, CNN features of it, the maximum over proposals.

    Substituted: selective search for MCG; regions pooled from the maps of the run's backbone for a pass of the CNN over
    each crop; the training of a region's sequence, the number of its words and all sizes are ours (see the module).

    Scores: the highest log-odds a class has at any word of any proposal (see the module), by which mAP ranks.

    Cost: an image takes one pass of the backbone, and `length` steps of the LSTM a proposal; the proposals come on top.

    Source: Zhang et al., Multi-label image classification with regional latent semantic dependencies, the baseline.
    """

    needs_head = "none"
    level = "C"
    inputs = ("proposals",)
    hyperparameters = {
        **_WRITING,
        "frozen_cnn": Hyper(True, "leave the backbone as it starts, as published; false: train it too"),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.refuse_boostlu()

    def phases(self) -> Sequence[Phase]:
        return [Phase(roles=("head",) if self.hyper["frozen_cnn"] else None)]

    def coding(self) -> dict[str, Any]:
        """How a region becomes a code: arguments of `RegionCoder`."""
        return {"cells": 1, "hidden": 0, "dropout": 0.0, "pooling": self.hyper["pooling"]}

    def network(self, phase: Phase) -> RegionWriter:
        backbone: Any = self.task.backbone()
        coding, channels = self.coding(), backbone.out_channels
        width = coding["hidden"] or channels * coding["cells"] ** 2
        decoder = StateDecoder(width, self.task.num_classes, self.hyper["embedding"], self.hyper["units"])
        return RegionWriter(backbone, RegionCoder(channels, decoder, **coding), self.hyper["length"])

    def regions(self, batch: Batch) -> Regions:
        """The regions of each image that labels are written of."""
        return split_proposals(batch.side["proposals"])

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        return label_loss(network(batch.inputs, self.regions(batch)), batch.labels.state)

    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        return network(batch.inputs, self.regions(batch))


class RegionalDependencies(RegionSequence):
    """Regions kept by suppression, a code of each, an LSTM that writes labels from the code (RLSD; an approximation).

    Faithful: region codes of a localisation network (interpolated pooling, two layers), a sequence for each region, the
    maximum over regions, all trained together.

    Substituted: proposals of selective search and their own scores for the boxes and scores of a layer trained on
    regions of Visual Genome; the run's backbone for VGG-16; non-maximum suppression and the number of regions kept are
    ours, as is what `mcg_cnn_lstm` tells of the sequence.

    Scores: the highest log-odds a class has at any word of any region (see the module), by which mAP ranks.

    Cost: an image takes one pass of the backbone, and the two layers and `length` steps of the LSTM for each region
    kept; the proposals come on top.

    Source: Zhang et al., Multi-label image classification with regional latent semantic dependencies (RLSD).
    """

    stochastic = True  # dropout
    hyperparameters = {
        **_WRITING,
        "regions": Hyper(32, "regions kept of an image, at most (ours)", low=1, high=10000),
        "iou": Hyper(0.7, "a region that overlaps a better one by more is left out (ours)", low=0.0, high=1.0),
        "cells": Hyper(3, "cells of a pooled region along a side (ours)", low=1, high=14),
        "hidden": Hyper(256, "numbers of a region's code, 0: the pooled region (ours)", low=0, high=8192),
        "dropout": Hyper(0.5, "dropout after each of the two layers (ours)", low=0.0, high=0.9),
    }

    def phases(self) -> Sequence[Phase]:
        return [Phase()]

    def coding(self) -> dict[str, Any]:
        return {name: self.hyper[name] for name in ("cells", "hidden", "dropout", "pooling")}

    def regions(self, batch: Batch) -> Regions:
        found = super().regions(batch)
        index, _, kept = keep_regions(
            found.scores[..., None], found, count=self.hyper["regions"], iou=self.hyper["iou"]
        )
        boxes = found.boxes.take_along_dim(index[..., None], dim=1)
        return Regions(boxes, found.scores.take_along_dim(index, dim=1), kept)
