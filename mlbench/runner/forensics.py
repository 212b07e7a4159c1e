"""What a method did to unknown labels, held against the truth it never sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlbench.annotation import State
from mlbench.annotation.sparse import LabelMatrix, SparseLabels
from mlbench.annotation.sparse_masks import hidden_keys
from mlbench.methods.labels import NOTES, LabelStore, Note

#: Labels a method wrote into the store, by the state it wrote.
ADDED = {"added_positive": State.POSITIVE, "added_negative": State.NEGATIVE}


class _HiddenMatrix:
    """Hidden entries of one state: bool [N, C]."""

    def __init__(self, entries: np.ndarray) -> None:
        self.entries, self.n_classes = entries, entries.shape[1]

    def holds(self, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.entries[rows, classes]
        return found

    def by_class(self) -> np.ndarray:
        """int64 [C]."""
        counts: np.ndarray = self.entries.sum(axis=0)
        return counts


class _HiddenEntries:
    """The same, of which only ``row * C + class`` is held, ascending."""

    def __init__(self, keys: np.ndarray, n_classes: int) -> None:
        self.keys, self.n_classes = keys, n_classes

    def holds(self, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        wanted = np.asarray(rows, dtype=np.int64) * self.n_classes + classes
        if not len(self.keys):
            return np.zeros(len(wanted), dtype=bool)
        found: np.ndarray = self.keys[np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)] == wanted
        return found

    def by_class(self) -> np.ndarray:
        return np.bincount(self.keys % self.n_classes, minlength=self.n_classes)


_Hidden = _HiddenMatrix | _HiddenEntries


class Forensics:
    """Counts of one phase's training epoch: entries a method reported (`Labels.note`) or changed, and how many rightly.

    An unknown entry is reported rightly as rejected or corrected, or added rightly as positive, if it is truly
    positive; it is added rightly as negative if it is truly negative. Entries whose truth is not known are not judged.

    Parameters
    ----------
    truth : int8 [N, C] `State` codes of the training part, all that is known. observed : what the method was given.
    """

    def __init__(self, truth: LabelMatrix, observed: LabelMatrix) -> None:
        self.hidden: dict[State, _Hidden] = {}
        for state in (State.POSITIVE, State.NEGATIVE):
            if isinstance(observed, SparseLabels) and isinstance(truth, SparseLabels):
                self.hidden[state] = _HiddenEntries(hidden_keys(truth, observed, state), observed.n_classes)
            else:
                self.hidden[state] = _HiddenMatrix((observed == State.UNKNOWN) & np.asarray(truth == state))
        if isinstance(observed, SparseLabels) and not any(hidden.by_class().any() for hidden in self.hidden.values()):
            self.hidden = {}  # all that is known is shown: there is nothing that could be judged
        self.clear()

    def clear(self) -> None:
        """Forget the notes of the epoch."""
        self.noted: dict[str, np.ndarray] = {}

    def add(self, notes: list[Note]) -> None:
        """Count reported entries: [2, C] of each kind, those truly positive and those truly negative."""
        for note in notes if self.hidden else ():
            classes = self.hidden[State.POSITIVE].n_classes
            counts = self.noted.setdefault(note.kind, np.zeros((2, classes), dtype=np.int64))
            for row, state in enumerate((State.POSITIVE, State.NEGATIVE)):
                found = self.hidden[state].holds(note.rows, note.classes)
                counts[row] += np.bincount(note.classes[found], minlength=classes)

    def by_class(self, labels: LabelStore) -> dict[str, np.ndarray]:
        """Of each kind int64 [3, C]: entries judged, those of them that are right, and all that could be found.

        Reports are those since `clear`; added labels are all that `labels` hold now.
        """
        found = {}
        for kind, counts in sorted(self.noted.items()):
            wanted = NOTES[kind]
            right = counts[0 if wanted == State.POSITIVE else 1]
            found[kind] = np.stack([counts.sum(axis=0), right, self.hidden[wanted].by_class()])
        for kind, state in ADDED.items() if self.hidden else ():
            rows, classes = labels.written_as(state)
            if len(rows):
                held = {each: classes[hidden.holds(rows, classes)] for each, hidden in self.hidden.items()}
                right = self.hidden[state]
                rightly = {each: np.bincount(of, minlength=right.n_classes) for each, of in held.items()}
                judged = rightly[State.POSITIVE] + rightly[State.NEGATIVE]
                found[kind] = np.stack([judged, rightly[state], right.by_class()])
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The counts of an unfinished epoch."""
        return {kind: torch.from_numpy(counts.copy()) for kind, counts in self.noted.items()}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.noted = {kind: counts.numpy().copy() for kind, counts in saved.items()}


def rates(counts: np.ndarray) -> dict[str, float | None]:
    """Precision and recall in percent of (judged, right, findable) counts; None where nothing was there to judge."""
    judged, right, findable = (int(count) for count in counts)
    return {
        "entries": judged,
        "precision": 100.0 * right / judged if judged else None,
        "recall": 100.0 * right / findable if findable else None,
    }


def rates_by_class(by_class: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
    """`rates` of each class by name, as "KIND_precision" and "KIND_recall": the lines in the record."""
    found: dict[str, Any] = {}
    for kind, counts in by_class.items():
        columns = [rates(column) for column in counts.T]
        for name in ("precision", "recall"):
            found[f"{kind}_{name}"] = {c: value[name] for c, value in zip(classes, columns, strict=True)}
    return found


def summary(by_class: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`rates` over all classes, by kind: the epoch's line in the record."""
    return {kind: rates(counts.sum(axis=1)) for kind, counts in by_class.items()}
