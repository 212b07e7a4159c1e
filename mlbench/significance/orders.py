"""Orders of methods held against each other: Kendall's tau-b and Spearman's rho, with bootstrap intervals.

Arrays may have leading axes, over which all is done at once: the bootstrap gives its draws so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

T = TypeVar("T")
Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its percentile interval; NaN for ends that could not be had."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def text(self, form: str = ".2f") -> str:
        if math.isnan(self.value):
            return "undefined"
        ends = "" if math.isnan(self.low) else f" ({self.low:{form}} to {self.high:{form}})"
        return f"{self.value:{form}}{ends}"


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of `a` and `b`, float [..., K] each, over the last axis; NaN where either is all ties."""
    first, second = np.triu_indices(np.shape(a)[-1], 1)
    x = np.sign(np.asarray(a)[..., first] - np.asarray(a)[..., second])
    y = np.sign(np.asarray(b)[..., first] - np.asarray(b)[..., second])
    untied = np.sqrt((x != 0).sum(-1) * (y != 0).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(-1) / np.where(untied == 0, np.nan, untied))


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rho of `a` and `b`, float [..., K] each, over the last axis; ties have their mean rank."""
    x, y = (_centred_ranks(np.asarray(values, dtype=np.float64)) for values in (a, b))
    size = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(-1) / np.where(size == 0, np.nan, size))


def over_items(
    a: np.ndarray,
    b: np.ndarray,
    measure: Measure = kendall,
    replicates: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """`measure` of the values `a` and `b` [K] of K items, with an interval over draws of the items with replacement."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    value = float(measure(a, b)) if len(a) > 1 else math.nan
    if len(a) < 3:
        return Estimate(value)
    rows = np.random.default_rng(seed).integers(len(a), size=(replicates, len(a)))
    return Estimate(value, *percentiles(measure(a[rows], b[rows]), confidence))


def over_items_and_draws(
    a: np.ndarray,
    b: np.ndarray,
    measure: Measure = kendall,
    replicates: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    items: bool = True,
) -> Estimate:
    """`measure` of the means of `a` [Da, K] and `b` [Db, K] over their draws, for the K items in common.

    The interval is over draws of the items (where `items`) and, on each side by itself, of its draws: all items of a
    side keep the same draws, as they are paired. A side with one draw has no such part.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    value = float(measure(a.mean(0), b.mean(0))) if a.shape[1] > 1 else math.nan
    if a.shape[1] < 3 or (not items and len(a) == 1 and len(b) == 1):
        return Estimate(value)
    random = np.random.default_rng(seed)
    means = [_resampled(side, random, replicates) for side in (a, b)]
    if items:
        rows = random.integers(a.shape[1], size=(replicates, a.shape[1]))
        means = [np.take_along_axis(mean, rows, axis=1) for mean in means]
    return Estimate(value, *percentiles(measure(*means), confidence))


def percentiles(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Ends of the percentile interval of `values` [R], those that are undefined left out."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def common_block(draws: Mapping[str, Set[T]]) -> tuple[list[str], list[T]]:
    """Rows and draws such that each of the rows has each of the draws, and their product is large.

    Draws are added by how many rows have them, while that makes the block larger; the order of the rows is kept.
    """
    counted: dict[T, int] = {}
    for found in draws.values():
        for draw in found:
            counted[draw] = counted.get(draw, 0) + 1
    order: Sequence[T] = sorted(counted, key=lambda draw: (-counted[draw], str(draw)))
    best: tuple[int, int, list[str], list[T]] = (0, 0, [], [])
    for number in range(1, len(order) + 1):
        chosen = list(order[:number])
        rows = [name for name, found in draws.items() if found >= set(chosen)]
        best = max(best, (len(rows) * number, len(rows), rows, chosen), key=lambda block: block[:2])
    return best[2], sorted(best[3], key=str)


def _resampled(side: np.ndarray, random: np.random.Generator, replicates: int) -> np.ndarray:
    """Means [R, K] of `side` [D, K] over draws of its rows with replacement."""
    weights = random.multinomial(len(side), np.full(len(side), 1 / len(side)), size=replicates) / len(side)
    return np.asarray(weights @ side)


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    ranks = stats.rankdata(values, axis=-1)
    return np.asarray(ranks - ranks.mean(-1, keepdims=True))
