"""A person's whole body, parts, parts that look alike and the scene: deep hierarchical contexts (DHC)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Phase, Step

from .context_regions import PersonRegion, RegionClassifier
from .distillation_losses import label_loss
from .wsddn import in_pieces

#: Windows that overlap a part by less (IoU) may be its neighbours; those that overlap more see the part itself.
_APART = 0.25


def pyramid_windows(levels: int) -> Tensor:
    """Windows that overlap their neighbours by half: 2 x 2, then 3 x 3 and so on for `levels` levels, float [R, 4].

    Boxes are x1, y1, x2, y2 in shares of width and height.
    """
    boxes = []
    for count in range(2, levels + 2):
        step = 1 / (count + 1)
        boxes += [(x * step, y * step, (x + 2) * step, (y + 2) * step) for y in range(count) for x in range(count)]
    return torch.tensor(boxes)


def chosen_parts(regions: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """For each of P parts the region with its highest score: places int64 [B, P] and features [B, P, D].

    Features are multiplied by the sigmoid of the score, through which the choice is learned.

    Parameters
    ----------
    regions : float [B, R, D], features. scores : float [B, R, P].
    """
    best, index = scores.max(dim=1)
    return index, regions.take_along_dim(index[..., None], dim=1) * torch.sigmoid(best)[..., None]


def neighbours(regions: Tensor, index: Tensor, apart: Tensor, count: int) -> Tensor:
    """Mean features [B, P, D] of the `count` regions most like each chosen one (cosine) of those apart from it.

    Where fewer are apart, it is the mean of those; 0 where none is.

    Parameters
    ----------
    regions : float [B, R, D], features. index : int64 [B, P], the chosen regions. apart : bool [R, R].

    Raises
    ------
    UsageError : a `count` below 1.
    """
    if count < 1:
        raise UsageError(f"neighbours: count = {count}: expected at least 1")
    alike = functional.normalize(regions, dim=2)
    similarity = alike.take_along_dim(index[..., None], dim=1) @ alike.transpose(1, 2)
    nearest = similarity.masked_fill(~apart[index], -torch.inf).topk(min(count, regions.shape[1]), dim=2)
    weights = nearest.values.isfinite().to(regions.dtype)
    picked = regions[:, None].take_along_dim(nearest.indices[..., None], dim=2)
    return (picked * weights[..., None]).sum(dim=2) / weights.sum(dim=2, keepdim=True).clamp(min=1)


class ContextHierarchy(RegionClassifier):
    """Logits [B, C] of images [B, 3, H, W]: the sum of what body, parts, neighbours of parts and scene say.

    Parameters
    ----------
    levels, parts, count, scenes : levels of the pyramid of windows, parts chosen from it, neighbours of each part, and
        latent scenes. backbone, classes and further keywords : as of `RegionClassifier`, whose person is the body.
    """

    def __init__(
        self, backbone: nn.Module, classes: int, levels: int, parts: int, count: int, scenes: int, **layers: int
    ) -> None:
        super().__init__(backbone, classes, with_context=False, **layers)  # type: ignore[arg-type]
        width = self.person.in_features
        self.count = count
        self.selector = nn.Linear(width, parts)
        self.parts = nn.Linear(parts * width, classes)
        self.neighbours = nn.Linear(parts * width, classes)
        self.scene = nn.Linear(backbone.out_channels, scenes)  # type: ignore[arg-type]
        self.log_odds = nn.Parameter(torch.zeros(scenes, classes))
        windows = pyramid_windows(levels)
        whole = windows.new_tensor([[0.0, 0.0, 1.0, 1.0]])
        self.boxes: Tensor
        self.apart: Tensor
        self.register_buffer("boxes", torch.cat([whole, windows]), persistent=False)
        self.register_buffer("apart", box_iou(windows, windows) < _APART, persistent=False)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        features = self.backbone(images)
        boxes = self.boxes.expand(len(images), -1, -1)
        return torch.cat([self.contexts(*piece) for piece in in_pieces(features, boxes)])

    def contexts(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Logits [B, C] of maps [B, D, h, w]; of the boxes [B, 1 + R, 4] the first is the body."""
        found = self.regions(features, boxes)
        body, windows = found[:, 0], found[:, 1:]
        index, parts = chosen_parts(windows, self.selector(windows))
        near = neighbours(windows, index, self.apart, self.count)
        scene = self.scene(features.mean(dim=(2, 3))).softmax(dim=1)
        seen = self.person(body) + self.parts(parts.flatten(1)) + self.neighbours(near.flatten(1))
        return (seen + scene @ self.log_odds).to(self.log_odds.dtype)


class HierarchicalContexts(Method):
    """Body, parts, look-alikes of the parts, and the scene (DHC; an approximation).

    Faithful: one network for all regions; the sum of the body's score, of the scores of parts that the network chooses,
    and of their nearest neighbours in a pyramid of regions, averaged; a re-weighting by the scene, here an addition of
    log-odds. Substituted:

    * windows of a pyramid for poselet detections, chosen by a linear layer whose score multiplies the features;
    * other windows of the same crop for parts of other people in the photograph, which the crop does not show;
    * latent scenes, each with odds for every attribute, for a classifier of labelled scenes: a data set here has no
      scene labels. Their number is WIDER's of scene classes;
    * the crop, warped to a square, for the photograph; layers and cross-entropy as of `rcnn`, with its defaults.

    Parts, neighbours, levels and schedule are ours: the published ones were not at hand.

    Source: Li et al., 2016 (DHC), as described by others (unverified).
    """

    needs_head = "none"
    level = "C"
    tracks = ("full",)
    stochastic = True  # dropout
    hyperparameters = {
        **PersonRegion.hyperparameters,
        "levels": Hyper(3, "levels of the pyramid: 2 x 2 windows, 3 x 3, and so on", low=1, high=8),
        "parts": Hyper(4, "parts chosen from it", low=1, high=64),
        "neighbours": Hyper(2, "windows most like a part", low=1, high=64),
        "scenes": Hyper(30, "latent scenes", low=1, high=1000),
    }

    def network(self, phase: Phase) -> nn.Module:
        self.refuse_boostlu()
        layers = {name: self.hyper[name] for name in PersonRegion.hyperparameters}
        levels, parts, count, scenes = (self.hyper[name] for name in ("levels", "parts", "neighbours", "scenes"))
        return ContextHierarchy(self.task.backbone(), self.task.num_classes, levels, parts, count, scenes, **layers)

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        return label_loss(network(batch.inputs), batch.labels.state)

    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        return network(batch.inputs)
