"""How far our number in a cell lies from the printed one: the definition's part, and the rest with its interval."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from scipy import stats

from mlbench.datasets.recorded import is_of_miniature
from mlbench.report.cards.claims import Card, load_card
from mlbench.report.cards.judge import Outcome, judge
from mlbench.report.cells import value_of
from mlbench.report.layouts import Column, columns_of
from mlbench.report.paper_tables import our_metric
from mlbench.reproduce.frozen import Frozen
from mlbench.reproduce.plans import Plan, Printed
from mlbench.significance.comparability import by_draw
from mlbench.store.papers import load_published

Record = Mapping[str, Any]
#: Of the interval of the rest.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Distance:
    """One cell of a printed table. Numbers are percentages or points; NaN where there is none.

    data : what ours was run on. draws : of ours; `ours` is their mean by our definition, `sd` their sample deviation.
    definition : ours by our definition minus ours by the printed number's. rest : ours by the printed number's
    definition minus the print; ours - printed = definition + rest. low, high : of the rest, over draws, by Student's t:
    the print is taken as exact, since it does not come with its spread. why : why there is no distance.
    """

    printed: Printed
    column: str
    data: str
    metric: str
    text: str
    value: float
    draws: int = 0
    ours: float = math.nan
    sd: float = math.nan
    definition: float = math.nan
    rest: float = math.nan
    low: float = math.nan
    high: float = math.nan
    why: str = ""

    @property
    def holds_print(self) -> bool | None:
        """Whether the interval of the rest holds 0, where there is one."""
        return None if math.isnan(self.low) else self.low <= 0 <= self.high


def distances(frozen: Frozen, plan: Plan) -> list[Distance]:
    """Every printed number of the rows that were asked for, in the table's order."""
    chosen = frozen.chosen(plan.table)
    table = load_published(plan.paper)
    numbers = table[table["table"] == plan.layout.printed].to_dict("records")
    moved = columns_of(plan.layout, chosen.in_place)
    asked = dict.fromkeys(entry.printed for entry in frozen.entries if entry.plan is plan)
    found = []
    for printed in asked:
        place = printed.row, printed.method, printed.backbone
        runs = [frozen.records[key] for key in sorted(chosen.runs.get(place, ())) if key in frozen.records]
        for column, ours in zip(plan.layout.columns, moved, strict=True):
            which = (*place, column.dataset, column.group, column.metric)
            number = next((n for n in numbers if _which(n) == which), None)
            if number is not None:
                reason = chosen.reasons.get((place, column.data), "")
                found.append(distance(printed, ours, number, _on(runs, ours), reason))
    return found


def _which(number: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(number[name]) for name in ("row", "method", "backbone", "dataset", "group", "metric"))


def _on(runs: Iterable[Record], column: Column) -> list[Record]:
    return [
        r for r in runs if (r["identity"]["dataset"]["id"], r["identity"]["protocol"]) == (column.data, column.protocol)
    ]


def distance(
    printed: Printed, column: Column, number: Mapping[Any, Any], runs: Sequence[Record], reason: str = ""
) -> Distance:
    """The distance of `runs`, draws of one row on one data set, from a printed number (a row of ``results/papers``)."""
    title = f"{column.over} {column.title}".strip()
    base = Distance(printed, title, column.data, column.ours, str(number["printed"]), float(number["value"]))
    if not runs:
        return _with(base, why=reason or "no run yet")
    drawn = by_draw(runs, f"row '{printed.row}'")
    theirs, same = our_metric(str(number["definition"]), column)
    mine = np.array([value_of(record, column.ours) for record in drawn.values()])
    by_theirs = np.array([value_of(record, theirs) for record in drawn.values()])
    base = _with(base, draws=len(mine), ours=float(mine.mean()), sd=_sd(mine))
    if np.isnan(mine).any():
        base = _with(base, ours=math.nan, sd=math.nan)
        return _with(base, why=f"{column.ours} is undefined in {np.isnan(mine).sum()} of {len(mine)} runs")
    if any(is_of_miniature(record) for record in runs):
        return _with(base, why="on a miniature: not held against the print")
    if column.stands_for:
        return _with(base, why=f"on {column.data} in place of {column.stands_for}: not held against the print")
    if not same:
        return _with(base, why="the print counts by a definition that mlbench has not")
    if column.images and number["dataset_version"] not in column.images:
        return _with(base, why=f"the print is of other images ({number['dataset_version']})")
    rest = by_theirs - float(number["value"])
    low, high = _interval(rest)
    told = "undecidable" not in str(number["definition"])
    return _with(
        base,
        definition=float((mine - by_theirs).mean()) if told else math.nan,
        rest=float(rest.mean()),
        low=low,
        high=high,
        why="" if told else "the print does not say by which definition: all of it stands in the rest",
    )


def _with(base: Distance, **changes: Any) -> Distance:
    return Distance(**{**base.__dict__, **changes})


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Of the mean of independent draws; NaN for one draw, or where a value is undefined."""
    if len(values) < 2 or np.isnan(values).any():
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * _sd(values) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def verdicts(frozen: Frozen, plan: Plan, records: Iterable[Record]) -> list[tuple[Card, Outcome]]:
    """What `records` say about the claims on file, where these are tested on the data, track and network run here."""
    places = {
        (entry.protocol, entry.dataset, entry.track, entry.backbone)
        for entry, keys in zip(frozen.entries, frozen.keys, strict=True)
        if entry.plan is plan and any(key in frozen.records for key in keys)
    }
    methods = {printed.method for printed in plan.printed}
    found, records = [], list(records)
    for card in _cards():
        here = {
            name
            for name, setting in card.settings.items()
            if (card.protocol, setting.dataset, setting.track, setting.backbone) in places
        }
        if here:
            own = [r for r in records if r["identity"]["protocol"] == card.protocol]
            found += [(card, o) for o in judge(card, own) if o.setting in here and o.method in methods]
    return found


@functools.cache
def _cards() -> tuple[Card, ...]:
    names = sorted(f.name for f in (files("mlbench.results") / "cards").iterdir() if f.name.endswith(".toml"))
    return tuple(load_card(name.removesuffix(".toml")) for name in names)
