"""Gaps between the methods of a column, from runs by seed and mask of which any may be missing.

The model. A run's draw is its seed and its mask. The gap of two methods in a draw is

    gap = true gap + effect of the seed + effect of the mask + rest,

three independent normal effects with mean 0. Given the shares that seeds and masks have in the variance, the true gap
is estimated by generalised least squares over the draws that both methods have, and its error is Student's. A grid of
3 x 3 runs knows little of the shares (2 degrees of freedom each) but a column's other pairs know more, if they are
alike, and the same holds for the variance itself. So both are moderated: a pair's variance comes from a scaled inverse
chi-squared distribution over the column's pairs, as in limma (Smyth, Statistical Applications in Genetics and Molecular
Biology 2004), and its shares from a distribution around common ones. How alike the pairs are (the distribution's
degrees of freedom, the spread of the shares) is not assumed: it is judged by the data, by its likelihood over the
*other* pairs, and averaged over. Where pairs are not alike, or where there are two methods only, a pair stands on its
own, with a prior for its shares that is made to cover (`shares_prior`). The result is a mixture of Student
distributions, whose quantiles are the interval and whose tails are the p-value.

Runs that are each of their own seed and mask have no shares to know: two methods then give Student's paired test.
`benchmarks/significance.py` shows coverage and errors by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from mlbench.significance.shares_prior import ratio_grid

#: (seed, mask seed) of a run; None as the mask of a method that sees none and so has one run a seed.
Draw = tuple[int, int | None]

#: Spread of the log of the ratios of variances around the column's. Besides, a pair may share nothing with the others.
_SPREADS = (0.0, 0.7)
#: Parts of a mixture below this weight are left out.
_LEAST = 1e-5


@dataclass(frozen=True)
class Gaps:
    """Every pair of K methods: float [K, K], row minus column; NaN where no test is possible, and on the diagonal.

    Attributes
    ----------
    gap : estimate. low, high : ends of the interval. p : two-sided, of no gap.
    deviation : of the gap in a single draw of its own seed and mask. draws : int [K, K], draws in common.
    """

    gap: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    deviation: np.ndarray
    draws: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean, the ends of its confidence interval, and the deviation of a single draw; from one draw, a mean alone."""

    mean: float
    low: float
    high: float
    deviation: float


@dataclass(frozen=True)
class _Shape:
    """Pairs with the same draws. gaps : float [P, N]; of G pairs of shares: estimate [P, G], residual square [P, G],
    variance of the estimate over that of a draw [G], and the part of the log likelihood without the gaps [G].
    """

    at: np.ndarray
    draws: int
    estimate: np.ndarray
    square: np.ndarray
    factor: np.ndarray
    constant: np.ndarray


def gaps(methods: Sequence[Mapping[Draw, float]], confidence: float = 0.95, images: np.ndarray | None = None) -> Gaps:
    """Gap, interval and p-value of every pair of `methods`, each given as its values by draw.

    Parameters
    ----------
    methods : K mappings; all are in one column, their values finite. A method that sees no mask has draws
        (seed, None), each of which is held against the other's runs of that seed.
    confidence : of the intervals, each for itself.
    images : float [K, K], variance of each gap over draws of the test images, added to that over the runs.

    A pair has no test (NaN) with fewer than two draws in common. Draws of one seed alone, or one mask, say nothing of
    others: the interval is then over what varies. ValueError for values that are not finite.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a share between 0 and 1")
    count = len(methods)
    first, second = np.triu_indices(count, 1)
    common = [_common(methods[a], methods[b]) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    found = {name: np.full(len(first), math.nan) for name in ("gap", "low", "high", "p", "deviation")}
    numbers = np.array([len(pair) for pair in common], dtype=np.int64)
    noise = np.zeros(len(first)) if images is None else np.asarray(images, dtype=np.float64)[first, second]
    tested: list[int] = []
    for i in map(int, np.flatnonzero(numbers >= 2)):
        values = np.array(list(common[i].values()))
        if not np.isfinite(values).all():
            raise ValueError("a value that is not finite: leave undefined runs out")
        if np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())):
            tested.append(i)
            continue
        gap = float(values.mean())  # nothing varies but, where they are given, the test images
        half = -float(special.ndtri(0.5 - confidence / 2)) * math.sqrt(noise[i])
        found["gap"][i], found["low"][i], found["high"][i] = gap, gap - half, gap + half
        found["deviation"][i] = 0.0
        found["p"][i] = 1.0 if gap == 0 else 2 * special.ndtr(-abs(gap) / math.sqrt(noise[i])) if noise[i] else 0.0
    if tested:
        at = np.array(tested)
        compared = len({*first[at], *second[at]})
        results = _moderated([common[i] for i in tested], compared, confidence, noise[at])
        for name, values in results.items():
            found[name][at] = values
    square = {name: np.full((count, count), math.nan) for name in found}
    for name, (upper, lower) in {
        "gap": ("gap", -1), "low": ("high", -1), "high": ("low", -1), "p": ("p", 1), "deviation": ("deviation", 1)
    }.items():  # fmt: skip
        square[name][first, second] = found[name]
        square[name][second, first] = lower * found[upper]
    draws = np.zeros((count, count), dtype=np.int64)
    draws[first, second] = draws[second, first] = numbers
    return Gaps(**square, draws=draws)


def interval(values: Mapping[Draw, float], confidence: float = 0.95) -> Interval:
    """`Interval` of the mean of one method's values (or of its paired gaps) by draw, in the model of `gaps`."""
    if len(values) < 2:
        return Interval(float(np.mean(list(values.values()))), math.nan, math.nan, math.nan)
    found = gaps([values, dict.fromkeys(values, 0.0)], confidence)
    return Interval(*(float(part[0, 1]) for part in (found.gap, found.low, found.high, found.deviation)))


def _common(first: Mapping[Draw, float], second: Mapping[Draw, float]) -> dict[Draw, float]:
    """Differences by the draws that two methods share; a run without a mask is of every mask of its seed."""
    if any(mask is None for _, mask in first) != any(mask is None for _, mask in second):
        blind, seeing, sign = (first, second, 1) if any(m is None for _, m in first) else (second, first, -1)
        of_seed = {seed: value for (seed, _), value in blind.items()}
        return {draw: sign * (of_seed[draw[0]] - value) for draw, value in seeing.items() if draw[0] in of_seed}
    return {draw: value - second[draw] for draw, value in first.items() if draw in second}


@dataclass(frozen=True)
class Shares:
    """Of the variance of a gap in one draw: the seed's share and the mask's, (mean, low, high) each, and the chance
    that the mask's is the larger. `pairs` of methods tell.
    """

    seed: tuple[float, float, float]
    mask: tuple[float, float, float]
    mask_larger: float
    pairs: int


def shares(methods: Sequence[Mapping[Draw, float]], confidence: float = 0.95) -> Shares | None:
    """How the variance of a column's gaps is shared between seeds, masks and rest, averaged over pairs of methods.

    By the model and the prior of `gaps`; the interval is that of a pair of methods of such a column. None where no pair
    repeats both a seed and a mask.
    """
    first, second = np.triu_indices(len(methods), 1)
    common = [_common(methods[a], methods[b]) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    pairs = [pair for pair in common if len(pair) > 2 and np.ptp(list(pair.values())) > 0]
    crossed = [pair for pair in pairs if all(1 < len({draw[axis] for draw in pair}) < len(pair) for axis in (0, 1))]
    if not crossed:
        return None
    _, ratios, weights = _weighted(crossed, len(methods))
    weight = weights.mean(axis=0)
    whole = 1 + ratios.sum(axis=1)
    seed, mask = ratios[:, 0] / whole, ratios[:, 1] / whole
    larger = float(weight[mask > seed].sum() + weight[mask == seed].sum() / 2)
    return Shares(_summary(seed, weight, confidence), _summary(mask, weight, confidence), larger, len(crossed))


def _summary(values: np.ndarray, weight: np.ndarray, confidence: float) -> tuple[float, float, float]:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weight[order])
    low, high = (
        float(values[order][min(int(np.searchsorted(below, share)), len(order) - 1)])
        for share in (0.5 - confidence / 2, 0.5 + confidence / 2)
    )
    return float(weight @ values), low, high


def _moderated(
    pairs: Sequence[Mapping[Draw, float]], methods: int, confidence: float, noise: np.ndarray
) -> dict[str, np.ndarray]:
    """Estimates of `pairs`, given as gaps by draw, none of them constant; arrays [P] by name."""
    shapes, _, weights = _weighted(pairs, methods)
    own, typical = np.empty(len(pairs)), np.empty(len(pairs))
    for shape in shapes:
        own[shape.at] = shape.draws - 1
        typical[shape.at] = (weights[shape.at] * np.log(shape.square / (shape.draws - 1))).sum(axis=1)
    df, variance = _variance_prior(typical, own, methods)
    return _mixture(shapes, weights, df, variance, confidence, noise)


def _weighted(pairs: Sequence[Mapping[Draw, float]], methods: int) -> tuple[list[_Shape], np.ndarray, np.ndarray]:
    """Shapes of `pairs`, the shares of variance considered [G, 2], and the weight of each for each pair [P, G]."""
    ratios, prior, alone = ratio_grid(pairs, methods)
    shapes = _shapes(pairs, ratios)
    likelihood = np.empty((len(pairs), len(ratios)))
    for shape in shapes:
        likelihood[shape.at] = shape.constant - (shape.draws - 1) / 2 * np.log(shape.square)
    # What the other pairs say counts as so many independent ones: there are fewer methods than pairs.
    others = max(methods - 2, 0) / max(len(pairs) - 1, 1)
    weights = np.log(_predicted_shares(likelihood, ratios, prior, alone, others)) + likelihood
    weights = np.exp(weights - weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return shapes, ratios, weights


def _variance_prior(logs: np.ndarray, own: np.ndarray, methods: int) -> tuple[float, float]:
    """Degrees of freedom and scale of the distribution of the column's variances, from logs of estimates [P].

    By the moments of the logs (Smyth 2004, section 6.2), with the logs' spread one standard error above what is seen,
    since few methods do not show that they are alike. The degrees are no more than those of the other methods' runs.
    """
    most = (methods - 2) * float(np.mean(own))
    if most <= 0 or len(logs) < 2:
        return 0.0, 1.0
    centred = logs - special.digamma(own / 2) + np.log(own / 2)
    seen = float(centred.var(ddof=1))
    excess = seen * (1 + math.sqrt(2 / (methods - 1))) - float(special.polygamma(1, own / 2).mean())
    df = most
    if excess > special.polygamma(1, most / 2):
        low, high = 1e-3, most
        for _ in range(60):  # trigamma falls
            middle = math.sqrt(low * high)
            low, high = (middle, high) if special.polygamma(1, middle / 2) > excess else (low, middle)
        df = low
    return df, math.exp(float(centred.mean() + special.digamma(df / 2) - math.log(df / 2)))


def _shapes(pairs: Sequence[Mapping[Draw, float]], ratios: np.ndarray) -> list[_Shape]:
    """The pairs by the draws they have, solved for each pair of shares."""
    grouped: dict[tuple[Draw, ...], list[int]] = {}
    for i, pair in enumerate(pairs):
        grouped.setdefault(tuple(sorted(pair, key=str)), []).append(i)
    shapes = []
    for draws, at in grouped.items():
        gap = np.array([[pairs[i][draw] for draw in draws] for i in at])
        n = len(draws)
        cov = np.broadcast_to(np.eye(n), (len(ratios), n, n)).copy()
        for axis in (0, 1):
            level = np.array([str(draw[axis]) for draw in draws])
            if len(set(level)) > 1:  # the effect of a single seed, or mask, is part of the gap
                cov += ratios[:, axis, None, None] * (level[:, None] == level)
        cov /= (1 + ratios.sum(axis=1))[:, None, None]
        inverse, logdet = np.linalg.inv(cov), np.linalg.slogdet(cov)[1]
        toward = inverse.sum(axis=2)
        factor = 1 / toward.sum(axis=1)
        estimate = gap @ (toward * factor[:, None]).T
        square = np.einsum("pi,gij,pj->pg", gap, inverse, gap, optimize=True) - estimate**2 / factor
        square = np.maximum(square, 1e-12 * gap.var(axis=1)[:, None])
        shapes.append(_Shape(np.array(at), n, estimate, square, factor, (np.log(factor) - logdet) / 2))
    return shapes


def _predicted_shares(
    likelihood: np.ndarray, ratios: np.ndarray, prior: np.ndarray, alone: np.ndarray, others: float
) -> np.ndarray:
    """Weight [P, G] of each pair of shares for each pair of methods, from the other pairs of methods alone.

    likelihood : log, [P, G]. prior, alone : [G], by `ratio_grid`.
    """
    if others == 0:
        return np.tile(alone, (len(likelihood), 1))
    places = np.log(1 + 3 * ratios)
    apart = ((places[:, None] - places) ** 2).sum(axis=2)
    kernels = [alone[None]]
    for spread in _SPREADS:
        kernel = np.eye(len(apart)) if spread == 0 else prior * np.exp(-apart / (2 * spread**2))
        kernels.append(kernel / kernel.sum(axis=1, keepdims=True))
    around = np.concatenate(kernels)  # [1 + spreads x G, G]
    top = likelihood.max(axis=1, keepdims=True)
    evidence = np.log(np.exp(likelihood - top) @ around.T + 1e-300)
    evidence = others * (evidence.sum(axis=0) - evidence) + np.log(
        np.concatenate([np.ones(1), *[prior] * len(_SPREADS)])
    )
    weights = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ around + 1e-300


def _mixture(
    shapes: Sequence[_Shape], weights: np.ndarray, prior: float, scale: float, confidence: float, noise: np.ndarray
) -> dict[str, np.ndarray]:
    """Summary of each pair's mixture of Student distributions, of `weights` [P, G]."""
    found = {name: np.empty(len(weights)) for name in ("gap", "low", "high", "p", "deviation")}
    for shape in shapes:
        kept = weights[shape.at] > _LEAST
        pair, share = np.nonzero(kept)
        weight, own = weights[shape.at][kept], shape.draws - 1
        variance = shape.square[kept] / own
        # A pair whose own variance is larger keeps it, and the others' degrees of freedom count the less the larger it
        # is: they cannot vouch for a method that is noisier than they.
        borrowed = prior * np.minimum(1.0, scale / variance) ** 2
        variance = np.maximum(variance, (prior * scale + own * variance) / (prior + own))
        mean, error = shape.estimate[kept], variance * shape.factor[share]
        whole = error + noise[shape.at][pair]
        df = (borrowed + own) * (whole / error) ** 2  # Satterthwaite: the part over images counts as known
        error = np.sqrt(whole)
        students = _Students(pair, weight / np.bincount(pair, weight)[pair], mean, error, df)
        middle, wide = students.average(mean), np.sqrt(students.average(error**2))
        tails = students.below(np.zeros(len(middle))), students.average(special.stdtr(df, mean / error))
        found["gap"][shape.at] = middle
        found["p"][shape.at] = np.minimum(1.0, 2 * np.minimum(*tails))
        found["deviation"][shape.at] = np.sqrt(students.average(variance))
        for name, share_below in (("low", 0.5 - confidence / 2), ("high", 0.5 + confidence / 2)):
            found[name][shape.at] = _quantile(students.below, middle, wide, share_below)
    return found


@dataclass(frozen=True)
class _Students:
    """Mixtures of Student distributions, [N] parts in all: `pair` says which mixture each part is of, from 0."""

    pair: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    df: np.ndarray

    def average(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.pair, self.weight * values)

    def below(self, x: np.ndarray) -> np.ndarray:
        """Chance of less than `x`, for each mixture its own."""
        return self.average(special.stdtr(self.df, (x[self.pair] - self.mean) / self.error))


def _quantile(
    below: Callable[[np.ndarray], np.ndarray], middle: np.ndarray, wide: np.ndarray, share: float
) -> np.ndarray:
    """Where `below` is `share`: false position on the normal scale, for all pairs at once.

    The end that stays is weighted as by Anderson and Björck (BIT 1973), which takes five steps where a half takes
    twelve.
    """
    aim = float(special.ndtri(share))

    def off(x: np.ndarray) -> np.ndarray:
        return special.ndtri(np.clip(below(x), 1e-15, 1 - 1e-15)) - aim

    near, far = middle, middle + 2 * aim * wide
    at_near, at_far = off(near), off(far)
    for _ in range(12):
        step = far - at_far * (far - near) / np.where(at_far == at_near, 1.0, at_far - at_near)
        at_step = off(step)
        if (np.abs(at_step) < 1e-5).all():
            return step
        crossed = at_step * at_far < 0
        kept = 1 - at_step / np.where(at_far == 0, 1.0, at_far)
        at_near = np.where(crossed, at_far, at_near * np.where(kept > 0, kept, 0.5))
        near = np.where(crossed, far, near)
        far, at_far = step, at_step
    return far
