"""Sparse labels give what dense ones give: rows, counts, parts, label store and average precision."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mlbench.annotation import State, hash_ids, map_unspecified, save_mask, sparse, sparse_masks
from mlbench.annotation.sparse import SparseLabels, count_states
from mlbench.annotation.sparse_masks import SparseMask
from mlbench.conformance.testing import ArrayImages, tiny_dataset
from mlbench.datasets.base import Dataset, Split
from mlbench.errors import DataError, UsageError
from mlbench.evaluation.scoring import ap_by_class
from mlbench.images.names import HexNames
from mlbench.methods.labels import Change, LabelStore
from mlbench.metrics import Logits, average_precision, average_precision_of_known
from mlbench.protocol import Annotation, Protocol, SplitRule
from mlbench.runner.data import check_mask, make_parts, training_labels
from mlbench.runner.forensics import Forensics


def random_labels(n: int = 40, c: int = 7, known: float = 0.3, seed: int = 0) -> np.ndarray:
    """Few known, some rows and one class without any, all states."""
    random = np.random.default_rng(seed)
    labels = np.where(random.random((n, c)) < known, random.choice([1, -1, 2], (n, c)), 0).astype(np.int8)
    labels[::9] = 0
    labels[:, 3] = 0
    return labels


def sparse_dataset(dense: bool = False) -> Dataset:
    splits = {}
    for name, n in (("train", 30), ("val", 8), ("test", 9)):
        labels = random_labels(n, seed=n)
        images = ArrayImages(np.zeros((n, 8, 8, 3), np.uint8))
        ids = HexNames(np.arange(n))
        splits[name] = Split(ids, labels if dense else SparseLabels.from_dense(labels), images)
    return Dataset("s", "1", tuple("abcdefg"), splits)


def protocol(process: str = "full", validation: str = "official_else_holdout", **params: float) -> Protocol:
    values = {"annotation": Annotation(process, params=params), "split": SplitRule(validation), "selection": "last"}
    return Protocol("p", "title", "source", train={}, **values)


# --- the matrix -------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_matrix() -> None:
    dense = random_labels()
    labels = SparseLabels.from_dense(dense)
    assert (labels.shape, len(labels), labels.classes.dtype) == (dense.shape, 40, np.int16)
    order = np.array([5, 0, 39, 5, 9, -1])
    for rows in (order, slice(3, 30, 4), slice(None), dense[:, 0] == 1, [2, 1], np.zeros(0, np.int64)):
        assert labels[rows].dtype == np.int8
        assert np.array_equal(labels[rows], dense[rows])
        assert np.array_equal(labels.take(rows)[:], dense[rows])
    assert np.array_equal(labels[7], dense[7])
    with pytest.raises(IndexError):
        labels[[40]]


def test_counts_by_class_are_those_of_the_matrix() -> None:
    dense = random_labels()
    for state in State:
        expected = (dense == state).sum(axis=0)
        assert np.array_equal(SparseLabels.from_dense(dense).count(state), expected)
        assert np.array_equal(count_states(dense, state), expected)


@pytest.mark.parametrize("rule", ["negative", "positive", "unknown", "ignore"])
def test_unspecified_labels_are_mapped_as_in_the_matrix(rule: str) -> None:
    dense = random_labels()
    mapped = SparseLabels.from_dense(dense).map_unspecified(rule)
    assert np.array_equal(mapped[:], map_unspecified(dense, rule))
    assert mapped.same_as(SparseLabels.from_dense(map_unspecified(dense, rule)))


def test_entries_in_any_order_make_the_same_labels() -> None:
    dense = random_labels()
    rows, classes = np.nonzero(dense)
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = SparseLabels.from_entries(rows[order], classes[order], dense[rows, classes][order], dense.shape)
    assert shuffled.same_as(SparseLabels.from_dense(dense))
    assert all(
        np.array_equal(a, b) for a, b in zip(shuffled.entries(), (rows, classes, dense[rows, classes]), strict=True)
    )


@pytest.mark.parametrize(
    ("rows", "classes", "states", "message"),
    [
        ([0, 0], [1, 1], [1, 1], "not ascending"),
        ([0], [3], [1], "class 3 to 3, expected 0 to 2"),
        ([0], [1], [0], "no state that can be known"),
        ([0], [1], [7], "no state that can be known"),
    ],
)
def test_entries_that_do_not_fit_are_refused(rows: list, classes: list, states: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SparseLabels.from_entries(np.array(rows), np.array(classes), np.array(states), (2, 3))
    with pytest.raises(DataError, match="indptr does not cut"):
        SparseLabels(np.array([0, 2]), np.array([1]), np.array([1]), 3)


def test_a_matrix_too_large_is_an_error_and_a_smaller_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = random_labels()
    labels = SparseLabels.from_dense(dense)
    assert np.array_equal(np.asarray(labels), dense)
    assert np.array_equal(labels == State.POSITIVE, dense == State.POSITIVE)
    assert np.array_equal(labels != State.UNKNOWN, dense != State.UNKNOWN)
    monkeypatch.setattr(sparse, "MAX_DENSE", 70)
    assert labels[:10].shape == (10, 7)
    for ask in (lambda: labels[:], lambda: labels == State.POSITIVE, lambda: np.asarray(labels)):
        with pytest.raises(DataError, match="40 samples and 7 classes have 280 entries, too many"):
            ask()


def test_the_hash_tells_labels_and_shapes_apart() -> None:
    def digest(dense: np.ndarray) -> str:
        found = hashlib.sha256()
        SparseLabels.from_dense(dense).update_hash(found)
        return found.hexdigest()

    dense = random_labels()
    other = dense.copy()
    row, c = np.argwhere(dense == State.POSITIVE)[0]
    other[row, c] = State.NEGATIVE
    wider = np.concatenate([dense, np.zeros((40, 1), np.int8)], axis=1)
    assert len({digest(dense), digest(other), digest(wider), digest(np.concatenate([dense, wider[:1, :7]]))}) == 4
    assert digest(dense) == digest(dense.copy())


# --- splits and parts -------------------------------------------------------------------------------------------------


def test_a_split_keeps_its_labels_sparse_and_its_names_as_numbers() -> None:
    split = sparse_dataset().splits["train"]
    taken = split.take([4, 2])
    assert isinstance(taken.labels, SparseLabels)
    assert isinstance(taken.ids, HexNames)
    assert list(taken.ids) == ["0000000000000004", "0000000000000002"] == list(taken.groups)
    assert np.array_equal(taken.labels[:], random_labels(30, seed=30)[[4, 2]])
    assert sparse_dataset().fingerprint == sparse_dataset().fingerprint


@pytest.mark.parametrize("validation", ["official_else_holdout", "holdout"])
def test_parts_of_full_labels_are_those_of_dense_labels(validation: str) -> None:
    found, mask = make_parts(sparse_dataset(), protocol(validation=validation), 0, None)
    expected, dense_mask = make_parts(sparse_dataset(dense=True), protocol(validation=validation), 0, None)
    for name, part in expected.items():
        assert isinstance(found[name].observed, SparseLabels)
        assert np.array_equal(found[name].labels[:], part.labels)
        assert np.array_equal(found[name].observed[:], part.observed)
        for supervision in (("observed",), ("full",), ("oracle_negatives",)):
            given = training_labels(found[name], supervision, "ignore")
            assert np.array_equal(np.asarray(given), training_labels(part, supervision, "ignore"))
    assert (mask.process, mask.counts, mask.ids_sha256) == ("full", dense_mask.counts, dense_mask.ids_sha256)
    assert len(mask.sha256) == 64


def test_a_process_that_hides_labels_shows_those_that_it_shows_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    partial = protocol("partial", keep=0.5)
    expected, dense_mask = make_parts(sparse_dataset(dense=True), partial, 0, None)
    monkeypatch.setattr(sparse, "MAX_DENSE", 200)  # the training part has more entries, a few of its rows have not
    monkeypatch.setattr(sparse_masks, "_AT_ONCE", 50)
    found, mask = make_parts(sparse_dataset(), partial, 0, None)
    assert mask.sha256 == dense_mask.sha256
    for name, part in found.items():
        assert isinstance(part.observed, SparseLabels)
        for row in range(len(part)):
            assert np.array_equal(part.observed[row], np.asarray(expected[name].observed)[row])
    with pytest.raises(UsageError, match="keep"):
        make_parts(sparse_dataset(), protocol(), 0, {"keep": 0.5})


@pytest.mark.parametrize(
    ("process", "params"),
    [("per_class_missing", {"mean": 0.5}), ("partial_per_class", {"n": 3}), ("single_positive_spml", {})],
)
def test_a_process_with_class_statistics_or_one_generator_needs_no_matrix(
    process: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, dense_mask = make_parts(sparse_dataset(dense=True), protocol(process, **params), 0, None)
    monkeypatch.setattr(sparse, "MAX_DENSE", 100)
    monkeypatch.setattr(sparse_masks, "_AT_ONCE", 50)
    found, mask = make_parts(sparse_dataset(), protocol(process, **params), 0, None)
    assert mask.sha256 == dense_mask.sha256
    for name, part in found.items():
        assert isinstance(part.observed, SparseLabels)
        for row in range(len(part)):
            assert np.array_equal(part.observed[row], np.asarray(expected[name].observed)[row])


def test_a_mask_given_must_show_what_is_known(tmp_path) -> None:
    dataset = sparse_dataset()
    train = dataset.splits["train"]
    _, mask = make_parts(dataset, protocol(), 0, None)
    assert make_parts(dataset, protocol(), 5, None, mask)[1] is mask
    other = SparseMask("full", {}, 0, train.labels.take(np.arange(30)[::-1]), hash_ids(train.ids))
    with pytest.raises(DataError, match="contradicts the data set"):
        check_mask(other, train, train.labels)
    save_mask(mask, tmp_path / "mask.safetensors")
    assert (tmp_path / "mask.safetensors").stat().st_size > 0


# --- label store ------------------------------------------------------------------------------------------------------


def test_a_sparse_store_changes_as_a_dense_one_does() -> None:
    dense = random_labels()
    stores = [LabelStore(dense), LabelStore(SparseLabels.from_dense(dense))]
    random = np.random.default_rng(3)
    for epoch in (1, 2):
        rows, classes = random.integers(0, 40, 25), random.integers(0, 7, 25)
        states = random.choice([1, -1], 25).astype(np.int8)
        change = Change(rows, classes, states, random.random(25).astype(np.float32))
        for store in stores:
            store.apply(change, epoch)
    again = LabelStore(SparseLabels.from_dense(dense))
    again.load_state_dict(stores[1].state_dict())
    index = random.permutation(40)
    expected, found, replayed = (store.rows(index) for store in (*stores, again))
    for name in ("state", "value", "pseudo", "index"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
        assert torch.equal(getattr(replayed, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert stores[1].pseudo_count == stores[0].pseudo_count == int(stores[0].pseudo.sum()) > 0
    assert len(stores[1]) == 40
    assert np.array_equal(stores[1].observed[:], dense)


def test_nothing_is_judged_where_all_that_is_known_is_shown() -> None:
    labels = SparseLabels.from_dense(random_labels())
    forensics, store = Forensics(labels, labels), LabelStore(labels)
    batch = store.rows(np.arange(4))
    batch.note("rejected", torch.ones(4, 7, dtype=torch.bool))
    forensics.add(batch.notes)
    assert forensics.by_class(store) == {}


def test_a_run_on_sparse_labels_gives_the_numbers_of_dense_labels(
    train: Callable[..., dict[str, Any]],
) -> None:
    dense = tiny_dataset()
    splits = {
        name: replace(split, labels=SparseLabels.from_dense(split.labels)) for name, split in dense.splits.items()
    }
    for method in ("an", "prior"):
        expected = train(method, dataset=dense, protocol="full")
        found = train(method, dataset=replace(dense, splits=splits, _cached={}), protocol="full")
        assert found["key"] != expected["key"]
        assert found["supervision"] == expected["supervision"]
        for part, numbers in expected["results"].items():
            assert found["results"][part] == pytest.approx(numbers, abs=1e-9)


# --- average precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", ["step", "envelope", "eleven_point"])
@pytest.mark.parametrize("rule", ["negative", "ignore", "unknown"])
def test_average_precision_of_the_known_entries_is_that_of_the_matrix(flavour: str, rule: str) -> None:
    random = np.random.default_rng(5)
    for n, known in ((60, 0.4), (300, 0.05), (3, 0.9)):
        dense = random_labels(n, known=known, seed=n)
        values = np.round(random.normal(size=dense.shape) * 2).astype(np.float32)  # many ties
        values[0], values[1] = 50.0, -50.0
        scores = Logits(values)
        expected, dense_known = ap_by_class(scores, dense, rule, flavour)
        found, class_known = ap_by_class(scores, SparseLabels.from_dense(dense), rule, flavour)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9, equal_nan=True)
        assert np.array_equal(class_known[0], dense_known.any(axis=0))


def test_average_precision_of_all_positive_and_all_negative_classes() -> None:
    scores = Logits(np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 2.0]]))
    rows, classes = np.array([1, 0, 1, 0]), np.array([0, 1, 1, 0])
    found = average_precision_of_known(scores, rows, classes, np.array([True, False, False, True]))
    np.testing.assert_array_equal(found, [1.0, np.nan, np.nan])
    targets, known = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    targets[:, 0], known[:, :2] = True, True
    np.testing.assert_array_equal(found, average_precision(scores, targets, known))
    with pytest.raises(UsageError, match="flavour"):
        average_precision_of_known(scores, rows, classes, np.ones(4, bool), "steps")
    with pytest.raises(DataError, match="bool present of one length"):
        average_precision_of_known(scores, rows, classes, np.ones(4))


def test_names_are_a_sequence_of_text() -> None:
    names = HexNames(np.array([255, 2**64 - 1], dtype=np.uint64), "train/", ".jpg")
    assert list(names) == ["train/00000000000000ff.jpg", "train/ffffffffffffffff.jpg"] == [names[0], names[-1]]
    assert names == tuple(names)
    assert names != tuple(names)[::-1]
    assert list(names[1:]) == list(names)[1:]
    assert "train/00000000000000ff.jpg" in names
    split = replace(sparse_dataset().splits["val"])
    assert split.groups is split.ids
