"""Paired bootstrap over test images: what the draw of the test set does to a metric, and to a difference of methods.

A replicate draws as many images as there are, with replacement: sample i counts w_i times. Every class is sorted
once; a replicate then only sums weights, so a thousand of them cost little more than one sparse matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from scipy import sparse

from mlbench.errors import DataError, UsageError, unknown
from mlbench.metrics import Scores, mean_average_precision
from mlbench.metrics.checks import bool_matrix, known_matrix
from mlbench.metrics.scores import require_scores

#: Replicates weighted at once: 40,137 samples take 10 MB.
CHUNK = 64
#: float32 holds whole numbers exactly up to here; sums of weights beyond it are taken in float64.
_EXACT = 2**24


@dataclass(frozen=True)
class PairedInterval:
    """Difference of two systems on the same images, as fractions, with a percentile interval over replicates.

    Attributes
    ----------
    a, b : the metric of each on the test set as it is; `difference` is b - a.
    low, high : ends of the interval of the difference.
    p : two-sided: twice the share of replicates on the rarer side of zero (zero itself is on both), one added to both
        counts (Davison and Hinkley, Bootstrap Methods, 1997, section 4.2); at most 1.
    centre : mean difference over replicates. Far from `difference`, it warns: classes with few positives lose them all
        in some draws, which moves mAP and class means, and the interval with them.
    replicates : how many had a defined difference; the others (a metric that a draw leaves undefined) are left out.
    """

    a: float
    b: float
    low: float
    high: float
    p: float
    centre: float
    replicates: int

    @property
    def difference(self) -> float:
        return self.b - self.a


class Statistic(Protocol):
    """Metrics of one system under sample weights."""

    def __call__(self, weights: np.ndarray) -> Mapping[str, np.ndarray]:
        """Weights [N, R], whole numbers, to values [R] by metric, as fractions; NaN where undefined."""
        ...


class MeanAP:
    """mAP under sample weights: `average_precision` of a test set in which sample i stands w_i times, ties exact.

    Parameters
    ----------
    scores : Logits, Probabilities or Ranks [N, C].
    targets, known : bool [N, C]; known None means that all is known.
    flavour : "step" or "envelope".
    empty_class : what a class without positives in a replicate counts as, see `mean_average_precision`.
    """

    def __init__(
        self,
        scores: Scores,
        targets: np.ndarray,
        known: np.ndarray | None = None,
        flavour: str = "step",
        empty_class: str = "skip",
    ) -> None:
        if flavour not in ("step", "envelope"):
            raise unknown("flavour of average precision", flavour, ("step", "envelope"), "bootstrap")
        values = require_scores(scores).values
        targets, known = bool_matrix("targets", targets, scores.shape), known_matrix(known, scores.shape)
        self.envelope, self.empty_class = flavour == "envelope", empty_class
        self.known = np.ones(targets.shape, dtype=bool) if known is None else known
        self.classes = [_Ranked(values[:, c], targets[:, c], self.known[:, c]) for c in range(values.shape[1])]

    def by_class(self, weights: np.ndarray) -> np.ndarray:
        """AP float64 [C, R]; NaN for a class without positives in a replicate."""
        return np.stack([ranked.average_precision(weights, self.envelope) for ranked in self.classes])

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        ap = self.by_class(weights)
        if self.empty_class == "zero_if_known":  # known entries come and go with the draw
            seen = (self.known.T.astype(weights.dtype) @ weights) > 0
            ap = np.where(np.isnan(ap) & seen, 0.0, ap)
        rule = "skip" if self.empty_class == "zero_if_known" else self.empty_class
        return {"mAP": np.array([mean_average_precision(column, rule) for column in ap.T])}


class _Ranked:
    """One class: samples sorted by score into bins, one for each distinct score of a positive.

    A bin holds the samples that a threshold at its score adds; those below the lowest positive are in none.
    """

    def __init__(self, column: np.ndarray, present: np.ndarray, known: np.ndarray) -> None:
        rows, positive = np.flatnonzero(known), np.flatnonzero(known & present)
        thresholds, bins = np.unique(-column[positive], return_inverse=True)  # from the highest score down
        place = np.searchsorted(thresholds, -column[rows], side="left")
        kept = place < len(thresholds)
        self.retrieved = _indicator(place[kept], rows[kept], len(thresholds), len(column))
        self.true = _indicator(bins.ravel(), positive, len(thresholds), len(column))

    def average_precision(self, weights: np.ndarray, envelope: bool) -> np.ndarray:
        gained = self.true.astype(weights.dtype, copy=False) @ weights
        true = np.cumsum(gained, axis=0, dtype=np.float64)
        if not len(true):
            return np.full(weights.shape[1], np.nan)
        retrieved = np.cumsum(self.retrieved.astype(weights.dtype, copy=False) @ weights, axis=0)
        precision = true / np.maximum(retrieved, 1)
        if envelope:
            precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        with np.errstate(invalid="ignore"):
            return np.einsum("gr,gr->r", gained, precision) / true[-1]  # 0 / 0: no positive was drawn


class LabelF1:
    """F1 of decisions under sample weights: "F1-C_mean", "F1-C_hm" and "F1-O" as in `PrecisionRecallF1`.

    decisions, targets, known : bool [N, C]; `prefix` stands before the names.
    """

    def __init__(
        self, decisions: np.ndarray, targets: np.ndarray, known: np.ndarray | None = None, prefix: str = ""
    ) -> None:
        targets = bool_matrix("targets", targets)
        decisions = bool_matrix("decisions", decisions, (targets.shape[0], targets.shape[1]))
        known = known_matrix(known, (targets.shape[0], targets.shape[1]))
        if known is not None:
            decisions, targets = decisions & known, targets & known
        self.prefix = prefix
        self.counted = [sparse.csr_matrix(m.T, dtype=np.float32) for m in (decisions & targets, decisions, targets)]

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        hit, decided, present = (
            (m.astype(weights.dtype, copy=False) @ weights).astype(np.float64) for m in self.counted
        )
        precision, recall = _ratio(hit, decided).mean(axis=0), _ratio(hit, present).mean(axis=0)
        total = precision + recall
        values = {
            "F1-C_mean": _ratio(2 * hit, decided + present).mean(axis=0),
            "F1-C_hm": np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0),
            "F1-O": _ratio(2 * hit.sum(axis=0), (decided + present).sum(axis=0)),
        }
        return {self.prefix + name: value for name, value in values.items()}


def draw_weights(groups: Sequence[str] | np.ndarray, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Weights [N, r] of all replicates, `CHUNK` at a time: whole numbers held as floats.

    groups : N group ids; samples that share one (persons in a picture) are drawn together.
    """
    if replicates < 1:
        raise UsageError(f"replicates = {replicates}: expected at least 1")
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    if not group.size:
        raise DataError("no sample to draw from")
    sizes = np.bincount(group)
    dtype = np.float32 if len(sizes) * int(sizes.max()) < _EXACT else np.float64
    rng = np.random.default_rng(seed)
    for start in range(0, replicates, CHUNK):
        drawn = np.empty((len(sizes), min(CHUNK, replicates - start)), dtype=dtype)
        for column in drawn.T:
            column[:] = np.bincount(rng.integers(len(sizes), size=len(sizes)), minlength=len(sizes))
        yield drawn[group]


def paired_replicates(
    first: Sequence[Statistic],
    second: Sequence[Statistic],
    groups: Sequence[str] | np.ndarray,
    replicates: int,
    seed: int,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Every metric of two systems in the same replicates: values [1 + R] by name, the test set as it is first."""

    def measure(statistics: Sequence[Statistic], weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values for statistic in statistics for name, values in statistic(weights).items()}

    chunks: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = []
    whole = np.ones((len(groups), 1), dtype=np.float64)
    for weights in chain([whole], draw_weights(groups, replicates, seed)):
        chunks.append((measure(first, weights), measure(second, weights)))
    joined = [{name: np.concatenate([c[side][name] for c in chunks]) for name in chunks[0][side]} for side in (0, 1)]
    return joined[0], joined[1]


def paired_interval(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> PairedInterval:
    """`PairedInterval` from values [1 + R] of two systems, those of the test set as it is first."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence {confidence}: expected a share between 0 and 1")
    differences = second[1:] - first[1:]
    differences = differences[~np.isnan(differences)]
    count = len(differences)
    low, high, p, centre = math.nan, math.nan, math.nan, math.nan
    if count:
        centre = float(differences.mean())
        low, high = np.quantile(differences, [0.5 - confidence / 2, 0.5 + confidence / 2])
        rarer = min((differences <= 0).sum(), (differences >= 0).sum())
        p = min(1.0, 2 * (int(rarer) + 1) / (count + 1))
    return PairedInterval(float(first[0]), float(second[0]), float(low), float(high), p, centre, count)


def paired_bootstrap(
    scores_a: Scores,
    scores_b: Scores,
    targets: np.ndarray,
    known: np.ndarray | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    flavour: str = "step",
    empty_class: str = "skip",
) -> PairedInterval:
    """Paired bootstrap of mAP: interval and p-value of the difference b - a over draws of the test images.

    Parameters
    ----------
    scores_a, scores_b : scores [N, C] of the two systems, rows and columns alike.
    targets, known : bool [N, C]; known None means that all is known.
    groups : N ids of what is drawn (the image of a sample); None draws samples.
    replicates, seed : number of draws; the same seed gives the same draws for any two systems.
    flavour, empty_class : as for `MeanAP`.

    The interval says what another test set of this size could give; it knows nothing of another training seed or
    another mask. UsageError and DataError as for `average_precision`.
    """
    systems = [[MeanAP(scores, targets, known, flavour, empty_class)] for scores in (scores_a, scores_b)]
    drawn = np.arange(len(targets)) if groups is None else groups
    if len(drawn) != len(targets):
        raise DataError(f"{len(drawn)} groups for {len(targets)} samples")
    first, second = paired_replicates(systems[0], systems[1], drawn, replicates, seed)
    return paired_interval(first["mAP"], second["mAP"], confidence)


def _indicator(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> sparse.csr_matrix:
    ones = np.ones(len(rows), dtype=np.float32)
    return sparse.csr_matrix((ones, (rows, columns)), shape=(height, width))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return numerator / np.maximum(denominator, 1)
