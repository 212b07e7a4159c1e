"""Tie groups of free tables: what is bold, over runs and over test images."""

from __future__ import annotations

import numpy as np
import pytest

from mlbench.conformance.testing import tiny_dataset
from mlbench.evaluation.predictions import Predictions, write_predictions
from mlbench.metrics import Probabilities
from mlbench.report.power import needed_lines
from mlbench.report.tables import build_table
from mlbench.report.ties import column_ties, image_replicates, standing_line
from mlbench.significance.bootstrap import paired_bootstrap
from mlbench.store import run_dir


def runs_of(name: str, values: list[float]) -> dict:
    return {(i, i): (f"{name}{i}", value) for i, value in enumerate(values)}


def values_of(runs: dict) -> dict:
    return {draw: value for draw, (_, value) in runs.items()}


def grouped(*methods: dict, replicates: dict | None = None) -> list[int | None]:
    return column_ties(methods, replicates).groups


def test_methods_that_may_be_the_best_share_its_group() -> None:
    best, near, far = [70.0, 71.0, 72.5], [69.9, 71.1, 72.3], [60.0, 61.1, 62.4]
    assert grouped(runs_of("far", far), runs_of("best", best), runs_of("near", near)) == [2, 1, 1]


def test_a_method_without_two_runs_in_common_with_another_is_in_no_group() -> None:
    first, second = runs_of("a", [70.0, 71.0, 72.0]), runs_of("b", [60.0, 61.0, 62.1])
    assert grouped(first, second, runs_of("c", [69.0])) == [1, 2, None]
    assert grouped(runs_of("a", [70.0]), runs_of("b", [60.0])) == [None, None]
    assert grouped({}, runs_of("b", [60.0, 61.0])) == [None, None]


def test_what_was_not_tested_does_not_weaken_the_test_of_others() -> None:
    rng = np.random.default_rng(0)
    column = [runs_of(name, list(rng.normal(level, 1, 5))) for name, level in (("a", 60), ("b", 61), ("c", 63))]
    alone = column_ties(column)
    beside = column_ties([*column, {}, runs_of("single", [50.0]), {}])
    assert beside.groups[:3] == alone.groups
    assert beside.standing.best[:3] == pytest.approx(alone.standing.best)
    assert needed_lines([("x", dict(zip("abcd", [*map(values_of, column), {}], strict=True)))], 1.0) == needed_lines(
        [("x", dict(zip("abc", map(values_of, column), strict=True)))], 1.0
    )


def test_the_draw_of_the_test_images_is_part_of_the_error() -> None:
    first, second = runs_of("a", [70.0, 71.0, 72.0]), runs_of("b", [60.0, 61.0, 62.1])
    draws = np.random.default_rng(0).normal(0.0, 1.0, (2, 501))
    found = {run: row for side, row in zip("ab", draws, strict=True) for run in (f"{side}0", f"{side}1", f"{side}2")}
    assert grouped(first, second) == [1, 2]
    assert grouped(first, second, replicates=found) == [1, 2]
    wide = {run: 6 * row for run, row in found.items()}
    assert grouped(first, second, replicates=wide) == [1, 1]
    alone, both = column_ties([first, second]), column_ties([first, second], wide)
    assert alone.standing.best[0] > both.standing.best[0] > 0.7


def test_single_runs_are_told_apart_by_the_draw_of_test_images_alone() -> None:
    draws = np.random.default_rng(0).normal(0.0, 0.5, (2, 501))
    found = {"a0": draws[0], "b0": draws[1]}
    first, second = runs_of("a", [70.0]), runs_of("b", [60.0])
    assert grouped(first, second, replicates=found) == [1, 2]
    # Where others of the column have several runs, a single one is not tested: its own spread is not known.
    third = runs_of("c", [70.0, 71.0])
    assert grouped(first, second, third, runs_of("d", [65.0, 66.5]), replicates=found)[:2] == [None, None]


def test_the_standing_is_said_in_words_best_first() -> None:
    methods = ("an", "llr", "ls")
    ties = column_ties(
        [runs_of(m, v) for m, v in zip(methods, ([60, 61, 62], [70, 71, 72.5], [70.1, 71, 72]), strict=True)]
    )
    line = standing_line("scenes", methods, ties)
    assert line.startswith("scenes: llr ")
    assert "ls" in line
    assert "an " not in line.replace("scenes", "")
    assert standing_line("scenes", methods[:1], column_ties([runs_of("an", [60.0, 61.0])])) == ""


def test_a_table_is_bold_for_the_whole_first_group_and_says_what_was_tested(make_record) -> None:
    values = {"an": [70.0, 71.0, 72.5], "ls": [69.9, 71.1, 72.3], "em": [60.0, 61.1, 62.4]}
    records = [make_record(name, value, i) for name, found in values.items() for i, value in enumerate(found)]
    table = build_table([*records, make_record("llr", 75.0, 7), make_record("full", 90.0, 0)])
    text = table.to_markdown()
    assert "**75.0 (1)**" in text  # nothing was tested of it
    assert "Not tested, for want of two runs in common: on scenes: llr." in text
    assert "Chance of being the best" in text
    table = build_table(records)
    assert table.cells.set_index("method")["tie_group"].to_dict() == {"an": 1, "ls": 1, "em": 2}
    assert [cells[1][0].bold for cells in table.body] == [True, True, False]
    assert table.to_latex().count(r"\textbf{") == 2
    assert "The draw of the test images is not tested." in table.to_markdown()
    assert "and the draw of the test images" in build_table(records, replicates=lambda metric: {}).to_markdown()


@pytest.fixture
def stored(make_record, tmp_path, monkeypatch):
    """Records of two runs on the tiny data set with predictions in a store, and their scores."""
    data = tiny_dataset()
    monkeypatch.setattr("mlbench.report.at_hand.list_datasets", lambda: [data.id])
    monkeypatch.setattr("mlbench.report.at_hand.load_dataset", lambda *given: data)
    test, records, scores = data.splits["test"], [], []
    for seed, method in enumerate(("an", "ls")):
        record = make_record(method, 50.0 + seed, identity__dataset__id=data.id)
        record["identity"]["harness"] = 2
        record["identity"]["dataset"]["fingerprint"] = data.fingerprint
        found = np.random.default_rng(seed).random((len(test), len(data.classes))).astype(np.float32)
        meta = {"key": record["key"], "dataset": data.id, "split": "test", "epoch": "1"}
        predictions = Predictions(found, "probability", tuple(test.ids), (), data.classes, meta=meta)
        run_dir(tmp_path, record["key"]).mkdir()
        sha256 = write_predictions(run_dir(tmp_path, record["key"]) / "test.safetensors", predictions)
        record["predictions"] = {"test": {"file": "test.safetensors", "sha256": sha256}}
        records.append(record)
        scores.append(found)
    return tmp_path, data, records, scores


def test_replicates_are_those_of_the_paired_bootstrap_and_runs_without_predictions_are_named(
    stored, make_record
) -> None:
    root, data, records, scores = stored
    gone = make_record("em") | {"predictions": {}}
    values, notes = image_replicates([*records, gone], root, 300)
    assert notes == ["1 runs: the predictions are not at hand: they stay in the store of the run"]
    found = values("mAP")
    assert found.keys() == {record["key"] for record in records}
    targets = np.asarray(data.splits["test"].labels) == 1
    expected = paired_bootstrap(
        *(Probabilities(s) for s in scores), targets, replicates=300, seed=0, empty_class="zero"
    )
    first, second = (found[record["key"]] for record in records)
    assert second[0] - first[0] == pytest.approx(100 * expected.difference)
    assert (second - first)[1:].mean() == pytest.approx(100 * expected.centre)
    assert values("mA") == {}


def test_a_data_set_that_is_not_here_leaves_its_runs_out(stored, monkeypatch) -> None:
    root, _, records, _ = stored
    monkeypatch.setattr("mlbench.report.at_hand.list_datasets", list)
    values, notes = image_replicates(records, root, 10)
    assert values("mAP") == {}
    assert len(notes) == 1
    assert notes[0].startswith("2 runs: data set ")


def test_the_command_says_which_runs_were_not_tested_on_draws_of_the_test_images(train, mlbench, tmp_path) -> None:
    train("prior")
    code, out, _ = mlbench("table", "--store", tmp_path / "runs", "--replicates", 20)
    assert code == 0
    assert "Not tested on draws of the test images: 1 runs: data set 'tiny' is not at hand" in out
    code, _, err = mlbench("table", "--paper", "vac", "--replicates", 20)
    assert code == 2
    assert "does not go with --paper" in err
