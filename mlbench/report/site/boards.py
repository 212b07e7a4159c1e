"""Leaderboards: a board for each protocol and data set, a row for each method and its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mlbench.datasets.recorded import is_of_miniature
from mlbench.errors import UsageError
from mlbench.evaluation.pretraining import PRETRAINING, pretraining_of
from mlbench.protocol import protocol_named
from mlbench.report.tables import check_records, value_of
from mlbench.report.ties import Runs, column_ties
from mlbench.significance.comparability import (
    KNOWN_OF_SUBMITTED,
    RANKED_APART,
    among,
    annotation_text,
    as_written,
    by_draw,
    column_of,
    draw_of,
    ranked_with,
    rows_of,
    supervision_of,
)
from mlbench.significance.crossed import Draw, Interval, interval
from mlbench.store import SUBMITTED
from mlbench.store.papers import PRINTED_AS, load_published

Record = Mapping[str, Any]
#: What the runs of a board share, by dotted name, sorted.
_Place = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Number:
    """A metric over the runs of a row, in percent; NaN where undefined. `sd` has ddof 1, the interval is of 95 %."""

    mean: float
    sd: float
    interval: Interval


@dataclass
class Row:
    """A method with its settings on one board.

    origin : "reproduced" (trained by this code) or "submitted" (predictions scored here). tie : set and number of the
    tie group, as "1" or "B2"; empty where nothing was tested. draws : its values by draw; empty where two runs of one
    draw stand in the row, which is then not ranked. compared : what a row shares with those it is ranked with, for
    people; ranked : the same whole, see `ranked_with`. best, rank : chance of being the best of these, and mean rank
    with the ends of its 95 % interval.
    """

    method: str
    origin: str
    records: list[Record]
    numbers: dict[str, Number]
    draws: dict[Draw, float]
    compared: str
    ranked: tuple[str, ...]
    tie: str = ""
    best: float = math.nan
    rank: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Runs:
        keys: dict[Draw, str] = {}
        for record in self.records:
            keys.setdefault(draw_of(record), record["key"])
        return {draw: (keys[draw], value) for draw, value in self.draws.items()}

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings of its first run; the others differ in what a repetition draws."""
        identity: Mapping[str, Any] = self.records[0]["identity"]
        return identity

    @property
    def settings(self) -> str:
        """Version and hyperparameters in a line."""
        own = self.identity["method"]
        values = {k: f"{v:g}" if isinstance(v, float) else v for k, v in own["hyperparameters"].items()}
        return ", ".join([f"version {own['version']}", *(f"{name}={value}" for name, value in values.items())])

    @property
    def newest(self) -> str:
        return max(str(record["provenance"]["started"]) for record in self.records)

    @property
    def hardware(self) -> str:
        found = (record["provenance"]["hardware"] for record in self.records)
        return " / ".join(dict.fromkeys(h["cpu"] if h["accelerator"] == "none" else h["accelerator"] for h in found))

    @property
    def seconds(self) -> float:
        """Mean wall time of a run."""
        return float(np.mean([record["provenance"]["seconds"] for record in self.records]))

    @property
    def memory(self) -> float:
        """Highest peak memory of a run in MiB; NaN where none was measured."""
        found = [record["provenance"].get("peak_memory_mib") for record in self.records]
        return max((float(value) for value in found if value is not None), default=math.nan)

    @property
    def labels(self) -> float:
        """Mean number of labels that a run was given, those of selection included; NaN where not known."""
        used = (record["supervision"] for record in self.records)
        counts = [(u.get("observed_labels"), u.get("selection_labels")) for u in used]
        return float(np.mean([math.nan if None in pair else sum(pair) for pair in counts]))

    @property
    def chance(self) -> str:
        """The chance of being the best, in words; a dash where nothing was tested."""
        if math.isnan(self.best):
            return "–"
        return "below 1 %" if self.best < 0.01 else f"{100 * self.best:.0f} %"

    @property
    def mean_rank(self) -> str:
        """The mean rank with its interval, in words; a dash where nothing was tested."""
        mean, low, high = self.rank
        return "–" if math.isnan(mean) else f"{mean:.1f} ({low:.0f} to {high:.0f})"

    @property
    def grid(self) -> str:
        """The number of draws, and seeds x masks where each seed met each mask."""
        if not self.draws:
            return str(len(self.records))
        seeds, masks = {s for s, _ in self.draws}, {m for _, m in self.draws}
        if None in masks:
            return f"{len(self.draws)} (no mask)" if len(self.records) > len(self.draws) else str(len(self.draws))
        full = len(self.draws) == len(seeds) * len(masks) > 1
        return f"{len(self.draws)} ({len(seeds)}×{len(masks)})" if full else str(len(self.draws))


@dataclass
class Board:
    """One protocol and annotation on one data set.

    `title` tells it from the other boards; `sets` explains the letters of tie groups; `published` are rows as printed.
    """

    number: int
    protocol: str
    dataset: Mapping[str, Any]
    about: str
    metrics: tuple[str, ...]
    rows: list[Row]
    published: list[Mapping[str, Any]]
    sets: dict[str, str]
    title: str

    @property
    def runs(self) -> int:
        return sum(len(row.records) for row in self.rows)

    def repeats(self, row: Row) -> bool:
        """Whether only its settings tell `row` from another one."""
        return [(other.method, other.compared) for other in self.rows].count((row.method, row.compared)) > 1


def make_boards(records: Sequence[Record]) -> list[Board]:
    """The boards of `records` (schema 1), by protocol, annotation and data set; rows best first.

    Runs that share all settings but what a repetition draws are one row. A board holds what `column_of` says runs must
    share, but for track, backbone, precision and definitions: rows that differ in these, or in supervision, are ranked
    apart. Submissions are never ranked, since what they say of these is claimed; they stand on the board of their
    protocol as it is written. UsageError for a record given twice.
    """
    records = check_records(records)
    rows, printed = rows_of(records), load_published()
    columns = {record["key"]: column_of(record) for record in records}
    grouped: dict[_Place, dict[str, list[Record]]] = {}
    for record in sorted(records, key=_submitted):
        column = columns[record["key"]]
        place = tuple(sorted((k, text) for k, text in column.items() if not among(k, RANKED_APART)))
        if _submitted(record):
            place = _home(place, grouped)
        grouped.setdefault(place, {}).setdefault(rows[record["key"]], []).append(record)
    ordered = sorted(
        grouped.items(), key=lambda item: (dict(item[0])["protocol"], dict(item[0])["dataset.id"], item[0])
    )
    titles = _titles([next(iter(groups.values()))[0] for _, groups in ordered])
    return [
        _board(number, list(groups.values()), printed, title)
        for number, ((_, groups), title) in enumerate(zip(ordered, titles, strict=True), start=1)
    ]


def _submitted(record: Record) -> bool:
    return str(record["identity"]["method"]["name"]).startswith(SUBMITTED)


def _home(known: _Place, boards: Mapping[_Place, Mapping[str, list[Record]]]) -> _Place:
    """The board of a submission with column `known`: that of its protocol as written, else one of its own."""
    fitting = [place for place in boards if _known(place) == known]
    written = [place for place in fitting if as_written(next(iter(boards[place].values()))[0])]
    return written[0] if written else known


def _known(place: _Place) -> _Place:
    return tuple((name, text) for name, text in place if among(name, KNOWN_OF_SUBMITTED))


def _titles(firsts: Sequence[Record]) -> list[str]:
    """A title for each board, given by one of its runs: with the annotation where that is not the protocol's own."""
    plain = [
        f"{r['identity']['protocol']} on {r['identity']['dataset']['id']}"
        + (" (miniature, not the data set)" if is_of_miniature(r) else "")
        for r in firsts
    ]
    several = {title for title in plain if plain.count(title) > 1}
    return [
        f"{title}, labels: {annotation_text(record)}" if title in several or not as_written(record) else title
        for title, record in zip(plain, firsts, strict=True)
    ]


def _board(number: int, groups: list[list[Record]], printed: pd.DataFrame, title: str) -> Board:
    first = groups[0][0]
    identity = first["identity"]
    protocol, dataset = identity["protocol"], identity["dataset"]
    metrics = _metrics(protocol, [record for group in groups for record in group])
    rows = [_row(group, metrics) for group in groups]
    rows.sort(key=lambda row: (-_sortable(row.numbers[metrics[0]].mean), row.method, row.settings))
    about = (
        f"Data set version {dataset['version']}, fingerprint {dataset['fingerprint'][:12]}; protocol "
        f"{identity['protocol_sha256'][:12]}; labels: {annotation_text(first)}; harness {identity['harness']}."
    )
    found = (
        _published(printed, protocol, dataset["id"], metrics[0])
        if as_written(first) and not is_of_miniature(first)
        else []
    )
    return Board(number, protocol, dataset, about, metrics, rows, found, _rank(rows, metrics[0]), title)


def _row(records: list[Record], metrics: Sequence[str]) -> Row:
    records = sorted(records, key=lambda r: (r["identity"]["repetition"], r["identity"]["mask_seed"]))
    first = records[0]
    identity = first["identity"]
    notes = []
    try:
        drawn = by_draw(records, "")
    except UsageError:
        drawn = {}
        notes.append("several runs of one repetition and mask seed: not ranked")
    else:
        if len(drawn) < len(records):
            notes.append(f"sees no mask: {len(records)} runs count as one for each repetition")
    shown = list(drawn.values()) or records
    # Random starts and ImageNet's weights are told apart by the backbone already.
    given = pretraining_of(first)
    pretraining = f", pretraining {given}" if given == PRETRAINING[-1] else ""
    numbers = {metric: _number([value_of(record, metric) for record in shown], list(drawn)) for metric in metrics}
    draws = {draw: value_of(record, metrics[0]) for draw, record in drawn.items()}
    undefined = sum(math.isnan(value_of(record, metrics[0])) for record in shown)
    if undefined:
        notes.append(f"{metrics[0]} undefined in {undefined} of {len(shown)} runs")
    return Row(
        identity["method"]["name"],
        "submitted" if _submitted(first) else "reproduced",
        records,
        numbers,
        draws,
        f"track {identity['track']}, backbone {identity['backbone']['name']}, {identity['precision']}, supervision "
        f"{supervision_of(first)}{pretraining}",
        ranked_with(first),
        notes=notes,
    )


def _number(values: Sequence[float], drawn: Sequence[Draw]) -> Number:
    """`values` in the order of `drawn`, which is empty where they cannot be told apart by draw."""
    array = np.array(values)
    draws = dict(zip(drawn, values, strict=True)) if drawn else {}
    sd = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    undefined = not draws or any(math.isnan(value) for value in draws.values())
    return Number(float(array.mean()), sd, Interval(*(math.nan,) * 4) if undefined else interval(draws))


def _rank(rows: Sequence[Row], metric: str) -> dict[str, str]:
    """Give rows their tie groups; returns what the letters of several sets stand for."""
    sets: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.origin == "reproduced" and row.draws and not math.isnan(row.numbers[metric].mean):
            sets.setdefault(row.ranked, []).append(row)
    # A row without two runs in common with another of its set cannot be told from it: it is in no group.
    ties = {ranked: column_ties([row.runs for row in found]) for ranked, found in sets.items()}
    tested = [ranked for ranked, found in ties.items() if any(found.groups)]
    letters: dict[str, str] = {}
    for number, ranked in enumerate(tested):
        letter = _letter(number) if len(tested) > 1 else ""
        letters[letter] = sets[ranked][0].compared
        standing = ties[ranked].standing
        for i, (row, group) in enumerate(zip(sets[ranked], ties[ranked].groups, strict=True)):
            row.tie = f"{letter}{group}" if group else ""
            row.best, row.rank = float(standing.best[i]), (float(standing.rank[i]), standing.low[i], standing.high[i])
    return letters


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def _metrics(protocol: str, records: Sequence[Record]) -> tuple[str, ...]:
    """The headline metric and those of the protocol's own table, as far as a record has them."""
    names = dict.fromkeys(str(record["definitions"].get("headline", "mAP")) for record in records)
    with suppress(UsageError):  # a person's own protocol, of a record that does not hold it
        names |= dict.fromkeys(protocol_named(protocol, records).table.metrics)
    present = {name for record in records for name in record["results"]["test"]}
    return tuple(name for name in names if name in present) or tuple(names)[:1]


def _published(printed: pd.DataFrame, protocol: str, dataset: str, metric: str) -> list[Mapping[str, Any]]:
    here = printed["dataset"].eq(PRINTED_AS.get(dataset, dataset)) & printed["protocol"].eq(protocol)
    rows = printed[here & printed["metric"].eq(metric) & printed["group"].isin(["all", "All"])]
    rows = rows.drop_duplicates(["method", "printed", "backbone", "definition"])
    return rows.sort_values("value", ascending=False, kind="stable").to_dict("records")  # type: ignore[return-value]


def _sortable(value: float) -> float:
    return -math.inf if math.isnan(value) else value
