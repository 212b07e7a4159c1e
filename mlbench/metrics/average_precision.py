"""Average precision per class in three published flavours, and its means over classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlbench.errors import DataError, unknown
from mlbench.metrics._checks import bool_matrix, known_matrix
from mlbench.metrics.scores import Scores, require_scores

EMPTY_CLASS_RULES = ("zero", "skip")


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


def mean_average_precision(ap: np.ndarray, empty_class: str) -> float:
    """Mean of per-class values `ap` [C]; NaN if no class is left to average.

    `empty_class` says what a NaN (a class without known positives) counts as: "zero" keeps it in the mean as 0
    (SPML, LL, BoostLU), "skip" leaves it out. BoostLU's OpenImages rule, which skips classes without known entries
    but counts those without positives as 0, is "zero" on the classes not in `empty_classes(...).no_known`.
    """
    if empty_class not in EMPTY_CLASS_RULES:
        raise unknown("rule for empty classes", empty_class, EMPTY_CLASS_RULES)
    ap = np.asarray(ap, dtype=np.float64)
    kept = np.nan_to_num(ap, nan=0.0) if empty_class == "zero" else ap[~np.isnan(ap)]
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


def group_means(ap: np.ndarray, groups: Sequence[np.ndarray], empty_class: str) -> GroupMeans:
    """Mean of `ap` [C] within each group of class indices, and over all classes; empty classes as `empty_class` says.

    Groups may overlap; a group that is empty, or empty after skipping, gives NaN. DataError if an index is not a
    whole number in 0 .. C - 1 or stands twice in its group.
    """
    ap = np.asarray(ap, dtype=np.float64)
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
        means.append(mean_average_precision(ap[index], empty_class))
    return GroupMeans(groups=tuple(means), overall=mean_average_precision(ap, empty_class))
