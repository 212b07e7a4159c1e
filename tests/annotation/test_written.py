"""Labels written over sparse ones: whatever is written, they are those of a dense store."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from mlbench.annotation import State
from mlbench.annotation.sparse import SparseLabels
from mlbench.annotation.written import Written
from mlbench.methods.labels import Change, LabelStore

P, N, U = int(State.POSITIVE), int(State.NEGATIVE), int(State.UNKNOWN)


def random_change(random: np.random.RandomState, shape: tuple[int, int], soft: bool) -> Change:
    count = random.randint(0, 30)
    states = random.choice([P, N, U], count).astype(np.int8)
    values = random.rand(count).astype(np.float32) if soft else (states == P).astype(np.float32)
    return Change(random.randint(0, shape[0], count), random.randint(0, shape[1], count), states, values)


@pytest.mark.parametrize("soft", [False, True])
def test_a_sparse_store_is_the_dense_one_after_any_changes_and_a_checkpoint(soft: bool) -> None:
    random = np.random.RandomState(3 + soft)
    labels = random.choice([P, N, U, U, U, U], (17, 11)).astype(np.int8)
    dense, sparse = LabelStore(labels), LabelStore(SparseLabels.from_dense(labels))
    for number in range(60):
        change = random_change(random, labels.shape, soft and number % 3 == 0)
        for store in (dense, sparse):
            store.apply(change, epoch=1)
        index = random.randint(0, 17, 6)
        one, other = dense.rows(index), sparse.rows(index)
        for name in ("state", "value", "pseudo", "index"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert sparse.pseudo_count == dense.pseudo_count == int(np.asarray(dense.pseudo).sum())
        if number % 10 == 9:
            again = LabelStore(sparse.observed)
            again.load_state_dict(sparse.state_dict())
            for name in ("state", "value", "pseudo"):
                assert np.array_equal(np.asarray(getattr(again, name)), getattr(dense, name)), name
            sparse = again


def test_runs_stay_few() -> None:
    written, random = Written(50), np.random.RandomState(0)
    for _ in range(500):
        rows, classes = random.randint(0, 100, 10), random.randint(0, 50, 10)
        written.write(rows, classes, np.full(10, P, np.int8), np.ones(10, np.float32))
    assert len(written.runs) <= 12


def test_a_checkpoint_of_labels_made_positive_takes_two_bytes_a_label() -> None:
    """The log of changes took 29 bytes a label: 1.3 GB after five epochs of LL-Cp on OpenImages."""
    rows, classes = 2000, 500
    nothing = np.zeros(0, np.int8)
    store = LabelStore(SparseLabels(np.zeros(rows + 1, np.int64), nothing, nothing, classes))
    keys = np.random.RandomState(0).permutation(rows * classes)[:100_000]
    for piece in np.array_split(keys, 40):
        count = len(piece)
        store.apply(Change(piece // classes, piece % classes, np.full(count, P, np.int8), np.ones(count)), 2)
    buffer = io.BytesIO()
    torch.save(store.state_dict(), buffer)
    assert buffer.tell() < 2 * 100_000 + 2 * rows + 4000
    assert store.pseudo_count == 100_000
