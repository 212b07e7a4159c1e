"""How much of the spread of runs is the seed's, the mask's, and neither's: two-way analysis of variance.

The model of a method's runs is ``value = mean + effect of the seed + effect of the mask + rest``, three independent
random effects, a run for each seed and mask (Searle, Casella and McCulloch, Variance Components, 1992, section 4.4). A
component's estimate may be below 0, which says that it is small, and is left so: cut at 0, means over methods would be
too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlbench.significance.orders import Estimate, percentiles


@dataclass(frozen=True)
class Components:
    """Variances of a run by what they come from, and the mean squares they were estimated from, [seed, mask, rest]."""

    seed: float
    mask: float
    rest: float
    squares: tuple[float, float, float]


def components(values: np.ndarray) -> Components:
    """Of `values` [S, M], a run for each seed and mask, at least two of each; ValueError for fewer."""
    seeds, masks = values.shape
    if min(seeds, masks) < 2:
        raise ValueError(f"{seeds} seeds and {masks} masks: expected at least two of each")
    mean = values.mean()
    by_seed, by_mask = values.mean(1) - mean, values.mean(0) - mean
    rest = values - mean - by_seed[:, None] - by_mask
    squares = (
        masks * float((by_seed**2).sum()) / (seeds - 1),
        seeds * float((by_mask**2).sum()) / (masks - 1),
        float((rest**2).sum()) / ((seeds - 1) * (masks - 1)),
    )
    return Components((squares[0] - squares[2]) / masks, (squares[1] - squares[2]) / seeds, squares[2], squares)


@dataclass(frozen=True)
class Spread:
    """Standard deviations in points, and the mask's variance minus the seed's; intervals over draws of the methods."""

    seed: Estimate
    mask: Estimate
    rest: Estimate
    mask_minus_seed: Estimate
    share_more: float


def spread_of(grids: Sequence[np.ndarray], replicates: int = 2000, seed: int = 0, confidence: float = 0.95) -> Spread:
    """The `components` of several methods' grids, averaged, as deviations.

    The intervals are over draws of the methods with replacement; seeds and masks are the same few for all, not drawn.
    `share_more` is the share of methods whose mask has the larger component.
    """
    found = [components(grid) for grid in grids]
    parts = np.array([[of.seed, of.mask, of.rest] for of in found])
    rows = np.random.default_rng(seed).integers(len(parts), size=(replicates, len(parts)))
    drawn = parts[rows].mean(1)
    several = len(parts) > 2

    def ends(values: np.ndarray) -> tuple[float, float]:
        return percentiles(values, confidence) if several else (math.nan, math.nan)

    def deviation(part: int) -> Estimate:
        return Estimate(_root(parts[:, part].mean()), *(_root(end) for end in ends(drawn[:, part])))

    difference = parts[:, 1] - parts[:, 0]
    return Spread(
        deviation(0),
        deviation(1),
        deviation(2),
        Estimate(float(difference.mean()), *ends(drawn[:, 1] - drawn[:, 0])),
        float((difference > 0).mean()),
    )


def _root(variance: float) -> float:
    """A deviation; 0 for a variance estimated below 0."""
    return math.sqrt(max(float(variance), 0.0)) if not math.isnan(variance) else math.nan
