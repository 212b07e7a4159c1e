"""Runs on sparse labels: the numbers of dense ones, to the bit, without a matrix of images and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlbench.annotation.sparse as sparse_module
from mlbench.annotation.sparse import SparseLabels
from mlbench.conformance.testing import tiny_dataset
from mlbench.datasets.base import Dataset
from mlbench.errors import UsageError
from mlbench.runner import data, evaluate, scratch
from mlbench.runner.plan import resolve


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


@pytest.mark.parametrize(
    ("method", "changes", "each"),
    [("role", {}, 20), ("em_apl", {}, 40), ("curriculum", {"strategy": "proportion"}, 40)],
)
def test_a_method_that_needs_a_matrix_is_refused_before_it_is_trained(
    tiny_request: Callable[..., Any], method: str, changes: dict[str, Any], each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, sparse = two_kinds()
    monkeypatch.setattr(sparse_module, "MAX_DENSE", 100)
    with pytest.raises(UsageError, match=f"method '{method}' keeps {each} bytes for each .*32 images x 4 classes"):
        resolve(tiny_request(method, dataset=sparse, protocol="full", changes=changes))
    resolve(tiny_request(method, dataset=dense, protocol="full", changes=changes))
    monkeypatch.setattr(sparse_module, "MAX_DENSE", 200)
    resolve(tiny_request(method, dataset=sparse, protocol="full", changes=changes))
    monkeypatch.setattr(data, "memory_bytes", lambda: 1000)
    with pytest.raises(UsageError, match=r"this machine has 0\.0 GB"):
        resolve(tiny_request(method, dataset=sparse, protocol="full", changes=changes))


@pytest.mark.parametrize(("method", "changes"), [("llcp", {"delta": 5.0}), CASES[6]])
def test_a_run_on_sparse_labels_goes_on_after_a_stop_to_the_same_bits(
    train: Callable[..., dict[str, Any]], method: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Stopped after each of its checkpoints in turn."""

    class Stop(Exception):
        pass

    sparse = two_kinds()[1]
    given = {**changes, "train.epochs": 4, "train.batch_size": 16, "train.lr": 1e-2, "train.augment": ["flip"]}
    expected = train(method, dataset=sparse, protocol="full", changes=given)

    def stop() -> None:
        raise Stop

    options = {"store": tmp_path / "stopped", "checkpoint_seconds": 0.0, "resume": True}
    for _ in range(40):
        try:
            found = train(method, dataset=sparse, protocol="full", changes=given, on_checkpoint=stop, **options)
            break
        except Stop:
            continue
    assert comparable(found) == comparable(expected)
    assert found["predictions"]["test"]["sha256"] == expected["predictions"]["test"]["sha256"]
