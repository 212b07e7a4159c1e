"""What the start page answers, why a group looks odd, what changed when, and the data beside the pages."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from scipy import stats

from mlbench.registry import METHODS
from mlbench.report.lineage import lineage, successors
from mlbench.report.site.ablations import ablation_lines, ablations
from mlbench.report.site.board_pages import filters, gain_figure, overview, share_figures
from mlbench.report.site.boards import make_boards
from mlbench.report.site.changes import days, feed
from mlbench.report.site.data import board_lines, both, csv_of, json_of
from mlbench.report.site.start import Answer, answers, needed_text

Make = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def runs(make_record) -> Make:
    """Return a function: method, values by draw, seconds, day, and changes; gives whole records."""

    def make(method: str, values: list[float], seconds: float = 1.0, day: str = "2026-01-01", **changes: Any) -> Any:
        machine = {"cpu": "c", "accelerator": "none"}
        provenance = {"started": f"{day}T10:00:00Z", "seconds": seconds, "hardware": machine, "mlbench": "0.2.0"}
        used = {"observed_labels": 1, "selection_labels": 1, "extra": []}
        more = {"provenance": provenance, "supervision": used, "selected": {"epoch": 1}}
        return [make_record(method, value, draw, **changes) | more for draw, value in enumerate(values)]

    return make


#: Draws that scatter by about 0.3.
NOISE = [0.3, -0.2, 0.1, -0.4, 0.2, 0.0, 0.35, -0.15, -0.2]


def around(mean: float, turn: int) -> list[float]:
    return [mean + NOISE[(i + turn) % 9] for i in range(9)]


def test_an_answer_names_the_group_of_the_best_the_cheaper_of_them_and_what_would_tell_it_apart(runs: Make) -> None:
    records = [
        *runs("an", around(60.0, 0), 10.0),
        *runs("llr", around(70.1, 2), 100.0),
        *runs("llct", around(70.0, 5), 50.0),
        *runs("full", around(80.0, 1), 1.0),
    ]
    (board,) = make_boards(records)
    ((protocol, title, (answer,)),) = answers([board])
    assert (protocol, title) == ("single_positive", "One positive label an image")
    assert [row.method for row in answer.rows] == ["llr", "llct"]
    assert answer.cheapest is not None
    assert answer.cheapest.method == "llct"
    assert answer.sure == f"best with a chance of {answer.rows[0].chance}; no test tells 1 other from it."
    assert answer.draws == "9"
    assert [(other.given, row.method) for other, row in answer.apart] == [("all labels", "full")]
    # By the noncentral t distribution, at 5 % over the three pairs of the part.
    second = answer.rows[1]
    at = answer.ranked.tested.index(answer.rows[0]), answer.ranked.tested.index(second)
    gap, deviation = answer.ranked.ties.gaps.gap[at], answer.ranked.ties.gaps.deviation[at]

    def power(draws: int) -> float:
        bound = stats.t.ppf(1 - 0.05 / 3 / 2, draws - 1)
        return float(stats.nct.sf(bound, draws - 1, gap / deviation * math.sqrt(draws)))

    assert power(int(second.needed)) >= 0.8 > power(int(second.needed) - 1)
    assert needed_text(answer.rows[0]) == "–"


def test_an_answer_of_one_draw_each_says_that_nothing_was_tested(runs: Make) -> None:
    (board,) = make_boards([*runs("an", [60.0]), *runs("llr", [70.0])])
    ((_, _, (answer,)),) = answers([board])
    assert not answer.tested
    assert answer.sure.startswith("not tested")
    assert [row.method for row in answer.rows] == ["llr", "an"]
    assert gain_figure(board, answer.ranked) == ""


def test_a_tie_of_equal_runs_asks_for_no_number_of_draws(runs: Make) -> None:
    (board,) = make_boards([*runs("an", around(60.0, 0)), *runs("llr", around(60.0, 0))])
    ((_, _, (answer,)),) = answers([board])
    assert needed_text(answer.rows[1]) == "above 9,999"


def test_a_row_in_a_better_group_than_others_of_higher_mean_is_explained(runs: Make) -> None:
    records = [
        *runs("an", around(70.0, 0)),
        *runs("llr", around(68.0, 3)),
        *runs("wan", [60.0, 75.0]),
    ]
    (board,) = make_boards(records)
    (column,) = board.columns
    rows = {row.method: row for row in column.rows}
    assert (rows["wan"].group, rows["llr"].group) == (1, 2)
    ((text, mark),) = column.notes.items()
    assert rows["wan"].marks == rows["llr"].marks == [mark]
    assert rows["an"].marks == []
    assert "wan (67.5 ± 10.6" in text
    assert "2 draws) stands in a better group than llr, of higher mean" in text


def test_the_headline_protocol_and_data_set_come_first_and_addresses_stay(runs: Make) -> None:
    kinds = [("full", "scenes"), ("single_positive", "scenes"), ("full", "ccp"), ("single_positive", "corel5k-199")]
    records = [
        record
        for protocol, data in kinds
        for record in runs("an", [60.0], identity__protocol=protocol, identity__dataset__id=data)
    ]
    boards = make_boards(records)
    slugs = [board.slug for board in boards]
    assert slugs[0] == "single_positive-on-corel5k-199"
    assert slugs[1:] == ["single_positive-on-scenes", "full-on-ccp", "full-on-scenes"]
    assert [board.slug for board in make_boards(records[:1])] == ["full-on-scenes"]


def test_boards_are_chosen_by_all_that_keeps_them_apart(runs: Make) -> None:
    partial = {"identity__protocol": "partial", "identity__mask__process": "partial"}
    records = [
        record
        for keep, value in ((0.1, 50.0), (0.5, 60.0))
        for method in ("an", "llr")
        for record in runs(method, [value], identity__mask__params={"keep": keep}, **partial)
    ]
    records += runs("full", [80.0], identity__track="head", **partial, identity__mask__params={"keep": 0.1})
    boards = make_boards(records)
    lines = overview(boards)
    found = dict(filters(lines))
    assert found["share of labels"] == ["10 %", "50 %"]
    assert found["track"] == ["full", "head"]
    assert found["supervision"] == ["observed", "full"]
    (figure,) = share_figures(boards[0], boards)
    assert "an from 50.0 to 60.0" in figure


def test_what_changed_tells_new_methods_more_runs_and_the_highest_before(runs: Make) -> None:
    first = runs("an", [60.0, 61.0, 62.0], day="2026-01-01")
    late = runs("llr", [70.0], day="2026-02-01") + runs("an", [0, 0, 0, 63.0], day="2026-02-01")[3:]
    found = days(make_boards(first + late))
    assert [(day.date, day.runs) for day in found] == [("2026-02-01", 2), ("2026-01-01", 3)]
    (change,) = found[0].changes
    assert (change.new, change.more) == ([("llr", 1)], [("an", 1)])
    assert change.led == "highest now llr 70.0, before an 61.0"
    root = ElementTree.fromstring(feed(found))
    atom = "{http://www.w3.org/2005/Atom}"
    assert root.tag == f"{atom}feed"
    for needed in ("id", "title", "updated"):
        assert root.find(f"{atom}{needed}") is not None
    entries = root.findall(f"{atom}entry")
    assert len(entries) == 2
    assert len({entry.findtext(f"{atom}id") for entry in entries}) == 2
    assert "new: llr (1); more runs: an (1)" in (entries[0].findtext(f"{atom}content") or "")


def test_a_feed_of_hostile_names_is_well_formed(runs: Make) -> None:
    boards = make_boards(runs("</entry>&\x00\u202e<b>", [60.0]))
    root = ElementTree.fromstring(feed(days(boards)))
    assert len(list(root)) == 7


def test_data_is_read_back_and_starts_no_formula(runs: Make) -> None:
    records = [*runs("=cmd()", around(60.0, 0)), *runs("an", [50.0], measures={"ECE": {"value": 3.0}})]
    records[-1]["measures"] = {"ECE": {"value": 3.0, "unit": "percent", "better": "lower", "owner": "mlbench"}}
    (board,) = make_boards(records)
    (column,) = board.columns
    assert column.measures == ["ECE"]
    lines = board_lines(board, column)
    files = both("data/x", "t", lines)
    assert sorted(files) == ["data/x.csv", "data/x.json"]
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(files["data/x.csv"]))}
    assert set(rows) == {"'=cmd()", "an"}
    assert float(rows["'=cmd()"]["mAP"]) == pytest.approx(sum(around(60.0, 0)) / 9)
    assert rows["an"]["ECE"] == "3.0"
    assert rows["an"]["mAP_sd"] == ""
    read = {row["method"]: row for row in json.loads(files["data/x.json"])["rows"]}
    assert read["an"]["mAP_sd"] is None
    assert read["=cmd()"]["method_version"] == 1
    assert json.loads(json_of({"a": [math.nan, math.inf, 1.5]})) == {"a": [None, None, 1.5]}
    assert csv_of([]) == "\n"


def test_rows_of_one_method_are_told_apart_by_what_differs(runs: Make) -> None:
    records = [
        *runs("kd", [60.0], identity__method__hyperparameters={"temperature": 1.0, "share": 0.9}),
        *runs("kd", [61.0], identity__method__hyperparameters={"temperature": 5.0, "share": 0.9}),
    ]
    (board,) = make_boards(records)
    assert [row.apart for row in board.rows] == ["temperature 5.0", "temperature 1.0"]


def test_of_several_rows_each_is_named_by_what_it_alone_has(runs: Make) -> None:
    settings = [(1.0, 0.9), (5.0, 0.9), (1.0, 0.5)]
    (board,) = make_boards(
        [
            record
            for turn, (temperature, share) in enumerate(settings)
            for record in runs(
                "kd", [60.0 - turn], identity__method__hyperparameters={"temperature": temperature, "share": share}
            )
        ]
    )
    assert [row.apart for row in board.rows] == ["share 0.9, temperature 1.0", "temperature 5.0", "share 0.5"]


def test_an_ablation_holds_settings_against_that_of_the_board(runs: Make, tmp_path, monkeypatch) -> None:
    usual = runs("kd", [60.0, 61.0, 62.0], identity__method__hyperparameters={"temperature": 1.0})
    varied = runs("kd", [63.0, 64.1, 65.0], identity__method__hyperparameters={"temperature": 5.0})
    other = runs("an", [50.0, 51.0, 52.0])
    (tmp_path / "ablations").mkdir()
    monkeypatch.setattr("mlbench.report.site.ablations.find_records", lambda folder: (varied, ["broken.json"]))
    found, notes = ablations(tmp_path / "runs", [*usual, *other])
    assert len(notes) == 1
    ((ablation),) = found
    assert ablation.usual is not None
    assert ablation.usual.apart == "temperature 1.0"
    assert "temperature 5.0 +3.0 (" in ablation.figure
    assert "Against temperature 1.0: 61.0." in ablation.figure
    assert [(line["setting"], line["usual"]) for line in ablation_lines(found)] == [
        ("temperature 5.0", False),
        ("temperature 1.0", True),
    ]
    assert ablations(tmp_path / "store", usual) == ([], [])


def test_methods_build_on_methods_there_are_and_on_none_that_builds_on_them() -> None:
    known, steps = set(METHODS), lineage()
    for method, step in steps.items():
        assert {method, *step.builds_on} <= known
        assert step.change

        def before(name: str) -> set[str]:
            mine = steps[name].builds_on if name in steps else ()
            return {*mine, *(found for other in mine for found in before(other))}

        assert method not in before(method)
        assert all(method in successors(other) for other in step.builds_on)
    assert steps["llr_boostlu"].builds_on == ("llr",)


def test_the_likeliest_is_not_named_as_a_cheaper_one_of_itself(runs: Make) -> None:
    (board,) = make_boards([*runs("an", around(60.0, 0), 50.0), *runs("llr", around(60.05, 2), 50.0)])
    ((_, _, (answer,)),) = answers([board])
    assert isinstance(answer, Answer)
    assert answer.cheapest is None
