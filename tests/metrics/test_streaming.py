"""Batches added one by one, and merged over processes, against the whole matrices."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from mlbench.errors import DataError, UsageError
from mlbench.metrics import (
    Counts,
    Logits,
    PrecisionRecallF1,
    Probabilities,
    Ranks,
    Streaming,
    average_precision,
    joined,
    mean_accuracy,
    precision_recall_f1,
)

ROWS, CLASSES = 101, 7


@pytest.fixture(name="data")
def tied_scores_and_labels() -> dict[str, np.ndarray]:
    """Scores with ties; class 4 is never known, class 5 has no positives, class 6 no negatives."""
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(ROWS, CLASSES)), 1).astype(np.float32)
    targets, known = rng.random((ROWS, CLASSES)) < 0.3, rng.random((ROWS, CLASSES)) < 0.6
    known[:, 4], targets[:, 5], targets[:, 6] = False, False, True
    known[7:9] = False
    return {"scores": scores, "decisions": scores > 0.4, "targets": targets, "known": known}


def stream(data: dict[str, np.ndarray], pieces: list[np.ndarray], kind: Callable[..., Any] = Logits) -> Streaming:
    found = Streaming()
    for rows in pieces:
        taken = {name: matrix[rows] for name, matrix in data.items()}
        found.add(kind(taken.pop("scores")), **taken)
    return found


def same(one: PrecisionRecallF1, other: PrecisionRecallF1) -> bool:
    return all(
        np.array_equal(getattr(mine, field.name), getattr(theirs, field.name))
        for mine, theirs in ((one.per_class, other.per_class), (one.per_image, other.per_image))
        for field in fields(Counts)
    )


@pytest.mark.parametrize("flavour", ["step", "envelope", "eleven_point"])
@pytest.mark.parametrize("size", [1, 13, 100, 101, 500])
def test_batches_give_what_the_whole_gives(data: dict[str, np.ndarray], size: int, flavour: str) -> None:
    found = stream(data, [np.arange(ROWS)[start : start + size] for start in range(0, ROWS, size)])
    expected = average_precision(Logits(data["scores"]), data["targets"], data["known"], flavour)
    np.testing.assert_array_equal(found.average_precision(flavour), expected)
    whole = precision_recall_f1(data["decisions"], data["targets"], data["known"])
    assert same(found.precision_recall_f1(), whole)
    assert (
        found.precision_recall_f1().mA.value
        == mean_accuracy(*(data[n] for n in ("decisions", "targets", "known"))).value
    )


def test_all_known_against_scikit_learn(data: dict[str, np.ndarray]) -> None:
    del data["known"]
    found = stream(data, np.array_split(np.arange(ROWS), 4))
    for c in (0, 1, 2, 3):
        expected = average_precision_score(data["targets"][:, c], data["scores"][:, c])
        assert found.average_precision()[c] == pytest.approx(expected, abs=1e-12)
    counted = found.precision_recall_f1()
    for average, value in (("macro", counted.F1_C_mean), ("micro", counted.F1_O)):
        expected = f1_score(data["targets"], data["decisions"], average=average, zero_division=0)
        assert value == pytest.approx(expected, abs=1e-12)


def test_processes_that_share_the_rows_unevenly_are_merged_exactly(data: dict[str, np.ndarray]) -> None:
    shares = (np.arange(50), np.arange(0), np.arange(50, 67), np.arange(67, ROWS))
    sent = [pickle.loads(pickle.dumps(stream(data, [rows] if len(rows) else []))) for rows in shares]
    for order in ((0, 1, 2, 3), (1, 3, 0, 2)):
        whole = Streaming()
        for rank in order:
            whole.merge(sent[rank])
        expected = average_precision(Logits(data["scores"]), data["targets"], data["known"])
        np.testing.assert_array_equal(whole.average_precision(), expected)
        counted = precision_recall_f1(data["decisions"], data["targets"], data["known"])
        assert whole.precision_recall_f1().F1_C_mean == counted.F1_C_mean
    assert same(joined([each.precision_recall_f1() for each in (sent[0], sent[2], sent[3])]), counted)


def test_a_batch_that_does_not_fit_is_refused_and_leaves_nothing(data: dict[str, np.ndarray]) -> None:
    found = stream(data, [np.arange(9)])
    before = found.average_precision()
    small = data["scores"][:3]
    flags = np.zeros(small.shape, dtype=bool)
    with pytest.raises(DataError, match="expected \\('logit', 7\\)"):
        found.add(Ranks(small), flags, flags)
    with pytest.raises(DataError, match="expected \\('logit', 7\\)"):
        found.add(Logits(small[:, :3]), flags[:, :3], flags[:, :3])
    with pytest.raises(DataError, match="targets: expected shape"):
        found.add(Logits(small), flags, flags[:2])
    with pytest.raises(DataError, match="decisions: expected shape"):
        found.add(Logits(small), flags[:2], flags)
    with pytest.raises(UsageError, match="expected Logits"):
        found.add(small, flags, flags)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="expected \\('logit', 7\\)"):
        found.merge(stream(data | {"scores": np.abs(data["scores"]) / 9}, [np.arange(3)], Probabilities))
    np.testing.assert_array_equal(found.average_precision(), before)


def test_nothing_added_is_an_error() -> None:
    for metric in (Streaming().average_precision, Streaming().precision_recall_f1):
        with pytest.raises(DataError, match="no batch was added"):
            metric()
