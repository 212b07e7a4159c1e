"""Masks over sparse labels show what masks over the same labels in a matrix show; so do what rests on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.annotation import Mask, State, check_process, draw_mask, hash_ids, load_mask, save_mask, sparse_masks
from mlbench.annotation.sparse import SparseLabels
from mlbench.annotation.sparse_masks import (
    SparseMask,
    check_sparse_mask,
    draw_sparse_mask,
    with_negatives,
)
from mlbench.errors import DataError
from mlbench.methods.labels import Change, LabelStore, Note
from mlbench.runner.forensics import Forensics

P, N, U = int(State.POSITIVE), int(State.NEGATIVE), int(State.UNKNOWN)
DENSE = np.random.RandomState(5).choice([P, N, 2, U, U, U, U], (23, 9)).astype(np.int8)
SPARSE = SparseLabels.from_dense(DENSE)
IDS = [f"image {number}" for number in range(23)]


@pytest.mark.parametrize(
    ("process", "params"),
    [("full", {}), ("partial", {"keep": 0.4}), ("partial_exact", {"keep": 0.4}), ("single_positive", {})],
)
def test_the_same_entries_are_shown_whatever_is_drawn_at_once(
    process: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sparse_masks, "_AT_ONCE", 40)
    expected = draw_mask(DENSE, process, params, 3, ids=IDS)
    found = draw_sparse_mask(SPARSE, process, params, 3, IDS)
    assert isinstance(found, SparseMask)
    assert np.array_equal(found.observed[:], expected.observed)
    assert (found.process, found.params, found.seed) == (expected.process, expected.params, expected.seed)
    assert found.counts == expected.counts
    assert process == "full" or found.sha256 == expected.sha256
    save_mask(found, tmp_path / "mask.safetensors")
    again = load_mask(tmp_path / "mask.safetensors", IDS)
    assert isinstance(again, SparseMask)
    assert again.sha256 == found.sha256
    assert again.observed.same_as(found.observed)
    check_sparse_mask(again, IDS, SPARSE)


def test_the_hash_of_a_mask_in_a_matrix_is_as_ever() -> None:
    """Published records name it."""
    mask = Mask("partial", {"keep": 0.5}, 1, np.array([[1, 0], [-1, 2]]), hash_ids(["a", "b"]))
    assert mask.sha256 == "15d7d9de65d27a89d0a1163f51374e229ca841e770668bd9dc2cc0bca8019979"


@pytest.mark.parametrize("shown", [P, N])
def test_a_mask_that_shows_what_is_not_known_is_refused(shown: int) -> None:
    row, column = np.argwhere((U if shown == P else P) == DENSE)[0]
    observed = np.zeros_like(DENSE)
    observed[row, column] = shown
    mask = SparseMask("partial", check_process("partial", {"keep": 0.5}), 0, SparseLabels.from_dense(observed), "")
    with pytest.raises(DataError, match=f"1 labels, the first at sample 'image {row}', class {column}"):
        check_sparse_mask(mask, IDS, SPARSE)
    if shown == P:
        with pytest.raises(DataError, match="contradicts"):
            check_sparse_mask(mask, IDS, SparseLabels.from_dense(np.zeros_like(DENSE)))


def test_the_negatives_of_an_oracle_are_those_of_the_matrix() -> None:
    mask = draw_sparse_mask(SPARSE, "partial", {"keep": 0.5}, 0, IDS)
    observed = mask.observed[:]
    expected = np.where((observed == U) & (DENSE == N), DENSE, observed)
    assert np.array_equal(with_negatives(mask.observed, SPARSE)[:], expected)


def test_reports_and_added_labels_are_judged_as_on_the_matrix() -> None:
    mask = draw_sparse_mask(SPARSE, "partial", {"keep": 0.3}, 0, IDS)
    random = np.random.RandomState(2)
    rows, classes = random.randint(0, 23, 60), random.randint(0, 9, 60)
    states = random.choice([P, N, U], 60).astype(np.int8)
    found = []
    for truth, observed in ((DENSE, mask.observed[:]), (SPARSE, mask.observed)):
        forensics, labels = Forensics(truth, observed), LabelStore(observed)
        forensics.add([Note("rejected", rows[:40], classes[:40]), Note("corrected", rows[40:], classes[40:])])
        labels.apply(Change(rows, classes, states, (states == P).astype(np.float32)), 1)
        found.append({kind: counts.tolist() for kind, counts in forensics.by_class(labels).items()})
    assert found[0] == found[1]
    assert set(found[0]) == {"rejected", "corrected", "added_positive", "added_negative"}
