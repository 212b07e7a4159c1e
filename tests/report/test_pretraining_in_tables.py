"""Tables say what a row's numbers rest on where that varies, and rank no row that rests on more."""

from __future__ import annotations

import pytest

from mlbench.errors import UsageError
from mlbench.report.rank_diagram import rank_diagram
from mlbench.report.site.boards import make_boards
from mlbench.report.tables import build_table

MORE = {"identity__pretraining": "vision_language"}


def test_the_axis_is_shown_only_where_it_varies(make_record) -> None:
    same = [make_record(method, 60.0 + i, i) for method in ("an", "llr") for i in range(3)]
    assert "pretraining" not in build_table(same, published=False).to_markdown()
    taught = [make_record("kd", 90.0 + i, i, **MORE) for i in range(3)]
    table = build_table([*same, *taught], published=False)
    assert "pretraining: vision_language" in table.to_markdown()
    assert table.to_markdown().count("pretraining: ") == 1
    alone = build_table(taught, published=False)
    assert "pretraining" not in alone.to_markdown()
    assert bool(alone.cells["best"].iloc[0])


def test_rows_with_more_are_not_ranked_with_rows_with_less(make_record) -> None:
    records = [make_record("an", 60.0 + i, i) for i in range(3)]
    records += [make_record("kd", 90.0 + i, i, **MORE) for i in range(3)]
    cells = build_table(records, published=False).cells.set_index("method")
    assert cells["best"].to_dict() == {"an": True, "kd": False}


def test_a_diagram_of_ranks_is_of_one_pretraining(make_record) -> None:
    sets = ("scenes", "corel5k-199")
    records = [make_record(m, 60.0, identity__dataset__id=d) for m in ("an", "ls", "llr") for d in sets]
    records += [make_record("kd", 90.0, identity__dataset__id=d, **MORE) for d in sets]
    with pytest.raises(UsageError, match="diagram of ranks: kd rest on more pretraining than the others"):
        rank_diagram(build_table(records, published=False).cells)
    kept = build_table(records, published=False, where={"pretraining": "random"})
    assert "an (" in rank_diagram(kept.cells)


def test_scores_of_a_vision_language_model_are_supervision_and_pretraining(make_record) -> None:
    scored = {"identity__method__supervision": ["observed", "vl_scores"]}
    records = [make_record("an", 60.0 + i, i) for i in range(3)]
    records += [make_record("vlpl", 70.0 + i, i, **scored) for i in range(3)]
    shown = build_table(records, published=False).to_markdown()
    assert "supervision: observed+vl_scores; pretraining: vision_language" in shown
    (board,) = make_boards([_whole(record) for record in records])
    rows = {row.method: row for row in board.rows}
    assert rows["an"].ranked != rows["vlpl"].ranked
    assert rows["vlpl"].compared.endswith("supervision observed+vl_scores, pretraining vision_language")
    assert "pretraining" not in rows["an"].compared


def _whole(record: dict) -> dict:
    used = {"observed_labels": 1, "selection_labels": 1, "extra": []}
    started = {"started": "2026-01-01T00:00:00Z", "seconds": 1.0, "hardware": {"cpu": "x", "accelerator": "none"}}
    return {**record, "supervision": used, "provenance": started}
