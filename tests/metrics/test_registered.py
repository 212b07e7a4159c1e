"""Metrics of anybody: registered, asked for by name, kept in records with their unit, direction and owner."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from mlbench.conformance.testing import tiny_dataset
from mlbench.datasets import Dataset
from mlbench.errors import MlbenchError, UsageError
from mlbench.evaluation.rescore import score
from mlbench.metrics import METRICS, Logits, Metric, Predicted, Ranks, Sampled, average_precision, threshold
from mlbench.report.rank_diagram import rank_diagram
from mlbench.report.tables import build_table
from mlbench.repository.results import merge, rescore
from mlbench.significance.bootstrap import draw_weights
from mlbench.significance.compare import compare
from mlbench.store import find_records, published_name, write_record
from mlbench.store.schema import refit


def tiny(root: Path | None = None) -> Dataset:
    """Made from nothing."""
    return tiny_dataset()


def brier(probabilities: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float:
    return float(((probabilities - labels) ** 2)[known].mean())


def brier_weighted(probabilities: np.ndarray, labels: np.ndarray, known: np.ndarray, weights: np.ndarray) -> float:
    weighted = known * weights[:, None]
    return float(((probabilities - labels) ** 2 * weighted).sum() / weighted.sum())


BRIER = Metric(brier, "mean squared error", takes="probabilities", better="lower", weighted=brier_weighted)
COUNT = Metric(lambda s, labels, known: float(labels.sum()), "labels", unit="number", high=math.inf)
WORST = Metric(lambda ap, labels, known: float(np.nanmin(ap)), "AP of the hardest class", takes="ap")
FAILS = Metric(lambda *given: 1 / 0, "divides")
TOO_MUCH = Metric(lambda *given: 1.5, "beyond one")


def drawn(rows: int = 40) -> Predicted:
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(rows, 5)).astype(np.float32), random.random((rows, 5)) < 0.4
    known = random.random((rows, 5)) < 0.8
    return Predicted(Logits(logits), targets, known, targets, known, threshold(Logits(logits), 0.5))


@pytest.fixture
def plugged(plug_in):
    plug_in("datasets", "tiny", f"{__name__}:tiny")
    plug_in("metrics", "brier", f"{__name__}:BRIER")
    plug_in("metrics", "count", f"{__name__}:COUNT")
    plug_in("metrics", "worst", f"{__name__}:WORST")
    plug_in("metrics", "fails", f"{__name__}:FAILS")
    plug_in("metrics", "too_much", f"{__name__}:TOO_MUCH")


@pytest.fixture
def runs(plugged, train, tmp_path: Path) -> Path:
    """A store with two runs."""
    for method in ("prior", "random"):
        train(method)
    return tmp_path / "runs"


# --- what a metric is given -------------------------------------------------------------------------------------------


def test_each_kind_of_first_argument_is_that_of_the_predictions(plugged) -> None:
    given = drawn()
    p = expit(given.scores.values.astype(np.float64))
    assert given.measure(METRICS["brier"]) == pytest.approx(((p - given.targets) ** 2)[given.known].mean(), abs=1e-12)
    ap = average_precision(given.scores, given.targets, given.known)
    assert given.measure(METRICS["worst"]) == ap.min()
    wrong = ((p > 0.5) != given.targets)[given.known]
    assert given.measure(METRICS["hamming_loss"]) == pytest.approx(wrong.mean())
    assert METRICS["theirs:brier"].name == "brier"


def test_ranks_have_no_probabilities_and_no_decisions_of_a_threshold(plugged) -> None:
    given = drawn()
    ranks = Predicted(Ranks(given.scores.values), given.targets, given.known, given.targets, given.known, None)
    assert math.isnan(ranks.measure(METRICS["brier"]))
    assert math.isnan(ranks.measure(METRICS["hamming_loss"]))
    assert ranks.measure(METRICS["LRAP"]) == given.measure(METRICS["LRAP"])


@pytest.mark.parametrize("name", ["brier", "worst", "LRAP", "accuracy-O", "AUC_micro"])
def test_weights_are_samples_repeated(plugged, name: str) -> None:
    """By the metric's own weighted form where it has one (Brier), else by repeating rows."""
    given, metric = drawn(), METRICS[name]
    weights = next(draw_weights([str(i) for i in range(40)], 3, seed=1))
    found = Sampled(given, metric)(weights)[name]
    for column, value in zip(weights.T, found, strict=True):
        rows = np.concatenate([[i] * int(w) for i, w in enumerate(column)]).astype(int)
        assert given.take(rows).measure(metric) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [("fails", "metric 'fails' failed: ZeroDivisionError"), ("too_much", "gave 1.5, outside its range from 0 to 1")],
)
def test_a_metric_that_fails_or_leaves_its_range_is_named(plugged, name: str, message: str) -> None:
    with pytest.raises(MlbenchError, match=message):
        drawn().measure(METRICS[name])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"takes": "logits"}, "takes = 'logits': expected one of scores, probabilities, decisions, ap"),
        ({"better": "up"}, "better = 'up': expected one of higher, lower"),
        ({"unit": "%"}, "unit = '%': expected one of percent, number"),
        ({"takes": "ap", "weighted": brier_weighted}, "a metric of average precisions has none"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Metric(brier, "wrong", **wrong)


def test_what_is_no_metric_is_refused(plug_in) -> None:
    plug_in("metrics", "plain", f"{__name__}:brier")
    with pytest.raises(MlbenchError, match=r"metric 'plain' \(.*:brier\): is not a mlbench.metrics.Metric"):
        METRICS["plain"]
    with pytest.raises(UsageError, match=r"unknown metric 'LRAPP'. Did you mean 'LRAP'"):
        METRICS["LRAPP"]


# --- asked for by name ------------------------------------------------------------------------------------------------


def test_score_and_explain_show_registered_metrics(runs: Path, mlbench) -> None:
    record = find_records(runs)[0][0]
    found = score(record["key"], runs, metrics=["brier", "count"])
    truth = tiny_dataset().splits["test"].labels == 1
    assert found.measures["count"] == {
        "value": float(truth.sum()),
        "unit": "number",
        "better": "higher",
        "owner": "theirs 1.0",
    }
    code, out, _ = mlbench("score", record["key"], "--store", runs, "--metric", "brier")
    assert code == 0
    assert "brier" in out
    assert "percent, lower is better" in out
    code, out, _ = mlbench("explain", "metrics", record["key"], "--store", runs)
    assert code == 0
    assert "AP of the hardest class" in out
    assert "metric 'fails' failed: ZeroDivisionError" in out
    code, _, err = mlbench("score", record["key"], "--store", runs, "--metric", "brie")
    assert code == 2
    assert "unknown metric 'brie'. Did you mean 'brier'" in err
    code, out, _ = mlbench("list", "metrics")
    assert code == 0
    assert "mean squared error" in out


def test_rescore_writes_measures_into_a_store_and_a_table_shows_them(runs: Path, mlbench) -> None:
    with pytest.raises(UsageError, match="no run has been measured by 'brier': `mlbench results rescore FOLDER"):
        build_table(find_records(runs)[0], "brier", published=False)
    assert mlbench("results", "rescore", runs, "--store", runs, "--write")[0] == 2
    code, out, _ = mlbench("results", "rescore", runs, "--store", runs, "--metric", "brier")
    assert code == 0
    assert out.count("brier") == 2
    assert all("measures" not in record for record in find_records(runs)[0])
    arguments = ["--store", runs, "--metric", "brier", "--metric", "count", "--write"]
    code, out, _ = mlbench("results", "rescore", runs, *arguments)
    assert code == 0
    assert "2 records with new measures" in out
    records, problems = find_records(runs)
    assert problems == []
    assert all(record["measures"].keys() == {"brier", "count"} for record in records)
    assert "with new measures" not in mlbench("results", "rescore", runs, *arguments)[1]
    values = {record["identity"]["method"]["name"]: record["measures"]["brier"]["value"] for record in records}
    assert values["random"] < values["prior"]
    table = build_table(records, ["brier", "count"], published=False)
    text = table.to_markdown()
    assert f"{values['prior']:.1f}" in text
    assert "brier on test images, percent; count on test images, a number (lower is better: brier)" in text
    best = table.cells[table.cells["metric"] == "brier"].set_index("method")["best"]
    assert (best["prior"], best["random"]) == (False, True)
    record = records[0]
    assert "brier" in mlbench("score", record["key"], "--store", runs, "--metric", "brier")[1]
    record["measures"]["brier"]["value"] += 1
    write_record(runs, refit(record), replace=True)
    code, out, err = mlbench("score", record["key"], "--store", runs, "--metric", "brier")
    assert code == 1
    assert "1 numbers differ from the record" in err
    assert "record says" in out


def test_published_records_get_measures_together_and_merge_brings_them(runs: Path, tmp_path: Path) -> None:
    from mlbench.store import publish_record

    for record in find_records(runs)[0]:
        publish_record(runs, record["key"], tmp_path / "a")
        publish_record(runs, record["key"], tmp_path / "b")
    report = rescore(tmp_path / "a" / "runs", runs, metrics=["LRAP"], write=True)
    assert report.problems == []
    report = merge(tmp_path / "b" / "runs", tmp_path / "a" / "runs")
    assert report.counts == {"already there, with new measures": 2}
    records, problems = find_records(tmp_path / "b" / "runs")
    assert problems == []
    assert all(record["measures"]["LRAP"]["owner"].startswith("mlbench-multilabel ") for record in records)
    assert {path.name for path in (tmp_path / "b" / "runs").iterdir()} == {published_name(r) for r in records}


def test_a_table_refuses_one_metric_measured_in_several_ways(runs: Path) -> None:
    rescore(runs, runs, metrics=["brier"], write=True)
    records = find_records(runs)[0]
    records[0]["measures"]["brier"]["owner"] = "theirs 2.0"
    with pytest.raises(UsageError, match=r"several ways: theirs 1.0 \(.*\); theirs 2.0 \(percent, lower is better\)"):
        build_table(records, "brier", published=False)


def test_compare_takes_registered_metrics(runs: Path, mlbench) -> None:
    first, second = (record["key"] for record in find_records(runs)[0])
    found = compare(first, second, runs, replicates=5, metrics=["brier", "count"])
    shown = {name: score(key, runs, metrics=["brier"]).measures["brier"] for name, key in (("a", first), ("b", second))}
    assert found.intervals["brier"].a == pytest.approx(shown["a"]["value"] / 100)
    assert found.intervals["brier"].b == pytest.approx(shown["b"]["value"] / 100)
    assert found.intervals["count"].difference == 0
    assert f"{found.intervals['count'].a:.2f}" in found.text()
    assert mlbench("compare", first, second, "--store", runs, "--replicates", 2, "--metric", "LRAP")[0] == 0


def test_ranks_of_a_metric_that_is_better_where_it_is_lower_are_turned() -> None:
    cells = pd.DataFrame(
        [
            {"metric": "brier", "column": data, "dataset": data, "method": method, "mean": value, "better": "lower"}
            for data in ("one", "two", "three")
            for method, value in (("a", 30.0), ("b", 10.0), ("c", 20.0))
        ]
    )
    diagram = rank_diagram(cells)
    assert all(text in diagram for text in ("b (1.00)", "c (2.00)", "a (3.00)"))
    assert "a (1.00)" in rank_diagram(cells.drop(columns="better"))


def test_measures_are_kept_in_json(runs: Path) -> None:
    rescore(runs, runs, metrics=["LRAP"], write=True)
    (path,) = (p for p in runs.glob("*/record.json") if "prior" in p.read_text())
    assert set(json.loads(path.read_text())["measures"]["LRAP"]) == {"value", "unit", "better", "owner"}
