"""Ablations: what one setting of a method is worth, from records kept beside those of the boards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mlbench.report.site.boards import Board, Column, Ranked, make_boards
from mlbench.report.site.pictures import Gain, forest
from mlbench.report.site.rows import Record, Row
from mlbench.store import find_records, is_submitted

#: The folder of such records, beside that of runs.
FOLDER = "ablations"


@dataclass(frozen=True)
class Ablation:
    """The settings of one method on one table of a board; `usual` is the row that stands on the board, if any does."""

    method: str
    board: Board
    column: Column
    ranked: Ranked
    usual: Row | None
    rows: list[Row]

    @property
    def figure(self) -> Markup:
        """Each setting against the usual one; against the best where the usual one has not been run."""
        metric = self.board.metrics[0]
        over = self.usual or self.rows[0]
        gains = []
        for row in (row for row in self.rows if row is not over):
            value, low, high = self._gain(row, over, metric)
            gains.append(Gain(row.apart, value, low, high, filled=low > 0 or high < 0))
        settings = over.apart or "the setting of the board"
        note = (
            f"Against {settings}: {over.numbers[metric].mean:.1f}. Intervals of 95 % where two draws are in common; "
            "filled where they leave 0 out."
        )
        return forest(f"{self.method}: {self.board.name}, {self.column.name}", gains, f"points of {metric}", note)

    def _gain(self, row: Row, over: Row, metric: str) -> tuple[float, float, float]:
        if row in self.ranked.tested and over in self.ranked.tested:
            found = self.ranked.gain(row, over)
            if not math.isnan(found[0]):
                return found
        common = [draw for draw in row.draws if draw in over.draws]
        if common:
            return float(np.mean([row.draws[draw] - over.draws[draw] for draw in common])), math.nan, math.nan
        return row.numbers[metric].mean - over.numbers[metric].mean, math.nan, math.nan


def ablations(root: Path, records: Sequence[Record]) -> tuple[list[Ablation], list[str]]:
    """Of the records in `FOLDER` beside `root`, with those of the same methods and places among `records`; notes."""
    folder = root.parent / FOLDER
    if root.name != "runs" or not folder.is_dir():
        return [], []
    varied, problems = find_records(folder)
    notes = [f"{len(problems)} broken records in {folder}: {problems[0]}"] if problems else []
    varied = [record for record in varied if not is_submitted(record)]
    keys = {record["key"] for record in varied}
    places = {_place(record) for record in varied}
    usual = [record for record in records if record["key"] not in keys and _place(record) in places]
    found = []
    for board in make_boards([*varied, *usual]):
        for column in board.columns:
            for ranked in column.sets:
                found += _of(board, column, ranked, keys)
    return sorted(found, key=lambda ablation: ablation.method), notes


def ablation_lines(found: Sequence[Ablation]) -> list[dict[str, Any]]:
    """A line for each setting, as data."""
    return [
        {
            "method": ablation.method,
            "board": ablation.board.title,
            "table": ablation.column.name,
            "setting": row.apart,
            "usual": row is ablation.usual,
            ablation.board.metrics[0]: row.numbers[ablation.board.metrics[0]].mean,
            "sd": row.numbers[ablation.board.metrics[0]].sd,
            "draws": len(row.draws),
            "settings": row.settings,
            "newest": row.newest,
        }
        for ablation in found
        for row in ablation.rows
    ]


def _of(board: Board, column: Column, ranked: Ranked, keys: set[str]) -> list[Ablation]:
    found = []
    for method in sorted({row.method for row in ranked.rows}):
        rows = [
            row for row in ranked.rows if row.method == method and not math.isnan(row.numbers[board.metrics[0]].mean)
        ]
        usual = [row for row in rows if not any(record["key"] in keys for record in row.records)]
        if len(rows) > 1 and len(usual) < len(rows):
            found.append(Ablation(method, board, column, ranked, usual[0] if usual else None, rows))
    return found


def _place(record: Record) -> tuple[str, str, str]:
    own = record["identity"]
    return own["method"]["name"], own["protocol"], own["dataset"]["id"]
