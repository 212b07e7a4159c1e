"""Which methods of a column are told apart, and which may be the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from mlbench.significance.crossed import Gaps

_SEED, _SIMULATIONS = 0, 4000


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


def adjusted(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values of all pairs of a column, float [K, K] symmetric, that keep the family-wise error.

    The family is *every* pair, since the pairs of interest (those with the best) are chosen by the data. Holm's method
    with Shaffer's numbers: after k pairs are told apart, no more of the others than `_most_true` can be without a gap.
    It holds under any dependence. NaN (no test) stays NaN and counts as a possible pair,
    but a method that no test reached is not of the family.

    Source: Shaffer, Journal of the American Statistical Association 1986, procedure S1.
    """
    p = np.asarray(p, dtype=np.float64)
    first, second = np.triu_indices(len(p), 1)
    values = p[first, second]
    order = np.argsort(values, kind="stable")[: int(np.isfinite(values).sum())]
    result = np.full(p.shape, math.nan)
    factors = _most_true(int(np.isfinite(p).any(axis=1).sum()))[: len(order)]
    raised = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    result[first[order], second[order]] = result[second[order], first[order]] = raised
    return result


def _most_true(methods: int) -> np.ndarray:
    """Of the pairs of K methods, [K (K - 1) / 2]: how many can have no gap once 0, 1, 2, ... are known to have one.

    Methods without gaps between them are a block; blocks of sizes k_1, k_2, ... leave sum of k_i (k_i - 1) / 2.
    """
    possible = [{0}]
    for count in range(1, methods + 1):
        possible.append({k * (k - 1) // 2 + rest for k in range(1, count + 1) for rest in possible[count - k]})
    pairs = methods * (methods - 1) // 2
    numbers = np.array(sorted(possible[methods]))
    left = pairs - np.arange(pairs)
    return numbers[np.searchsorted(numbers, left, side="right") - 1]


def tie_groups(gap: np.ndarray, told_apart: np.ndarray) -> list[int | None]:
    """Group of each of K methods, 1 for those that may be the best; None for a method that no test reached.

    gap : [K, K], row minus column. told_apart : bool [K, K].

    Group 1 are all that no other method is told to be better than; of the rest, the same again. So a group does not
    hang on which of several near-equal methods happens to have the highest mean. `told_apart` from `adjusted` at 0.05:
    in 95 of 100 columns no two methods of equal mean are told apart, in any group.
    """
    tested = ~np.isnan(gap)
    left = [i for i in range(len(gap)) if tested[i].any()]
    groups: list[int | None] = [None] * len(gap)
    number = 0
    while left:
        number += 1
        beaten = {i for i in left if any(told_apart[j, i] and gap[j, i] > 0 for j in left)}
        if len(beaten) == len(left):  # a circle: each is better than another
            beaten = set()
        for i in left:
            if i not in beaten:
                groups[i] = number
        left = [i for i in left if i in beaten]
    return groups


def out_of_order(means: Sequence[float], groups: Sequence[int | None]) -> list[tuple[int, int]]:
    """Pairs (i, j): i has the higher mean and the worse group, j being the lowest such; one for each i."""
    placed = [(i, group) for i, group in enumerate(groups) if group is not None]
    found = []
    for i, group in placed:
        below = [j for j, other in placed if other < group and means[j] < means[i]]
        if below:
            found.append((i, min(below, key=lambda j: means[j])))
    return found


@dataclass(frozen=True)
class Standing:
    """Of each of K methods, [K]: chance of being the best, mean rank (1 is the best) and ends of the rank's interval.

    NaN for a method that is not compared with all others that are.
    """

    best: np.ndarray
    rank: np.ndarray
    low: np.ndarray
    high: np.ndarray


def standing(gaps: Gaps, confidence: float = 0.95) -> Standing:
    """`Standing` by the uncertainty of `gaps`, made with the same `confidence`: over draws, and images where included.

    True means are drawn together from a normal distribution whose paired differences have the intervals of `gaps`
    (classical scaling of their squared widths gives its covariance). A chance of x says: given these runs, and no
    earlier knowledge, its true mean is the highest of the column with probability x.
    """
    count = len(gaps.gap)
    empty = np.full(count, math.nan)
    result = Standing(empty, empty.copy(), empty.copy(), empty.copy())
    known = ~np.isnan(gaps.gap) | np.eye(count, dtype=bool)
    kept = _complete(known)
    if len(kept) < 2:
        return result
    at = np.ix_(kept, kept)
    width = (gaps.high - gaps.low)[at] / (2 * special.ndtri(0.5 + confidence / 2))
    square = np.where(np.isnan(width), 0.0, width**2)
    centring = np.eye(len(kept)) - 1 / len(kept)
    values, vectors = np.linalg.eigh(-centring @ square @ centring / 2)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    centre = np.nan_to_num(gaps.gap[at]).sum(axis=1) / len(kept)
    drawn = centre + np.random.default_rng(_SEED).standard_normal((_SIMULATIONS, len(kept))) @ root.T
    # Methods whose runs are equal to the last digit share the rank, and the chance.
    drawn = np.round(drawn, 9)
    ranks = 1 + (drawn[:, None, :] > drawn[:, :, None]).sum(axis=2)
    first = ranks == 1
    ranks = ranks + ((drawn[:, None, :] == drawn[:, :, None]).sum(axis=2) - 1) / 2
    result.best[kept] = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    result.rank[kept] = ranks.mean(axis=0)
    result.low[kept], result.high[kept] = np.quantile(ranks, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    return result


def _complete(known: np.ndarray) -> list[int]:
    """Methods that are all compared with each other: those with the fewest comparisons are left out one by one."""
    kept = [i for i in range(len(known)) if known[i].sum() > 1]
    while kept and not known[np.ix_(kept, kept)].all():
        kept.remove(min(reversed(kept), key=lambda i: known[i, kept].sum()))
    return kept
