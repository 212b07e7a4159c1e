"""Which epoch counts: the first best on validation, and no rule that could look at test numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlbench.errors import MlbenchError, UsageError
from mlbench.evaluation.selection import RULES, select
from mlbench.methods import Method
from mlbench.protocol import Annotation, Protocol, SplitRule

#: Clean and observed validation numbers choose epochs 2 and 3; test numbers (sealed) would choose epoch 1.
ROWS = [
    {"phase": "train", "val": {"mAP": 50.0, "mAP_observed": 20.0}, "test_sealed": {"mAP": 99.0}},
    {"phase": "train", "val": {"mAP": 60.0, "mAP_observed": 20.0}, "test_sealed": {"mAP": 1.0}},
    {"phase": "train", "val": {"mAP": 55.0, "mAP_observed": 30.0}, "test_sealed": {"mAP": 2.0}},
    {"phase": "train", "val": {"mAP": 60.0, "mAP_observed": 30.0}, "test_sealed": {"mAP": 98.0}},
]


@pytest.mark.parametrize(("rule", "position"), [("clean_val", 1), ("observed_val", 2), ("last", 3)])
def test_each_rule_reads_its_own_number_and_ties_keep_the_first(rule: str, position: int) -> None:
    assert select([row["val"] for row in ROWS], rule) == position


@pytest.mark.parametrize("rule", ["test", "test_sealed", "mAP", "best", ""])
def test_there_is_no_rule_for_test_numbers(rule: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown selection rule '{rule}'"):
        select([row["val"] for row in ROWS], rule)
    assert not any("test" in number for number in RULES.values())


def test_whole_rows_are_no_validation_numbers() -> None:
    """A caller that hands over rows with sealed test numbers in them gets an error, not a choice."""
    with pytest.raises(UsageError, match="needs 'mAP' on validation in every epoch"):
        select(ROWS, "clean_val")


def test_last_needs_no_validation_at_all() -> None:
    assert select([{}, {}, {}], "last") == 2


@pytest.mark.parametrize("hole", [{}, {"mAP": math.nan}, {"mAP": None}])
def test_a_number_missing_in_one_epoch_is_an_error(hole: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="rule 'clean_val' needs 'mAP'"):
        select([{"mAP": 1.0}, hole], "clean_val")


def test_nothing_to_select_from_is_an_error() -> None:
    with pytest.raises(UsageError, match="no epoch was run"):
        select([], "last")


def protocol(selection: str, validation: str) -> Protocol:
    settings = {"epochs": 3, "batch_size": 11, "lr": 1e-3, "image_size": 64}
    return Protocol(
        "p",
        "t",
        "s",
        Annotation("single_positive"),
        selection,
        settings,
        split=SplitRule(validation),
        where="p",
    )


def test_a_protocol_without_validation_keeps_the_last_epoch(train) -> None:
    record = train(protocol=protocol("last", "none"), changes={"train.epochs": 3})
    assert record["selected"] == {"phase": "train", "epoch": 3, "rule": "last"}
    assert set(record["results"]) == {"test"}
    assert set(record["predictions"]) == {"test"}
    assert all(row["val"] == {} for row in record["epochs"])
    assert record["supervision"]["selection_labels"] == 0


def test_selecting_on_validation_without_any_is_refused_before_training(train, tmp_path) -> None:
    with pytest.raises(UsageError, match="protocol 'p' selects by 'clean_val' but has no validation part"):
        train(protocol=protocol("clean_val", "none"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("rule", "number"), [("clean_val", "mAP"), ("observed_val", "mAP_observed")])
def test_a_run_takes_the_epoch_its_rule_chooses(train, rule: str, number: str) -> None:
    record = train(protocol=protocol(rule, "official"), changes={"train.epochs": 4, "train.lr": 0.02})
    values = [row["val"][number] for row in record["epochs"]]
    chosen = record["selected"]["epoch"]
    assert chosen == 1 + values.index(max(values))
    assert record["results"]["val"]["mAP"] == pytest.approx(record["epochs"][chosen - 1]["val"]["mAP"], abs=1e-9)
    assert record["results"]["test"]["mAP"] == pytest.approx(
        record["epochs"][chosen - 1]["test_sealed"]["mAP"], abs=1e-9
    )


def test_test_labels_decide_nothing_of_a_run(train, tiny_request, tmp_path) -> None:
    """With all test labels turned round, the same epoch, weights and predictions come out."""
    from dataclasses import replace

    from mlbench.conformance.testing import tiny_dataset

    tiny = tiny_dataset()
    test = tiny.splits["test"]
    other = replace(tiny, splits={**tiny.splits, "test": replace(test, labels=-test.labels)}, _cached={})
    records = [train(dataset=data, changes={"train.epochs": 4}) for data in (tiny, other)]
    assert records[0]["key"] != records[1]["key"]
    assert records[0]["selected"] == records[1]["selected"]
    assert records[0]["results"]["test"] != records[1]["results"]["test"]
    from mlbench.conformance.suite import read_scores

    scores = [read_scores(tmp_path / "runs", record) for record in records]
    assert (scores[0] == scores[1]).all()


def test_an_error_of_selection_is_meant_for_people() -> None:
    assert issubclass(UsageError, MlbenchError)
    assert Method.name == ""
