"""Measures of label ranking and of single decisions that scikit-learn has, under its names; labels may be unknown.

One rule for unknown labels: an entry that is not known is as if its class were not there for its image. Each image is
ranked among its known labels alone, an image without any leaves the mean, and numbers over entries run over the known
ones. Where all is known every value is scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlbench.metrics.checks import bool_matrix, known_matrix
from mlbench.metrics.scores import Scores, require_scores


def hamming_loss(decisions: np.ndarray, targets: np.ndarray, known: np.ndarray | None = None) -> float:
    """Share of known entries that are decided wrongly (scikit-learn's `hamming_loss`); NaN where none is known.

    Parameters
    ----------
    decisions, targets : bool [N, C], True where the class is predicted, and where it is present.
    known : bool [N, C] or None (all known).

    Raises
    ------
    DataError
        If an argument is not bool or the shapes differ.
    """
    targets = bool_matrix("targets", targets)
    rows, classes = targets.shape
    wrong = bool_matrix("decisions", decisions, (rows, classes)) ^ targets
    known = known_matrix(known, (rows, classes))
    looked_at = wrong.size if known is None else np.count_nonzero(known)
    missed = np.count_nonzero(wrong if known is None else wrong & known)
    return missed / looked_at if looked_at else float("nan")


def label_ranking_loss(scores: Scores, targets: np.ndarray, known: np.ndarray | None = None) -> float:
    """Mean over images of the share of its (present, absent) pairs that are not ordered rightly.

    scikit-learn's `label_ranking_loss`: equal scores count as wrong, and an image whose known labels are all present
    or all absent counts 0. Best is 0. Arguments [N, C] and errors as for `average_precision`; NaN where no label
    is known.
    """
    losses = []
    for values, present in _images(scores, targets, known):
        positives, negatives = values[present], np.sort(values[~present])
        wrong = len(negatives) - np.searchsorted(negatives, positives, side="left")
        losses.append(float(wrong.mean()) / len(negatives) if len(positives) and len(negatives) else 0.0)
    return _mean(losses)


def coverage_error(scores: Scores, targets: np.ndarray, known: np.ndarray | None = None) -> float:
    """Mean over images of how many labels, from the best score down, it takes to have all that are present.

    scikit-learn's `coverage_error`: of equal scores all are taken, and an image without a present label counts 0. A
    number of labels, not a fraction; best is the mean number of labels present. Arguments [N, C] and errors as for
    `average_precision`; NaN where no label is known.
    """
    return _mean(
        [
            float(np.count_nonzero(values >= values[present].min())) if present.any() else 0.0
            for values, present in _images(scores, targets, known)
        ]
    )


def label_ranking_average_precision(scores: Scores, targets: np.ndarray, known: np.ndarray | None = None) -> float:
    """Mean over images of the mean, over its present labels, of the precision among labels scored as high or higher.

    scikit-learn's `label_ranking_average_precision_score` (LRAP): an image whose known labels are all present or all
    absent counts 1. Arguments [N, C] and errors as for `average_precision`; NaN where no label is known.
    """
    found = []
    for values, present in _images(scores, targets, known):
        ranked, positives = np.sort(values), np.sort(values[present])
        if len(positives) in (0, len(ranked)):
            found.append(1.0)
            continue
        true = len(positives) - np.searchsorted(positives, positives, side="left")
        retrieved = len(ranked) - np.searchsorted(ranked, positives, side="left")
        found.append(float((true / retrieved).mean()))
    return _mean(found)


def one_error(scores: Scores, targets: np.ndarray, known: np.ndarray | None = None) -> float:
    """Share of images whose best label is absent (Schapire and Singer 2000; scikit-learn has no such function).

    Equal scores go to the lower class index, as in `top_k`. An image without a known present label leaves the mean:
    no order of its labels could be right. Arguments [N, C] and errors as for `average_precision`; NaN where none
    is left.
    """
    return _mean(
        [float(not present[values.argmax()]) for values, present in _images(scores, targets, known) if present.any()]
    )


@dataclass(frozen=True, eq=False)
class AreaUnderCurve:
    """Areas under ROC curves, as fractions.

    Attributes
    ----------
    per_class : float64 [C]; NaN for a class without known positives or without known negatives.
    macro : mean of the classes that have both (scikit-learn's `roc_auc_score` of them, average "macro").
    micro : that of all known entries together (average "micro"): scores of different classes are compared.
    skipped : indices of the classes that `macro` leaves out.
    """

    per_class: np.ndarray
    macro: float
    micro: float
    skipped: tuple[int, ...]


def roc_auc(scores: Scores, targets: np.ndarray, known: np.ndarray | None = None) -> AreaUnderCurve:
    """Areas under the ROC curve: how often a present entry scores above an absent one, equal scores counting half.

    Arguments [N, C] and errors as for `average_precision`; NaN where a mean or an area is undefined.
    """
    values, targets, known = _checked(scores, targets, known)
    columns = [
        (values[:, c], targets[:, c], slice(None) if known is None else known[:, c]) for c in range(values.shape[1])
    ]
    per_class = np.array([_area(column[kept], present[kept]) for column, present, kept in columns], dtype=np.float64)
    everywhere = np.ones_like(targets) if known is None else known
    defined = ~np.isnan(per_class)
    return AreaUnderCurve(
        per_class=per_class,
        macro=float(per_class[defined].mean()) if defined.any() else float("nan"),
        micro=_area(values[everywhere], targets[everywhere]),
        skipped=tuple(int(c) for c in np.flatnonzero(~defined)),
    )


def _area(values: np.ndarray, present: np.ndarray) -> float:
    positives, negatives = values[present], np.sort(values[~present])
    if not len(positives) or not len(negatives):
        return float("nan")
    below = np.searchsorted(negatives, positives, side="left").sum(dtype=np.int64)
    up_to = np.searchsorted(negatives, positives, side="right").sum(dtype=np.int64)
    return float(below + up_to) / 2 / len(positives) / len(negatives)


def _images(scores: Scores, targets: np.ndarray, known: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and presence of the known labels of each image that has any."""
    values, targets, known = _checked(scores, targets, known)
    if not values.shape[1]:
        return
    for row, (ranked, present) in enumerate(zip(values, targets, strict=True)):
        if known is None:
            yield ranked, present
        elif known[row].any():
            yield ranked[known[row]], present[known[row]]


def _checked(
    scores: Scores, targets: np.ndarray, known: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    values = require_scores(scores).values
    rows, classes = values.shape
    return values, bool_matrix("targets", targets, (rows, classes)), known_matrix(known, (rows, classes))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
