"""Scores of a predictions file against scikit-learn, and predictions that do not belong to the data."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from mlbench.annotation import State
from mlbench.annotation.sparse import SparseLabels
from mlbench.errors import DataError
from mlbench.evaluation.predictions import Predictions, read_predictions, write_predictions
from mlbench.evaluation.scoring import align, observed_map, score_predictions, targets_of
from mlbench.metrics import _checks
from mlbench.protocol import MetricRules, Unspecified

P, N, U, X = (int(s) for s in (State.POSITIVE, State.NEGATIVE, State.UNKNOWN, State.UNSPECIFIED))
ROWS, CLASSES = 60, 5
NAMES = tuple(f"class {c}" for c in range(CLASSES))
IDS = tuple(f"image {i}" for i in range(ROWS))
META = {"key": "k", "dataset": "d", "split": "test", "epoch": "1"}


@pytest.fixture
def labels() -> np.ndarray:
    return np.where(np.random.default_rng(0).random((ROWS, CLASSES)) < 0.3, P, N).astype(np.int8)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(-0.5, 1.5, (ROWS, CLASSES)).astype(np.float32)


def predictions(scores: np.ndarray, kind: str = "logit", **others: Any) -> Predictions:
    return Predictions(
        **{"scores": scores, "kind": kind, "ids": IDS, "groups": (), "classes": NAMES, **others}, meta=META
    )


def score(
    given: Predictions, labels: np.ndarray, rules: MetricRules | None = None, unspecified: Unspecified | None = None
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    return score_predictions(given, labels, IDS, NAMES, rules or MetricRules(), unspecified or Unspecified())


def test_a_file_is_scored_as_scikit_learn_scores_it(labels, logits, tmp_path: Path) -> None:
    digest = write_predictions(tmp_path / "test.safetensors", predictions(logits))
    results, per_class = score(read_predictions(tmp_path / "test.safetensors", digest), labels)
    truth = labels == P
    ap = [100 * average_precision_score(truth[:, c], logits[:, c]) for c in range(CLASSES)]
    assert results["mAP"] == results["mAP_step"] == pytest.approx(np.mean(ap))
    assert per_class["AP"] == pytest.approx(dict(zip(NAMES, ap, strict=True)))
    decided = 1 / (1 + np.exp(-logits.astype(np.float64))) >= 0.5
    for average, short in (("macro", "C"), ("micro", "O")):
        p, r, f1, _ = precision_recall_fscore_support(truth, decided, average=average, zero_division=0)
        assert results[f"P-{short}"] == pytest.approx(100 * p)
        assert results[f"R-{short}"] == pytest.approx(100 * r)
        assert results["F1-C_mean" if short == "C" else "F1-O"] == pytest.approx(100 * f1)
    p, r = results["P-C"], results["R-C"]
    assert results["F1-C_hm"] == pytest.approx(2 * p * r / (p + r))  # type: ignore[operator]
    each = 100 * precision_recall_fscore_support(truth, decided, zero_division=0)[2]
    assert per_class["F1"] == pytest.approx(dict(zip(NAMES, each, strict=True)))


def test_top_k_decisions_are_scored_as_scikit_learn_scores_them(labels, logits) -> None:
    results, _ = score(predictions(logits), labels, MetricRules(top_k=2))
    truth = labels == P
    top = np.zeros(truth.shape, dtype=bool)
    np.put_along_axis(top, np.argsort(-logits, axis=1)[:, :2], True, axis=1)
    for prefix, decided in (("top2_strict/", top), ("top2_thresholded/", top & (logits >= 0))):
        f1 = precision_recall_fscore_support(truth, decided, average="micro", zero_division=0)[2]
        assert results[f"{prefix}F1-O"] == pytest.approx(100 * f1)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_rows_in_pieces_in_another_order_and_of_sparse_labels_give_the_same(
    labels, logits, sparse: bool, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels[np.random.default_rng(2).random(labels.shape) < 0.3] = U
    labels[np.random.default_rng(3).random(labels.shape) < 0.1] = X
    decided = {"decisions": logits > 0.3, "decision_rule": "above 0.3"} if own else {}
    whole = score(predictions(logits, **decided), labels)
    monkeypatch.setattr(_checks, "_AT_ONCE", 7 * CLASSES)
    given = SparseLabels.from_dense(labels) if sparse else labels
    assert score(predictions(logits, **decided), given) == whole
    order = np.random.default_rng(4).permutation(ROWS)
    turned = {name: value[order] if name == "decisions" else value for name, value in decided.items()}
    shuffled = predictions(logits[order], ids=tuple(IDS[row] for row in order), **turned)
    assert score(shuffled, given) == whole


def test_large_scores_are_scored_without_matrices_of_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, classes = 6000, 400
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(rows, classes)).astype(np.float32)
    entries = np.unique(rng.integers(0, scores.size, 5000))
    states = np.where(rng.random(len(entries)) < 0.3, P, N).astype(np.int8)
    labels = SparseLabels.from_entries(*np.divmod(entries, classes), states, scores.shape)
    ids, names = tuple(map(str, range(rows))), tuple(map(str, range(classes)))
    given = Predictions(scores, "logit", ids, (), names, meta=META)
    monkeypatch.setattr(_checks, "_AT_ONCE", 2**16)
    tracemalloc.start()
    score_predictions(given, labels, ids, names, MetricRules(), Unspecified())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < scores.nbytes / 2


def test_the_threshold_is_the_protocols(labels, logits) -> None:
    results, _ = score(predictions(logits), labels, MetricRules(decision=0.8))
    decided = 1 / (1 + np.exp(-logits.astype(np.float64))) >= 0.8
    f1 = precision_recall_fscore_support(labels == P, decided, average="micro", zero_division=0)[2]
    assert results["F1-O"] == pytest.approx(100 * f1)


def test_all_numbers_are_percent(labels, logits) -> None:
    perfect = np.where(labels == P, 10.0, -10.0).astype(np.float32)
    results, per_class = score(predictions(perfect), labels)
    for name in ("mAP", "mAP_envelope", "mAP_11point", "P-C", "R-C", "F1-C_mean", "P-O", "R-O", "F1-O", "mA"):
        assert results[name] == pytest.approx(100), name
    assert set(per_class["AP"].values()) == {100.0}
    results, _ = score(predictions(logits), labels)
    assert all(value is None or 0 <= value <= 100 for value in results.values())


def test_ranking_by_logits_times_five_changes_no_mean_ap(labels, logits) -> None:
    names = ("mAP", "mAP_envelope", "mAP_11point")
    once, five = (score(predictions(scores), labels)[0] for scores in (logits, 5 * logits))
    assert [once[name] for name in names] == [five[name] for name in names]


def test_probabilities_are_thresholded_without_a_sigmoid(labels, logits) -> None:
    probabilities = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    by_logit, by_probability = (
        score(predictions(*given), labels)[0] for given in ((logits,), (probabilities, "probability"))
    )
    assert by_probability == pytest.approx(by_logit)


@pytest.mark.parametrize("empty_class", ["zero", "skip"])
def test_a_class_without_positives_counts_as_the_protocol_says(labels, logits, empty_class: str) -> None:
    labels[:, 2] = N
    results, per_class = score(predictions(logits), labels, MetricRules(empty_class=empty_class))
    others = [100 * average_precision_score(labels[:, c] == P, logits[:, c]) for c in (0, 1, 3, 4)]
    assert results["mAP"] == pytest.approx(sum(others) / (5 if empty_class == "zero" else 4))
    assert per_class["AP"]["class 2"] is None


def test_the_headline_is_the_protocols_flavour(labels, logits) -> None:
    for ap, name in (("step", "mAP_step"), ("envelope", "mAP_envelope"), ("eleven_point", "mAP_11point")):
        results, _ = score(predictions(logits), labels, MetricRules(ap=ap))
        assert results["mAP"] == results[name]


def test_unspecified_labels_count_as_the_protocol_says_in_each_metric(labels, logits) -> None:
    raw = labels.copy()
    raw[::4, :] = X
    known = raw[:, 0] != X
    results, _ = score(predictions(logits), raw, unspecified=Unspecified(ap="ignore", f1="negative"))
    ap = [100 * average_precision_score(raw[known, c] == P, logits[known, c]) for c in range(CLASSES)]
    assert results["mAP"] == pytest.approx(np.mean(ap))
    f1 = precision_recall_fscore_support(raw == P, logits >= 0, average="micro", zero_division=0)[2]
    assert results["F1-O"] == pytest.approx(100 * f1)


def test_unknown_test_labels_are_left_out(labels, logits) -> None:
    raw = labels.copy()
    raw[5:25, 1] = U
    targets, known = targets_of(raw, "ignore")
    assert not known[5:25, 1].any()
    _, per_class = score(predictions(logits), raw)
    rest = np.r_[0:5, 25:ROWS]
    assert per_class["AP"]["class 1"] == pytest.approx(100 * average_precision_score(targets[rest, 1], logits[rest, 1]))


def test_rank_scores_have_no_thresholded_metric(labels, logits) -> None:
    results, per_class = score(predictions(logits, "rank"), labels)
    assert results["mAP"] == pytest.approx(score(predictions(logits), labels)[0]["mAP"])
    assert not {"F1-O", "P-C", "mA"} & results.keys()
    assert not any(name.startswith("top3_thresholded/") for name in results)
    assert "top3_strict/F1-O" in results
    assert "F1" not in per_class


def test_a_methods_own_decisions_are_taken_as_they_are(labels, logits) -> None:
    own = np.random.default_rng(2).random((ROWS, CLASSES)) < 0.5
    given = predictions(logits, "rank", decisions=own, decision_rule="a coin")
    results, _ = score(given, labels)
    f1 = precision_recall_fscore_support(labels == P, own, average="micro", zero_division=0)[2]
    assert results["F1-O"] == pytest.approx(100 * f1)


# --- which row is which -----------------------------------------------------------------------------------------------


def test_shuffled_predictions_are_brought_back_into_the_data_sets_order(labels, logits) -> None:
    expected = score(predictions(logits), labels)
    order = np.random.default_rng(3).permutation(ROWS)
    own = logits > 0.3
    shuffled = predictions(logits[order], ids=tuple(IDS[i] for i in order))
    assert score(shuffled, labels) == expected
    decided = {"decisions": own[order], "decision_rule": "r"}
    with_decisions = predictions(logits[order], ids=tuple(IDS[i] for i in order), **decided)
    straight = predictions(logits, decisions=own, decision_rule="r")
    assert score(with_decisions, labels) == score(straight, labels)


def test_a_missing_sample_is_named(logits) -> None:
    fewer = predictions(logits[1:], ids=IDS[1:])
    with pytest.raises(DataError, match=r"do not cover the data: 1 samples missing \(image 0\), 0 extra"):
        align(fewer, IDS, NAMES)


def test_an_extra_or_foreign_sample_is_counted(logits) -> None:
    with pytest.raises(DataError, match=r"0 samples missing \(\), 1 extra"):
        align(predictions(logits), IDS[1:], NAMES)
    foreign = predictions(logits, ids=("other", *IDS[1:]))
    with pytest.raises(DataError, match=r"1 samples missing \(image 0\), 1 extra"):
        align(foreign, IDS, NAMES)


def test_predictions_for_other_classes_or_another_order_of_them_are_refused(logits) -> None:
    for classes in (NAMES[::-1], (*NAMES[:-1], "else")):
        with pytest.raises(DataError, match="other classes, or in another order"):
            align(predictions(logits), IDS, classes)


# --- validation on what was observed ----------------------------------------------------------------------------------


def test_observed_map_takes_unknown_as_negative_and_leaves_unspecified_out(labels, logits) -> None:
    observed = np.where(np.random.default_rng(4).random(labels.shape) < 0.5, U, labels).astype(np.int8)
    observed[3, :] = X
    rows = np.r_[0:3, 4:ROWS]
    expected = np.mean([average_precision_score(observed[rows, c] == P, logits[rows, c]) for c in range(CLASSES)])
    assert observed_map(logits, "logit", observed, "skip") == pytest.approx(100 * expected)


def test_a_run_whose_validation_shows_no_positive_is_recorded_without_that_number(train) -> None:
    """One validation image in eight keeps a label; with empty classes skipped, its mean AP is not defined."""
    from mlbench.protocol import Annotation, load_protocol

    shipped = load_protocol("single_positive")
    few = replace(
        shipped,
        annotation=Annotation("partial", params={"keep": 0.01}),
        metrics=replace(shipped.metrics, empty_class="skip"),
    )
    record = train(protocol=few, mask_seed=1)
    assert [row["val"]["mAP_observed"] for row in record["epochs"]] == [None, None]
    assert all(row["val"]["mAP"] > 0 for row in record["epochs"])


@pytest.mark.parametrize("kind", ["logit", "rank"])
@pytest.mark.parametrize("classes", [1, 2])
def test_the_k_highest_of_fewer_classes_are_undefined_and_all_else_is_as_ever(kind: str, classes: int) -> None:
    draw = np.random.default_rng(5)
    labels = np.where(draw.random((ROWS, classes)) < 0.5, P, N).astype(np.int8)
    scores, names = draw.normal(size=(ROWS, classes)).astype(np.float32), NAMES[:classes]
    given = predictions(scores, kind, classes=names)
    found, defined = (
        score_predictions(given, labels, IDS, names, MetricRules(top_k=k), Unspecified())[0] for k in (3, classes)
    )
    undefined = {name for name, value in found.items() if value is None}
    kinds = {"top3_strict"} if kind == "rank" else {"top3_strict", "top3_thresholded"}
    assert {name.partition("/")[0] for name in undefined} == kinds
    assert {name.replace("top3", f"top{classes}") for name in found} == set(defined)
    rest = {name: value for name, value in found.items() if name not in undefined}
    assert rest == {name: value for name, value in defined.items() if not name.startswith("top")}
