"""The label store: what was observed stays, changes are logged, replayed, and asked for entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlbench.annotation import State
from mlbench.methods.labels import Change, LabelStore

P, N, U, X = (int(s) for s in (State.POSITIVE, State.NEGATIVE, State.UNKNOWN, State.UNSPECIFIED))
OBSERVED = [[P, U, N], [U, U, X], [N, P, U], [U, U, U]]


@pytest.fixture
def store() -> LabelStore:
    return LabelStore(np.array(OBSERVED))


def change(rows: list[int], classes: list[int], state: int, value: float) -> Change:
    n = len(rows)
    return Change(np.array(rows), np.array(classes), np.full(n, state, np.int8), np.full(n, value, np.float32))


def test_a_batch_shows_the_states_of_its_rows(store: LabelStore) -> None:
    labels = store.rows(np.array([2, 0]))
    assert len(labels) == 2
    assert labels.state.tolist() == [OBSERVED[2], OBSERVED[0]]
    assert labels.index.tolist() == [2, 0]
    assert labels.value.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert labels.positive.tolist() == [[False, True, False], [True, False, False]]
    assert labels.negative.tolist() == [[True, False, False], [False, False, True]]
    assert labels.unknown.tolist() == [[False, False, True], [False, True, False]]
    assert not labels.pseudo.any()
    assert store.rows(np.array([1])).counted.tolist() == [[True, True, False]]


def test_a_batch_is_a_copy(store: LabelStore) -> None:
    labels = store.rows(np.array([0]))
    labels.state.fill_(X)
    labels.value.fill_(9)
    assert store.state.tolist() == OBSERVED
    assert store.value.max() == 1


def test_a_change_is_asked_for_and_made_later(store: LabelStore) -> None:
    labels = store.rows(np.array([3, 1]))
    labels.change(torch.tensor([[False, True, False], [True, False, False]]), State.POSITIVE)
    labels.change(torch.tensor([[False, False, True], [False, False, False]]), State.NEGATIVE)
    assert store.state.tolist() == OBSERVED
    for asked in labels.pending:
        store.apply(asked, epoch=2)
    assert store.state.tolist() == [OBSERVED[0], [P, U, X], OBSERVED[2], [U, P, N]]
    assert store.value.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert store.pseudo.tolist() == [[False] * 3, [True, False, False], [False] * 3, [False, True, True]]
    assert store.observed.tolist() == OBSERVED


@pytest.mark.parametrize("given", ["number", "tensor"])
def test_a_pseudo_label_may_be_soft(store: LabelStore, given: str) -> None:
    labels = store.rows(np.array([0, 3]))
    mask = torch.tensor([[False, True, False], [True, False, True]])
    values = torch.tensor([[0.0, 0.25, 0.0], [0.5, 0.0, 0.75]], requires_grad=True)
    labels.change(mask, State.POSITIVE, 0.25 if given == "number" else values)
    store.apply(labels.pending[0], epoch=1)
    expected = [0.25, 0.25, 0.25] if given == "number" else [0.25, 0.5, 0.75]
    assert store.value[[0, 3, 3], [1, 0, 2]].tolist() == expected


def test_what_was_observed_is_kept_apart_and_cannot_be_written(store: LabelStore) -> None:
    store.apply(change([0, 0], [0, 2], U, 0.0), epoch=1)
    assert store.state[0].tolist() == [U, U, U]
    assert store.observed.tolist() == OBSERVED
    with pytest.raises(ValueError, match="read-only"):
        store.observed[0, 0] = N


def test_a_label_taken_back_is_no_pseudo_label(store: LabelStore) -> None:
    store.apply(change([0, 3], [1, 1], P, 1.0), epoch=1)
    store.apply(change([0], [1], U, 0.0), epoch=2)
    assert np.argwhere(store.pseudo).tolist() == [[3, 1]]


def test_an_empty_change_leaves_no_trace(store: LabelStore) -> None:
    store.apply(change([], [], P, 1.0), epoch=1)
    assert store.log == []
    store.rows(np.array([0])).change(torch.zeros((1, 3), dtype=torch.bool), State.POSITIVE)
    assert store.state_dict()["row"].shape == (0,)


def test_the_log_replayed_on_the_observed_labels_gives_the_store(store: LabelStore) -> None:
    store.apply(change([3, 3], [0, 1], P, 0.9), epoch=1)
    store.apply(change([3, 1], [0, 0], N, 0.0), epoch=1)  # changed again in the same epoch: the later one counts
    store.apply(change([3], [1], U, 0.5), epoch=4)
    other = LabelStore(np.array(OBSERVED))
    other.apply(change([0], [1], P, 1.0), epoch=3)  # forgotten on loading
    other.load_state_dict(store.state_dict())
    assert (other.state == store.state).all()
    assert (other.value == store.value).all()
    assert (other.pseudo == store.pseudo).all()
    assert {name: t.tolist() for name, t in other.state_dict().items()} == {
        name: t.tolist() for name, t in store.state_dict().items()
    }


def test_a_store_without_changes_goes_there_and_back(store: LabelStore) -> None:
    saved = store.state_dict()
    assert {name: tensor.dtype for name, tensor in saved.items()} == {
        "epoch": torch.int64,
        "row": torch.int64,
        "class": torch.int64,
        "state": torch.int8,
        "value": torch.float32,
    }
    store.apply(change([0], [1], P, 1.0), epoch=1)
    store.load_state_dict(saved)
    assert store.state.tolist() == OBSERVED
    assert not store.pseudo.any()


def test_the_later_of_two_changes_of_one_entry_counts(store: LabelStore) -> None:
    store.apply(change([3, 3], [0, 0], P, 0.5), epoch=1)
    twice = Change(np.array([3, 3]), np.array([1, 1]), np.array([P, N], np.int8), np.array([1, 0], np.float32))
    store.apply(twice, epoch=1)
    assert store.state[3, 1] == N
