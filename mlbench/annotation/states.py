"""Label states, and what can be said of a matrix of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from mlbench.errors import DataError, unknown


class State(IntEnum):
    """What is known of one (image, class) entry. Stored as int8.

    The codes of POSITIVE, NEGATIVE and UNKNOWN are those of the single-positive literature's observed labels
    (1, -1, 0). UNSPECIFIED is a raw state of the source (WIDER's 0, VOC's difficult): the annotator declined to
    say. A protocol maps it for each stage (training, AP, F1); where it is mapped to "ignore" it stays
    UNSPECIFIED and no loss or metric may count the entry.
    """

    UNKNOWN = 0
    POSITIVE = 1
    NEGATIVE = -1
    UNSPECIFIED = 2


_UNSPECIFIED_RULES = {
    "negative": State.NEGATIVE,
    "positive": State.POSITIVE,
    "unknown": State.UNKNOWN,
    "ignore": State.UNSPECIFIED,
}


def map_unspecified(labels: np.ndarray, rule: str) -> np.ndarray:
    """Apply a protocol's reading of UNSPECIFIED to raw labels.

    Parameters
    ----------
    labels : int8 [N, C] `State` values.
    rule : "negative", "positive", "unknown", or "ignore" (the entry stays UNSPECIFIED and counts nowhere).

    Returns
    -------
    int8 [N, C], a new array; every other state is unchanged. UsageError for another rule.
    """
    if rule not in _UNSPECIFIED_RULES:
        raise unknown("rule for unspecified labels", rule, _UNSPECIFIED_RULES)
    labels = check_labels(labels)
    return np.where(labels == State.UNSPECIFIED, np.int8(_UNSPECIFIED_RULES[rule]), labels)


def check_labels(labels: np.ndarray) -> np.ndarray:
    """Return `labels` as int8 [N, C]; DataError if it is not two-dimensional or holds no `State` value."""
    array = np.asarray(labels)
    if array.ndim != 2:
        raise DataError(f"labels: expected a matrix [samples, classes], found shape {array.shape}")
    foreign = ~np.isin(array, [int(state) for state in State])
    if foreign.any():
        row, column = np.argwhere(foreign)[0]
        raise DataError(
            f"labels: row {row}, class {column} holds {array[row, column]}, which is no State "
            f"({', '.join(f'{state.name} {int(state)}' for state in State)})"
        )
    return array.astype(np.int8)


def hash_ids(ids: Sequence[str]) -> str:
    """SHA-256 over sample ids in their order."""
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()
