"""Masks over sparse labels: drawn some rows at a time, held by the entries that are shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mlbench.annotation import PROCESSES, Mask, State, check_process, hash_ids, may_contradict
from mlbench.annotation.draws import uniform_words
from mlbench.annotation.material import Material, Statistics
from mlbench.annotation.sparse import SparseLabels
from mlbench.errors import DataError

#: Entries that are drawn at once.
_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class SparseMask(Mask):
    """What an annotation process left visible of sparse labels."""

    observed: SparseLabels  # type: ignore[assignment]

    def __post_init__(self) -> None:
        pass

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over process, parameters, seed and entries if all is shown; else that of the mask in a matrix."""
        if self.process != "full":
            known = self.observed
            return self.hash_of(known.shape, (known[rows].tobytes() for rows in _row_blocks(known)))
        digest = hashlib.sha256(f"{self.process}\0{sorted(self.params.items())}\0{self.seed}\0".encode())
        self.observed.update_hash(digest)
        return digest.hexdigest()

    def tensors(self) -> dict[str, np.ndarray]:
        """What a mask file holds of `observed`: its entries, and the number of classes."""
        known = self.observed
        about = {"classes": known.classes, "states": known.states, "n_classes": np.array([known.n_classes])}
        return {"indptr": known.indptr, **about}

    @staticmethod
    def from_tensors(tensors: Mapping[str, np.ndarray], **about: Any) -> SparseMask:
        """The mask of what `tensors` gave."""
        indptr, classes, states = (tensors[name] for name in ("indptr", "classes", "states"))
        return SparseMask(observed=SparseLabels(indptr, classes, states, int(tensors["n_classes"][0])), **about)

    @property
    def without_positive(self) -> int:
        """As in `Mask`."""
        rows, _, states = self.observed.entries()
        return len(self.observed) - len(np.unique(rows[states == State.POSITIVE]))

    @property
    def counts(self) -> dict[str, int]:
        """Observed entries by state, as in `Mask`."""
        names = {"positives": 1, "negatives": -1, "unknown": 0, "unspecified": 2}
        return {name: int(self.observed.count(State(state)).sum()) for name, state in names.items()}


def draw_sparse_mask(
    labels: SparseLabels,
    process: str,
    params: Mapping[str, Any],
    seed: int,
    ids: Sequence[str],
    boxes: np.ndarray | None = None,
    train_labels: SparseLabels | None = None,
) -> SparseMask:
    """`mlbench.annotation.draw_mask` for sparse labels: the same entries are shown, some rows are dense at a time.

    Parameters
    ----------
    As for `draw_mask`, which raises what this raises.
    """
    checked, ids_sha256, rule = check_process(process, params), hash_ids(ids), PROCESSES[process]
    if process == "full":
        return SparseMask(process, checked, seed, labels, ids_sha256)
    if rule.by_entry:
        _, classes, states = labels.entries()
        drawn = rule.draw(classes.astype(np.int64), states, _words(process, seed, ids, labels), **checked)
        shown = labels.where(drawn | (states == State.UNSPECIFIED))
        return SparseMask(process, checked, seed, shown, ids_sha256)
    trained = labels if train_labels is None else train_labels
    material = Material(process, ids, labels.n_classes, seed, checked, boxes, lambda: _statistics(trained))
    parts = []
    for rows in _row_blocks(labels):
        dense = labels[rows]
        drawn = rule.draw(dense, list(ids[rows]), seed, **material.of(rule.needs, rows), **checked).astype(np.int8)
        parts.append(SparseLabels.from_dense(np.where(dense == State.UNSPECIFIED, dense, dense * drawn)))
    ends = np.cumsum([0, *(len(part.classes) for part in parts)])
    indptr = [part.indptr[1:] + end for part, end in zip(parts, ends, strict=False)]
    empty = [np.zeros(0, np.int8)]
    observed = SparseLabels(
        np.concatenate([np.zeros(1, np.int64), *indptr]),
        np.concatenate([part.classes for part in parts] or empty),
        np.concatenate([part.states for part in parts] or empty),
        labels.n_classes,
    )
    return SparseMask(process, checked, seed, observed, ids_sha256)


def _words(process: str, seed: int, ids: Sequence[str], labels: SparseLabels) -> np.ndarray:
    """The random word of every known entry, uint64 [M], in row order."""
    found = [np.zeros(0, np.uint64)]
    for rows in _row_blocks(labels):
        own, classes, _ = labels.take(rows).entries()
        found.append(uniform_words(process, seed, list(ids[rows]), labels.n_classes)[own, classes])
    return np.concatenate(found)


def _statistics(labels: SparseLabels) -> Statistics:
    rows, classes, states = labels.entries()
    positive = states == State.POSITIVE
    return Statistics(rows[positive], classes[positive].astype(np.int64), labels.n_classes)


def check_sparse_mask(mask: SparseMask, ids: Sequence[str], labels: SparseLabels) -> None:
    """DataError if `mask` shows what `labels` do not know or deny; one that declares noise may show the opposite."""
    keys, states = _keys(mask.observed)
    known, truth = _keys(labels)
    place = np.minimum(np.searchsorted(known, keys), max(0, len(known) - 1))
    wrong = np.ones(len(keys), dtype=bool)
    if len(known):
        wrong = (known[place] != keys) | (truth[place] != states)
        if may_contradict(mask):
            wrong &= (known[place] != keys) | (truth[place] != -states)  # POSITIVE and NEGATIVE are opposite
    if wrong.any():
        row, c = divmod(int(keys[wrong][0]), labels.n_classes)
        raise DataError(
            f"the mask given contradicts the data set in {int(wrong.sum())} labels, the first at sample "
            f"'{ids[row]}', class {c}"
        )


def with_negatives(observed: SparseLabels, truth: SparseLabels) -> SparseLabels:
    """`observed`, and of what is unknown there the negatives of `truth`."""
    keys, states = _keys(observed)
    others, their = _keys(truth)
    added = (their == State.NEGATIVE) & ~np.isin(others, keys)
    keys, states = np.concatenate([keys, others[added]]), np.concatenate([states, their[added]])
    return SparseLabels.from_entries(keys // truth.n_classes, keys % truth.n_classes, states, truth.shape)


def hidden_keys(truth: SparseLabels, observed: SparseLabels, state: State) -> np.ndarray:
    """int64, ascending: ``row * C + class`` of the entries that are `state` in `truth` and unknown in `observed`."""
    keys, states = _keys(truth)
    keys = keys[states == state]
    return keys[~np.isin(keys, _keys(observed)[0])]


def _keys(labels: SparseLabels) -> tuple[np.ndarray, np.ndarray]:
    """Every known entry as ``row * C + class``, ascending, and its state."""
    rows, classes, states = labels.entries()
    return rows * labels.n_classes + classes, states


def _row_blocks(labels: SparseLabels) -> Iterator[slice]:
    step = max(1, _AT_ONCE // max(1, labels.n_classes))
    for start in range(0, len(labels), step):
        yield slice(start, min(start + step, len(labels)))
