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
