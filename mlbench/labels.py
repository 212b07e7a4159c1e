"""Labels as a method sees them: one batch of observed labels, and the store they come from and are changed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mlbench.annotation import State
from mlbench.datasets.sparse import LabelMatrix, Overlay, SparseLabels
from mlbench.devices import on_device
from mlbench.errors import unknown


@dataclass
class Change:
    """Label changes a method asks for: equal-length arrays of row, class, new state and value."""

    rows: np.ndarray
    classes: np.ndarray
    states: np.ndarray
    values: np.ndarray

    @staticmethod
    def join(changes: list[Change]) -> Change:
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
        return self.state == State.POSITIVE

    @property
    def negative(self) -> Tensor:
        return self.state == State.NEGATIVE

    @property
    def unknown(self) -> Tensor:
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
        report against the hidden truth, for the record; the method learns nothing from it.
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
    state: np.ndarray | Overlay
    value: np.ndarray | Overlay
    pseudo: np.ndarray | Overlay

    def __init__(self, observed: LabelMatrix) -> None:
        if isinstance(observed, SparseLabels):
            shape = observed.shape
            self.observed = observed
            self.state = Overlay(observed.__getitem__, shape)
            self.value = Overlay(lambda index: (observed[index] == State.POSITIVE).astype(np.float32), shape)
            self.pseudo = Overlay(lambda index: np.zeros((len(index), shape[1]), dtype=bool), shape)
        else:
            self.observed = np.ascontiguousarray(observed, dtype=np.int8)
            self.observed.setflags(write=False)
            self.state = self.observed.copy()
            self.value = (self.state == State.POSITIVE).astype(np.float32)
            self.pseudo = np.zeros(self.state.shape, dtype=bool)
        self.log: list[tuple[int, Change]] = []

    def __len__(self) -> int:
        return len(self.state)

    def rows(self, index: np.ndarray, device: torch.device | str = "cpu") -> Labels:
        """The current labels of training rows `index`."""
        return Labels(
            state=on_device(torch.from_numpy(self.state[index]), device),
            value=on_device(torch.from_numpy(self.value[index]), device),
            pseudo=on_device(torch.from_numpy(self.pseudo[index]), device),
            index=on_device(torch.from_numpy(np.asarray(index, dtype=np.int64)), device),
        )

    def apply(self, change: Change, epoch: int) -> None:
        """Write `change`, and remember in which epoch it was made."""
        if not len(change.rows):
            return
        where = (change.rows, change.classes)
        self.state[where] = change.states
        self.value[where] = change.values
        # An entry set back to unknown holds no label of the method's any more.
        self.pseudo[where] = change.states != State.UNKNOWN
        self.log.append((epoch, change))

    def state_dict(self) -> dict[str, Tensor]:
        """The change log as tensors; replaying it on the observed labels gives this store."""
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
        """Forget all changes, then replay those of `saved`."""
        self.__init__(self.observed)  # type: ignore[misc]
        arrays = {name: tensor.numpy() for name, tensor in saved.items()}
        if not len(arrays["epoch"]):
            return
        # Epochs are counted anew in each phase, and a later change of an entry wins: the order must stay as it was.
        ends = [*(np.flatnonzero(np.diff(arrays["epoch"])) + 1), len(arrays["epoch"])]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            names = ("row", "class", "state", "value")
            self.apply(Change(*(arrays[name][start:end] for name in names)), int(arrays["epoch"][start]))
