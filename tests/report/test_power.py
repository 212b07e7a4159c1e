"""How many runs a gap needs, in a table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlbench.comparison import runs_needed
from mlbench.report.power import gap_deviation, needed_lines
from mlbench.report.tables import build_table
from mlbench.stats import deviation_of_draws


def test_a_grid_is_taken_apart_and_other_draws_are_pairs() -> None:
    best = {(s, m): 60.0 for s in (0, 1) for m in (0, 1)}
    other = {(0, 0): 59.0, (0, 1): 58.0, (1, 0): 56.0, (1, 1): 51.0}
    assert gap_deviation(other, best) == pytest.approx(deviation_of_draws(np.array([[1.0, 2.0], [4.0, 9.0]])))
    del other[1, 1]
    assert gap_deviation(other, best) == pytest.approx(math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2))
    assert math.isnan(gap_deviation({(0, 0): 1.0, (1, 1): 2.0}, {(1, 1): 2.0, (2, 2): 3.0}))


def test_every_method_is_held_against_the_best_of_its_column() -> None:
    runs = {
        "an": {(0, 0): 59.0, (1, 1): 60.0, (2, 2): 61.5},
        "llr": {(0, 0): 61.0, (1, 1): 61.0, (2, 2): 62.0},
        "full": {},
        "ls": {(7, 7): 50.0},
    }
    deviation = math.sqrt(((2 - 3.5 / 3) ** 2 + (1 - 3.5 / 3) ** 2 + (0.5 - 3.5 / 3) ** 2) / 2)
    (line,) = needed_lines([("scenes", runs)], 0.3)
    assert "a gap of 0.3 points in 80 % of cases" in line
    assert line.endswith(f": scenes, against llr: an {runs_needed(0.3, deviation)}.")


def test_without_pairs_it_says_so() -> None:
    (line,) = needed_lines([("scenes", {"an": {(0, 0): 1.0}, "ls": {(0, 0): 2.0}})], 0.3)
    assert "no two methods have two runs in common" in line


def test_a_table_says_it_when_asked_and_of_ranked_methods_only(make_record) -> None:
    records = [make_record(m, v + 0.7 * i * i, i) for m, v in (("full", 90.0), ("an", 60.0)) for i in range(3)]
    records += [make_record("llr", 62.0 + i, i) for i in range(3)]
    assert "Paired runs" not in build_table(records).to_markdown()
    text = build_table(records, gap=0.3).to_markdown()
    assert "scenes, against llr: an " in text
    assert "full " not in text.partition("Paired runs")[2]


def test_the_command_takes_a_gap_above_zero_and_not_with_a_papers_own_table(mlbench, tmp_path) -> None:
    code, _, err = mlbench("table", "--gap", "0", "--output", tmp_path)
    assert code == 2
    assert "--gap" in err
    code, _, err = mlbench("table", "--paper", "vac", "--gap", "0.3")
    assert code == 2
    assert "--gap: does not go with --paper" in err
