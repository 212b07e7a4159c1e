"""Friedman's test and critical differences of mean ranks over data sets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mlbench.errors import UsageError


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
