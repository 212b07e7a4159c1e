"""Labels written over sparse ones: memory, files and time grow with what was written, not with the matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mlbench.annotation import State
from mlbench.annotation.sparse import AsMatrix


class Entries(NamedTuple):
    """M entries of a matrix [N, C], ascending, each once.

    keys : int64 [M], ``row * C + class``. states : int8 [M]. values : float32 [M], or None where each is what its
    state says: 1 of a POSITIVE, 0 of any other.
    """

    keys: np.ndarray
    states: np.ndarray
    values: np.ndarray | None

    def given_values(self) -> np.ndarray:
        """float32 [M]."""
        return _plain_values(self.states) if self.values is None else self.values


_NOTHING = Entries(np.zeros(0, np.int64), np.zeros(0, np.int8), None)


@dataclass(eq=False)
class Written:
    """Entries of a matrix [N, C] that were written, each with its latest state and value.

    They lie in a few sorted runs, a later one standing over an earlier one; runs of like size are joined, so that
    writing M entries piece by piece takes M log M.
    """

    n_classes: int

    def __post_init__(self) -> None:
        self.runs: list[Entries] = []

    def write(self, rows: np.ndarray, classes: np.ndarray, states: np.ndarray, values: np.ndarray) -> None:
        """Write entries int [M], int8 [M], float [M]; of one that stands twice, the later holds."""
        if not len(rows):
            return
        keys = rows.astype(np.int64) * self.n_classes + classes
        self.runs.append(_latest(keys, states.astype(np.int8), values.astype(np.float32)))
        while len(self.runs) > 1 and len(self.runs[-2].keys) <= 2 * len(self.runs[-1].keys):
            self.runs[-2:] = [_joined(*self.runs[-2:])]

    def entries(self) -> Entries:
        """All of them."""
        while len(self.runs) > 1:
            self.runs[-2:] = [_joined(*self.runs[-2:])]
        return self.runs[0] if self.runs else _NOTHING

    def of_rows(self, index: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Position in `index`, class, state and value of what was written to the rows `index`, the oldest first."""
        index = np.asarray(index, dtype=np.int64)
        for run in self.runs:
            starts = np.searchsorted(run.keys, index * self.n_classes)
            lengths = np.searchsorted(run.keys, (index + 1) * self.n_classes) - starts
            before = np.cumsum(lengths) - lengths
            found = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
            states = run.states[found]
            values = _plain_values(states) if run.values is None else run.values[found]
            yield np.repeat(np.arange(len(index)), lengths), run.keys[found] % self.n_classes, states, values

    def state_dict(self, rows: int) -> dict[str, np.ndarray]:
        """All entries in few bytes, for a checkpoint: entries of each of the `rows` rows, class, state and value of
        each entry. One state stands for all that are equal, no value for those that a state says."""
        found, small = self.entries(), np.int16 if self.n_classes <= np.iinfo(np.int16).max else np.int32
        one = len(found.states) > 0 and (found.states == found.states[0]).all()
        counts = np.bincount(found.keys // self.n_classes, minlength=rows)
        return {
            "count": counts.astype(small),
            "class": (found.keys % self.n_classes).astype(small),
            "state": found.states[:1] if one else found.states,
            "value": np.zeros(0, np.float32) if found.values is None else found.values,
        }

    def load_state_dict(self, saved: Mapping[str, np.ndarray]) -> None:
        """Hold what `state_dict` gave, and nothing else."""
        rows = np.repeat(np.arange(len(saved["count"]), dtype=np.int64), saved["count"])
        keys = rows * self.n_classes + saved["class"]
        states = np.resize(saved["state"], len(keys)).astype(np.int8)
        self.runs = [Entries(keys, states, saved["value"] if len(saved["value"]) else None)] if len(keys) else []


def _latest(keys: np.ndarray, states: np.ndarray, values: np.ndarray) -> Entries:
    """Entries in any order, sorted; of one that stands twice, the later."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.append(keys[1:] != keys[:-1], True)
    order, keys = order[last], keys[last]
    states, values = states[order], values[order]
    return Entries(keys, states, None if np.array_equal(values, _plain_values(states)) else values)


def _joined(before: Entries, after: Entries) -> Entries:
    """Both, `after` standing over `before`."""
    # Where an entry of either goes when both are merged; an entry that stands in both is taken from `after`.
    place = np.searchsorted(after.keys, before.keys)
    kept = np.ones(len(before.keys), dtype=bool)
    inside = place < len(after.keys)
    kept[inside] = after.keys[place[inside]] != before.keys[inside]
    place = place[kept] + np.arange(kept.sum())
    from_after = np.ones(len(place) + len(after.keys), dtype=bool)
    from_after[place] = False

    def merged(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        out = np.empty(len(from_after), dtype=new.dtype)
        out[place], out[from_after] = old[kept], new
        return out

    values = None
    if before.values is not None or after.values is not None:
        values = merged(before.given_values(), after.given_values())
    return Entries(merged(before.keys, after.keys), merged(before.states, after.states), values)


def _plain_values(states: np.ndarray) -> np.ndarray:
    return (states == State.POSITIVE).astype(np.float32)


class RowsView(AsMatrix):
    """A matrix [N, C] that is made row by row when it is read: of some rows by an index, or all of it as an array."""

    def __init__(self, rows: Any, shape: tuple[int, int]) -> None:
        self._rows, self.shape = rows, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """The dense rows `index`, [n, C]; [C] of a single one."""
        rows = np.arange(len(self))[index]
        return self._rows(rows) if rows.ndim else self._rows(rows[None])[0]
