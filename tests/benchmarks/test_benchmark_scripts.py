"""The benchmark scripts at a size where they measure nothing: what they share, what they assert, what they write."""

from __future__ import annotations

import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mlbench.conformance.testing import tiny_dataset

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="script")
def load_script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives a script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name: str) -> ModuleType:
        spec = spec_from_file_location(f"benchmark_{name}", SCRIPTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("timing", None)


def test_ways_take_turns_and_none_always_follows_the_same_one(script: Any) -> None:
    order: list[str] = []

    def way(name: str) -> Any:
        return lambda: float(len(order.append(name) or order))

    found = script("timing").take_turns({name: way(name) for name in "abc"}, 3)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


@pytest.mark.parametrize("count", [6, 7, 9, 11])
def test_the_bounds_of_a_median_hold_it_in_95_of_100_samples_and_are_the_narrowest_that_do(
    script: Any, count: int
) -> None:
    low, high = script("timing").median_bounds(list(range(count))[::-1])
    above = [sum(side) for side in product((0, 1), repeat=count)]  # values above the true median, all sides alike

    def share(low: int) -> float:
        return np.mean([low < number <= count - 1 - low for number in above])

    assert (low, high) == (low, count - 1 - low)
    assert share(low) >= 0.95 > share(low + 1)


def test_a_ratio_is_taken_within_each_repeat(script: Any) -> None:
    timing = script("timing")
    found = timing.ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0])
    assert found["values"] == [2.0, 4.0, 3.0]
    assert (found["median"], found["least"], found["most"]) == (3.0, 2.0, 4.0)
    assert timing.spread(found) == "3 [2, 4]"


def test_figures_are_written_with_what_they_were_made_on(script: Any, tmp_path: Path) -> None:
    timing = script("timing")
    timing.write(tmp_path / "new", "few", timing.about(repeats=2), {"seconds": [1.0]}, "| a |")
    held = json.loads((tmp_path / "new" / "few.json").read_text())
    assert held["figures"] == {"seconds": [1.0]}
    assert held["repeats"] == 2
    assert held["hardware"]["cores"] >= 1
    assert "numpy" in held["packages"]
    text = (tmp_path / "new" / "few.md").read_text()
    assert text.startswith("# few\n")
    assert "| a |" in text


def test_a_start_is_timed_by_the_content_of_files_and_reading_beside_unchecked_reading(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    fingerprint, root = script("fingerprint"), tmp_path / "pictures"
    root.mkdir()
    fingerprint.make_files(root, 30, 50)
    first, warm = (fingerprint.start(root, 30) for _ in range(2))
    fingerprint.change(root, range(0, 30, 3))
    changed = fingerprint.start(root, 30)
    assert first["fingerprint"] == warm["fingerprint"] != changed["fingerprint"]
    read = fingerprint.read_epochs(tmp_path / "a.npy", 40, 2)
    assert read["bytes"] == 40 * 64 * 64 * 3
    found = {"images": 30, "file_bytes": 50, "first": first, "warm": [warm], "changed": changed, "index_bytes": 1}
    assert "first epoch, every chunk hashed" in fingerprint.report(found | {"reading": read})


def test_three_libraries_agree_on_metrics_with_ties_and_without(script: Any) -> None:
    pytest.importorskip("torchmetrics", reason="the benchmark compares with it")
    found = script("metrics").beside_others(images=60, classes=4, repeats=2)
    assert set(found["times_slower"]) == {"scikit-learn", "torchmetrics"}
    assert max(found["largest_difference"].values()) <= 1e-6


def test_known_labels_of_a_mapped_file_are_measured(script: Any, tmp_path: Path) -> None:
    metrics = script("metrics")
    metrics.write_scores(tmp_path / "scores.npy", 50, 30)
    found = metrics.of_known(tmp_path / "scores.npy", 400, 1)
    assert 0 < found["labels"] <= 400
    assert len(found["seconds"]) == 4


def test_what_breaks_first_is_read_off_the_last_two_sizes(script: Any) -> None:
    growth = script("growth")
    rows = {
        10: {"seconds": {"read": 9.0, "sort": 0.01}, "memory_mib": 100.0},
        100: {"seconds": {"read": 9.0, "sort": 1.0}, "memory_mib": 190.0},
    }
    assert growth.slope(rows, "read") == pytest.approx(0)
    assert growth.slope(rows, "sort") == pytest.approx(2)
    said = growth.verdict("images", rows, 1.0)
    assert "90% of it to read" in said
    assert "the steepest is to sort (2.00, 1 s)" in said
    assert "1 GiB of this machine are full at about 930 images" in said  # two digits of 100 + (1024 - 190) / 1


def test_made_up_open_images_have_its_density_and_the_line_goes_through_both_sizes(script: Any) -> None:
    scale = script("openimages_scale")
    data = scale.made_up(400, tuple("abcdefghij" * 5))
    labels = data.splits["train"].labels
    assert labels.shape == (400, 50)
    assert 1.5 < len(labels.classes) / 400 < 2.6  # 2.3 drawn, of which some fall on one class
    assert data.splits["test"].images.load(3).shape == (32, 32, 3)
    small = {"method": "an", "images": 1000, "resident_gib": 1.0, "private_gib": 0.5, "run_s": 9.0}
    large = {"method": "an", "images": 3000, "resident_gib": 1.5, "private_gib": 0.5, "run_s": 36.0}
    found = scale.extrapolate(small, large, 300_000)
    assert found == ["an", "1,000 and 3,000", "300,000", "1.0", "0.5", "75.8", "0.0 and 262.1"]


@pytest.fixture(name="steps")
def small_steps(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Any]:
    """The script of steps, and a place where one takes four images."""
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))
    step = script("step")
    return step, step.Bench(("full", "scenes", 64, 4, 2), tiny_dataset(), tmp_path, "cpu")


def test_steps_and_predictions_of_methods_are_timed_beside_a_plain_one(steps: tuple[ModuleType, Any]) -> None:
    step, bench = steps
    names = ["an", "an_boostlu", "vlpl", "tag_neighbors", "prior"]
    found = step.of_methods(bench, names, repeats=2, steps=1, clock="cpu")
    assert found["left_out"] == {"tag_neighbors": "not on track full", "prior": "trains nothing"}
    for timed in (found, found["inference"]):
        assert set(timed["seconds"]) == set(timed["to_an"]) == {"an", "an_boostlu", "vlpl"}
        assert all(value > 0 for times in timed["seconds"].values() for value in times["values"])
    text = step.as_text({"methods": {"scenes": found}})
    assert "ms a prediction" in text
    assert "* prior: trains nothing" in text


def test_each_head_is_timed_beside_the_linear_one(steps: tuple[ModuleType, Any]) -> None:
    step, bench = steps
    found = step.of_heads(bench, repeats=1, steps=1, clock="cpu")
    assert set(found["to_linear"]) == set(found["inference"]["to_linear"]) == {"linear", "csra", "ml_decoder", "q2l"}
    assert found["left_out"] == {}
    rows = [line.split("|")[1].strip() for line in step.as_text({"heads": {"scenes": found}}).splitlines()[2:]]
    assert sorted(rows[2:]) == ["csra", "linear", "ml_decoder", "q2l"]


def test_parts_that_are_not_measured_again_stay_with_how_they_were(
    steps: tuple[ModuleType, Any], tmp_path: Path
) -> None:
    step, _ = steps
    how = {"git": None, "load_average": 1.0, "repeats": 2, "clock": "cpu", "threads": 1}
    how |= {"hardware": {"cpu": "an old one", "cores": 3}}
    first, second = {"command": "first", **how}, {"command": "second", **how}
    file = tmp_path / "step.json"
    assert step.measured_before(file, {"heads"}) == ({}, {})
    file.write_text(json.dumps({**first, "figures": {"runner": 1, "methods": 2}}))
    assert step.measured_before(file, {"methods"}) == ({"runner": 1}, {"runner": first})
    held = {"figures": {"runner": 1, "methods": 3, "heads": 4}, "measured_before": {"runner": first}}
    file.write_text(json.dumps({**second, **held}))
    kept = step.measured_before(file, {"heads"})
    assert kept == ({"runner": 1, "methods": 3}, {"runner": first, "methods": second})
    assert step.whole_text({}, kept[1]).splitlines()[2].startswith("runner: measured before, by `first` on an old one")


def test_runs_of_two_backbones_are_paired_and_their_numbers_held_against_each_other(
    script: Any, tmp_path: Path
) -> None:
    two = script("two_backbones")

    def record(method: str, backbone: str, value: float, weights: str = "w", uses: str = "") -> dict[str, Any]:
        identity = {"method": {"name": method}, "backbone": {"name": backbone, "weights": weights}}
        numbers = {"mAP": value, "F1-O": 20.0, "undefined": None}
        used = {"an": uses} if uses else {}
        return {"identity": {**identity, "uses": used}, "results": {"test": numbers}, "predictions": {}}

    records = [
        *(record("llr", "a", 30.0), record("llr", "b", 30.25)),
        *(record("an", "b", 25.0), record("an", "a", 25.0)),
        *(record("later", "a", 25.0, uses="1"), record("later", "b", 25.0, uses="2")),
        *(record("ls", "a", 1.0), record("ls", "b", 1.0, weights="others"), record("em", "a", 1.0)),
    ]
    table = two.table(two.compared(records, "a", "b", tmp_path), "a", "b")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0][:4] == ["method", "mAP, a", "mAP, b", "F1-O, a"]
    assert [row[0] for row in rows[2:]] == ["an", "later", "llr"]
    assert [row[5] for row in rows[2:]] == ["0", "0", "0.25"]
    assert rows[4][1:3] == ["30.0000", "30.2500"]
    with pytest.raises(AssertionError, match="llr: measured by other metrics"):
        two.numbers_apart(records[0], {"results": {"test": {"mAP": 30.0}}})


def test_the_matrix_names_tests_that_are_there_and_keeps_what_it_found_before(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = script("matrix")
    assert [name for name in matrix.SMOKE if not (SCRIPTS.parent / name).is_file()] == []
    outcomes = {"3.12": ("passed", "2 1", "== 5 passed in 3.21s =="), "3.13": ("FAILED", "", "1 failed, 4 passed")}
    monkeypatch.setattr(matrix, "try_out", lambda environment, *_: outcomes[environment.python])
    asked = ["--smoke", "--output", str(tmp_path)]
    assert CliRunner().invoke(matrix.main, [*asked, "--only", "3.12"]).exit_code == 0
    assert CliRunner().invoke(matrix.main, [*asked, "--only", "3.13"]).exit_code == 1
    told = (tmp_path / "matrix.md").read_text()
    assert re.search(r"3.12 newest +\| passed +\| 2 1 +\| smoke +\| 5 passed +\|", told)
    assert re.search(r"3.13 newest +\| FAILED +\|", told)
    refused = CliRunner().invoke(matrix.main, [*asked, "--only", "3.9"])
    assert refused.exit_code == 2
    assert "'3.11 lowest'" in refused.output
