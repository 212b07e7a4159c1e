"""Selection rules compared from stored epochs."""

from __future__ import annotations

import pytest

from mlbench.explain.selection import outcome_by_rule, selection_table


def record(clean: list[float], observed: list[float], test: list[float], method: str = "an") -> dict:
    epochs = [{"phase": "warm up", "epoch": 1, "val": {"mAP": 99.0}, "test_sealed": {}}]
    for i, (a, b, c) in enumerate(zip(clean, observed, test, strict=True), start=1):
        val = {"mAP": a, "mAP_observed": b}
        epochs.append({"phase": "train", "epoch": i, "val": val, "test_sealed": {"mAP": c}})
    identity = {"dataset": {"id": "d"}, "track": "head", "method": {"name": method}}
    return {"identity": identity, "epochs": epochs, "selected": {"phase": "train"}}


def test_each_rule_reads_its_own_validation_number_and_the_test_number_of_that_epoch() -> None:
    found = outcome_by_rule(record([1, 5, 3, 2], [1, 2, 9, 2], [10, 20, 30, 40]))
    assert found == {"clean_val": (2, 20.0), "observed_val": (3, 30.0), "last": (4, 40.0)}


def test_means_over_runs_and_what_a_rule_loses() -> None:
    rows = selection_table([record([1, 2], [2, 1], [10, 20]), record([2, 1], [1, 2], [30, 10])])
    assert rows == [
        {
            **{"dataset": "d", "track": "head", "method": "an", "runs": 2},
            **{"clean_val": 25.0, "clean_val epoch": 1.5},
            **{"observed_val": 10.0, "observed_val epoch": 1.5, "observed_val - clean_val": -15.0},
            **{"last": 15.0, "last epoch": 2.0, "last - clean_val": -10.0},
        }
    ]


def test_a_run_without_validation_knows_only_its_last_epoch() -> None:
    without = record([1, 2], [1, 2], [10, 20])
    for row in without["epochs"]:
        row["val"] = {}
    assert outcome_by_rule(without) == {"last": (2, 20.0)}


def test_a_run_without_training_is_left_out() -> None:
    untrained = record([], [], [])
    untrained["epochs"] = []
    assert selection_table([untrained]) == []


def test_a_trained_run_selects_as_its_record_says(train) -> None:
    done = train("an")
    assert outcome_by_rule(done)["clean_val"] == (
        done["selected"]["epoch"],
        pytest.approx(done["results"]["test"]["mAP"]),
    )


def test_the_command_lists_the_rules(train, mlbench, tmp_path) -> None:
    train("an")
    code, out, _ = mlbench("explain", "selection", "--store", tmp_path / "runs")
    assert code == 0
    assert "observed_val - clean_val" in out
