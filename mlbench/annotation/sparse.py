"""Labels of which few are known: the known entries row by row, and dense rows only where they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlbench.annotation import State, map_unspecified
from mlbench.errors import DataError

#: Most entries that sparse labels are made dense with: 2 GB as int8. OpenImages has 45,000,000,000 in training.
MAX_DENSE = 2_000_000_000

Rows = int | slice | Sequence[int] | np.ndarray


class AsMatrix:
    """What is a matrix where an array is needed, made by ``self[:]``: a comparison with a state, any numpy function."""

    def __getitem__(self, rows: Any) -> np.ndarray:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __eq__(self, other: object) -> np.ndarray:  # type: ignore[override]
        return self[:] == np.asarray(other)

    def __ne__(self, other: object) -> np.ndarray:  # type: ignore[override]
        return self[:] != np.asarray(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class SparseLabels(AsMatrix):
    """Label states [N, C] of which only the known ones are held (compressed rows); all others are UNKNOWN.

    `labels[rows]` is a dense int8 matrix of a few rows. Where an array is needed (a comparison with a state, any
    numpy function), the whole matrix is made: DataError if it has more than `MAX_DENSE` entries.

    Parameters
    ----------
    indptr : int64 [N + 1]; row i has the entries ``indptr[i]`` to ``indptr[i + 1]``.
    classes : int16 or int32 [M], ascending within each row.
    states : int8 [M], `State` values other than UNKNOWN.
    n_classes : C.

    Raises
    ------
    DataError
        If the arrays do not fit together.
    """

    indptr: np.ndarray
    classes: np.ndarray
    states: np.ndarray
    n_classes: int

    def __post_init__(self) -> None:
        kind = np.int16 if self.n_classes <= np.iinfo(np.int16).max else np.int32
        classes = np.asarray(self.classes)
        if classes.size and not 0 <= classes.min() <= classes.max() < self.n_classes:
            raise DataError(
                f"sparse labels: class {classes.min()} to {classes.max()}, expected 0 to {self.n_classes - 1}"
            )
        for name, dtype in (("indptr", np.int64), ("classes", kind), ("states", np.int8)):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=dtype))
            getattr(self, name).flags.writeable = False
        ends = self.indptr
        if (
            not len(ends)
            or ends[0]
            or (np.diff(ends) < 0).any()
            or not ends[-1] == len(self.classes) == len(self.states)
        ):
            raise DataError("sparse labels: indptr does not cut the entries into rows")
        ascending = self.classes[1:] > self.classes[:-1]
        starts = ends[1:-1]
        ascending[starts[(starts > 0) & (starts < len(self.classes))] - 1] = True
        if not ascending.all():
            raise DataError("sparse labels: the classes of a row are not ascending, each once")
        if not np.isin(self.states, [int(state) for state in State if state != State.UNKNOWN]).all():
            raise DataError("sparse labels: an entry holds no state that can be known")

    @staticmethod
    def from_entries(rows: np.ndarray, classes: np.ndarray, states: np.ndarray, shape: tuple[int, int]) -> SparseLabels:
        """From M entries in any order; DataError if one stands twice."""
        order = np.argsort(np.asarray(rows, dtype=np.int64) * shape[1] + classes, kind="stable")
        indptr = np.zeros(shape[0] + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=shape[0]), out=indptr[1:])
        return SparseLabels(indptr, np.asarray(classes)[order], np.asarray(states)[order], shape[1])

    @staticmethod
    def from_dense(labels: np.ndarray) -> SparseLabels:
        """From int8 [N, C] `State` values."""
        rows, classes = np.nonzero(labels)
        return SparseLabels.from_entries(rows, classes, labels[rows, classes], labels.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.n_classes

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """int8 [n, C] of some rows, [C] of a single one."""
        if isinstance(rows, (int, np.integer)):
            return self[np.array([rows])][0]
        chosen = self._numbers(rows)
        if len(chosen) * self.n_classes > MAX_DENSE:
            raise DataError(
                f"labels of {len(chosen)} samples and {self.n_classes} classes have {len(chosen) * self.n_classes:,} "
                f"entries, too many to be held as a matrix (at most {MAX_DENSE:,}): take fewer samples, or a protocol "
                "and method that work on the known labels alone"
            )
        lengths, entries = self._entries_of(chosen)
        out = np.zeros((len(chosen), self.n_classes), dtype=np.int8)
        out[np.repeat(np.arange(len(chosen)), lengths), self.classes[entries]] = self.states[entries]
        return out

    def columns(self, classes: slice) -> np.ndarray:
        """int8 [N, n] of the classes `classes`, which are few."""
        start, stop, _ = classes.indices(self.n_classes)
        out = np.zeros((len(self), stop - start), dtype=np.int8)
        inside = np.flatnonzero((self.classes >= start) & (self.classes < stop))
        rows = np.searchsorted(self.indptr, inside, side="right") - 1
        out[rows, self.classes[inside] - start] = self.states[inside]
        return out

    def take(self, rows: Rows) -> SparseLabels:
        """The labels of `rows`, in the order given."""
        lengths, entries = self._entries_of(self._numbers(rows))
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        return SparseLabels(indptr, self.classes[entries], self.states[entries], self.n_classes)

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row int64 [M], class [M] and state int8 [M] of every known entry, in row order."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr)), self.classes, self.states

    def count(self, state: State) -> np.ndarray:
        """int64 [C]: entries of each class that are `state`."""
        known = np.bincount(self.classes[self.states == state], minlength=self.n_classes).astype(np.int64)
        if state != State.UNKNOWN:
            return known
        return len(self) - np.bincount(self.classes, minlength=self.n_classes).astype(np.int64)

    def map_unspecified(self, rule: str) -> SparseLabels:
        """What `mlbench.annotation.map_unspecified` makes of these labels, sparse again."""
        states = map_unspecified(self.states[None], rule)[0]
        return self._only(states != State.UNKNOWN, states)

    def where(self, kept: np.ndarray) -> SparseLabels:
        """The known entries of which `kept`, bool [M], says so; the others are UNKNOWN."""
        return self._only(kept, self.states)

    def _only(self, kept: np.ndarray, states: np.ndarray) -> SparseLabels:
        indptr = np.concatenate([[0], np.cumsum(kept)])[self.indptr]
        return SparseLabels(indptr, self.classes[kept], states[kept], self.n_classes)

    def same_as(self, other: SparseLabels) -> bool:
        """Whether both hold the same entries."""
        mine, theirs = ((labels.indptr, labels.classes, labels.states) for labels in (self, other))
        return self.shape == other.shape and all(map(np.array_equal, mine, theirs))

    def update_hash(self, digest: hashlib._Hash) -> None:
        """Feed shape and entries to `digest` (other bytes than a dense matrix of the same labels)."""
        digest.update(f"sparse\0{len(self)}\0{self.n_classes}\0".encode())
        for array, dtype in ((self.indptr, "<i8"), (self.classes, "<i4"), (self.states, "i1")):
            digest.update(array.astype(dtype).tobytes())

    def _numbers(self, rows: Rows) -> np.ndarray:
        """int64 row numbers, none negative; IndexError outside."""
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        chosen = np.asarray(rows)
        if chosen.dtype == np.bool_:
            if chosen.shape != (len(self),):
                raise IndexError(f"boolean index of shape {chosen.shape} for {len(self)} rows")
            return np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64)
        if chosen.size and not -len(self) <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"rows {chosen.min()} to {chosen.max()} of {len(self)}")
        return np.where(chosen < 0, chosen + len(self), chosen)

    def _entries_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of entries of each row of `rows`, and where those of all of them lie."""
        starts = self.indptr[rows]
        lengths = self.indptr[rows + 1] - starts
        before = np.cumsum(lengths) - lengths
        return lengths, np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


#: The labels of a split: a matrix, or its known entries.
LabelMatrix = np.ndarray | SparseLabels


def take_labels(labels: LabelMatrix, rows: np.ndarray) -> LabelMatrix:
    """The labels of `rows`, of the kind they are."""
    return labels.take(rows) if isinstance(labels, SparseLabels) else labels[rows]


def map_labels(labels: LabelMatrix, rule: str) -> LabelMatrix:
    """`mlbench.annotation.map_unspecified` for labels of either kind."""
    return labels.map_unspecified(rule) if isinstance(labels, SparseLabels) else map_unspecified(labels, rule)


def no_labels(like: LabelMatrix) -> LabelMatrix:
    """All UNKNOWN, of the kind and shape of `like`."""
    if isinstance(like, SparseLabels):
        nothing = np.zeros(0, dtype=np.int8)
        return SparseLabels(np.zeros(len(like) + 1, dtype=np.int64), nothing, nothing, like.n_classes)
    return np.zeros_like(like)


def count_states(labels: LabelMatrix, state: State) -> np.ndarray:
    """int64 [C]: entries of each class that are `state`, for labels of either kind."""
    return labels.count(state) if isinstance(labels, SparseLabels) else np.count_nonzero(labels == state, axis=0)
