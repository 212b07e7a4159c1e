"""How far probabilities can be believed: reliability curves, calibration errors and the Brier score.

All is about the probability that a label is present, not about the more likely of its two states. Bins of equal width
cut [0, 1]; bins of equal size ("adaptive") are cut at the quantiles of the probabilities themselves, so that the many
small ones of rare labels are told apart. Entries that are not known are left out. Nothing depends on the order of
images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit

from mlbench.errors import UsageError, unknown
from mlbench.metrics.checks import bool_matrix, known_matrix, release
from mlbench.metrics.registered import Metric
from mlbench.metrics.scores import Probabilities, Scores, require_scores

BINS = 15
BINNINGS = ("width", "size")


@dataclass(frozen=True, eq=False)
class ClassValues:
    """A measure, as fractions.

    Attributes
    ----------
    per_class : float64 [C]; NaN for a class without known entries.
    macro : mean of the classes that have one. micro : that of all known entries together. NaN where there are none.
    """

    per_class: np.ndarray
    macro: float
    micro: float


@dataclass(frozen=True, eq=False)
class Reliability:
    """Reliability curves: what was foretold in each bin, and what came true.

    Attributes
    ----------
    count : int64 [C, bins], known entries in the bin.
    probability : float64 [C, bins], their mean probability. share : the part of them that is present. NaN in an empty
        bin.
    """

    count: np.ndarray
    probability: np.ndarray
    share: np.ndarray


def reliability(
    scores: Scores, targets: np.ndarray, known: np.ndarray | None = None, bins: int = BINS, binning: str = "width"
) -> Reliability:
    """The reliability curve of every class, scikit-learn's `calibration_curve` with the empty bins kept.

    Parameters
    ----------
    scores : Logits or Probabilities [N, C].
    targets : bool [N, C], True where the class is present.
    known : bool [N, C] or None (all known).
    bins : number of bins, from 1. A bin holds its upper edge and not its lower one, but for 0.
    binning : "width" (equal widths) or "size" (edges at the quantiles of the class's probabilities; equal ones stay
        together, so that bins may be empty).

    Raises
    ------
    UsageError
        For ranks, which have no probability, scores given as a bare array, or a wrong `bins` or `binning`.
    DataError
        If `targets` or `known` is not bool or not of the shape of `scores`.
    """
    found = [_sums(*column, bins, binning) for column in _columns(scores, targets, known)]
    count, probability, share = np.array(found, dtype=np.float64).reshape(-1, 3, bins).transpose(1, 0, 2)
    with np.errstate(invalid="ignore"):
        return Reliability(count.astype(np.int64), probability / count, share / count)


def expected_calibration_error(
    scores: Scores, targets: np.ndarray, known: np.ndarray | None = None, bins: int = BINS
) -> ClassValues:
    """Mean distance of probability and share of present labels over bins of equal width, weighted by their entries.

    Arguments and errors as for `reliability`.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017; here of the probability of each label by itself.
    """
    return _measured(_columns(scores, targets, known), bins)[0]


def adaptive_calibration_error(
    scores: Scores, targets: np.ndarray, known: np.ndarray | None = None, bins: int = BINS
) -> ClassValues:
    """`expected_calibration_error` with bins of equal size; those of `micro` are cut over all entries together.

    Arguments and errors as for `reliability`.

    Source: Nguyen and O'Connor, EMNLP 2015; Nixon et al., CVPR workshops 2019.
    """
    columns = list(_columns(scores, targets, known))
    per_class = _measured(iter(columns), bins)[1]
    whole = _ordered(*(np.concatenate(parts) for parts in zip(*columns, strict=True))) if columns else None
    micro = math.nan if whole is None else _error(*whole, bins, "size")
    return ClassValues(per_class, _mean(per_class), micro)


def brier_score(scores: Scores, targets: np.ndarray, known: np.ndarray | None = None) -> ClassValues:
    """Mean squared distance of probability and label: scikit-learn's `brier_score_loss` of each class.

    Arguments and errors as for `reliability`.
    """
    return _measured(_columns(scores, targets, known), BINS)[2]


Column = tuple[np.ndarray, np.ndarray]


def _measured(columns: Iterator[Column], bins: int) -> tuple[ClassValues, np.ndarray, ClassValues]:
    """Calibration errors, adaptive ones of each class, and Brier scores."""
    fixed: list[float] = []
    adaptive: list[float] = []
    brier: list[float] = []
    whole, squares, entries = np.zeros((2, bins)), 0.0, 0
    for values, present in columns:
        if not len(values):
            for each in (fixed, adaptive, brier):
                each.append(math.nan)
            continue
        _, foretold, true = _sums(values, present, bins, "width")
        square = float(((values - present) ** 2).sum())
        fixed.append(np.abs(foretold - true).sum() / len(values))
        adaptive.append(_error(values, present, bins, "size"))
        brier.append(square / len(values))
        # Bins of equal width are the same for all classes: those of all entries are their sums.
        whole += foretold, true
        squares += square
        entries += len(values)
    together = (np.abs(whole[0] - whole[1]).sum() / entries, squares / entries) if entries else (math.nan, math.nan)
    first, second, third = (np.array(each, dtype=np.float64) for each in (fixed, adaptive, brier))
    return (
        ClassValues(first, _mean(first), float(together[0])),
        second,
        ClassValues(third, _mean(third), float(together[1])),
    )


def _columns(scores: Scores, targets: np.ndarray, known: np.ndarray | None) -> Iterator[Column]:
    """Probabilities and presence of each class's known entries, by ascending probability."""
    scores = require_scores(scores)
    if scores.kind == "rank":
        raise UsageError(
            "scores of kind 'rank' have no probability, so that nothing can be said of its calibration: "
            "expected 'logit' or 'probability'"
        )
    rows, classes = scores.shape
    targets, known = bool_matrix("targets", targets, (rows, classes)), known_matrix(known, (rows, classes))
    for c in range(classes):
        kept = slice(None) if known is None else known[:, c]
        values = scores.values[kept, c].astype(np.float64)
        yield _ordered(expit(values) if scores.kind == "logit" else values, targets[kept, c])
    release(scores.values)


def _ordered(values: np.ndarray, present: np.ndarray) -> Column:
    """By ascending value, so that no sum over them depends on the order of the images."""
    order = np.lexsort((present, values))
    return values[order], present[order]


def _sums(values: np.ndarray, present: np.ndarray, bins: int, binning: str) -> tuple[np.ndarray, ...]:
    """Of each bin the number of entries, the sum of their probabilities and the number present, [bins]."""
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
        raise UsageError(f"bins = {bins!r}: expected a whole number from 1")
    if binning not in BINNINGS:
        raise unknown("binning", binning, BINNINGS)
    if binning == "width":
        edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    else:
        # The k-th edge is the least value that k of so many shares of the entries do not exceed, in whole numbers.
        edges = values[(np.arange(1, bins) * len(values) + bins - 1) // bins - 1] if len(values) else values
    place = np.searchsorted(edges, values, side="left")
    return tuple(np.bincount(place, weights, bins) for weights in (np.ones_like(values), values, present))


def _error(values: np.ndarray, present: np.ndarray, bins: int, binning: str) -> float:
    _, foretold, true = _sums(values, present, bins, binning)
    return float(np.abs(foretold - true).sum() / len(values)) if len(values) else math.nan


def _mean(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else math.nan


def _metric(measure: Callable[..., ClassValues], over: Literal["micro", "macro"], summary: str) -> Metric:
    def function(probabilities: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float:
        value: float = getattr(measure(Probabilities(probabilities), labels, known), over)
        return value

    return Metric(function, summary, takes="probabilities", better="lower")


ECE_O = _metric(
    expected_calibration_error,
    "micro",
    f"calibration error of all entries together, {BINS} bins of equal width (Guo et al., ICML 2017)",
)
ECE_C = _metric(expected_calibration_error, "macro", "mean over classes of their calibration errors, the same bins")
ACE_O = _metric(
    adaptive_calibration_error,
    "micro",
    f"adaptive calibration error of all entries together, {BINS} bins of equal size (Nixon et al., 2019)",
)
ACE_C = _metric(adaptive_calibration_error, "macro", "mean over classes of their adaptive calibration errors")
BRIER_O = _metric(brier_score, "micro", "mean squared distance of probability and label over all entries")
BRIER_C = _metric(brier_score, "macro", "mean over classes of their Brier scores (scikit-learn)")
