"""The distance of a cell from the print: its parts by hand, its interval by simulation and SciPy, its refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mlbench.report.layouts import Column
from mlbench.reproduce.distance import _interval, distance
from mlbench.reproduce.plans import Printed

ROW = Printed("LL-R [21]", "llr", "resnet50")
COLUMN = Column("COCO", "coco2014", "mAP", dataset="coco2014", metric="mAP", protocol="single_positive")


def number(definition: str = "step", value: str = "70.00", version: str = "v") -> dict[str, Any]:
    return {"definition": definition, "value": float(value), "printed": value, "dataset_version": version}


def runs(*values: float, envelope: float = 1.5) -> list[dict[str, Any]]:
    """Records of as many draws, each of its own seed and mask, as far as a distance looks at them."""
    return [
        {
            "key": f"{i:064d}",
            "identity": {
                "harness": 2,
                "method": {"name": "llr", "version": 1, "hyperparameters": {}, "supervision": ["observed"]},
                "dataset": {"id": "coco2014", "version": "1", "fingerprint": "f"},
                "protocol": "single_positive",
                "mask": {"process": "single_positive", "params": {}, "seed": i, "sha256": str(i)},
                "selection": "clean_val",
                "repetition": i,
                "mask_seed": i,
                "uses": {},
            },
            "results": {"test": {"mAP": value, "mAP_envelope": value + envelope}},
        }
        for i, value in enumerate(values)
    ]


def test_one_definition_leaves_all_of_it_to_the_rest() -> None:
    found = distance(ROW, COLUMN, number(), runs(71.0, 72.0, 73.0))
    assert (found.draws, found.ours, found.sd) == (3, 72.0, 1.0)
    assert (found.definition, found.rest) == (0.0, 2.0)
    half = 4.302652729911275 / math.sqrt(3)  # Student's t of two degrees of freedom at 97.5 %
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.holds_print is True
    assert distance(ROW, COLUMN, number(), runs(72.0, 72.1, 71.9)).holds_print is False


def test_another_definition_is_split_off() -> None:
    found = distance(ROW, COLUMN, number("envelope"), runs(71.0, 73.0))
    assert (found.ours, found.definition, found.rest) == pytest.approx((72.0, -1.5, 3.5))
    assert found.ours - found.value == pytest.approx(found.definition + found.rest)


def test_a_definition_that_the_print_does_not_tell() -> None:
    found = distance(ROW, COLUMN, number("undecidable"), runs(71.0, 73.0))
    assert math.isnan(found.definition)
    assert found.rest == 2.0
    assert "does not say by which definition" in found.why


def test_one_draw_has_no_interval() -> None:
    found = distance(ROW, COLUMN, number(), runs(71.0))
    assert (found.rest, found.draws) == (1.0, 1)
    assert math.isnan(found.low)
    assert found.holds_print is None


@pytest.mark.parametrize(
    ("column", "given", "said"),
    [
        (Column("COCO", "corel5k-199", "mAP", stands_for="coco2014"), number(), "on corel5k-199 in place of coco2014"),
        (Column("NUS", "nuswide-spml", "mAP", images=("a", "b")), number(version="c"), "of other images (c)"),
        (Column("COCO", "coco2014", "F1-O"), number("hm_image"), "a definition that mlbench has not"),
    ],
)
def test_what_is_never_held_against_the_print(column: Column, given: dict[str, Any], said: str) -> None:
    made = runs(71.0, 73.0)
    for record in made:
        record["results"]["test"]["F1-O"] = record["results"]["test"]["mAP"]
    found = distance(ROW, column, given, made)
    assert found.ours == 72.0
    assert math.isnan(found.rest)
    assert math.isnan(found.low)
    assert said in found.why


def test_a_number_that_is_undefined_is_said_to_be() -> None:
    made = runs(71.0, 73.0)
    made[1]["results"]["test"]["mAP"] = None
    found = distance(ROW, COLUMN, number(), made)
    assert math.isnan(found.ours)
    assert math.isnan(found.rest)
    assert found.why == "mAP is undefined in 1 of 2 runs"


def test_without_a_run_there_is_a_reason() -> None:
    assert distance(ROW, COLUMN, number(), [], "no data").why == "no data"
    assert distance(ROW, COLUMN, number(), []).why == "no run yet"


def test_the_interval_is_students_and_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=9)
    assert _interval(values) == pytest.approx(stats.t.interval(0.95, 8, loc=values.mean(), scale=stats.sem(values)))
    covered = [low <= 0.3 <= high for low, high in (_interval(draw.normal(0.3, 2.0, 9)) for _ in range(4000))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)
    assert all(map(math.isnan, _interval(np.array([1.0, math.nan]))))
