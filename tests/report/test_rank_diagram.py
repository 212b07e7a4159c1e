from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from mlbench.errors import UsageError
from mlbench.report.rank_diagram import draw_ranks, rank_diagram
from mlbench.report.tables import build_table
from mlbench.significance.ranks import critical_difference

SVG = "{http://www.w3.org/2000/svg}"


def drawn(values: np.ndarray, names: list[str]) -> ElementTree.Element:
    return ElementTree.fromstring(draw_ranks(names, critical_difference(values), len(values), 0.05))


def test_every_method_stands_with_its_mean_rank_and_every_tie_has_a_bar():
    values = np.tile(np.arange(12.0), (20, 1))
    root = drawn(values, [f"m{i}" for i in range(12)])
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {f"m{i} ({12 - i:.2f})" for i in range(12)} <= set(texts)
    bars = [line for line in root.iter(f"{SVG}line") if line.get("stroke-width") == "4"]
    assert len(bars) == 9
    assert "Friedman" in (root.find(f"{SVG}title").text or "")


def test_the_best_rank_is_on_the_left_and_the_bar_has_the_difference_s_length():
    root = drawn(np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]] * 10), ["a", "b", "c"])
    lines = [[float(line.get(k)) for k in ("x1", "x2", "y1")] for line in root.iter(f"{SVG}line")]
    scale = (900 - 520) / 2
    found = critical_difference(np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]] * 10))
    assert lines[0][1] - lines[0][0] == pytest.approx(found.difference * scale, abs=0.1)
    labels = {t.text.split()[0]: float(t.get("x")) for t in root.iter(f"{SVG}text") if "(" in t.text}
    assert labels["a"] < labels["c"]


def test_names_are_escaped():
    root = drawn(np.arange(6.0).reshape(2, 3), ["<script>", "a&b", "c"])
    assert not list(root.iter("script"))
    assert any("<script>" in (t.text or "") for t in root.iter(f"{SVG}text"))


def test_a_table_s_columns_are_the_blocks_and_gaps_are_refused(make_record):
    records = [
        make_record(m, 60.0 + i + j, identity__dataset__id=d)
        for i, m in enumerate(("an", "ls", "llr"))
        for j, d in enumerate(("scenes", "corel5k-199"))
    ]
    svg = rank_diagram(build_table(records).cells)
    assert "llr (1.00)" in svg
    assert "on 2 data sets" in svg
    with pytest.raises(UsageError, match="no value of an on"):
        rank_diagram(build_table(records[1:]).cells)


def test_columns_that_are_not_independent_data_sets_are_refused(make_record):
    both = [
        make_record(m, 60.0 + i + j, identity__dataset__id="scenes", identity__track=track)
        for i, m in enumerate(("an", "ls", "llr"))
        for j, track in enumerate(("full", "head"))
    ]
    with pytest.raises(UsageError, match="'scenes' stands in several columns"):
        rank_diagram(build_table(both).cells)
    cells = build_table(both[::2]).cells
    twice = pd.concat([cells, cells.assign(metric="mA")])
    with pytest.raises(UsageError, match="metrics mAP, mA of one data set are not independent"):
        rank_diagram(twice)


def test_the_command_draws_the_table_s_methods(mlbench, tmp_path):
    records = Path(__file__).parents[2] / "results" / "runs"
    runs = ("--store", records, "--protocol", "single_positive", "--track", "full", "--where", "head.name=none")
    given = ("table", *runs, "--diagram", tmp_path / "ranks.svg")
    code, _, err = mlbench(*given, "--methods", "an,llr,role", "--no-published")
    assert code == 0, err
    assert "role (" in (tmp_path / "ranks.svg").read_text()
    code, _, err = mlbench(*given, "--methods", "an,llr,warp")
    assert code == 2
    assert "no value of warp on" in err
