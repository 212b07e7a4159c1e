"""Attention consistency (VAC): heat maps of two views of an image are to agree. With its controls.

Heat maps are class activation maps [N, L, h, w] as the trunk gives them under the classifier's weights: no bias, no
ReLU, no scaling. The weights are data there (`heat_maps`), so consistency trains the trunk alone; both maps of a pair
have gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlbench.annotation import State
from mlbench.annotation.sparse import count_states
from mlbench.errors import UsageError, unknown
from mlbench.inputs.placement import overlaps
from mlbench.inputs.views import QUARTER_TURNS, Between, View, whole_shifts
from mlbench.methods import Batch, Hyper, Method, Step
from mlbench.methods.labels import Labels
from mlbench.models.heads import Head, Output

from .losses import assumed_targets, bce_entries, check_inputs, reduce

NORMS = ("mse", "l2")


def weighted_bce(logits: Tensor, observed: Tensor, positive_share: Tensor, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy with the rare side of each label weighing more: ``e^(1-p)`` if positive, ``e^p`` if not.

    Unknown labels count as negative.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    positive_share : float [C], p: the part of the training samples that have the label, from 0 to 1.
    reduction : "mean" as published: the sum over labels, its mean over the B samples. "sum", or "none" for the
        entries [B, C].

    Raises
    ------
    UsageError : shapes that do not fit, an unknown reduction.

    Source: Li et al., ACPR 2015, as in released code of Guo et al., CVPR 2019 (VAC), utils.py lines 26-45; there with
    plain exp and log, which overflow.
    """
    check_inputs(logits, observed)
    if positive_share.shape != logits.shape[1:]:
        raise UsageError(f"weighted_bce: positive_share {list(positive_share.shape)}: expected [{logits.shape[1]}]")
    share = positive_share.to(logits)
    weights = torch.exp(torch.where(observed == State.POSITIVE, 1 - share, share))
    entries = weights * bce_entries(logits, assumed_targets(observed, logits.dtype))
    entries = entries.masked_fill(observed == State.UNSPECIFIED, 0.0)
    return entries.sum() / len(logits) if reduction == "mean" else reduce(entries, reduction)


def attention_consistency(maps: Tensor, maps_other: Tensor, mask: Tensor | None = None, *, norm: str = "mse") -> Tensor:
    """How far two sets of heat maps, brought into one frame, are from each other.

    Parameters
    ----------
    maps, maps_other : float [N, L, h, w]; both get gradients.
    mask : bool [N, 1, h, w], the cells to be compared (None: all).
    norm : "mse", the mean squared difference, as in the released code; "l2", the norm of each map's difference over the
        number of its cells, ``1/(N L h w) sum_ij ||.||_2``, as in the paper. Either is taken over the cells compared
        in an image, then as a mean over images; an image without such cells adds 0.

    Raises
    ------
    UsageError : shapes that do not fit, an unknown norm.

    Source: Guo et al., CVPR 2019 (VAC); released code, main.py lines 207-232.
    """
    if maps.ndim != 4 or maps.shape != maps_other.shape:
        raise UsageError(
            f"attention consistency: maps {list(maps.shape)} and {list(maps_other.shape)}: expected both [N, L, h, w]"
        )
    return _distance(maps, maps_other, _checked_mask(mask, maps).to(maps.dtype), norm)


def _checked_mask(mask: Tensor | None, maps: Tensor) -> Tensor:
    """`mask`, or that of all cells, for maps [N, L, h, w]; UsageError if it is none."""
    if mask is None:
        return torch.ones_like(maps[:, :1], dtype=torch.bool)
    if mask.dtype != torch.bool or mask.shape != maps[:, :1].shape:
        raise UsageError(
            f"attention consistency: {mask.dtype} mask {list(mask.shape)}: expected bool {list(maps[:, :1].shape)}"
        )
    return mask


def _distance(maps: Tensor, maps_other: Tensor, cells: Tensor, norm: str) -> Tensor:
    """`attention_consistency` where each place counts as `cells` [N, 1, h, w] cells."""
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    difference = (maps - maps_other).masked_fill(cells == 0, 0.0)
    if norm == "mse":
        distance = (difference.square() * cells).sum(dim=(1, 2, 3))
    else:
        distance = torch.linalg.vector_norm(difference * cells.sqrt(), dim=(2, 3)).sum(dim=1)
    return (distance / (maps.shape[1] * cells.sum(dim=(1, 2, 3)).clamp(min=1))).mean()


def flip_consistency(maps: Tensor, flipped_maps: Tensor, *, norm: str = "mse") -> Tensor:
    """`attention_consistency` of maps [N, L, h, w] with those of the mirrored images, their columns reversed."""
    return attention_consistency(maps, flipped_maps.flip(-1), norm=norm)


def scale_consistency(
    maps: Tensor, maps_other: Tensor, mask: Tensor | None = None, mask_other: Tensor | None = None, *, norm: str = "mse"
) -> Tensor:
    """`attention_consistency` of maps [N, L, h, w] and [N, L, h', w'] of one image at two sizes.

    They are compared on the least common multiple of the two grids, each value repeated over its block; a cell counts
    where both masks (bool [N, 1, h, w] and [N, 1, h', w'], None: all) have it. UsageError as there.
    """
    if maps.ndim != 4 or maps_other.ndim != 4 or maps.shape[:2] != maps_other.shape[:2]:
        raise UsageError(
            f"scale consistency: maps {list(maps.shape)} and {list(maps_other.shape)}: expected [N, L, h, w] and "
            "[N, L, h', w']"
        )
    first, second, areas = overlaps(maps, maps_other)
    shown, shown_other, _ = overlaps(_checked_mask(mask, maps), _checked_mask(mask_other, maps_other))
    return _distance(first, second, (shown & shown_other) * areas.to(maps.dtype), norm)


def prediction_consistency(logits: Tensor, logits_other: Tensor) -> Tensor:
    """Mean squared difference of the probabilities [N, L] of two views of the same images; both get gradients.

    Ours: the contrast to `attention_consistency`. The source names the idea and gives no formula.
    """
    return functional.mse_loss(torch.sigmoid(logits), torch.sigmoid(logits_other))


def heat_maps(features: Tensor, head: Head) -> Tensor:
    """Heat maps [N, L, h, w] of feature maps [N, D, h, w]: the head's weights as data, without its bias."""
    return head.heat_maps(features)


def forward_views(network: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Output]:
    """Logits and features of each view [N, 3, H, W], by name; views of one size go through `network` together."""
    sizes: dict[torch.Size, list[str]] = {}
    for name, images in views.items():
        sizes.setdefault(images.shape, []).append(name)
    found: dict[str, Output] = {}
    for names in sizes.values():
        output = network(torch.cat([views[name] for name in names]))
        parts = map(Output, output.logits.chunk(len(names)), output.features.chunk(len(names)))
        found |= zip(names, parts, strict=True)
    return {name: found[name] for name in views}


PLAIN, FLIPPED = View("original"), View("flipped", flip=True)


def _weight(under: str) -> Hyper:
    return Hyper(1.0, f"weight of the consistency under {under}", low=0.0, high=1e6, search=("log", 0.1, 10.0))


SCALING = {"fewer_cells": Hyper(1, "cells along a side of the heat map that the second size has fewer", low=1, high=64)}
ROTATION = {"angle": Hyper(0.0, "largest angle in degrees, any up to it; 0: quarter turns", low=0.0, high=180.0)}
TRANSLATION = {
    "cells": Hyper(1, "farthest move down or up and right or left, in cells of the heat map", low=1, high=16),
    "whole": Hyper(True, "move by whole cells only"),
}
NORM = {"norm": Hyper("mse", "mse as in the released code, l2 as in the paper", choices=NORMS)}


class WeightedBCE(Method):
    """Cross-entropy weighted by label frequency, on single images: VAC's baseline (R50, R101).

    Faithful: weights, sum over labels, mean over samples. The published runs skipped the last, incomplete batch of an
    epoch on COCO, and kept the epoch that was best on the test images; neither is done here.

    Source: Guo et al., CVPR 2019 (VAC), with the loss of Li et al., ACPR 2015.
    """

    level = "A"

    @cached_property
    def positive_share(self) -> Tensor:
        """Float [C]: observed positives by all training samples, unspecified ones included."""
        observed = self.task.labels.observed
        share = count_states(observed, State.POSITIVE) / len(observed)
        return torch.from_numpy(share.astype(np.float32)).to(self.task.device)

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return weighted_bce(logits, labels.state, self.positive_share)


class _MultiView(WeightedBCE):
    """The labels of an image are learned on all its views; inference is on the plain one."""

    # On cached features there are no views, and a frozen trunk would leave consistency without gradient.
    tracks = ("full",)
    settings_from = {"wbce": {"": ""}}  # the recipe of the plain network

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert batch.labels is not None
        outputs = forward_views(network, batch.views)
        logits = torch.cat([output.logits for output in outputs.values()])
        observed = batch.labels.state.repeat(len(outputs), 1)
        labelled = weighted_bce(logits, observed, self.positive_share)
        return {"classification": labelled, **self.consistency(network, outputs, batch)}

    def consistency(self, network: nn.Module, outputs: Mapping[str, Output], batch: Batch) -> dict[str, Tensor]:
        """The terms that compare views, weighted; none for a control."""
        return {}


class _Attention(_MultiView):
    """Adds attention consistency to its multi-view control, the next class in line.

    Views of one size are brought back to the first one's frame and compared with it (a term each, weighted by
    `within`); the first size is compared with the second one view by view.
    """

    within: ClassVar[str] = "flip_weight"
    needs_head = "maps"

    def consistency(self, network: nn.Module, outputs: Mapping[str, Output], batch: Batch) -> dict[str, Tensor]:
        sizes: dict[int, list[tuple[str, Tensor, Tensor]]] = {}
        for name, output in outputs.items():
            maps = heat_maps(output.features, cast(Head, network.head))
            placement = batch.placements[name]
            sizes.setdefault(maps.shape[-1], []).append((name, placement.align(maps), placement.valid(maps)))
        norm, terms = self.hyper["norm"], {}
        for (_, plain, shown), *others in sizes.values():
            for name, maps, valid in others:
                distance = attention_consistency(plain, maps, shown & valid, norm=norm)
                terms[name] = self.hyper[self.within] * distance
        if len(sizes) > 1:
            (_, *large), (_, *small) = (zip(*views, strict=True) for views in sizes.values())
            (maps, shown), (maps_other, shown_other) = map(torch.cat, large), map(torch.cat, small)
            pair = scale_consistency(maps, maps_other, shown, shown_other, norm=norm)
            terms["scale"] = self.hyper["scale_weight"] * pair
        return terms


class Flipped(_MultiView):
    """Control of `vac_f`: the image and its mirror image, labels only.

    Source: Guo et al., CVPR 2019 (VAC), rows R50+f and R101+f; faithful but for what `wbce` tells.
    """

    level = "A"
    views = (PLAIN, FLIPPED)


class Scaled(_MultiView):
    """Control of `vac_s`: the image at two sizes, labels only.

    The second size is one cell of the heat map smaller, as published: 192 px beside 224, 256 beside 288.

    Source: Guo et al., CVPR 2019 (VAC), rows R50+s and R101+s; faithful but for what `wbce` tells.
    """

    level = "A"
    hyperparameters = SCALING

    @classmethod
    def views_for(cls, hyper: Mapping[str, Any]) -> tuple[View, ...]:
        return PLAIN, View("small", cells=-hyper["fewer_cells"])


class FlippedAndScaled(_MultiView):
    """Control of `vac_fs`: the image and its mirror image at two sizes, labels only.

    Source: ours, the control that the paper's table lacks. Second size as in `wbce_s`.
    """

    hyperparameters = SCALING

    @classmethod
    def views_for(cls, hyper: Mapping[str, Any]) -> tuple[View, ...]:
        fewer = -hyper["fewer_cells"]
        return PLAIN, FLIPPED, View("small", cells=fewer), View("small_flipped", flip=True, cells=fewer)


class Rotated(_MultiView):
    """Control of `vac_r`: the image and the image turned, labels only.

    Source: Guo et al., CVPR 2019 (VAC), rows R50+r and R101+r. Substituted (no code was released, and the angles stand
    in the paper alone): a quarter, a half or three quarters of a turn, drawn for each image and epoch. `angle` gives
    any angle up to it, either way.
    """

    level = "B"
    hyperparameters = ROTATION

    @classmethod
    def views_for(cls, hyper: Mapping[str, Any]) -> tuple[View, ...]:
        angle = hyper["angle"]
        return PLAIN, View("rotated", rotate=Between(-angle, angle) if angle else QUARTER_TURNS)


class Translated(_MultiView):
    """Control of `vac_t`: the image and the image moved, labels only.

    Source: Guo et al., CVPR 2019 (VAC), rows R50+t and R101+t. Substituted (no code was released, and the shifts stand
    in the paper alone): a move by one cell of the heat map (32 px) down, up, right, left or both ways, drawn for each
    image and epoch; 0, the mean colour, comes in.
    """

    level = "B"
    hyperparameters = TRANSLATION

    @classmethod
    def views_for(cls, hyper: Mapping[str, Any]) -> tuple[View, ...]:
        cells = hyper["cells"]
        return PLAIN, View("moved", shift=whole_shifts(cells) if hyper["whole"] else Between(-cells, cells))


class FlipConsistency(_Attention, Flipped):
    """Attention consistency under flipping (VAC, ACf).

    Faithful: detached weights, squared difference of raw maps, exact reversal of columns; but for what `wbce` tells.

    Source: Guo et al., CVPR 2019 (VAC); released code, the flip term at the large size.
    """

    level = "A"
    hyperparameters = {"flip_weight": _weight("flipping"), **NORM}


class ScaleConsistency(_Attention, Scaled):
    """Attention consistency under scaling (VAC, ACs).

    Faithful: the maps of two sizes on the least common multiple of their grids; but for what `wbce` tells.

    Source: Guo et al., CVPR 2019 (VAC); released code, the scale term.
    """

    level = "A"
    hyperparameters = {"scale_weight": _weight("scaling"), **SCALING, **NORM}


class FlipAndScaleConsistency(_Attention, FlippedAndScaled):
    """Attention consistency under flipping and scaling (VAC, ACfs).

    Faithful: four views in two forwards, a flip term for each size and one scale term; but for what `wbce` tells.

    Source: Guo et al., CVPR 2019 (VAC); released code, main.py lines 181-232.
    """

    level = "A"
    hyperparameters = {"flip_weight": _weight("flipping"), "scale_weight": _weight("scaling"), **SCALING, **NORM}


class RotationConsistency(_Attention, Rotated):
    """Attention consistency under rotation (VAC, ACr; an approximation).

    Source: Guo et al., CVPR 2019 (VAC). Substituted: the angles, as in `wbce_r`; maps turn without interpolation. With
    `angle`, maps are interpolated and compared where the turned image covers them.
    """

    level = "B"
    within = "rotation_weight"
    hyperparameters = {"rotation_weight": _weight("rotation"), **ROTATION, **NORM}


class TranslationConsistency(_Attention, Translated):
    """Attention consistency under translation (VAC, ACt; an approximation).

    Source: Guo et al., CVPR 2019 (VAC). Substituted: the shifts, as in `wbce_t`; only cells seen in both images are
    compared.
    """

    level = "B"
    within = "translation_weight"
    hyperparameters = {"translation_weight": _weight("translation"), **TRANSLATION, **NORM}


class FlipPredictionConsistency(Flipped):
    """The probabilities, not the heat maps, of an image and its mirror image are to agree. Ours.

    Source: the contrast that the slides of Guo et al., CVPR 2019 (VAC), draw, which give no formula. Both views'
    probabilities have gradients, which reach the classifier as well.
    """

    hyperparameters = {"prediction_weight": _weight("flipping (of predictions)")}

    def consistency(self, network: nn.Module, outputs: Mapping[str, Output], batch: Batch) -> dict[str, Tensor]:
        distance = prediction_consistency(outputs["original"].logits, outputs["flipped"].logits)
        return {"prediction": self.hyper["prediction_weight"] * distance}
