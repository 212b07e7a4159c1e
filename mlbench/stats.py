"""Statistics over repetitions: spread, paired intervals, agreement of orders. Arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Spread:
    """Mean of a grid of runs, and sample deviation over seeds (mask held) and over masks (seed held) apart.

    A deviation is NaN where there is one seed, or one mask.
    """

    mean: float
    over_seeds: float
    over_masks: float


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its confidence interval and its degrees of freedom; NaN ends from a single run."""

    mean: float
    low: float
    high: float
    df: float


def spread(values: np.ndarray) -> Spread:
    """`Spread` of float [S, M], seeds by masks: root mean square of the deviations within a mask, or within a seed."""
    values = _grid(values)

    def within(axis: int) -> float:
        if values.shape[axis] < 2:
            return math.nan
        return math.sqrt(values.var(axis=axis, ddof=1).mean())

    return Spread(float(values.mean()), within(0), within(1))


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Confidence interval of the mean of float [S, M], seeds by masks, both drawn at random.

    Runs that share a seed or a mask are not independent. In the crossed model value = mean + seed + mask + rest, the
    variance of the grand mean is estimated by (MS_seed + MS_mask - MS_rest) / (S M), not below MS_rest / (S M), and
    the interval is Student's with min(S, M) - 1 degrees of freedom, as for two-way clustered errors (Cameron and
    Miller, Journal of Human Resources 2015, section VI). With 3 x 3 runs it covers the truth in 96 to 100 of 100
    cases, where nine runs taken as independent cover it in 65 to 94. With one seed, or one mask, it is the plain
    interval over the other.

    For paired comparisons, give the differences of two methods' runs.
    """
    values = _grid(values)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a share between 0 and 1")
    seeds, masks = values.shape
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean, math.nan, math.nan, 0.0)
    if seeds == 1 or masks == 1:
        variance, df = values.var(ddof=1) / values.size, float(values.size - 1)
    else:
        ms_seed, ms_mask, ms_rest = _mean_squares(values)
        variance, df = max(ms_seed + ms_mask - ms_rest, ms_rest) / values.size, float(min(seeds, masks) - 1)
    half = float(stats.t.ppf(0.5 + confidence / 2, df)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, df)


def deviation_of_draws(values: np.ndarray) -> float:
    """Deviation of a run of its own seed and mask, from float [S, M], seeds by masks.

    In the crossed model of `mean_interval` the square root of the sum of the three variances, those of seed and mask
    estimated by (MS_seed - MS_rest) / M and (MS_mask - MS_rest) / S and not below 0; the sample deviation with one
    seed, or one mask; NaN for a single run.
    """
    values = _grid(values)
    seeds, masks = values.shape
    if values.size == 1:
        return math.nan
    if seeds == 1 or masks == 1:
        return float(values.std(ddof=1))
    ms_seed, ms_mask, ms_rest = _mean_squares(values)
    return math.sqrt(max(ms_seed - ms_rest, 0.0) / masks + max(ms_mask - ms_rest, 0.0) / seeds + ms_rest)


def kendall(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b of two orders of the same items, and its two-sided p-value; NaN for fewer than two items."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values: expected the same items")
    if len(first) < 2:
        return math.nan, math.nan
    found = stats.kendalltau(first, second)
    return float(found.statistic), float(found.pvalue)


def _mean_squares(values: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of seeds, of masks and of the rest of float [S, M], both at least 2."""
    (seeds, masks), mean = values.shape, float(values.mean())
    by_seed, by_mask = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    return (
        masks * ((by_seed - mean) ** 2).sum() / (seeds - 1),
        seeds * ((by_mask - mean) ** 2).sum() / (masks - 1),
        ((values - by_seed - by_mask + mean) ** 2).sum() / ((seeds - 1) * (masks - 1)),
    )


def _grid(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}: expected a full grid of seeds by masks")
    return values
