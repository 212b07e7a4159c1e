"""WSDDN: a detector learned from image labels alone, teacher of the distillation methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms, roi_align, roi_pool

from mlbench.annotation import State
from mlbench.errors import UsageError, unknown
from mlbench.methods import Batch, Hyper, Method, Phase, Step
from mlbench.proposals import Regions, split_proposals
from mlbench.runner.side import PROPOSAL_HYPERPARAMETERS

from .losses import REDUCTIONS, assumed_targets, check_inputs

#: Sides of the published five scales (480 to 832 px) by the side of 672.
SCALES = (480 / 672, 576 / 672, 1.0, 736 / 672, 832 / 672)

POOLING = ("align", "max")

#: Regions that pass the layers after pooling together in inference: 7x7 cells of 512 channels are 100 KB a region.
_AT_ONCE = 4096


def wsddn_scores(
    class_logits: Tensor,
    region_logits: Tensor,
    valid: Tensor | None = None,
    *,
    class_temperature: float = 1.0,
    region_temperature: float = 1.0,
) -> Tensor:
    """Score of each region for each class: softmax over classes of one stream times softmax over regions of the other.

    Parameters
    ----------
    class_logits, region_logits : float [B, R, C]. valid : bool [B, R], the regions there are (None: all); the others
        get 0 and take no part in the softmax.
    class_temperature, region_temperature : divide the logits; below 1 they sharpen.

    Returns
    -------
    float [B, R, C]; the sum over regions is the image's score, in (0, 1).

    Raises
    ------
    UsageError : shapes that do not fit, or a temperature that is not above 0.

    Source: Bilen and Vedaldi, CVPR 2016 (WSDDN); temperatures as in Liu et al., ACM MM 2018 (MLIC-KD-WSD).
    """
    if class_logits.ndim != 3 or class_logits.shape != region_logits.shape:
        raise UsageError(
            f"wsddn: logits {list(class_logits.shape)} and {list(region_logits.shape)}: expected both [B, R, C]"
        )
    if not min(class_temperature, region_temperature) > 0:
        raise UsageError(f"wsddn: temperatures {class_temperature} and {region_temperature}: expected above 0")
    regions = region_logits / region_temperature
    if valid is not None:
        if valid.shape != class_logits.shape[:2]:
            raise UsageError(f"wsddn: valid {list(valid.shape)}: expected {list(class_logits.shape[:2])}")
        regions = regions.masked_fill(~valid[..., None], -torch.inf)
    return (class_logits / class_temperature).softmax(dim=2) * regions.softmax(dim=1)


def wsddn_loss(probabilities: Tensor, observed: Tensor, *, clamp: float = 1e-4, reduction: str = "mean") -> Tensor:
    """Cross-entropy of image scores, summed over classes; unknown labels count as negative, unspecified not at all.

    Parameters
    ----------
    probabilities : float [B, C], image scores. observed : int8 [B, C] of `State` codes.
    clamp : probabilities are kept from `clamp` to 1 - `clamp`; beyond, there is no gradient.
    reduction : "mean" over the B images as published, "sum", or "none" for the entries [B, C].

    Raises
    ------
    UsageError : shapes that do not fit, an unknown reduction, `clamp` not in (0, 0.5).

    Source: released code of Liu et al., ACM MM 2018, cross_entropy_loss_layer.cpp lines 44-53.
    """
    check_inputs(probabilities, observed)
    if not 0 < clamp < 0.5:
        raise UsageError(f"wsddn_loss: clamp = {clamp}: expected above 0 and below 0.5")
    targets = assumed_targets(observed, probabilities.dtype)
    p = probabilities.clamp(clamp, 1 - clamp)
    entries = -(targets * p.log() + (1 - targets) * (1 - p).log())
    entries = entries.masked_fill(observed == State.UNSPECIFIED, 0.0)
    if reduction == "none":
        return entries
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    return entries.sum() / len(entries) if reduction == "mean" else entries.sum()


def pool_regions(features: Tensor, boxes: Tensor, cells: int, pooling: str = "align") -> Tensor:
    """Features [B, D, h, w] in boxes [B, R, 4] (shares of width and height), pooled: float [B, R, D, cells, cells].

    pooling : "align" interpolates (`torchvision.ops.roi_align`, 2 x 2 points a cell); "max" is the max-pool of the
        published network (`roi_pool`), whose rounded cells make gradients jump between nearly equal maxima.
    """
    if pooling not in POOLING:
        raise unknown("pooling", pooling, POOLING)
    height, width = features.shape[-2:]
    scaled = boxes * boxes.new_tensor([width, height, width, height])
    # Half precision would round boxes to quarters of a cell on a map of 42, and roi_pool has no such form on a CPU.
    whole = features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
    lists = list(scaled.to(whole.dtype))
    if pooling == "align":
        pooled = roi_align(whole, lists, cells, sampling_ratio=2, aligned=True)
    else:
        pooled = roi_pool(whole, lists, cells)
    return pooled.to(features.dtype).unflatten(0, boxes.shape[:2])


def in_pieces(features: Tensor, *by_region: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Maps [B, D, h, w] and tensors [B, R, ...] of regions, in training whole, in inference some images at a time."""
    images = len(features) if torch.is_grad_enabled() else max(1, _AT_ONCE // by_region[0].shape[1])
    return zip(*(each.split(images) for each in (features, *by_region)), strict=True)


class Detector(nn.Module):
    """Two streams over the regions of an image.

    Parameters
    ----------
    backbone : gives maps [B, D, h, w]. classes : C.
    cells : cells of a pooled region along a side. hidden : width of two fully connected layers; 0: none.
    dropout : after each of them. pooling : see `pool_regions`.
    score_scale, score_bias : pooled features are multiplied by ``score_scale * score + score_bias`` of their proposal.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        cells: int = 7,
        hidden: int = 4096,
        dropout: float = 0.5,
        pooling: str = "align",
        score_scale: float = 0.0,
        score_bias: float = 1.0,
    ) -> None:
        super().__init__()
        self.cells, self.pooling, self.score_scale, self.score_bias = cells, pooling, score_scale, score_bias
        self.backbone = backbone
        width: int = backbone.out_channels * cells**2  # type: ignore[operator,assignment]
        self.hidden = hidden_layers(width, hidden, dropout)
        self.classes = nn.Linear(hidden or width, classes)
        self.regions = nn.Linear(hidden or width, classes)

    def weighted(self, features: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
        """Pooled features [B, R, D, cells, cells] times the weights of their proposals' scores [B, R]."""
        weights = self.score_scale * scores + self.score_bias
        return pool_regions(features, boxes, self.cells, self.pooling) * weights[..., None, None, None]

    def streams(self, features: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Logits of both streams, each [B, R, C], of maps [B, D, h, w]."""
        pieces = in_pieces(features, regions.boxes, regions.scores)
        hidden = torch.cat([self.hidden(self.weighted(*piece).flatten(2)) for piece in pieces])
        return self.classes(hidden), self.regions(hidden)

    def forward(self, images: Tensor, regions: Regions, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Region scores [B, R, C] and feature maps of images [B, 3, H, W]; `temperature` is that of both streams."""
        features = self.backbone(images)
        logits = self.streams(features, regions)
        # Half-precision scores tie, and a softmax over hundreds of regions underflows.
        first, second = (each.float() for each in logits)
        scores = wsddn_scores(
            first, second, regions.valid, class_temperature=temperature, region_temperature=temperature
        )
        return scores, features


def hidden_layers(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Two fully connected layers with ReLU and dropout (fc6, fc7); nothing where `hidden` is 0."""
    if not hidden:
        return nn.Sequential()
    layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout))


def make_detector(backbone: nn.Module, classes: int, hyper: Mapping[str, Any]) -> Detector:
    """The detector that the hyperparameters of `wsddn` ask for."""
    names = ("cells", "hidden", "dropout", "pooling", "score_scale", "score_bias")
    return Detector(backbone, classes, **{name: hyper[name] for name in names})


def detect(scores: Tensor, regions: Regions, *, iou: float = 0.4, floor: float = 0.0) -> list[Tensor]:
    """Boxes of each class that remain after non-maximum suppression within the class.

    Parameters
    ----------
    scores : float [B, R, C]. iou : a box that overlaps a better one of its class by more is left out.
    floor : scores must be above it. No number of boxes is set: with one over all classes of an image, frequent classes
        would leave rare ones no box, which neither AP nor CorLoc knows.

    Returns
    -------
    For each image float [m, 6]: class, score, x1, y1, x2, y2 (shares of width and height), best first.

    Source: released code of Bilen and Vedaldi, CVPR 2016, wsddn_test.m lines 81-82 (0.4).
    """
    found = []
    for image, boxes, valid in zip(scores, regions.boxes, regions.valid, strict=True):
        rows, classes = torch.nonzero((image > floor) & valid[:, None], as_tuple=True)
        values = image[rows, classes]
        kept = batched_nms(boxes[rows].to(values.dtype), values, classes, iou)
        found.append(torch.cat([classes[kept, None], values[kept, None], boxes[rows[kept]]], dim=1))
    return found


class WeakDetector(Method):
    """Weakly supervised detector (WSDDN), the teacher of the distillation methods.

    Faithful: region pooling, two fully connected layers, softmax over classes times softmax over regions, cross-entropy
    of clamped sums; on the paper's data sets five training scales, score weighting and max-pooling, options elsewhere
    (by default pooling interpolates). Substituted: proposals of selective search (published: edge boxes; import them,
    or `python -m mlbench.proposals edge-boxes`), the two layers' start is PyTorch's. On residual networks regions are
    pooled from the last stage (stride 32).

    Source: Bilen and Vedaldi, CVPR 2016, as trained by Liu et al., ACM MM 2018 (MLIC-KD-WSD).
    """

    needs_head = "none"
    level = "A"
    tracks = ("full",)
    inputs = ("proposals",)
    scores = "probability"
    stochastic = True  # dropout
    hyperparameters = {
        **PROPOSAL_HYPERPARAMETERS,
        "cells": Hyper(3, "cells of a pooled region along a side (published: 7)", low=1, high=14),
        "hidden": Hyper(256, "width of the two fully connected layers, 0: none (published: 4096)", low=0, high=8192),
        "dropout": Hyper(0.5, "dropout after each of them", low=0.0, high=0.9),
        "pooling": Hyper("align", "align (interpolated) or max (published)", choices=POOLING),
        "score_scale": Hyper(0.0, "a of the weight a * score + b of a region (WSDDN 10, MLIC-KD-WSD 1)", low=0.0),
        "score_bias": Hyper(1.0, "b of the weight a * score + b of a region (WSDDN 1, MLIC-KD-WSD 0)", low=0.0),
        "scales": Hyper(False, "one of five image sizes (5/7 to 26/21 of the run's) for each batch"),
        "clamp": Hyper(1e-4, "image scores are kept that far from 0 and 1 in the loss", low=1e-12, high=0.1),
    }

    def network(self, phase: Phase) -> nn.Module:
        return make_detector(self.task.backbone(), self.task.num_classes, self.hyper)

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        assert batch.labels is not None
        images = self.rescaled(batch.inputs, step) if self.hyper["scales"] else batch.inputs
        scores, _ = network(images, split_proposals(batch.side["proposals"]))
        return wsddn_loss(scores.sum(dim=1), batch.labels.state, clamp=self.hyper["clamp"])

    def rescaled(self, images: Tensor, step: Step) -> Tensor:
        """Images [B, 3, s, s] at one of `SCALES`, drawn for the whole batch and the same on every process."""
        draw = self.task.generator(f"scale {step.phase} {step.step}")
        factor = SCALES[int(torch.randint(len(SCALES), (), generator=draw))]
        side = round(factor * images.shape[-1])
        return functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)

    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        scores, _ = network(batch.inputs, split_proposals(batch.side["proposals"]))
        return scores.sum(dim=1).clamp(0, 1)
