"""How many runs a gap needs, in a table."""

from __future__ import annotations

import math

import numpy as np

from mlbench.report.power import LEVEL, POWER, needed_lines
from mlbench.report.tables import build_table
from mlbench.significance.power import draws_needed


def test_every_method_is_held_against_the_best_of_its_column_at_the_level_of_all_pairs() -> None:
    runs = {
        "an": {(0, 0): 59.0, (1, 1): 60.0, (2, 2): 61.5},
        "llr": {(0, 0): 61.0, (1, 1): 61.0, (2, 2): 62.0},
        "full": {},
    }
    deviation = float(np.std([2, 1, 0.5], ddof=1))
    (line,) = needed_lines([("scenes", runs)], 0.3)
    assert "a gap of 0.3 points in 80 % of tables" in line
    assert line.endswith(f": scenes, against llr: an {draws_needed(0.3, deviation, POWER, LEVEL)}.")
    runs["ls"] = {(7, 7): 50.0}  # no pair with the best, but one more method in the family
    (line,) = needed_lines([("scenes", runs)], 0.3)
    assert line.endswith(f": scenes, against llr: an {draws_needed(0.3, deviation, POWER, LEVEL / math.comb(3, 2))}.")


def test_without_pairs_it_says_so() -> None:
    (line,) = needed_lines([("scenes", {"an": {(0, 0): 1.0}, "ls": {(0, 0): 2.0}})], 0.3)
    assert "no two methods have two runs in common" in line


def test_a_table_says_it_when_asked_and_of_ranked_methods_only(make_record) -> None:
    records = [make_record(m, v + 0.7 * i * i, i) for m, v in (("full", 90.0), ("an", 60.0)) for i in range(3)]
    records += [make_record("llr", 62.0 + i, i) for i in range(3)]
    assert "Draws, each" not in build_table(records).to_markdown()
    text = build_table(records, gap=0.3).to_markdown()
    assert "scenes, against llr: an " in text
    assert "full " not in text.partition("Draws, each")[2]


def test_the_command_takes_a_gap_above_zero_and_not_with_a_papers_own_table(mlbench, tmp_path) -> None:
    code, _, err = mlbench("table", "--gap", "0", "--store", tmp_path)
    assert code == 2
    assert "--gap" in err
    code, _, err = mlbench("table", "--paper", "vac", "--gap", "0.3")
    assert code == 2
    assert "--gap: does not go with --paper" in err
