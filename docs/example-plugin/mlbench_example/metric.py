"""A metric for mlbench: a function of predictions, labels and what is known, all [N, C]."""

from __future__ import annotations

import numpy as np

from mlbench.metrics import Metric


def brier(probabilities: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float:
    """Mean squared difference of probability and label over the known entries; NaN where there is none."""
    return weighted_brier(probabilities, labels, known, np.ones(len(labels)))


def weighted_brier(probabilities: np.ndarray, labels: np.ndarray, known: np.ndarray, weights: np.ndarray) -> float:
    """The same where sample i stands weights[i] times, for the bootstrap."""
    counted = known * weights[:, None]
    total = counted.sum()
    return float(((probabilities - labels) ** 2 * counted).sum() / total) if total else float("nan")


BRIER = Metric(
    brier,
    "mean squared error of probabilities (Brier 1950)",
    takes="probabilities",
    better="lower",
    weighted=weighted_brier,
)
