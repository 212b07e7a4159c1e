"""Metrics by name, ours and those that other packages register: functions of predictions, labels and what is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.special import expit

from mlbench.errors import MlbenchError, UsageError
from mlbench.metrics.average_precision import average_precision
from mlbench.metrics.scores import Scores
from mlbench.registry import Registry

#: How far beyond its range rounding may put a value.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Metric:
    """What is registered in the group ``mlbench.metrics``.

    Parameters
    ----------
    function : of (first, labels, known) to a number, NaN where it is undefined. `labels` and `known` are bool [N, C],
        True where the class is present, and where its label counts; what is not known must not move the number.
    summary : one line for people, and whose it is.
    takes : what `first` is. "scores": float [N, C], higher is more likely, of any scale; "probabilities": float64
        [N, C], so that scores that only order leave the metric undefined; "decisions": bool [N, C], those of the
        protocol's threshold or the method's own; "ap": float64 [C], the average precision of each class in the
        protocol's flavour (NaN where it has no known positive).
    better : "higher" or "lower".
    unit : "percent": the function gives a fraction, tables and records show it times 100; "number": shown as it is.
    low, high : the least and largest value that the function can have.
    weighted : of (first, labels, known, weights [N]) to the number of a test set in which sample i stands weights[i]
        times (a whole number, also 0), for the bootstrap. Without it samples are repeated, which is slower.
    name : as it is registered; the registry sets it.
    """

    function: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
    summary: str
    takes: Literal["scores", "probabilities", "decisions", "ap"] = "scores"
    better: Literal["higher", "lower"] = "higher"
    unit: Literal["percent", "number"] = "percent"
    low: float = 0.0
    high: float = 1.0
    weighted: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        allowed = {
            "takes": ("scores", "probabilities", "decisions", "ap"),
            "better": ("higher", "lower"),
            "unit": ("percent", "number"),
        }
        for key, choices in allowed.items():
            if getattr(self, key) not in choices:
                raise UsageError(f"{key} = {getattr(self, key)!r}: expected one of {', '.join(choices)}")
        if self.weighted is not None and self.takes == "ap":
            raise UsageError("weighted: a metric of average precisions has none, as they depend on the weights")

    def shown(self, value: float) -> float | None:
        """`value` as tables and records show it; None for NaN."""
        return None if math.isnan(value) else 100 * value if self.unit == "percent" else value


def _metric(name: str, found: Any) -> Metric:
    if not isinstance(found, Metric):
        raise MlbenchError("is not a mlbench.metrics.Metric")
    return replace(found, name=name)


METRICS: Registry[Metric] = Registry("mlbench.metrics", "metric", _metric)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions and labels of N samples and C classes, as registered metrics are given them.

    Parameters
    ----------
    scores : Logits, Probabilities or Ranks [N, C].
    targets, known : bool [N, C], True where the class is present, and where its label counts.
    ap_targets, ap_known : the same for average precision, where protocols may take unspecified labels otherwise.
    decisions : bool [N, C], or None where these scores allow none.
    flavour : of average precision.
    """

    scores: Scores
    targets: np.ndarray
    known: np.ndarray
    ap_targets: np.ndarray
    ap_known: np.ndarray
    decisions: np.ndarray | None
    flavour: str = "step"

    def take(self, rows: np.ndarray) -> Predicted:
        """The samples `rows` (indices or bool [N]); an index may stand several times."""
        return Predicted(
            type(self.scores)(self.scores.values[rows]),
            self.targets[rows],
            self.known[rows],
            self.ap_targets[rows],
            self.ap_known[rows],
            None if self.decisions is None else self.decisions[rows],
            self.flavour,
        )

    @cached_property
    def _ap(self) -> np.ndarray:
        return average_precision(self.scores, self.ap_targets, self.ap_known, self.flavour)

    def _first(self, takes: str) -> np.ndarray | None:
        if takes == "scores":
            return self.scores.values
        if takes == "decisions":
            return self.decisions
        if takes == "ap":
            return self._ap
        if self.scores.kind == "rank":
            return None
        values = self.scores.values.astype(np.float64)
        return expit(values) if self.scores.kind == "logit" else values

    def measure(self, metric: Metric, weights: np.ndarray | None = None) -> float:
        """The value of `metric`, NaN where it is undefined; with `weights`, whole numbers [N], of repeated samples.

        MlbenchError where the metric's own code fails or gives what it says it cannot.
        """
        if weights is not None and metric.weighted is None:
            return self.take(np.repeat(np.arange(len(weights)), weights.astype(np.int64))).measure(metric)
        first = self._first(metric.takes)
        if first is None:
            return math.nan
        labels = (self.ap_targets, self.ap_known) if metric.takes == "ap" else (self.targets, self.known)
        where = f"metric '{metric.name}'"
        try:
            if weights is None or metric.weighted is None:
                value = float(metric.function(first, *labels))
            else:
                value = float(metric.weighted(first, *labels, weights))
        except MlbenchError:
            raise
        except Exception as error:  # anybody's code
            raise MlbenchError(f"{where} failed: {type(error).__name__}: {error}") from error
        if not math.isnan(value) and not metric.low - _ROUNDING <= value <= metric.high + _ROUNDING:
            raise MlbenchError(f"{where} gave {value:g}, outside its range from {metric.low:g} to {metric.high:g}")
        return value


class Sampled:
    """A registered metric of one system under sample weights, as a bootstrap's statistic."""

    def __init__(self, predicted: Predicted, metric: Metric) -> None:
        self.predicted, self.metric = predicted, metric

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        return {self.metric.name: np.array([self.predicted.measure(self.metric, column) for column in weights.T])}
