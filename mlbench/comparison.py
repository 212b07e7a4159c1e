"""Which methods differ: paired tests over runs, tie groups, critical differences, and how many runs a gap needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mlbench.errors import UsageError
from mlbench.stats import mean_interval

#: A run of a method by what it shares with runs of other methods: (repetition, mask seed); None where no mask matters.
Draw = tuple[int, int | None]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; they keep the family-wise error. NaN (no test) stays NaN.

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = highest
    return adjusted


def difference_p(first: Mapping[Draw, float], second: Mapping[Draw, float]) -> float:
    """Two-sided p-value that two methods have the same mean, from the runs they have in common; NaN for fewer than two.

    Runs are paired by draw. A full grid of repetitions by mask seeds is tested in the crossed model of `mean_interval`;
    otherwise the differences are averaged within each repetition and tested by Student's t.
    """
    common = sorted(first.keys() & second.keys())
    gaps = {draw: first[draw] - second[draw] for draw in common}
    seeds, masks = sorted({s for s, _ in common}), list(dict.fromkeys(m for _, m in common))
    if len(gaps) == len(seeds) * len(masks) > 1:
        grid = np.array([[gaps[s, m] for m in masks] for s in seeds])
    elif len(seeds) > 1:
        grid = np.array([[np.mean([gap for (s, _), gap in gaps.items() if s == seed])] for seed in seeds])
    else:
        return math.nan
    found = mean_interval(grid)
    error = (found.high - found.mean) / float(stats.t.ppf(0.975, found.df))
    if error == 0:
        return 1.0 if found.mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(found.mean) / error, found.df))


def tie_groups(means: Sequence[float], p_value: Callable[[int, int], float], level: float = 0.05) -> list[int]:
    """Number of the group of each method, 1 for the best; higher means are better.

    A group is the best method left and every other one that no test tells from it at `level`, Holm-adjusted over the
    tests against that best; the rest is grouped again. A pair without a test (NaN) is not told apart.
    """
    left = sorted(range(len(means)), key=lambda i: -means[i])
    groups = [0] * len(means)
    number = 0
    while left:
        number += 1
        best, others = left[0], left[1:]
        adjusted = holm([p_value(best, other) for other in others])
        apart = {other for other, p in zip(others, adjusted, strict=True) if p < level}
        for method in left:
            if method not in apart:
                groups[method] = number
        left = [method for method in left if method in apart]
    return groups


@dataclass(frozen=True)
class CriticalDifference:
    """Friedman's test over N data sets and Nemenyi's critical difference of mean ranks.

    Attributes
    ----------
    ranks : mean rank of each method, 1 the best. p : Friedman's test that all methods are alike.
    difference : mean ranks closer than this are not told apart.
    ties : first and last position, among the methods ordered by rank, of each largest set not told apart.
    """

    ranks: tuple[float, ...]
    p: float
    difference: float
    ties: tuple[tuple[int, int], ...]


def critical_difference(values: np.ndarray, level: float = 0.05) -> CriticalDifference:
    """Friedman's test and Nemenyi's critical difference of float [N, K]: N data sets, K methods, higher is better.

    Friedman's statistic is corrected for ties. Source: Demsar, JMLR 2006, section 3.2. UsageError for fewer than two
    data sets, fewer than three methods, or values that are missing.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 3 or not np.isfinite(values).all():
        raise UsageError(
            f"critical difference: values of shape {list(values.shape)}; expected a full grid of at least 2 data sets "
            "and 3 methods"
        )
    sets, methods = values.shape
    ranks = stats.rankdata(-values, axis=1).mean(axis=0)
    alike = bool((values == values[:, :1]).all())  # the statistic is 0 / 0 then
    p = 1.0 if alike else float(stats.friedmanchisquare(*values.T).pvalue)
    quantile = float(stats.studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)
    difference = quantile * math.sqrt(methods * (methods + 1) / (6 * sets))
    ordered = np.sort(ranks)
    ties: list[tuple[int, int]] = []
    for start in range(methods):
        end = int(np.searchsorted(ordered, ordered[start] + difference, side="left")) - 1
        if end > start and (not ties or end > ties[-1][1]):
            ties.append((start, end))
    return CriticalDifference(tuple(map(float, ranks)), p, difference, tuple(ties))


def runs_needed(gap: float, deviation: float, power: float = 0.8, level: float = 0.05) -> int:
    """How many paired runs a two-sided t-test needs to find a true mean `gap` with probability `power`.

    `deviation` is the sample deviation of the paired differences; for two methods that each vary by s and do not move
    together it is s times the square root of 2. Found by the noncentral t distribution. UsageError for a gap that is
    not above 0, a negative deviation, or shares outside 0 to 1.
    """
    if not (gap > 0 and deviation >= 0 and 0 < level < power < 1):
        raise UsageError(
            f"gap {gap}, deviation {deviation}, power {power}, level {level}: expected gap > 0, deviation >= 0, "
            "0 < level < power < 1"
        )

    if deviation == 0:
        return 2
    # The normal approximation is below the answer by a few runs at most.
    quantiles = float(stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power))
    runs = max(2, math.floor((quantiles * deviation / gap) ** 2))
    # The chance to find the gap the wrong way round is left out: it is far below 1 in 1,000 at any power of use.
    while stats.nct.sf(stats.t.ppf(1 - level / 2, runs - 1), runs - 1, gap / deviation * math.sqrt(runs)) < power:
        runs += 1
    return runs
