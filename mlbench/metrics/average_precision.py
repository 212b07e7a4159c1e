"""Average precision per class in three published flavours, and its means over classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlbench.errors import DataError, unknown
from mlbench.metrics.checks import bool_matrix, known_matrix, release
from mlbench.metrics.scores import Scores, require_scores

EMPTY_CLASS_RULES = ("zero", "skip", "zero_if_known")
#: Known entries gathered at once; of sorted ones, some thousand rows of a memory-mapped file.
_GATHERED = 2**17


def average_precision(
    scores: Scores, targets: np.ndarray, known: np.ndarray | None = None, flavour: str = "step"
) -> np.ndarray:
    """Average precision (AP) of every class, as fractions in [0, 1].

    The images of a class are ranked by score. Tied scores share one threshold, so the value never depends on the
    order of the rows, and a constant score gives AP = prevalence. Precision and recall below are those at each
    distinct score taken as threshold.

    Parameters
    ----------
    scores : Logits, Probabilities or Ranks [N, C].
    targets : bool [N, C], True where the class is present.
    known : bool [N, C] or None (all known). Entries that are not known leave the ranking of their class.
    flavour :
        "step"
            Sum of (R_n - R_(n-1)) P_n, no interpolation: scikit-learn's `average_precision_score`. Used by SPML,
            LL, BoostLU and VAC (VAC: test.py:21-36; SPML: metrics.py:17-35).
        "envelope"
            The same with P_n replaced by the highest precision at equal or higher recall: VOC 2010 and later, and
            SRN (evaluate.m, tools/AP_VOC.m, which however breaks ties by rank). Never below "step".
        "eleven_point"
            Mean, over recall levels 0, 0.1, ..., 1, of the highest precision at that recall or higher: VOC 2007.
            Recall is compared in whole counts (10 TP >= k G), so rounding of 0.1 k plays no part.

    Returns
    -------
    float64 [C]; NaN for a class without known positives.

    Raises
    ------
    UsageError
        For an unknown flavour, or scores given as a bare array.
    DataError
        If `targets` or `known` is not bool or not of the shape of `scores`.
    """
    if flavour not in _FLAVOURS:
        raise unknown("flavour of average precision", flavour, _FLAVOURS)
    summarise = _FLAVOURS[flavour]
    values = require_scores(scores).values
    targets = bool_matrix("targets", targets, scores.shape)
    known = known_matrix(known, scores.shape)

    result = np.full(values.shape[1], np.nan)
    for c in range(values.shape[1]):
        column, present = values[:, c], targets[:, c]
        if known is not None:
            column, present = column[known[:, c]], present[known[:, c]]
        if present.any():
            result[c] = summarise(_precision_at_positives(column, present))
    return result


def average_precision_of_known(
    scores: Scores, rows: np.ndarray, classes: np.ndarray, present: np.ndarray, flavour: str = "step"
) -> np.ndarray:
    """`average_precision` of M known entries among N x C: its cost grows with M, and no matrix of labels is needed.

    Scores that are memory-mapped stay so; sorted `rows` keep the part of the file that is held in memory small.

    Parameters
    ----------
    scores, flavour : as for `average_precision`.
    rows, classes : int [M], which entries are known, each once and in any order.
    present : bool [M], True where the entry is positive.

    Returns
    -------
    float64 [C]; NaN for a class without known positives. UsageError and DataError as for `average_precision`.
    """
    if flavour not in _FLAVOURS:
        raise unknown("flavour of average precision", flavour, _FLAVOURS)
    values = require_scores(scores).values
    if present.dtype != np.bool_ or not rows.shape == classes.shape == present.shape == (len(rows),):
        raise DataError("known entries: expected rows, classes and bool present of one length")
    known = np.empty(len(rows), dtype=values.dtype)
    for start in range(0, len(rows), _GATHERED):
        taken = slice(start, start + _GATHERED)
        known[taken] = values[rows[taken], classes[taken]]
        release(values)
    return average_precision_of_entries(known, classes, present, values.shape[1], flavour)


def average_precision_of_entries(
    values: np.ndarray, classes: np.ndarray, present: np.ndarray, n_classes: int, flavour: str = "step"
) -> np.ndarray:
    """`average_precision_of_known` of M entries whose scores are taken out of their matrix: `values`, float [M].

    Each of its class (`classes`, int [M], below `n_classes`) and present or not (bool [M]). float64 [n_classes], NaN
    for a class without a positive. UsageError for an unknown flavour.
    """
    if flavour not in _FLAVOURS:
        raise unknown("flavour of average precision", flavour, _FLAVOURS)
    order = np.argsort(classes, kind="stable")
    values, present = values[order], present[order]
    ends = np.concatenate([[0], np.cumsum(np.bincount(classes, minlength=n_classes))])
    result = np.full(n_classes, np.nan)
    for c, (start, end) in enumerate(pairwise(ends)):
        if present[start:end].any():
            result[c] = _FLAVOURS[flavour](_precision_at_positives(values[start:end], present[start:end]))
    return result


def _precision_at_positives(column: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Precision when the threshold is each positive's own score, positives in order of ascending score; float64 [G].

    Thresholds at other scores add negatives only, which neither raises recall nor precision, so these G numbers hold
    all that the three flavours need. Counting by binary search keeps ties together without ever ranking them.
    """
    ranked = np.sort(column)
    positives = np.sort(column[present])
    retrieved = len(ranked) - np.searchsorted(ranked, positives, side="left")
    true = len(positives) - np.searchsorted(positives, positives, side="left")
    return true / retrieved


def _step(precision: np.ndarray) -> float:
    return float(precision.mean())


def _envelope(precision: np.ndarray) -> float:
    # Ascending score is descending recall: the running maximum covers every point of equal or higher recall.
    return float(np.maximum.accumulate(precision).mean())


def _eleven_point(precision: np.ndarray) -> float:
    count = len(precision)
    # Recall k / 10 is first reached at the m-th best positive, m = ceil(k count / 10), and at least at the first.
    needed = np.maximum(1, -(-np.arange(11) * count // 10))
    return float(np.maximum.accumulate(precision)[count - needed].mean())


_FLAVOURS: dict[str, Callable[[np.ndarray], float]] = {
    "step": _step,
    "envelope": _envelope,
    "eleven_point": _eleven_point,
}


def mean_average_precision(ap: np.ndarray, empty_class: str, known: np.ndarray | None = None) -> float:
    """Mean of per-class values `ap` [C]; NaN if no class is left to average.

    `empty_class` says what a NaN (a class without known positives) counts as:

    "zero"
        0, and the class stays in the mean (SPML, LL, BoostLU).
    "skip"
        The class leaves the mean.
    "zero_if_known"
        0 where the class has a known entry, and no part in the mean where it has none: LL and BoostLU on OpenImages
        (partial-label facts 4.4; BoostLU: instrumentation.py:187-215). `known`, bool [N, C], is that of the AP;
        None means that all is known.
    """
    return _mean(_settle(ap, empty_class, known))


def _settle(ap: np.ndarray, empty_class: str, known: np.ndarray | None) -> np.ndarray:
    """`ap` [C] with 0 for each class that counts as 0, and NaN left where a class is skipped."""
    if empty_class not in EMPTY_CLASS_RULES:
        raise unknown("rule for empty classes", empty_class, EMPTY_CLASS_RULES)
    ap = np.asarray(ap, dtype=np.float64)
    if empty_class == "skip":
        return ap
    if empty_class == "zero" or known is None:
        return np.nan_to_num(ap, nan=0.0)
    known_matrix(known, (len(known), len(ap)))
    return np.where(np.isnan(ap) & known.any(axis=0), 0.0, ap)


def _mean(settled: np.ndarray) -> float:
    kept = settled[~np.isnan(settled)]
    return float(kept.mean()) if kept.size else float("nan")


@dataclass(frozen=True)
class EmptyClasses:
    """Classes for which average precision says little or nothing; three disjoint lists of class indices.

    Attributes
    ----------
    no_known : classes without any known entry; their AP is NaN.
    no_positives : classes with known entries, all negative; their AP is NaN.
    no_negatives : classes with known entries, all positive; their AP is 1 whatever the scores.
    """

    no_known: tuple[int, ...]
    no_positives: tuple[int, ...]
    no_negatives: tuple[int, ...]


def empty_classes(targets: np.ndarray, known: np.ndarray | None = None) -> EmptyClasses:
    """List the classes of `targets` (bool [N, C]) that lack known entries, positives or negatives."""
    targets = bool_matrix("targets", targets)
    rows, classes = targets.shape
    known = known_matrix(known, (rows, classes))
    labelled = np.full(classes, rows) if known is None else known.sum(axis=0)
    positives = (targets if known is None else targets & known).sum(axis=0)

    def listed(chosen: np.ndarray) -> tuple[int, ...]:
        return tuple(int(c) for c in np.flatnonzero(chosen))

    return EmptyClasses(
        no_known=listed(labelled == 0),
        no_positives=listed((labelled > 0) & (positives == 0)),
        no_negatives=listed((labelled > 0) & (positives == labelled)),
    )


@dataclass(frozen=True)
class GroupMeans:
    """Means of average precision: one for each group of classes, and `overall`, the mean over all the classes.

    `overall` is not the mean of the groups, nor confined to classes that stand in a group.
    """

    groups: tuple[float, ...]
    overall: float


def group_means(
    ap: np.ndarray, groups: Sequence[np.ndarray], empty_class: str, known: np.ndarray | None = None
) -> GroupMeans:
    """Mean of `ap` [C] within each group of class indices, and over all classes.

    Empty classes count as `empty_class` and `known` say, as in `mean_average_precision`. Groups may overlap; a group
    that is empty, or empty after skipping, gives NaN. DataError if an index is not a whole number in 0 .. C - 1 or
    stands twice in its group.
    """
    ap = _settle(ap, empty_class, known)
    means = []
    for number, group in enumerate(groups):
        index = np.asarray(group)
        if index.size == 0:
            index = index.astype(np.int64)
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise DataError(f"group {number}: expected a list of class indices, found {index.dtype}{list(index.shape)}")
        outside = index[(index < 0) | (index >= len(ap))]
        if outside.size:
            raise DataError(f"group {number}: class index {outside[0]}, expected 0 to {len(ap) - 1}")
        if len(np.unique(index)) != len(index):
            raise DataError(f"group {number}: a class index stands twice, expected each once")
        means.append(_mean(ap[index]))
    return GroupMeans(groups=tuple(means), overall=_mean(ap))
