"""Numbers of class activation maps, worked by hand and by brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.explain import attribution
from mlbench.explain.attribution import Pair, coverage, gap_closed, measure, pairs_with_boxes
from mlbench.runner.plan import resolve
from mlbench.store import all_runs


def pair(inside: list[list[float]], label: int = 0) -> Pair:
    return Pair(0, label, np.array(inside))


def test_coverage_is_the_area_of_the_union_of_boxes_in_each_cell() -> None:
    boxes = np.array([[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 0.75, 0.5]])  # they overlap
    assert coverage(boxes, (2, 2)).tolist() == [[1.0, 0.5], [1.0, 0.0]]


def test_coverage_of_a_box_beyond_the_image_stops_at_its_edge() -> None:
    assert coverage(np.array([[-1.0, -1.0, 3.0, 0.5]]), (2, 1)).tolist() == [[1.0], [0.0]]


def test_the_numbers_of_one_map_by_hand() -> None:
    maps = np.array([[[4.0, -2.0], [1.0, 0.0]]])
    reference = np.array([[[8.0, -1.0], [2.0, 0.0]]])
    found = measure(maps, [pair([[1.0, 0.0], [0.5, 1.0]])], reference)
    assert found["pointing"] == 100.0
    assert found["energy"] == pytest.approx(100 * 4.5 / 5)
    assert found["no_evidence"] == 0.0
    assert found["correlation"] == pytest.approx(np.corrcoef(maps.ravel(), reference.ravel())[0, 1])
    assert found["positive"] == pytest.approx(50.0)
    assert found["peak"] == pytest.approx(50.0)


def test_a_map_without_evidence_has_no_energy_and_still_points_somewhere() -> None:
    found = measure(np.array([[[-3.0, -1.0]]]), [pair([[1.0, 0.0]])], np.array([[[1.0, 2.0]]]))
    assert (found["energy"], found["no_evidence"], found["pointing"], found["peak"]) == (0.0, 100.0, 0.0, 0.0)


def test_a_constant_map_correlates_with_nothing() -> None:
    found = measure(np.full((1, 1, 2), 2.0), [pair([[1.0, 0.0]])], np.array([[[1.0, 2.0]]]))
    assert found["correlation"] == 0.0


def test_classes_count_alike_however_many_pairs_they_have() -> None:
    hit, miss = [[1.0, 0.0]], [[0.0, 1.0]]
    pairs = [pair(hit, 0), pair(hit, 0), pair(hit, 0), pair(miss, 1)]
    maps = np.tile(np.array([[[2.0, 1.0]]]), (4, 1, 1))
    assert measure(maps, pairs, maps)["pointing"] == 50.0


def test_a_model_held_against_itself_agrees_in_full() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 3, 3))
    found = measure(maps, [Pair(0, i % 2, np.ones((3, 3))) for i in range(5)], maps)
    assert (found["correlation"], found["positive"], found["peak"]) == pytest.approx((1.0, 100.0, 100.0))
    assert found["energy"] == pytest.approx(100.0)


def test_pairs_are_the_positive_labels_that_have_boxes() -> None:
    test = tiny_dataset().splits["test"]
    assert test.boxes is not None
    pairs = pairs_with_boxes(test, (4, 4))
    expected = {(int(b[0]), int(b[1])) for b in test.boxes if test.labels[int(b[0]), int(b[1])] == 1}
    assert [(p.row, p.label) for p in pairs] == sorted(expected)


def test_the_gap_closed_is_a_share_of_the_way_from_an_to_full() -> None:
    base = dict.fromkeys(("pointing", "energy", "no_evidence", "correlation", "positive"), 0.0)
    rows = [
        {"method": "an", "runs": 1, "mAP": 40.0, "peak": 20.0, **base},
        {"method": "full", "runs": 1, "mAP": 60.0, "peak": 100.0, **base},
        {"method": "llr", "runs": 1, "mAP": 45.0, "peak": 60.0, **base},
    ]
    assert gap_closed(rows) == [{"method": "llr", "mAP": 25.0, "peak": 50.0}]
    assert gap_closed(rows[1:]) == []


@pytest.fixture
def runs(train, tiny_request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with runs of three methods on the tiny data set, which is in no catalogue."""
    for method in ("full", "an", "prior"):
        train(method)

    def reload(record, *others):
        return resolve(tiny_request(record["identity"]["method"]["name"]))

    monkeypatch.setattr(attribution, "reload_run", reload)
    return tmp_path / "runs"


def test_every_run_with_maps_is_measured_against_full(runs: Path) -> None:
    rows = {row["method"]: row for row in attribution.attribution_table([], runs)}
    assert rows.keys() == {"full", "an"}  # the prior looks at no image
    assert rows["full"]["correlation"] == pytest.approx(1.0)
    assert rows["full"]["peak"] == pytest.approx(100.0)
    assert rows["an"]["correlation"] < 1.0
    assert "| method" in attribution.attribution_text(list(rows.values()))


def test_the_command_prints_the_numbers(runs: Path, mlbench) -> None:
    code, out, _ = mlbench("explain", "cam", "--numbers", "--store", runs)
    assert code == 0
    assert "pointing" in out


def test_without_a_reference_run_the_command_says_so(runs: Path) -> None:
    keys = [r["key"] for r in all_runs(runs) if r["identity"]["method"]["name"] == "an"]
    with pytest.raises(UsageError, match="no run of method 'full'"):
        attribution.attribution_table(keys, runs)
