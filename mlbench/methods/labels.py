"""Labels as a method sees them: one batch of observed labels, and the store they come from and are changed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mlbench.annotation import State
from mlbench.annotation.sparse import LabelMatrix, SparseLabels
from mlbench.annotation.written import RowsView, Written
from mlbench.errors import unknown
from mlbench.inputs.tensors import on_device


@dataclass
class Change:
    """Label changes a method asks for: equal-length arrays of row, class, new state and value."""

    rows: np.ndarray
    classes: np.ndarray
    states: np.ndarray
    values: np.ndarray

    @staticmethod
    def join(changes: list[Change]) -> Change:
        """All of `changes` as one, in their order."""
        parts = [[getattr(c, name) for c in changes] for name in ("rows", "classes", "states", "values")]
        return Change(*(np.concatenate(p) for p in parts))


#: What a method may report of unknown entries beside changing them, and what an entry is if the report is right.
NOTES = {"rejected": State.POSITIVE, "corrected": State.POSITIVE}


@dataclass
class Note:
    """Entries a method reports on: equal-length arrays of row and class."""

    kind: str
    rows: np.ndarray
    classes: np.ndarray


@dataclass
class Labels:
    """The labels of one batch.

    state : int8 [B, C], `State` codes. value : float32 [B, C], the target of a labelled entry (soft for
    pseudo-labels, 1 or 0 otherwise). pseudo : bool [B, C], labels a method wrote. index : int64 [B], rows of the
    training part.
    """

    state: Tensor
    value: Tensor
    pseudo: Tensor
    index: Tensor
    pending: list[Change] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    @property
    def positive(self) -> Tensor:
        """Entries that are shown as present, bool [B, C]."""
        return self.state == State.POSITIVE

    @property
    def negative(self) -> Tensor:
        """Entries that are shown as absent, bool [B, C]."""
        return self.state == State.NEGATIVE

    @property
    def unknown(self) -> Tensor:
        """Entries that are hidden, or that the source does not know, bool [B, C]."""
        return self.state == State.UNKNOWN

    @property
    def counted(self) -> Tensor:
        """Entries a loss may count: all but those the protocol says to ignore."""
        return self.state != State.UNSPECIFIED

    def __len__(self) -> int:
        return len(self.index)

    def change(self, mask: Tensor, state: State, value: float | Tensor | None = None) -> None:
        """Ask that the entries in bool `mask` [B, C] become `state` (with target `value`) after this step.

        Observed labels are kept apart and never overwritten: the store counts the entry as pseudo from then on, until
        it is UNKNOWN again.
        """
        position, classes = torch.nonzero(mask, as_tuple=True)
        if value is None:
            value = 1.0 if state == State.POSITIVE else 0.0
        chosen = value[mask] if isinstance(value, Tensor) else torch.full((len(position),), float(value))
        self.pending.append(
            Change(
                rows=self.index[position].cpu().numpy(),
                classes=classes.cpu().numpy(),
                states=np.full(len(position), int(state), dtype=np.int8),
                values=chosen.detach().float().cpu().numpy(),
            )
        )

    def note(self, kind: str, mask: Tensor) -> None:
        """Report that the entries in bool `mask` [B, C] are treated in this step as `kind` says.

        "rejected": their loss is left out; "corrected": they count as positive for the step. The runner holds the
        report against the hidden truth, for the record; the method learns nothing from it. UsageError for another
        kind.
        """
        if kind not in NOTES:
            raise unknown("kind of note", kind, NOTES)
        position, classes = torch.nonzero(mask, as_tuple=True)
        self.notes.append(Note(kind, self.index[position].cpu().numpy(), classes.cpu().numpy()))


class LabelStore:
    """The training labels of a run: what was observed, and what a method made of it.

    Parameters
    ----------
    observed : int8 [N, C] `State` codes, or `SparseLabels`; kept unchanged. Of sparse labels only the changes are
        held beside them.
    """

    observed: LabelMatrix
    state: np.ndarray | RowsView
    value: np.ndarray | RowsView
    pseudo: np.ndarray | RowsView
    written: Written | None = None

    def __init__(self, observed: LabelMatrix) -> None:
        if isinstance(observed, SparseLabels):
            self.observed = observed
            self.written = Written(observed.n_classes)
            self.state, self.value, self.pseudo = (
                RowsView(lambda rows, which=which: self._dense(rows)[which], observed.shape) for which in range(3)
            )
        else:
            self.observed = np.ascontiguousarray(observed, dtype=np.int8)
            self.observed.setflags(write=False)
            self.state = self.observed.copy()
            self.value = (self.state == State.POSITIVE).astype(np.float32)
            self.pseudo = np.zeros(self.state.shape, dtype=bool)
        self.log: list[tuple[int, Change]] = []
        #: Labels that stand without being written: a method makes them anew for each batch.
        self.implied = 0

    def __len__(self) -> int:
        return len(self.state)

    def _dense(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """State int8, value float32 and pseudo bool [n, C] of rows `index` as they are now."""
        if self.written is None:
            return self.state[index], self.value[index], self.pseudo[index]
        state = self.observed[index]
        value, pseudo = (state == State.POSITIVE).astype(np.float32), np.zeros(state.shape, dtype=bool)
        for position, classes, states, values in self.written.of_rows(index):
            state[position, classes], value[position, classes] = states, values
            pseudo[position, classes] = states != State.UNKNOWN
        return state, value, pseudo

    def rows(self, index: np.ndarray, device: torch.device | str = "cpu") -> Labels:
        """The current labels of training rows `index`."""
        state, value, pseudo = self._dense(index)
        return Labels(
            state=on_device(torch.from_numpy(state), device),
            value=on_device(torch.from_numpy(value), device),
            pseudo=on_device(torch.from_numpy(pseudo), device),
            index=on_device(torch.from_numpy(np.asarray(index, dtype=np.int64)), device),
        )

    @property
    def pseudo_count(self) -> int:
        """Labels of the method's that stand."""
        if self.written is None:
            return int(self.pseudo.sum())  # type: ignore[union-attr]  # an array
        return self.implied + int(np.count_nonzero(self.written.entries().states != State.UNKNOWN))

    def written_as(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Rows and classes of the entries that a method wrote as `state`."""
        if self.written is None:
            return np.nonzero(self.pseudo & (self.state == state))  # type: ignore[operator, return-value]  # arrays
        found = self.written.entries()
        keys = found.keys[found.states == state]
        return keys // self.observed.shape[1], keys % self.observed.shape[1]

    def apply(self, change: Change, epoch: int) -> None:
        """Write `change`. Of a dense matrix the store remembers in which epoch it was made."""
        if not len(change.rows):
            return
        if self.written is not None:
            self.written.write(change.rows, change.classes, change.states, change.values)
            return
        where = (change.rows, change.classes)
        self.state[where] = change.states  # type: ignore[index]  # arrays
        self.value[where] = change.values  # type: ignore[index]
        # An entry set back to unknown holds no label of the method's any more.
        self.pseudo[where] = change.states != State.UNKNOWN  # type: ignore[index]
        self.log.append((epoch, change))

    def state_dict(self) -> dict[str, Tensor]:
        """What gives this store again on the observed labels: of sparse ones the entries as they are now, of a matrix
        the log of its changes, to be replayed."""
        if self.written is not None:
            return {name: torch.from_numpy(part) for name, part in self.written.state_dict(len(self)).items()}
        joined = Change.join([c for _, c in self.log]) if self.log else Change(*(np.zeros(0, np.int64),) * 4)
        epochs = np.concatenate([np.full(len(c.rows), e) for e, c in self.log]) if self.log else np.zeros(0, np.int64)
        return {
            "epoch": torch.from_numpy(epochs.astype(np.int64)),
            "row": torch.from_numpy(joined.rows.astype(np.int64)),
            "class": torch.from_numpy(joined.classes.astype(np.int64)),
            "state": torch.from_numpy(joined.states.astype(np.int8)),
            "value": torch.from_numpy(joined.values.astype(np.float32)),
        }

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Forget all changes, then take on those of `saved`."""
        self.__init__(self.observed)  # type: ignore[misc]
        arrays = {name: tensor.numpy() for name, tensor in saved.items()}
        if self.written is not None:
            self.written.load_state_dict(arrays)
            return
        if not len(arrays["epoch"]):
            return
        # Epochs are counted anew in each phase, and a later change of an entry wins: the order must stay as it was.
        ends = [*(np.flatnonzero(np.diff(arrays["epoch"])) + 1), len(arrays["epoch"])]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            names = ("row", "class", "state", "value")
            self.apply(Change(*(arrays[name][start:end] for name in names)), int(arrays["epoch"][start]))
