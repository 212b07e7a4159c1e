"""Masks over sparse labels show what masks over the same labels in a matrix show; so do what rests on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.annotation import (
    PROCESSES,
    Mask,
    State,
    check_process,
    draw_mask,
    hash_ids,
    load_mask,
    save_mask,
    sparse_masks,
)
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


#: Rows (sample row, class, x1, y1, x2, y2) in any order; some positives have several boxes, some none.
BOXES = np.array(
    [
        (row, c, x, y, x + 3 + c, y + 2 + row % 5)
        for row, c in np.random.RandomState(1).permutation(np.argwhere(DENSE == P)).tolist()
        for x, y in ((row % 7, c), (c + 1, row % 3))[: (row + c) % 3]
    ]
)
DRAWS: list[tuple[str, dict[str, Any]]] = [
    ("full", {}),
    ("partial", {"keep": 0.4}),
    ("partial_exact", {"keep": 0.4}),
    ("partial_per_class", {"n": 2}),
    ("partial_per_class", {"n": -1}),
    ("partial_fraction", {"keep": 0.4}),
    ("single_positive", {}),
    ("single_positive_spml", {}),
    ("single_positive_spml", {"num_pos": 2, "num_neg": 3}),
    ("single_positive_size", {"bias": 1.5}),
    *[(f"single_positive_{by}", {"bias": bias}) for by in ("frequency", "cooccurrence") for bias in (-1.0, 0.0, 2.0)],
    *[
        ("per_class_missing", {"mean": 0.4, "spread": 0.6, "by": by, "negatives": negatives})
        for by, negatives in (("beta", "hidden"), ("rare", "same"), ("frequent", "hidden"))
    ],
    ("label_noise", {"false_negative": 0.3, "false_positive": 0.2, "spread": 0.5}),
    ("annotator_budget", {"budget": 0.35}),
    ("annotator_budget", {"budget": 0.35, "order": "popularity"}),
]


def test_every_process_is_drawn_here() -> None:
    # "listed" reads what was published: its own tests are in test_listed.py
    assert {process for process, _ in DRAWS} == PROCESSES.keys() - {"listed"}


@pytest.mark.parametrize("at_once", [9, 40, 10_000])
@pytest.mark.parametrize(("process", "params"), DRAWS)
def test_the_same_entries_are_shown_whatever_is_drawn_at_once(
    process: str, params: dict[str, Any], at_once: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sparse_masks, "_AT_ONCE", at_once)
    expected = draw_mask(DENSE, process, params, 3, ids=IDS, boxes=BOXES)
    found = draw_sparse_mask(SPARSE, process, params, 3, IDS, BOXES)
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


@pytest.mark.parametrize(("process", "params"), [draw for draw in DRAWS if PROCESSES[draw[0]].needs])
def test_a_validation_part_is_drawn_with_the_statistics_of_training(process: str, params: dict[str, Any]) -> None:
    dense, sparse, boxes = DENSE[15:], SPARSE.take(slice(15, None)), BOXES[BOXES[:, 0] < 8]
    about: dict[str, Any] = {"train_labels": DENSE[:15]}
    expected = draw_mask(dense, process, params, 3, ids=IDS[15:], boxes=boxes, **about)
    found = draw_sparse_mask(sparse, process, params, 3, IDS[15:], boxes, SPARSE.take(slice(15)))
    assert np.array_equal(found.observed[:], expected.observed)


def test_a_process_that_needs_boxes_says_so() -> None:
    with pytest.raises(DataError, match="needs boxes, and the data set has none"):
        draw_sparse_mask(SPARSE, "single_positive_size", {"bias": 1.0}, 0, IDS)
    outside = np.array([[23.0, 0, 0, 0, 1, 1]])
    for draw, labels in ((draw_mask, DENSE), (draw_sparse_mask, SPARSE)):
        with pytest.raises(DataError, match=r"box 0 is .*outside 23 samples x 9 classes"):
            draw(labels, "single_positive_size", {"bias": 1.0}, 0, ids=IDS, boxes=outside)  # type: ignore[operator]


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
