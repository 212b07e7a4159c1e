"""The page of a board: its tables, and before each the pictures of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mlbench.report.site.boards import Board, Column, Ranked
from mlbench.report.site.pictures import Course, Gain, Spot, cost_chart, course_chart, forest
from mlbench.report.site.rendering import render
from mlbench.report.site.rows import Row


def board_page(board: Board, boards: Sequence[Board]) -> str:
    """The page of `board`, one of `boards`."""
    tables = [(column, _figures(board, column)) for column in board.columns]
    return render("board.html", "../", "boards", board=board, tables=tables, shares=share_figures(board, boards))


def _figures(board: Board, column: Column) -> list[Markup]:
    found = [gain_figure(board, ranked) for ranked in column.sets[:1]] + [_cost(board, column)]
    return [figure for figure in found if figure]


def gain_figure(board: Board, ranked: Ranked, most: int | None = None) -> Markup:
    """Gains over the baseline with their intervals, highest first; with `most`, of so many rows."""
    over, metric = ranked.baseline, board.metrics[0]
    if over is None:
        return Markup("")
    # Controls that never look at an image lie so far below that the others could not be told apart in the picture.
    rows = [r for r in ranked.rows if r is not over and r in ranked.tested and r.method not in ("prior", "random")]
    gains = [Gain(_label(row), *ranked.gain(row, over), filled=row.group == 1) for row in rows]
    shown = sorted((gain for gain in gains if not math.isnan(gain.value)), key=lambda gain: -gain.value)
    note = "Filled: the group of the best. Paired by draw; each interval for itself."
    if most is not None and len(shown) > most:
        note += f" The first {most} of {len(shown)}."
    axis = f"points of {metric} over {over.method}, 95 % interval"
    return forest(f"Gain over {over.method}", shown[:most], axis, note)


def _cost(board: Board, column: Column) -> Markup:
    metric = board.metrics[0]
    rows = [row for ranked in column.sets[:1] for row in ranked.rows]
    spots = [Spot(_label(row), row.seconds, row.numbers[metric].mean, row.group == 1) for row in rows]
    machines = {row.hardware for row in rows}
    note = "Line: nothing cheaper is better. Filled: the group of the best."
    if len(machines) > 1:
        note += " Not all were run on the same hardware."
    return cost_chart("Score against cost", spots, "seconds a run", f"{metric} (%)", note)


def share_figures(board: Board, boards: Sequence[Board]) -> list[Markup]:
    """Score by share of labels, a picture for each kind of network that ran under several shares."""
    same = [b for b in boards if b.share and (b.protocol, b.dataset) == (board.protocol, board.dataset)]
    if not board.share or len({b.share for b in same}) < 2:
        return []
    found = []
    for column in board.columns:
        points: dict[str, list[tuple[float, float]]] = {}
        for other in same:
            for theirs in (c for c in other.columns if c.name == column.name):
                for row in theirs.sets[0].rows if theirs.sets else ():
                    value = row.numbers[other.metrics[0]].mean
                    if not row.apart and not math.isnan(value):
                        points.setdefault(row.method, []).append((float(other.share.rstrip(" %")), value))
        if not points:
            continue
        few, many = (max(points, key=lambda name: end(points[name])[1]) for end in (min, max))
        named = {few, many, *({"an"} & set(points))}
        courses = [Course(name, sorted(of), name in named) for name, of in points.items()]
        title = f"Score by share of labels: {column.name}"
        note = f"Named: the best at the lowest and at the highest share, and an. All {len(courses)} methods are drawn."
        found.append(course_chart(title, courses, "share of labels (%)", f"{board.metrics[0]} (%)", note))
    return [figure for figure in found if figure]


def overview(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """A line for each set of rows that are ranked together: where it is, and its best."""
    lines = []
    for board in boards:
        for column in board.columns:
            for ranked in column.sets:
                best = ranked.group or ranked.rows
                kinds = {
                    "protocol": board.protocol,
                    "data set": str(board.dataset["id"]),
                    "share of labels": board.share or "as the protocol",
                    "track": column.track,
                    "backbone": column.backbone,
                    "head": column.head or "linear",
                    "supervision": ranked.supervision or "nothing",
                    "pretraining": ranked.pretraining,
                }
                newest = max(row.newest for row in ranked.rows)
                found = {"board": board, "column": column, "ranked": ranked, "best": best, "lead": best[0]}
                lines.append({**found, "kinds": kinds, "newest": newest})
    return lines


def filters(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """What the lines of an `overview` can be chosen by, each with its values in the order they stand in."""
    names = lines[0]["kinds"] if lines else {}
    return [(name, list(dict.fromkeys(line["kinds"][name] for line in lines))) for name in names]


def overview_data(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """`overview` as data."""
    return [
        {
            "board": line["board"].title,
            **{name.replace(" ", "_"): value for name, value in line["kinds"].items()},
            "precision": line["column"].precision,
            "methods": len(line["ranked"].rows),
            "group": " ".join(row.method for row in line["ranked"].group),
            "first": line["lead"].method,
            "metric": line["board"].metrics[0],
            "value": line["lead"].numbers[line["board"].metrics[0]].mean,
            "chance_best": line["lead"].best,
            "draws": len(line["lead"].draws),
            "newest": line["newest"],
        }
        for line in overview(boards)
    ]


def _label(row: Row) -> str:
    return f"{row.method} ({row.apart})" if row.apart else row.method
