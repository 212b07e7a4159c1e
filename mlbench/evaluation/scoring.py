"""From predictions and labels to the numbers of a record, under a protocol's definitions. All values in percent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mlbench.annotation import State, map_unspecified
from mlbench.annotation.sparse import LabelMatrix, SparseLabels
from mlbench.errors import DataError
from mlbench.evaluation.predictions import Predictions
from mlbench.metrics import (
    PrecisionRecallF1,
    Predicted,
    Scores,
    average_precision,
    average_precision_of_known,
    group_means,
    joined,
    mean_average_precision,
    precision_recall_f1,
    scores_of_kind,
    threshold,
    top_k,
    top_k_thresholded,
)
from mlbench.metrics.checks import release, row_blocks
from mlbench.protocol import MetricRules, Unspecified

_LABEL_BASED = ("P_C", "R_C", "F1_C_mean", "F1_C_hm", "P_O", "R_O", "F1_O")
_AP_NAMES = {"step": "mAP_step", "envelope": "mAP_envelope", "eleven_point": "mAP_11point"}


def targets_of(labels: LabelMatrix, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Bool (targets, known) of raw states [N, C] under the protocol's rule for UNSPECIFIED."""
    mapped = map_unspecified(np.asarray(labels), rule)
    return mapped == State.POSITIVE, (mapped == State.POSITIVE) | (mapped == State.NEGATIVE)


def ap_by_class(scores: Scores, labels: LabelMatrix, rule: str, flavour: str) -> tuple[np.ndarray, np.ndarray]:
    """AP [C] on what is known of raw states [N, C] under `rule` for UNSPECIFIED, and bool [n, C]: what is known.

    Of sparse labels only the known entries are looked at; n is 1 then, True for a class with a known entry.
    """
    if not isinstance(labels, SparseLabels):
        targets, known = targets_of(labels, rule)
        return average_precision(scores, targets, known, flavour), known
    rows, classes, states = labels.map_unspecified(rule).entries()
    counted = states != State.UNSPECIFIED
    rows, classes, present = rows[counted], classes[counted], states[counted] == State.POSITIVE
    known = np.bincount(classes, minlength=labels.n_classes)[None] > 0
    return average_precision_of_known(scores, rows, classes, present, flavour), known


def align(predictions: Predictions, ids: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Rows of `predictions` for `ids`, in that order; DataError if samples or classes differ."""
    if tuple(predictions.classes) != tuple(classes):
        raise DataError("predictions were made for other classes, or in another order, than the data set has")
    row = {sample: i for i, sample in enumerate(predictions.ids)}
    missing = [sample for sample in ids if sample not in row]
    if missing or len(row) != len(ids):
        extra = len(row) - (len(ids) - len(missing))
        raise DataError(
            f"predictions do not cover the data: {len(missing)} samples missing ({', '.join(missing[:3])}), "
            f"{extra} extra"
        )
    return np.array([row[sample] for sample in ids], dtype=np.int64)


def predicted_of(
    predictions: Predictions,
    labels: LabelMatrix,
    ids: Sequence[str],
    classes: Sequence[str],
    rules: MetricRules,
    unspecified: Unspecified,
) -> Predicted:
    """What registered metrics are given of one prediction file against raw labels int8 [N, C]."""
    order = align(predictions, ids, classes)
    scores = scores_of_kind(predictions.kind, predictions.scores[order])
    decided = None if predictions.decisions is None else predictions.decisions[order]
    if decided is None and predictions.kind != "rank":
        decided = threshold(scores, rules.decision)
    by_f1, by_ap = targets_of(labels, unspecified.f1), targets_of(labels, unspecified.ap)
    return Predicted(scores, *by_f1, *by_ap, decided, rules.ap)


def score_predictions(
    predictions: Predictions,
    labels: LabelMatrix,
    ids: Sequence[str],
    classes: Sequence[str],
    rules: MetricRules,
    unspecified: Unspecified,
    groups: Sequence[np.ndarray] = (),
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """All numbers of one prediction file against raw labels int8 [N, C].

    Returns (results, per_class), in percent; None where a number is undefined. "mAP" is the protocol's own flavour
    and rule for empty classes; the other flavours stand beside it under their names. "mAP_G1", "mAP_G2", ... are its
    means over `groups` of class indices, if there are any (`mlbench.evaluation.class_groups`).
    """
    order = align(predictions, ids, classes)
    if np.array_equal(order, np.arange(len(order))):  # as the runner writes them: no copy is made
        scores, decided = scores_of_kind(predictions.kind, predictions.scores), predictions.decisions
    else:
        scores = scores_of_kind(predictions.kind, predictions.scores[order])
        decided = None if predictions.decisions is None else predictions.decisions[order]
    results: dict[str, float] = {}
    per_class: dict[str, dict[str, float | None]] = {}
    for flavour, name in _AP_NAMES.items():
        ap, known = ap_by_class(scores, labels, unspecified.ap, flavour)
        means = group_means(ap, groups, rules.empty_class, known)
        results[name] = means.overall
        if flavour == rules.ap:
            results["mAP"] = means.overall
            results |= {f"mAP_G{number}": mean for number, mean in enumerate(means.groups, start=1)}
            per_class["AP"] = _by_class(classes, ap)
    for prefix, label_based in _label_based(scores, decided, labels, rules, unspecified.f1).items():
        for name in _LABEL_BASED:
            shown = name.replace("_C", "-C", 1).replace("_O", "-O", 1)
            # The k highest of fewer than k classes do not exist: these numbers are undefined.
            results[prefix + shown] = math.nan if label_based is None else float(getattr(label_based, name))
        if not prefix and label_based is not None:
            results["mA"] = label_based.mA.value
            per_class["F1"] = _by_class(classes, label_based.F1)
    return {name: _percent(value) for name, value in sorted(results.items())}, per_class


def _label_based(
    scores: Scores, decided: np.ndarray | None, labels: LabelMatrix, rules: MetricRules, unspecified: str
) -> dict[str, PrecisionRecallF1 | None]:
    """Precision, recall and F1 of each kind of decisions, by the prefix of its numbers; `decided` are the method's own.
    None where there are fewer classes than the decisions take.

    Some rows are looked at together: matrices as large as the scores are not made.
    """
    found: dict[str, list[PrecisionRecallF1]] = {}
    strict, thresholded = f"top{rules.top_k}_strict/", f"top{rules.top_k}_thresholded/"
    enough = rules.top_k <= scores.values.shape[1]
    for rows in row_blocks(scores.values):
        part = type(scores)(scores.values[rows])
        targets, known = targets_of(labels[rows], unspecified)
        decisions = {}
        if enough:
            decisions[strict] = top_k(part, rules.top_k)
            if part.kind != "rank":
                decisions[thresholded] = top_k_thresholded(part, rules.top_k, rules.decision)
        if decided is not None:
            decisions[""] = decided[rows]
        elif part.kind != "rank":
            decisions[""] = threshold(part, rules.decision)
        for prefix, matrix in decisions.items():
            found.setdefault(prefix, []).append(precision_recall_f1(matrix, targets, known))
        release(scores.values)
    undefined = {} if enough else {strict: None} | ({} if scores.kind == "rank" else {thresholded: None})
    return {prefix: joined(parts) for prefix, parts in found.items()} | undefined


def observed_map(scores: np.ndarray, kind: str, observed: LabelMatrix, empty_class: str) -> float:
    """Validation mAP in percent on observed labels, unknown counted as negative (UNSPECIFIED left out)."""
    ap, known = np.empty(observed.shape[1]), np.empty(observed.shape[1], dtype=bool)
    for columns in _column_blocks(observed):
        states = observed.columns(columns) if isinstance(observed, SparseLabels) else np.asarray(observed[:, columns])
        counted = states != State.UNSPECIFIED
        part = scores_of_kind(kind, np.ascontiguousarray(scores[:, columns]))
        ap[columns] = average_precision(part, states == State.POSITIVE, counted)
        known[columns] = counted.any(axis=0)
        release(scores)
    return 100.0 * mean_average_precision(ap, empty_class, known[None])


def _column_blocks(labels: LabelMatrix) -> Iterator[slice]:
    """All columns, of labels that may be a matrix; some at a time of sparse ones."""
    rows, classes = labels.shape
    step = max(1, 2**24 // max(1, rows)) if isinstance(labels, SparseLabels) else classes
    for start in range(0, classes, step):
        yield slice(start, min(start + step, classes))


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else 100.0 * value


def _by_class(classes: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    return {name: _percent(float(value)) for name, value in zip(classes, values, strict=True)}
