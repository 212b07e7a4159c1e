"""Runs on sparse labels: the numbers of dense ones, to the bit, without a matrix of images and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import mlbench.datasets.sparse as sparse_module
from mlbench.datasets.base import Dataset
from mlbench.datasets.sparse import SparseLabels
from mlbench.runner import evaluate, scratch
from mlbench.testing import tiny_dataset


def two_kinds() -> tuple[Dataset, Dataset]:
    """One data set with 30 % of its labels unknown, as matrices and as sparse labels."""
    dense, kinds = tiny_dataset(), []
    for make in (np.asarray, SparseLabels.from_dense):
        splits = {}
        for name, split in dense.splits.items():
            labels = np.array(split.labels)
            labels[np.random.RandomState(1).rand(*labels.shape) < 0.3] = 0
            splits[name] = replace(split, labels=make(labels))
        kinds.append(replace(dense, splits=splits, _cached={}))
    return kinds[0], kinds[1]


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """What decides and tells of a run, without what time tells, and what hidden truth there was to judge by."""
    rows = [{k: row[k] for k in ("phase", "epoch", "loss", "log", "val", "test_sealed")} for row in record["epochs"]]
    return {"epochs": rows, **{k: record[k] for k in ("results", "per_class", "supervision", "selected")}}


CASES: list[tuple[str, dict[str, Any]]] = [
    ("an", {}),
    ("llr", {"delta": 10.0}),
    ("llct", {"delta": 10.0}),
    ("llcp", {"delta": 5.0}),
    *[
        ("curriculum", {"strategy": strategy, "threshold": 0.02, "members": 2, "max_spread": 0.05, "passes": 3})
        for strategy in ("score", "positives", "ensemble", "uncertainty")
    ],
]


@pytest.mark.parametrize(("method", "changes"), CASES)
def test_a_run_on_sparse_labels_is_that_on_dense_ones_to_the_bit(
    train: Callable[..., dict[str, Any]],
    method: str,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dense, sparse = two_kinds()
    # The augmentation tells looks with it from looks without.
    given = {**changes, "train.epochs": 4, "train.batch_size": 8, "train.lr": 1e-2, "train.augment": ["flip"]}
    monkeypatch.setattr(evaluate, "evaluation_batch", lambda size: 12)  # as if there were more images than a batch has
    expected = train(method, dataset=dense, protocol="full", changes=given)
    monkeypatch.setattr(sparse_module, "MAX_DENSE", 100)  # the training part has 32 x 4 entries
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    found = train(method, dataset=sparse, protocol="full", changes=given)
    assert found["key"] != expected["key"]
    for record in (expected, found):
        record["per_class"] = {k: v for k, v in record["per_class"].items() if k in ("AP", "F1")}
    assert comparable(found) == comparable(expected)
    if method in ("llcp", "curriculum"):
        assert max(row["log"]["pseudo_labels"] for row in found["epochs"]) > 0
