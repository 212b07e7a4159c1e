"""Spread over repetitions, and agreement of orders. Arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Mean of a grid of runs, and sample deviation over seeds (mask held) and over masks (seed held) apart.

    A deviation is NaN where there is one seed, or one mask.
    """

    mean: float
    over_seeds: float
    over_masks: float


def spread(values: np.ndarray) -> Spread:
    """`Spread` of float [S, M], seeds by masks: root mean square of the deviations within a mask, or within a seed."""
    values = _grid(values)

    def within(axis: int) -> float:
        if values.shape[axis] < 2:
            return math.nan
        return math.sqrt(values.var(axis=axis, ddof=1).mean())

    return Spread(float(values.mean()), within(0), within(1))


def kendall(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b of two orders of the same items, and its two-sided p-value; NaN for fewer than two items."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values: expected the same items")
    if len(first) < 2:
        return math.nan, math.nan
    from scipy import stats  # half a second to import, which most that comes by here can do without

    found = stats.kendalltau(first, second)
    return float(found.statistic), float(found.pvalue)


def _grid(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}: expected a full grid of seeds by masks")
    return values
