"""Does a metric keep the contract? Order and unknown labels move nothing, and better predictions are better."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from mlbench.conformance.report import Report, Skipped
from mlbench.errors import MlbenchError
from mlbench.metrics import METRICS, Logits, Metric, Predicted, threshold

_SAMPLES, _CLASSES = 60, 7
_SAME = 1e-9


def check_metric(name: str) -> Report:
    """Every check on the registered metric `name`, on labels and scores drawn by a fixed seed."""
    metric = METRICS[name]
    report = Report(name)
    report.attempt("", "says in one line what it is", lambda: _summary(metric))
    if not report.attempt("", "gives a number in its range", lambda: _value(metric)):
        return report
    report.attempt("", "the same twice, and changes no input", lambda: _repeats(metric))
    report.attempt("", "order of samples and classes moves nothing", lambda: _order(metric))
    report.attempt("", "unknown labels are left out", lambda: _unknown(metric))
    report.attempt("", "better predictions are better", lambda: _direction(metric))
    report.attempt("", "nothing known, no positive: no failure", lambda: _edges(metric))
    report.attempt("", "weights are repeated samples", lambda: _weights(metric))
    return report


def _drawn(seed: int = 0, unknown: float = 0.2) -> Predicted:
    """Scores that tell present from absent classes somewhat, some labels unknown."""
    random = np.random.default_rng(seed)
    targets = random.random((_SAMPLES, _CLASSES)) < 0.35
    targets[np.arange(_SAMPLES), random.integers(0, _CLASSES, _SAMPLES)] = True
    logits = random.normal(size=targets.shape) + targets
    known = random.random(targets.shape) >= unknown
    return _predicted(logits, targets, known)


def _predicted(logits: np.ndarray, targets: np.ndarray, known: np.ndarray) -> Predicted:
    scores = Logits(logits.astype(np.float64))
    return Predicted(scores, targets, known, targets, known, threshold(scores, 0.5))


def _same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= _SAME * max(1.0, abs(a))


def _summary(metric: Metric) -> str:
    if not metric.summary.strip() or "\n" in metric.summary:
        raise MlbenchError("summary: expected one line that says what it is, and whose")
    if not metric.low < metric.high:
        raise MlbenchError(f"low = {metric.low:g}, high = {metric.high:g}: expected a range")
    return f"{metric.better} is better, in {metric.unit}"


def _value(metric: Metric) -> str:
    value = _drawn().measure(metric)
    if math.isnan(value):
        raise MlbenchError(f"undefined on {_SAMPLES} ordinary samples")
    return f"{value:.4g}"


def _repeats(metric: Metric) -> None:
    given = _drawn()
    decided = np.zeros(0) if given.decisions is None else given.decisions
    arrays = (given.scores.values, given.targets, given.known, decided)
    before = [np.array(array) for array in arrays]
    values = [given.measure(metric), given.measure(metric)]
    if values[0] != values[1]:
        raise MlbenchError(f"{values[0]:g} the first time, {values[1]:g} the second")
    if not all(np.array_equal(array, old) for array, old in zip(arrays, before, strict=True)):
        raise MlbenchError("it writes into the arrays it is given")


def _order(metric: Metric) -> None:
    given, random = _drawn(), np.random.default_rng(1)
    rows, columns = random.permutation(_SAMPLES), random.permutation(_CLASSES)
    value = given.measure(metric)
    turned = _predicted(*(a[:, columns] for a in (given.scores.values, given.targets, given.known)))
    for what, other in (("samples", given.take(rows)), ("classes", turned)):
        if not _same(value, found := other.measure(metric)):
            raise MlbenchError(f"{value:.6g}, and {found:.6g} with the {what} in another order")


def _unknown(metric: Metric) -> None:
    """Other labels and other scores where nothing is known."""
    given = _drawn()
    targets = given.targets ^ ~given.known
    logits = np.where(given.known, given.scores.values, -3 * given.scores.values + 1)
    for what, other in (
        ("labels", _predicted(given.scores.values, targets, given.known)),
        ("scores", _predicted(logits, given.targets, given.known)),
    ):
        if not _same(value := given.measure(metric), found := other.measure(metric)):
            raise MlbenchError(f"{value:.6g}, and {found:.6g} with other {what} at entries that are not known")


def _direction(metric: Metric) -> str:
    given = _drawn(unknown=0)
    signs = np.where(given.targets, 5.0, -5.0) + np.random.default_rng(2).normal(size=given.targets.shape) / 10
    logits = {"perfect": signs, "some": given.scores.values, "wrong": -signs}
    values = {name: _predicted(found, given.targets, given.known).measure(metric) for name, found in logits.items()}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    sign = 1 if metric.better == "higher" else -1
    perfect, some, wrong = (sign * value for value in values.values())
    if not (perfect >= some - _SAME and some >= wrong - _SAME and perfect > wrong):
        raise MlbenchError(f"{shown}: not in the order of 'better = {metric.better}'")
    return shown


def _edges(metric: Metric) -> None:
    given = _drawn()
    nothing, all_known = np.zeros_like(given.known), np.ones_like(given.known)
    for known, targets in ((nothing, given.targets), (all_known, nothing), (all_known, all_known)):
        _predicted(given.scores.values, targets, known).measure(metric)
    one = given.take(np.arange(1))
    one.measure(metric)


def _weights(metric: Metric) -> None:
    if metric.weighted is None:
        raise Skipped("no weighted form: the bootstrap repeats samples")
    given, plain = _drawn(), replace(metric, weighted=None)
    for seed in range(3):
        weights = np.random.default_rng(seed).poisson(1.0, _SAMPLES).astype(np.float64)
        found, expected = given.measure(metric, weights), given.measure(plain, weights)
        if not _same(expected, found):
            raise MlbenchError(f"weighted gives {found:.6g}, the function on repeated samples {expected:.6g}")
