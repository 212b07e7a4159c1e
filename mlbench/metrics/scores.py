"""What a method predicts: logits, probabilities, or scores that only order. The kind is stated, never guessed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlbench.errors import DataError, UsageError, unknown
from mlbench.metrics.checks import release, row_blocks


@dataclass(frozen=True, eq=False)
class Scores(ABC):
    """Scores [N, C] of N images and C classes; higher means more likely present. Use one of the subclasses.

    Every ranking metric orders `values` as they stand: logits are never squashed first, because sigmoid in float32
    turns all logits above about 17 into the same number and so makes ties that were not there.

    Parameters
    ----------
    values : float array [N, C]. float64 is kept; float16 and float32 become float32. Held as a C-contiguous,
        read-only view of the argument where no conversion is needed: a memory-mapped file stays on the disk, and is
        read once, a piece at a time, to be checked.

    Raises
    ------
    DataError
        If `values` is not a float matrix, or holds NaN or an infinity.
    """

    values: np.ndarray
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _finite_matrix(self.kind, self.values))

    @property
    def shape(self) -> tuple[int, int]:
        """(N, C)."""
        rows, classes = self.values.shape
        return rows, classes

    def above(self, probability: float) -> np.ndarray:
        """Entries whose probability is strictly greater than `probability`; bool [N, C].

        `probability` lies in the open interval (0, 1). The limit that stands for it among `values` is rounded to
        their type before comparing, so that 0.8 stored as float32 is not above 0.8. UsageError for Ranks.
        """
        return self.values > self.values.dtype.type(self._limit(probability))

    def at_least(self, probability: float) -> np.ndarray:
        """Entries whose probability is `probability` or greater, which `above` leaves out where equal; bool [N, C]."""
        return self.values >= self.values.dtype.type(self._limit(probability))

    @abstractmethod
    def _limit(self, probability: float) -> float:
        """What `probability` is on the scale of `values`."""


@dataclass(frozen=True, eq=False)
class Logits(Scores):
    """Log-odds: the probability of an entry is sigmoid(value)."""

    kind: ClassVar[str] = "logit"

    def _limit(self, probability: float) -> float:
        """log(p / (1 - p)); for p = 0.5 this is 0, exactly."""
        p = _open_unit(probability)
        return math.log(p / (1.0 - p))


@dataclass(frozen=True, eq=False)
class Probabilities(Scores):
    """Probabilities in [0, 1]; DataError outside it. They need not sum to one over the classes."""

    kind: ClassVar[str] = "probability"

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse(self.kind, self.values, lambda values: (values < 0) | (values > 1), "outside [0, 1]")

    def _limit(self, probability: float) -> float:
        return _open_unit(probability)


@dataclass(frozen=True, eq=False)
class Ranks(Scores):
    """Scores that only order the entries (distances, decoding orders): higher is better, no threshold is defined."""

    kind: ClassVar[str] = "rank"

    def _limit(self, probability: float) -> float:
        """Always raises UsageError: such scores have no probability."""
        raise UsageError(
            f"scores of kind 'rank' have no probability, so none is above {probability}: "
            "expected 'logit' or 'probability', or a decision by top_k"
        )


SCORE_KINDS: dict[str, type[Scores]] = {cls.kind: cls for cls in (Logits, Probabilities, Ranks)}


def scores_of_kind(kind: str, values: np.ndarray) -> Scores:
    """Wrap `values` [N, C] in the type that a stored `kind` names: "logit", "probability" or "rank"."""
    if kind not in SCORE_KINDS:
        raise unknown("kind of scores", kind, SCORE_KINDS)
    return SCORE_KINDS[kind](values)


def require_scores(scores: Scores) -> Scores:
    """Return `scores`; a bare array is a UsageError, because its kind would have to be guessed."""
    if not isinstance(scores, Scores):
        raise UsageError(f"scores: expected Logits, Probabilities or Ranks, found {type(scores).__name__}")
    return scores


def _finite_matrix(kind: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise DataError(f"scores of kind '{kind}': expected float16, float32 or float64, found {array.dtype}")
    if array.ndim != 2:
        raise DataError(f"scores of kind '{kind}': expected shape [N, C], found {list(array.shape)}")
    dtype = np.float64 if array.dtype.itemsize == 8 else np.float32
    array = np.ascontiguousarray(array, dtype=dtype).view()
    array.flags.writeable = False
    _refuse(kind, array, lambda values: ~np.isfinite(values), "not finite")
    return array


def _refuse(kind: str, values: np.ndarray, is_bad: Callable[[np.ndarray], np.ndarray], what: str) -> None:
    count, first = 0, (0, 0)
    for rows in row_blocks(values):
        bad = is_bad(values[rows])
        if found := int(np.count_nonzero(bad)):
            row, column = np.unravel_index(int(np.argmax(bad)), bad.shape)
            first = first if count else (rows.start + int(row), int(column))
            count += found
        release(values)
    if count:
        raise DataError(
            f"scores of kind '{kind}': {count} of {values.size} values {what}, "
            f"the first is {values[first]} at row {first[0]}, class {first[1]}"
        )


def _open_unit(probability: float) -> float:
    if not 0.0 < probability < 1.0:
        raise UsageError(f"probability threshold {probability}: expected a number between 0 and 1, both excluded")
    return float(probability)
