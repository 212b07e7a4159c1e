"""Oracles for the loss tests: formulas of the published code in plain numpy float64, entry by entry."""

from __future__ import annotations

import numpy as np

POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED = 1, -1, 0, 2


def probability(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=np.float64)))


def assumed_entries(logits: np.ndarray, observed: np.ndarray, eps: float) -> np.ndarray:
    """Assume-negative loss of each entry: observed positives pull up, everything else down, unspecified nothing."""
    x = np.asarray(logits, dtype=np.float64)
    if eps:
        up, down = -np.log(probability(x) + eps), -np.log(probability(-x) + eps)
    else:
        up, down = np.logaddexp(0.0, -x), np.logaddexp(0.0, x)
    entries = np.where(observed == POSITIVE, up, down)
    return np.where(observed == UNSPECIFIED, 0.0, entries)


def assumed_slopes(logits: np.ndarray, observed: np.ndarray, eps: float) -> np.ndarray:
    """Derivative of each entry of `assumed_entries` with respect to its logit, derived by hand."""
    x = np.asarray(logits, dtype=np.float64)
    p, q = probability(x), probability(-x)
    up = -p * q / (p + eps) if eps else -q
    down = p * q / (q + eps) if eps else p
    slopes = np.where(observed == POSITIVE, up, down)
    return np.where(observed == UNSPECIFIED, 0.0, slopes)


def rejected(entries: np.ndarray, observed: np.ndarray, count: int) -> np.ndarray:
    """What large-loss rejection drops: the `count` unknown entries with the largest losses of the batch, and ties."""
    losses = sorted((float(v) for v in entries[observed == UNKNOWN]), reverse=True)
    chosen = np.zeros(entries.shape, dtype=bool)
    if count == 0 or not losses:
        return chosen
    threshold = losses[min(count, len(losses)) - 1]
    for row in range(entries.shape[0]):
        for column in range(entries.shape[1]):
            chosen[row, column] = observed[row, column] == UNKNOWN and entries[row, column] >= threshold
    return chosen


def batch(rows: int, classes: int, seed: int, largest: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """Random logits (float64) and labels of all four states; row 0 has no positive, class 0 none either."""
    random = np.random.RandomState(seed)
    logits = random.uniform(-largest, largest, (rows, classes))
    observed = random.choice([POSITIVE, NEGATIVE, UNKNOWN, UNKNOWN, UNKNOWN, UNSPECIFIED], (rows, classes))
    observed[0] = NEGATIVE
    observed[:, 0][observed[:, 0] == POSITIVE] = UNKNOWN
    return logits, observed.astype(np.int8)


def central_differences(loss, logits: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Numerical gradient of scalar ``loss(logits)``."""
    gradient = np.zeros_like(logits)
    for place in np.ndindex(*logits.shape):
        moved = logits.copy()
        moved[place] += step
        high = loss(moved)
        moved[place] -= 2 * step
        gradient[place] = (high - loss(moved)) / (2 * step)
    return gradient
