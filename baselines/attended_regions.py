"""Attended regions: a recurrent network looks at one part of the feature maps after the other. RMAM and RARLF.

A region is four numbers (s_x, s_y, t_x, t_y): its half sides and its centre, in coordinates from -1 to 1 between the
outer edges of the maps; (1, 1, 0, 0) is all of them. A label's score is the highest over all regions looked at. Losses
belong to an image: with ``reduction = "none"`` they are [B], the mean divides by B. Scores are the softmax over the
classes, which is what is trained: it adds up to 1 over an image's labels, so that half is no threshold for it.

Both are laid out for features of a trained network: ``encoder = "bce"`` starts from that of `bce`, as on `scenes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Batch, Hyper, Method, Phase, Prediction, Step, Task, Uses

from .encoders import ENCODER, make_encoder, uses_encoder
from .losses import check_inputs, reduce
from .ranking import highest

#: Where the regions of RMAM are drawn to, in the order in which they are looked at.
ANCHORS = ((0.0, 0.0), (-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5))

#: Half sides (s_x, s_y) of the nine regions of RARLF around a centre: areas of 1/16, 1/4 and 9/16 of the maps, each
#: half as wide as high, square, and twice as wide (ours: the published ones are not known).
SHAPES = tuple((side * ratio**0.5, side / ratio**0.5) for side in (0.25, 0.5, 0.75) for ratio in (0.5, 1.0, 2.0))

#: Labels decided for: the highest so many, if at least that probable.
MOST_LABELS, LEAST_PROBABILITY = 10, 0.1


def region_grid(regions: Tensor, cells: int) -> Tensor:
    """Points at which regions are read: the centres of `cells` by `cells` equal parts of each.

    Parameters
    ----------
    regions : float [..., 4] of (s_x, s_y, t_x, t_y).

    Returns
    -------
    float [..., cells, cells, 2], x and y of the cell in that row and column, as `torch.nn.functional.grid_sample` with
    ``align_corners=False`` reads them.

    Source: Jaderberg et al., NeurIPS 2015 (spatial transformer), without rotation and shear as in RMAM.
    """
    steps = (2 * torch.arange(cells, dtype=regions.dtype, device=regions.device) + 1) / cells - 1
    x = regions[..., None, 0:1] * steps + regions[..., None, 2:3]
    y = regions[..., None, 1:2] * steps + regions[..., None, 3:4]
    square = (*regions.shape[:-1], cells, cells)
    return torch.stack([x.expand(square), y.transpose(-1, -2).expand(square)], dim=-1)


def sample_regions(maps: Tensor, regions: Tensor, cells: int) -> Tensor:
    """Features [B, D, h, w] read bilinearly in regions [B, R, 4]: float [B, R, D, cells, cells]; 0 outside the maps.

    Differentiable in both.

    Raises
    ------
    UsageError : shapes that do not fit.
    """
    if maps.ndim != 4 or regions.ndim != 3 or regions.shape[::2] != (len(maps), 4):
        shapes = f"regions {list(regions.shape)} of maps {list(maps.shape)}"
        raise UsageError(f"{shapes}: expected [B, R, 4] of [B, D, h, w]")
    grid = region_grid(regions, cells).flatten(1, 2)
    found = functional.grid_sample(maps.to(grid.dtype), grid, padding_mode="zeros", align_corners=False)
    return found.unflatten(2, (regions.shape[1], cells)).transpose(1, 2)


def softmax_loss(logits: Tensor, observed: Tensor, *, reduction: str = "mean") -> Tensor:
    """Squared error of an image's softmax to its labels: ``sum_c (softmax(f)_c - y_c / |y|)^2``.

    Unknown labels count as absent; unspecified ones take no part in the softmax. An image without observed positives
    has no target: its loss is 0.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes.
    reduction : "mean" over the B images (ours; the port sums), "sum", or "none" ([B]).

    Source: Wang et al., ICCV 2017 (RMAM), by a public port, loss.py lines 8-106.
    """
    check_inputs(logits, observed)
    present = (observed == State.POSITIVE).to(logits.dtype)
    shown = logits.masked_fill(observed == State.UNSPECIFIED, torch.finfo(logits.dtype).min)
    count = present.sum(dim=1, keepdim=True)
    entries = (shown.softmax(dim=1) - present / count.clamp(min=1)).square()
    return reduce((entries * (count > 0)).sum(dim=1), reduction)


def localisation_loss(
    regions: Tensor,
    anchors: Tensor,
    *,
    anchor_weight: float = 0.01,
    positive_weight: float = 0.1,
    reduction: str = "mean",
) -> Tensor:
    """What keeps regions small, apart and upright, summed over the regions of an image.

    ``max(|s| - 1/2, 0)^2`` over both half sides, `anchor_weight` times half the squared distance from centre to anchor,
    and `positive_weight` times ``max(1/10 - s, 0)`` over both half sides.

    Parameters
    ----------
    regions : float [B, K, 4]. anchors : float [K, 2], a place for each region.
    reduction : "mean" over the B images, "sum", or "none" ([B]).

    Raises
    ------
    UsageError : shapes that do not fit.

    Source: Wang et al., ICCV 2017 (RMAM), by a public port, loss.py lines 8-106.
    """
    if regions.ndim != 3 or regions.shape[2] != 4 or anchors.shape != (regions.shape[1], 2):
        raise UsageError(
            f"localisation loss: regions {list(regions.shape)} and anchors {list(anchors.shape)}: "
            "expected [B, K, 4] and [K, 2]"
        )
    sides, centres = regions[..., :2], regions[..., 2:]
    scale = (sides.abs() - 0.5).clamp(min=0).square().sum(dim=2)
    anchor = 0.5 * (centres - anchors.to(centres)).square().sum(dim=2)
    positive = (0.1 - sides).clamp(min=0).sum(dim=2)
    return reduce((scale + anchor_weight * anchor + positive_weight * positive).sum(dim=1), reduction)


def found_share(scores: Tensor, observed: Tensor) -> Tensor:
    """Reward of RARLF: the share of an image's n observed positives that are among its n highest scores, float [B].

    Ties go to the lower class; unspecified labels are not ranked; 0 for an image without observed positives.

    Source: Chen et al., AAAI 2018 (RARLF), as recalled (not checked).
    """
    check_inputs(scores, observed)
    positive = observed == State.POSITIVE
    count = positive.sum(dim=1, keepdim=True)
    ranked = scores.masked_fill(observed == State.UNSPECIFIED, -torch.inf)
    return (highest(ranked, count) & positive).sum(dim=1) / count[:, 0].clamp(min=1).to(scores.dtype)


def reinforce_loss(log_probabilities: Tensor, rewards: Tensor, baselines: Tensor, *, reduction: str = "mean") -> Tensor:
    """A loss whose gradient is, on average over the draws, that of minus the expected reward (REINFORCE).

    ``-sum_t (R - b_t) log p(a_t)``. The reward comes at the end and counts for every draw; no gradient flows through
    rewards and baselines. A baseline may depend on all that was drawn before, not on the draw itself.

    Parameters
    ----------
    log_probabilities : float [B, T] of what was drawn. rewards : float [B]. baselines : float [B, T].
    reduction : "mean" over the B images, "sum", or "none" ([B]).

    Raises
    ------
    UsageError : shapes that do not fit.

    Source: Williams, Machine Learning 8, 1992.
    """
    shapes = [list(given.shape) for given in (log_probabilities, rewards, baselines)]
    if log_probabilities.ndim != 2 or shapes[1:] != [shapes[0][:1], shapes[0]]:
        listed = ", ".join(map(str, shapes))
        raise UsageError(f"reinforce_loss: probabilities, rewards, baselines {listed}: expected [B, T], [B], [B, T]")
    advantage = (rewards[:, None] - baselines).detach()
    return reduce(-(advantage * log_probabilities).sum(dim=1), reduction)


def normal_log_density(values: Tensor, means: Tensor, sigma: float) -> Tensor:
    """Log-density of `values` under independent normal distributions, summed over the last axis."""
    scaled = (values - means) / sigma
    return (-0.5 * scaled.square() - math.log(sigma * math.sqrt(2 * math.pi))).sum(dim=-1)


class Attended(NamedTuple):
    """Logits [B, C], and the regions [B, K, 4] they come from."""

    logits: Tensor
    regions: Tensor


class Explored(NamedTuple):
    """Logits [B, C]; log-densities [B, T - 1] of the centres drawn; the reward expected before each draw [B, T - 1]."""

    logits: Tensor
    log_densities: Tensor
    expected: Tensor


class RegionReader(nn.Module):
    """An LSTM that is shown all of the maps, and then the `regions` regions it asks for (RMAM)."""

    def __init__(self, channels: int, classes: int, cells: int, hidden: int, regions: int) -> None:
        super().__init__()
        self.cells, self.regions = cells, regions
        self.read = nn.Sequential(
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(channels * cells**2, hidden), nn.ReLU(inplace=True)
        )
        self.lstm = nn.LSTMCell(hidden, hidden)
        self.hidden = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(inplace=True))
        self.classes = nn.Linear(hidden, classes)
        self.where = nn.Linear(hidden, 4)
        with torch.no_grad():
            self.where.bias.copy_(torch.tensor([0.5, 0.5, 0.0, 0.0]))  # where neither scale nor sign are punished

    def forward(self, maps: Tensor) -> Attended:
        kind = self.where.weight.dtype  # half-precision places would miss the cells, and such logits tie
        region = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=kind, device=maps.device).expand(len(maps), 4)
        state, scores, regions = None, [], []
        for number in range(self.regions + 1):
            state = self.lstm(self.read(sample_regions(maps, region[:, None], 2 * self.cells)[:, 0]), state)
            z = self.hidden(state[0])
            if number:  # the first look only says where to begin
                scores.append(self.classes(z))
                regions.append(region)
            region = self.where(z).to(kind)
        return Attended(torch.stack(scores, dim=1).amax(dim=1).to(kind), torch.stack(regions, dim=1))


class RegionExplorer(nn.Module):
    """An LSTM that is shown nine regions around a centre and draws the next centre, `steps` times (RARLF)."""

    def __init__(self, channels: int, classes: int, cells: int, hidden: int, steps: int, sigma: float) -> None:
        super().__init__()
        self.cells, self.steps, self.sigma = cells, steps, sigma
        self.register_buffer("shapes", torch.tensor(SHAPES), persistent=False)
        self.read = nn.Sequential(nn.Linear(channels * cells**2, hidden), nn.ReLU(inplace=True))
        self.lstm = nn.LSTMCell(hidden, hidden)
        self.classes = nn.Linear(2 * hidden, classes)
        self.centre = nn.Linear(hidden, 2)
        self.expected = nn.Linear(hidden, 1)

    def forward(self, maps: Tensor, noise: Tensor | None = None) -> Explored:
        """Noise float [B, steps - 1, 2], standard normal, makes the draws; without it centres are their means."""
        count = len(self.shapes)  # type: ignore[arg-type]
        kind = self.centre.weight.dtype
        centre = maps.new_zeros(len(maps), 2, dtype=kind)
        shapes = self.shapes.to(kind).expand(len(maps), count, 2)  # type: ignore[operator]
        state, scores, densities, expected = None, [], [], []
        for step in range(self.steps):
            regions = torch.cat([shapes, centre[:, None].expand(-1, count, 2)], dim=2)
            seen = self.read(sample_regions(maps, regions, self.cells).flatten(2))
            state = self.lstm(seen.mean(dim=1), state)
            memory = state[0]
            scores.append(self.classes(torch.cat([seen, memory[:, None].expand_as(seen)], dim=2)))
            if step == self.steps - 1:
                break
            mean = self.centre(memory).to(kind).tanh()
            drawn = mean if noise is None else mean + self.sigma * noise[:, step].to(kind)
            drawn = drawn.detach()  # the reward, not the classes' loss, says where to look
            densities.append(normal_log_density(drawn, mean, self.sigma))
            expected.append(self.expected(memory.detach())[:, 0].to(kind))
            centre = drawn.clamp(-1, 1)
        logits = torch.cat(scores, dim=1).amax(dim=1).to(kind)
        return Explored(logits, torch.stack(densities, dim=1), torch.stack(expected, dim=1))


class Attentive(nn.Module):
    """A backbone and one of the two networks above on its maps."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, inputs: Tensor, *noise: Tensor) -> Any:
        return self.head(self.backbone(inputs), *noise)


class _AttendedRegions(Method):
    """What the two methods share: scores, decisions, and a backbone that may stay as it is."""

    needs_head = "none"
    scores = "rank"
    decision_rule = f"the at most {MOST_LABELS} highest labels with a softmax of at least {LEAST_PROBABILITY}"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.refuse_boostlu()

    @classmethod
    def uses_for(cls, hyper: Mapping[str, Any]) -> Mapping[str, Uses]:
        return uses_encoder(hyper)

    def phases(self) -> Sequence[Phase]:
        return [Phase(roles=("head",) if self.hyper["frozen_cnn"] else None)]

    def predict(self, network: nn.Module, batch: Batch) -> Prediction:
        scores = network(batch.inputs).logits.softmax(dim=1)
        return Prediction(scores, self.decide(scores, self.hyper))

    @classmethod
    def decide(cls, scores: Tensor, hyper: Mapping[str, Any]) -> Tensor:
        return highest(scores, MOST_LABELS) & (scores >= LEAST_PROBABILITY)


class RecurrentAttention(_AttendedRegions):
    """Recurrently attended regions: an LSTM moves a spatial transformer over the image (RMAM).

    Faithful: as in a public port, all of the image first, then five regions that only scale and move; the max over
    regions of each class; squared error of the softmax; three localisation losses with weights; decisions; ten crops,
    where the protocol has them (``[inference] crops = 10``).

    Substituted: the run's backbone for VGG-16 (``--backbone vgg16`` has its maps); sizes below the port's by default;
    grids between outer edges (older PyTorch: corner centres); where the first regions lie before training (unknown);
    the mean of the losses over the batch, where the classes' loss of the port is a sum.

    Scores: the softmax over the classes of these maxima.

    Cost: an image takes the backbone, and six times a linear layer of ``channels x cells^2`` inputs and an LSTM step.

    Source: Wang et al., ICCV 2017; sizes and weights from a public port.
    """

    level = "B"
    hyperparameters = {
        "cells": Hyper(3, "cells of a region along a side, after max-pooling 2 x 2 (port: 7)", low=1, high=32),
        "hidden": Hyper(256, "width of the layers and units of the LSTM (port: 4096)", low=1, high=8192),
        "regions": Hyper(5, "regions looked at after the whole image (port)", low=1, high=len(ANCHORS)),
        "localisation": Hyper(0.1, "weight of the localisation losses (port)", low=0.0, high=100.0),
        **ENCODER,
        "frozen_cnn": Hyper(False, "leave the backbone as it starts, and always on track head (port: true)"),
    }

    def network(self, phase: Phase) -> nn.Module:
        trunk = make_encoder(self.task)
        sizes = (self.hyper[name] for name in ("cells", "hidden", "regions"))
        return Attentive(trunk, RegionReader(trunk.out_channels, self.task.num_classes, *sizes))

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert batch.labels is not None
        seen = network(batch.inputs)
        terms = {"classes": softmax_loss(seen.logits, batch.labels.state)}
        if self.hyper["localisation"]:
            anchors = seen.regions.new_tensor(ANCHORS[: self.hyper["regions"]])
            terms["regions"] = self.hyper["localisation"] * localisation_loss(seen.regions, anchors)
        return terms


class ReinforcedAttention(_AttendedRegions):
    """Attended regions found by reinforcement: centres are drawn, and rewarded at the end (RARLF; an approximation).

    Faithful: as described, regions around a centre (nine, of three sizes and three shapes: recalled), an LSTM that
    scores each and proposes the next centre, normally distributed; the max over all regions and steps of each class; a
    delayed reward, the share of the labels found (recalled); REINFORCE beside the classes' loss, in training only.

    Substituted: the run's backbone for VGG-16; ours, for no code is public: what the LSTM is shown (the mean of the
    nine regions), what scores a region (it and the LSTM's state), the classes' loss and decisions (those of RMAM, by
    the same group), the first centre (the middle), a learned baseline, all sizes, sigma and weight.

    Scores: the softmax over the classes of these maxima.

    Cost: an image takes the backbone, and `steps` times nine linear layers of ``channels x cells^2`` inputs.

    Source: Chen et al., AAAI 2018.
    """

    level = "C"
    hyperparameters = {
        "cells": Hyper(3, "cells of a region along a side (ours)", low=1, high=32),
        "hidden": Hyper(256, "width of the layers and units of the LSTM (ours)", low=1, high=8192),
        "steps": Hyper(5, "centres looked at (ours)", low=2, high=50),
        "sigma": Hyper(0.2, "standard deviation of a centre; half an image's side is 1 (ours)", low=1e-3, high=2.0),
        "reward": Hyper(0.1, "weight of the loss of the draws (ours)", low=0.0, high=100.0),
        **ENCODER,
        "frozen_cnn": Hyper(False, "leave the backbone as it starts, and always on track head (ours: false)"),
    }

    def network(self, phase: Phase) -> nn.Module:
        trunk = make_encoder(self.task)
        sizes = (self.hyper[name] for name in ("cells", "hidden", "steps", "sigma"))
        return Attentive(trunk, RegionExplorer(trunk.out_channels, self.task.num_classes, *sizes))

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert batch.labels is not None
        observed = batch.labels.state
        seen = network(batch.inputs, self._noise(batch.index, step))
        terms = {"classes": softmax_loss(seen.logits, observed)}
        if self.hyper["reward"]:
            rewards = found_share(seen.logits.detach(), observed)
            told = batch.labels.positive.any(dim=1).to(rewards.dtype)  # others have no reward to learn from
            drawn = reinforce_loss(seen.log_densities, rewards, seen.expected, reduction="none")
            missed = (seen.expected - rewards[:, None]).square().sum(dim=1)
            terms["draws"] = self.hyper["reward"] * (told * drawn).mean()
            terms["baseline"] = (told * missed).mean()
        return terms

    def _noise(self, rows: Tensor, step: Step) -> Tensor:
        """Standard normal [B, steps - 1, 2], by step and image row, so that it does not matter who computes it."""
        shape = self.hyper["steps"] - 1, 2
        draws = [
            torch.randn(shape, generator=self.task.generator(f"centres {step.step} {row}")) for row in rows.tolist()
        ]
        return torch.stack(draws).to(rows.device)
