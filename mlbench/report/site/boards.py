"""Leaderboards: a board for each protocol and data set, a row for each method and its settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mlbench.protocol import list_protocols, load_protocol
from mlbench.report.published import PRINTED_AS, load_published
from mlbench.report.tables import lineage_of, records_to_frame
from mlbench.report.ties import Runs, column_ties
from mlbench.significance.crossed import Draw, Interval, interval
from mlbench.store import canonical_json, is_submitted

Record = Mapping[str, Any]


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
    tie group, as "1" or "B2"; empty where nothing was tested. compared : what a row shares with those it is ranked
    with. best, rank : chance of being the best of these, and mean rank with the ends of its 95 % interval.
    """

    method: str
    origin: str
    records: list[Record]
    numbers: dict[str, Number]
    draws: dict[Draw, float]
    compared: tuple[str, ...]
    tie: str = ""
    best: float = math.nan
    rank: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Runs:
        keys = (record["key"] for record in self.records)
        return {draw: (key, value) for (draw, value), key in zip(self.draws.items(), keys, strict=True)}

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
    def grid(self) -> str:
        """Seeds x masks where each seed met each mask, else the number of runs."""
        seeds, masks = {s for s, _ in self.draws}, {m for _, m in self.draws}
        full = len(self.records) == len(seeds) * len(masks) > 1
        return f"{len(self.records)} ({len(seeds)}×{len(masks)})" if full else str(len(self.records))


@dataclass
class Board:
    """One protocol on one data set. `sets` explains the letters of tie groups; `published` are rows as printed."""

    number: int
    protocol: str
    dataset: Mapping[str, Any]
    about: str
    metrics: tuple[str, ...]
    rows: list[Row]
    published: list[Mapping[str, Any]]
    sets: dict[str, str]

    @property
    def title(self) -> str:
        return f"{self.protocol} on {self.dataset['id']}"

    @property
    def runs(self) -> int:
        return sum(len(row.records) for row in self.rows)


def make_boards(records: Sequence[Record]) -> list[Board]:
    """The boards of `records` (schema 1), by protocol and data set; rows best first.

    Runs that share all settings but what a repetition draws are one row. Rows are tested against each other where data,
    protocol, track, backbone, definitions and supervision are the same; submissions are never ranked, since what they
    say of these is claimed. UsageError for a record given twice.
    """
    if not records:
        return []
    lineage, printed = lineage_of(records_to_frame(records)), load_published()
    grouped: dict[tuple[str, ...], dict[str, list[Record]]] = {}
    for record in records:
        identity = record["identity"]
        board = identity["protocol"], identity["dataset"]["id"], _text(identity["dataset"])
        row = lineage[record["key"]] + _text(_stated(record["definitions"]))
        place = (*board, identity["protocol_sha256"], str(identity["harness"]))
        grouped.setdefault(place, {}).setdefault(row, []).append(record)
    return [
        _board(number, list(rows.values()), printed)
        for number, (_, rows) in enumerate(sorted(grouped.items(), key=lambda item: item[0]), start=1)
    ]


def _board(number: int, groups: list[list[Record]], printed: pd.DataFrame) -> Board:
    first = groups[0][0]
    protocol, dataset = first["identity"]["protocol"], first["identity"]["dataset"]
    metrics = _metrics(protocol, [record for group in groups for record in group])
    rows = [_row(group, metrics) for group in groups]
    rows.sort(key=lambda row: (-_sortable(row.numbers[metrics[0]].mean), row.method, row.settings))
    about = (
        f"Data set version {dataset['version']}, fingerprint {dataset['fingerprint'][:12]}; protocol "
        f"{first['identity']['protocol_sha256'][:12]}; harness {first['identity']['harness']}."
    )
    found = _published(printed, protocol, dataset["id"], metrics[0])
    return Board(number, protocol, dataset, about, metrics, rows, found, _rank(rows, metrics[0]))


def _row(records: list[Record], metrics: Sequence[str]) -> Row:
    records = sorted(records, key=lambda r: (r["identity"]["repetition"], r["identity"]["mask_seed"]))
    first = records[0]
    identity = first["identity"]
    pairs = [(record["identity"]["repetition"], record["identity"]["mask_seed"]) for record in records]
    numbers, draws = {}, {}
    for metric in reversed(metrics):
        values = [_value(record, metric) for record in records]
        draws = dict(zip(pairs, values, strict=True))
        numbers[metric] = _number(values, draws)
    submitted = is_submitted(dict(first))
    supervision = "+".join(identity["method"]["supervision"])
    compared = f"track {identity['track']}", f"backbone {identity['backbone']['name']}", f"supervision {supervision}"
    apart = _text([identity["backbone"], _stated(first["definitions"])])
    row = Row(
        identity["method"]["name"],
        "submitted" if submitted else "reproduced",
        records,
        numbers,
        draws,
        (*compared, apart),
    )
    if len(draws) < len(records):
        row.notes.append("several runs of one repetition and mask seed: not ranked")
    undefined = sum(math.isnan(value) for value in draws.values())
    if undefined:
        row.notes.append(f"{metrics[0]} undefined in {undefined} of {len(records)} runs")
    return row


def _number(values: list[float], draws: Mapping[Draw, float]) -> Number:
    array = np.array(values)
    sd = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    undefined = any(math.isnan(value) for value in draws.values())
    found = Interval(*(math.nan,) * 4) if undefined else interval(draws)
    return Number(float(array.mean()), sd, found)


def _rank(rows: Sequence[Row], metric: str) -> dict[str, str]:
    """Give rows their tie groups; returns what the letters of several sets stand for."""
    sets: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.origin == "reproduced" and not math.isnan(row.numbers[metric].mean) and not row.notes:
            sets.setdefault(row.compared, []).append(row)
    # A row without two runs in common with another of its set cannot be told from it: it is in no group.
    ties = {compared: column_ties([row.runs for row in found]) for compared, found in sets.items()}
    tested = [compared for compared, found in ties.items() if any(found.groups)]
    letters: dict[str, str] = {}
    for number, compared in enumerate(tested):
        letter = _letter(number) if len(tested) > 1 else ""
        letters[letter] = ", ".join(compared[:-1])
        standing = ties[compared].standing
        for i, (row, group) in enumerate(zip(sets[compared], ties[compared].groups, strict=True)):
            row.tie = f"{letter}{group}" if group else ""
            row.best, row.rank = float(standing.best[i]), (float(standing.rank[i]), standing.low[i], standing.high[i])
    return letters


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def _metrics(protocol: str, records: Iterable[Record]) -> tuple[str, ...]:
    """The headline metric and those of the protocol's own table, as far as a record has them."""
    names = dict.fromkeys(str(record["definitions"].get("headline", "mAP")) for record in records)
    if protocol in list_protocols():
        names |= dict.fromkeys(load_protocol(protocol).table.metrics)
    present = {name for record in records for name in record["results"]["test"]}
    return tuple(name for name in names if name in present) or tuple(names)[:1]


def _published(printed: pd.DataFrame, protocol: str, dataset: str, metric: str) -> list[Mapping[str, Any]]:
    here = printed["dataset"].eq(PRINTED_AS.get(dataset, dataset)) & printed["protocol"].eq(protocol)
    rows = printed[here & printed["metric"].eq(metric) & printed["group"].isin(["all", "All"])]
    rows = rows.drop_duplicates(["method", "printed", "backbone", "definition", "paper"])
    return rows.sort_values("value", ascending=False, kind="stable").to_dict("records")  # type: ignore[return-value]


def _value(record: Record, metric: str) -> float:
    value = record["results"]["test"].get(metric)
    return math.nan if value is None else float(value)


def _sortable(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _stated(definitions: Mapping[str, Any]) -> dict[str, Any]:
    """What is said; an entry of null means what its absence means in older records."""
    return {name: value for name, value in definitions.items() if value is not None}


def _text(value: object) -> str:
    return canonical_json(value).decode()
