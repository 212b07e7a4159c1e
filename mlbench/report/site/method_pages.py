"""The page of a method: what it is, where it stands, what it came from, its curves and classes on each board."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mlbench.report.lineage import lineage, successors
from mlbench.report.method_card import LEVELS, MethodCard, method_card
from mlbench.report.site.boards import PROTOCOLS, Board, Column, Ranked
from mlbench.report.site.cells import signed
from mlbench.report.site.charts import line_chart
from mlbench.report.site.curves import curves, judged
from mlbench.report.site.pictures import Gain, class_gains, forest
from mlbench.report.site.rendering import render
from mlbench.report.site.rows import Record, Row
from mlbench.significance.comparability import by_draw


@dataclass(frozen=True)
class Place:
    """A row of a method where it stands; without `ranked` it is a submission. `over` is what gains are held against."""

    board: Board
    column: Column
    ranked: Ranked | None
    row: Row
    over: Row | None
    gain: tuple[float, float, float]

    @property
    def gain_text(self) -> str:
        mean, low, high = self.gain
        if math.isnan(mean):
            return "–"
        return signed(mean) + ("" if math.isnan(low) else f" [{signed(low)}, {signed(high)}]")


def places(boards: Sequence[Board]) -> dict[str, list[Place]]:
    """Where each method stands, boards in their order."""
    found: dict[str, list[Place]] = {}
    for board in boards:
        for column in board.columns:
            for place in _places(board, column):
                found.setdefault(place.row.method, []).append(place)
    return found


def _places(board: Board, column: Column) -> Iterator[Place]:
    nothing = math.nan, math.nan, math.nan
    for ranked in column.sets:
        over = ranked.baseline
        for row in ranked.rows:
            known = over is not None and row is not over and row in ranked.tested
            yield Place(board, column, ranked, row, over, ranked.gain(row, over) if known and over else nothing)
    for row in column.submitted:
        yield Place(board, column, None, row, None, nothing)


def method_page(
    method: str,
    found: Sequence[Place],
    claims: Sequence[Mapping[str, Any]],
    known: Collection[str],
    ablated: Collection[str] = (),
) -> str:
    """The page of `method`; links lead to the methods of `known`, which have pages, and to the `ablated`."""
    step = lineage().get(method)
    gains = [
        Gain(_where(p), *p.gain, filled=p.row.group == 1) for p in found if p.over is not None and p.over.method == "an"
    ]
    return render(
        "method.html",
        "../",
        "methods",
        method=method,
        card=card_of(method, found[0].row),
        levels=LEVELS,
        submission=found[0].row.records[0]["provenance"].get("submission"),
        step=step,
        successors=successors(method),
        known=known,
        ablated=method in ablated,
        claims=claims,
        places=found,
        gains=forest("Gain over an, where both ran", gains, "points of the headline metric, 95 % interval"),
        parts=[_part(place) for place in found],
    )


def card_of(method: str, row: Row) -> MethodCard:
    """The card of a method that has `row`; of submitted predictions, what they are called."""
    submission = row.records[0]["provenance"].get("submission")
    return MethodCard((submission["title"],)) if submission else _card(method)


#: Three pages ask for it.
_card = cache(method_card)


def _where(place: Place) -> str:
    """Where a row stands, short."""
    board, column = place.board, place.column
    shown = "" if board.protocol == PROTOCOLS[0] else board.share if board.name != board.title else board.protocol
    return ", ".join(filter(None, [str(board.dataset["id"]), column.track, column.head, shown]))


def list_methods(found: Mapping[str, Sequence[Place]]) -> list[dict[str, Any]]:
    """The methods by name, each with its card, title and places, and on how many boards it is in the first group."""
    listed = []
    for name in sorted(found):
        card = card_of(name, found[name][0].row)
        first = sum(place.row.group == 1 for place in found[name])
        listed.append({"name": name, "card": card, "title": card.docstring[0], "places": found[name], "first": first})
    return listed


def method_lines(found: Sequence[Place]) -> list[dict[str, Any]]:
    """A line for each place of a method, for its table as data."""
    return [
        {
            "board": place.board.title,
            "table": place.column.name,
            "method": place.row.method,
            "supervision": place.row.supervision,
            "tie_group": place.row.group,
            place.board.metrics[0]: place.row.numbers[place.board.metrics[0]].mean,
            "chance_best": place.row.best,
            "gain": place.gain[0],
            "gain_low": place.gain[1],
            "gain_high": place.gain[2],
            "gain_over": place.over.method if place.over else None,
            "draws": len(place.row.draws),
            "seconds": place.row.seconds,
            "newest": place.row.newest,
            "method_version": place.row.version,
            "mlbench": place.row.made_by,
        }
        for place in found
    ]


def _part(place: Place) -> dict[str, Any]:
    """What a method's page shows of one of its rows."""
    board, row = place.board, place.row
    metric = board.metrics[0]
    figures = [
        line_chart(f"{metric} by epoch", curves(row.records, metric), "epoch", f"{metric} (%)"),
        *(
            line_chart(f"Pseudo-labels: {number}", judged(row.records, number), "epoch", f"{number} (%)")
            for number in ("precision", "recall")
        ),
    ]
    ours = _class_means(row.records)
    over = place.over if place.over is not None and place.over is not row else None
    theirs = _class_means(over.records) if over else {}
    difference = {name: ap - theirs.get(name, math.nan) for name, ap in ours.items()}
    if over:
        gains = class_gains(f"Gain over {over.method} by class", _gains(row.records, over.records), "points of AP")
        figures.insert(0, gains)
    last = {
        (record["key"], kind): {"run": record["key"][:8], "kind": kind, "epoch": epoch["epoch"], **found}
        for record in row.records
        for epoch in record["epochs"]
        for kind, found in epoch.get("forensics", {}).items()
    }
    return {
        "place": place,
        "board": board,
        "row": row,
        "over": over,
        "figures": [figure for figure in figures if figure],
        "forensics": list(last.values()),
        "classes": (ours, *((theirs, difference) if theirs else ())) if ours else (),
    }


def _gains(ours: Sequence[Record], theirs: Sequence[Record]) -> dict[str, tuple[float, float, float]]:
    """Gain by class: mean over the draws in common, lowest, highest; without one, of the means."""
    mine, other = by_draw(ours, ""), by_draw(theirs, "")
    pairs = [(record, other[draw]) for draw, record in mine.items() if draw in other]
    names = list(ours[0]["per_class"].get("AP", {}))
    if not pairs or not names:
        return {}
    found = np.array([[_ap(a, name) - _ap(b, name) for name in names] for a, b in pairs])
    columns = zip(names, found.mean(axis=0), found.min(axis=0), found.max(axis=0), strict=True)
    return {name: (float(mean), float(low), float(high)) for name, mean, low, high in columns}


def _ap(record: Record, name: str) -> float:
    value = record["per_class"].get("AP", {}).get(name)
    return math.nan if value is None else value


def _class_means(records: Sequence[Record]) -> dict[str, float]:
    """Average precision by class, mean over runs; NaN where a run has none."""
    names = list(records[0]["per_class"].get("AP", {}))
    values = [[_ap(record, name) for record in records] for name in names]
    return dict(zip(names, np.mean(values, axis=1).tolist() if values else [], strict=True))
