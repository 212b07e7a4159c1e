"""`mlbench check`: ours conform, and each way to break a contract is told by the check that is for it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.conformance.datasets import check_dataset
from mlbench.conformance.doors import check
from mlbench.conformance.metrics import check_metric
from mlbench.conformance.protocols import check_protocol
from mlbench.conformance.testing import ArrayImages, tiny_dataset
from mlbench.datasets import Dataset
from mlbench.errors import UsageError
from mlbench.metrics import METRICS, Metric
from mlbench.protocol import list_protocols


def failures(report: Any) -> dict[str, str]:
    return {check: why for _, check, outcome, why in report.rows if outcome == "FAILED"}


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METRICS))
def test_our_metrics_conform(name: str) -> None:
    report = check_metric(name)
    assert report.passed, report.text()


def recall(decisions: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float:
    present = labels & known
    return float((decisions & present).sum() / present.sum()) if present.any() else math.nan


def spoiling(scores: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float:
    known[0, 0] = not known[0, 0]
    return recall(scores > 0, labels, known)


def by_place(scores: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float:
    return recall(scores[:10] > 0, labels[:10], known[:10])


def dividing(decisions: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float:
    present = labels & known
    return int((decisions & present).sum()) / int(present.sum())


def doubled(decisions: np.ndarray, labels: np.ndarray, known: np.ndarray, weights: np.ndarray) -> float:
    return recall(decisions, labels, known) / 2


RIGHT = Metric(recall, "recall", takes="decisions")
BAD = {
    "says in one line": replace(RIGHT, summary=" "),
    "gives a number in its range": replace(RIGHT, high=0.2),
    "the same twice": Metric(spoiling, "writes"),
    "order of samples": Metric(by_place, "the first ten"),
    "unknown labels": replace(RIGHT, function=lambda d, labels, known: recall(d, labels, np.ones_like(known))),
    "better predictions": replace(RIGHT, better="lower"),
    "nothing known": replace(RIGHT, function=dividing),
    "weights are": replace(RIGHT, weighted=doubled),
}


@pytest.mark.parametrize("check_name", BAD)
def test_what_a_metric_breaks_is_told(plug_in, monkeypatch: pytest.MonkeyPatch, check_name: str) -> None:
    monkeypatch.setattr(f"{__name__}.RIGHT", BAD[check_name])
    plug_in("metrics", "mine", f"{__name__}:RIGHT")
    found = failures(check_metric("mine"))
    assert any(name.startswith(check_name) for name in found), found


def test_a_metric_of_ones_own_conforms(plug_in, mlbench) -> None:
    plug_in("metrics", "mine", f"{__name__}:RIGHT")
    code, out, _ = mlbench("check", "metric", "mine")
    assert code == 0
    assert out.startswith("mine: conforms\n")


# --- protocols --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(list_protocols()))
def test_our_protocols_conform(name: str) -> None:
    report = check_protocol(name)
    assert report.passed, report.text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('source = ""\n', ("says what it is", "key 'source' is empty or missing")),
        ('[metrics]\nheadline = "mAPP"\n', ("its metrics can be computed", "metric 'mAPP' is none")),
        ('selection = "clean_val"\n[split]\nvalidation = "none"\n', ("hides labels", "needs a validation part")),
    ],
)
def test_what_a_protocol_breaks_is_told(tmp_path: Path, mlbench, change: str, told: tuple[str, str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "full"\nname = "mine"\n' + change)
    found = failures(check_protocol(str(path)))
    assert list(found) == [next(name for name in found if name.startswith(told[0]))]
    assert told[1] in next(iter(found.values()))
    code, out, err = mlbench("check", "protocol", path)
    assert code == 1
    assert "mine: does NOT conform" in out
    assert "does not conform" in err


# --- data sets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def changed(plug_in, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Return a function that checks the tiny data set with its training part changed; the failures by check."""

    def changed(
        change: Callable[[Any], Any] = lambda split: split, whole: dict[str, Any] | None = None, **given: Any
    ) -> dict[str, str]:
        def load(root: Path | None) -> Dataset:
            """Made from nothing."""
            made = tiny_dataset()
            splits = whole or {**made.splits, "train": change(made.splits["train"])}
            return replace(made, splits=splits, _cached={}, **given)

        monkeypatch.setattr(f"{__name__}.LOAD", load, raising=False)
        plug_in("datasets", "tiny", f"{__name__}:LOAD")
        return failures(check_dataset("tiny", processes=False))

    return changed


def test_a_sound_data_set_conforms(changed, photos: Path, mlbench) -> None:
    assert changed() == {}
    code, out, _ = mlbench("check", "dataset", photos / "mine.toml")
    assert code == 0, out
    assert "loaded again, the same fingerprint     passed" in out
    code, _, err = mlbench("check", "dataset", "voc2007")
    assert code == 2
    assert "--data-root FOLDER" in err


def replaced(**values: Any) -> Callable[[Any], Any]:
    return lambda split: replace(split, **values)


def with_label(value: int, kind: Any = np.int8) -> Callable[[Any], Any]:
    def change(split: Any) -> Any:
        labels = np.asarray(split.labels).astype(kind)
        labels[0, 0] = value
        return replace(split, labels=labels)

    return change


def with_box(*box: float) -> Callable[[Any], Any]:
    return lambda split: replace(split, boxes=np.array([box], dtype=np.float32))


TINY = tiny_dataset()
TRAIN = TINY.splits["train"]
TWICE = (TRAIN.ids[1], *TRAIN.ids[1:])


@pytest.mark.parametrize(
    ("change", "check_name", "why"),
    [
        (replaced(ids=TWICE, groups=TWICE), "sample ids", "train: id 'train/001' stands twice"),
        (replaced(groups=("test/000", *TRAIN.ids[1:])), "parts share", "share group 'test/000'"),
        (with_label(5), "labels are states", "train: label 5 is no state: expected "),
        (with_label(1, np.int64), "labels are states", "train: labels are int64, expected int8"),
        (replaced(labels=np.asarray(TRAIN.labels)[:, :2]), "labels are states", r"labels of shape \[32, 2\]"),
        (replaced(labels=-np.abs(np.asarray(TRAIN.labels))), "labels are states", "train: no positive label"),
        (with_box(0, 9, 0, 0, 5, 5), "boxes lie", "a box of class 9, which is no class"),
        (with_box(99, 0, 0, 0, 5, 5), "boxes lie", "a box of row 99, which is no sample"),
        (with_box(0, 0, 5, 0, 5, 5), "boxes lie", "does not lie in its image of 64 x 64"),
        (with_box(0, 0, 0, 0, 5, 99), "boxes lie", "does not lie in its image of 64 x 64"),
        (
            replaced(images=ArrayImages(np.zeros((32, 8, 8, 4), np.uint8))),
            "images can",
            r"is uint8 \[8, 8, 4\], expected uint8",
        ),
        (replaced(images=ArrayImages(np.zeros((3, 8, 8, 3), np.uint8))), "images can", "3 images for 32 samples"),
    ],
)
def test_what_a_data_set_breaks_is_told(changed, change: Callable[[Any], Any], check_name: str, why: str) -> None:
    found = failures_of(changed(change=change), check_name)
    assert re.search(why, found), found


def failures_of(found: dict[str, str], check_name: str) -> str:
    return next((why for name, why in found.items() if name.startswith(check_name)), f"not among {found}")


def test_parts_and_classes_are_checked(changed) -> None:
    other = {**TINY.splits, "dev": TINY.splits["val"]}
    assert "splits has 'dev': expected train, val, test" in failures_of(changed(whole=other), "has a training")
    nothing = {**TINY.splits, "test": TINY.splits["test"].take([])}
    assert "the test part is missing or empty" in failures_of(changed(whole=nothing), "has a training")
    assert "class 'a' stands twice" in failures_of(changed(classes=("a", "a", "b", "c")), "class names")


def test_a_data_set_that_is_drawn_anew_each_time_has_another_fingerprint(changed) -> None:
    counter = itertools.count()

    def drawn(split: Any) -> Any:
        labels = np.asarray(split.labels).copy()
        labels[next(counter) % 4] *= -1
        return replace(split, labels=labels)

    assert "another fingerprint when loaded a second time" in failures_of(changed(change=drawn), "loaded again")


def test_an_unknown_kind_or_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"unknown kind 'metrics'. Did you mean 'metric'"):
        check("metrics", "LRAP")
    with pytest.raises(UsageError, match="unknown metric 'LRA'"):
        check("metric", "LRA")
    with pytest.raises(UsageError, match="only a data set has files, not a metric"):
        check("metric", "LRAP", Path("here"))
