"""Leaderboards: a board for each protocol, annotation and data set, on it a table for each kind of network.

In a table stand, each by itself, the rows that are ranked together.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mlbench.datasets.recorded import is_of_miniature
from mlbench.errors import UsageError
from mlbench.evaluation.pretraining import PRETRAINING
from mlbench.protocol import protocol_named
from mlbench.report.captions import Marks
from mlbench.report.cells import check_records
from mlbench.report.power import LEVEL, POWER
from mlbench.report.site.rows import Record, Row, make_row
from mlbench.report.ties import Ties, column_ties
from mlbench.significance.comparability import (
    KNOWN_OF_SUBMITTED,
    RANKED_APART,
    among,
    annotation_text,
    as_written,
    column_of,
    differing,
    head_of,
    is_submitted_name,
    rows_of,
    settings_of,
    shipped_protocol,
)
from mlbench.significance.power import draws_needed
from mlbench.store.papers import PRINTED_AS, load_published

#: What the runs of a board, or of a table on it, share, by dotted name, sorted.
_Place = tuple[tuple[str, str], ...]
#: Protocols that come first, the headline first; the others follow by name.
PROTOCOLS = ("single_positive", "partial", "groups", "full")
#: The headline data set, of real photographs, comes first; the synthetic ones last.
_FIRST, _LAST = "corel5k-199", ("scenes-2", "scenes")
#: Methods that gains are held against, the first that a set has.
BASELINES = ("an", "bce", "wbce")
#: What methods are given, in words.
GIVEN = {
    "observed": "the observed labels",
    "observed+label_count": "the observed labels and how often each class is there",
    "observed+boxes": "the observed labels and boxes",
    "observed+tags": "the observed labels and tags",
    "observed+vl_scores": "the observed labels and scores of a vision-language model",
    "observed+vl_scores+label_count": "the observed labels, scores of a vision-language model, and class counts",
    "vl_scores": "scores of a vision-language model, no label",
    "oracle_negatives": "the observed positives and all true negatives",
    "full": "all labels",
    "": "nothing",
}
#: More draws than this are no plan.
_MOST = 9999


@dataclass
class Ranked:
    """Rows that are ranked together, best first; `ties` has its entries in the order of `tested`."""

    supervision: str
    pretraining: str
    rows: list[Row]
    tested: list[Row]
    ties: Ties

    @property
    def given(self) -> str:
        """What its methods are given, in words."""
        more = " after pretraining on images with texts" if self.pretraining == PRETRAINING[-1] else ""
        return GIVEN.get(self.supervision, self.supervision.replace("+", ", ").replace("_", " ")) + more

    @property
    def group(self) -> list[Row]:
        """The group of the best, the likeliest first; empty where nothing was tested."""
        return sorted((row for row in self.rows if row.group == 1), key=lambda row: -np.nan_to_num(row.best))

    @property
    def baseline(self) -> Row | None:
        """The row that gains are held against: the first of `BASELINES` that was tested."""
        by_name = {row.method: row for row in reversed(self.tested) if row.group is not None}
        return next((by_name[name] for name in BASELINES if name in by_name), None)

    def gain(self, row: Row, over: Row) -> tuple[float, float, float]:
        """Mean of the paired gaps of two tested rows, and the ends of its 95 % interval; NaN without a test."""
        at = self.tested.index(row), self.tested.index(over)
        found = self.ties.gaps
        return float(found.gap[at]), float(found.low[at]), float(found.high[at])


@dataclass
class Column:
    """A table of a board: rows of one track, backbone, head, precision and set of definitions; `slug` is its anchor."""

    slug: str
    track: str
    backbone: str
    head: str
    precision: str
    more: str
    sets: list[Ranked]
    submitted: list[Row] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        return [row for ranked in self.sets for row in ranked.rows] + self.submitted

    @property
    def name(self) -> str:
        if not self.sets:
            return "submitted predictions"
        parts = [f"track {self.track}", self.backbone, self.head and f"head {self.head}", self.precision, self.more]
        return ", ".join(filter(None, parts))

    @property
    def bodies(self) -> list[tuple[str, list[Row]]]:
        """What stands in a part of the table, and its rows."""
        parts = [(f"Given {ranked.given}", ranked.rows) for ranked in self.sets]
        return parts + ([("Submitted predictions, not ranked", self.submitted)] if self.submitted else [])

    @property
    def measures(self) -> list[str]:
        """Registered metrics that a row was measured by, calibration first."""
        names = {name for row in self.rows for name in row.measures}
        return sorted(names, key=lambda name: (not name.lower().startswith("ece"), name))


@dataclass
class Board:
    """One protocol and annotation on one data set.

    `title` tells it from the other boards, `slug` is its address; `share` is the share of labels where the annotation
    has one, else empty. `published` are rows as printed.
    """

    slug: str
    title: str
    protocol: str
    protocol_title: str
    share: str
    dataset: Mapping[str, Any]
    about: str
    metrics: tuple[str, ...]
    columns: list[Column]
    published: list[Mapping[str, Any]]

    @property
    def rows(self) -> list[Row]:
        """All rows, best first."""
        rows = [row for column in self.columns for row in column.rows]
        return sorted(rows, key=lambda row: _order(row, self.metrics[0]))

    @property
    def name(self) -> str:
        """`title`, shorter where a share of labels is all that it says of them."""
        plain, _, labels = self.title.partition(", labels: ")
        return f"{plain}, {self.share} of labels" if self.share and labels.count(",") == 1 else self.title

    @property
    def runs(self) -> int:
        return sum(len(row.records) for column in self.columns for row in column.rows)


def make_boards(records: Sequence[Record]) -> list[Board]:
    """The boards of `records` (schema 1), by protocol, annotation and data set, the headline protocol first.

    Runs that share all settings but what a repetition draws are one row. A board holds what `column_of` says runs must
    share, but for `RANKED_APART`: track, backbone, head, precision and definitions, which have a table each. Rows that
    differ in supervision or pretraining are ranked apart within a table. Submissions are never ranked, since what they
    say of these is claimed; they stand on the board of their protocol as it is written. UsageError for a record given
    twice.
    """
    records = check_records(records)
    rows, printed = rows_of(records), load_published()
    columns = {record["key"]: column_of(record) for record in records}
    grouped: dict[_Place, dict[_Place, dict[str, list[Record]]]] = {}
    for record in sorted(records, key=_submitted):
        column = columns[record["key"]].items()
        place = tuple(sorted((name, text) for name, text in column if not among(name, RANKED_APART)))
        within = tuple(sorted((name, text) for name, text in column if among(name, RANKED_APART)))
        if _submitted(record):
            place, within = _home(place, grouped), ()
        grouped.setdefault(place, {}).setdefault(within, {}).setdefault(rows[record["key"]], []).append(record)
    ordered = sorted(grouped.items(), key=lambda item: _place_order(item[0]))
    firsts = [_first(groups) for _, groups in ordered]
    titles = _titles(firsts)
    slugs = _slugs(titles, [place for place, _ in ordered])
    return [
        _board(slug, title, groups, printed) for (_, groups), title, slug in zip(ordered, titles, slugs, strict=True)
    ]


def slug_of(text: str) -> str:
    """`text` as a part of a file's name, short; another text may have the same."""
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-.")[:60] or "unnamed"


def _submitted(record: Record) -> bool:
    return is_submitted_name(record["identity"]["method"]["name"])


def _first(groups: Mapping[_Place, Mapping[str, list[Record]]]) -> Record:
    return next(iter(next(iter(groups.values())).values()))[0]


def _place_order(place: _Place) -> tuple[Any, ...]:
    own = dict(place)
    protocol, data = own["protocol"], own["dataset.id"]
    known = PROTOCOLS.index(protocol) if protocol in PROTOCOLS else len(PROTOCOLS)
    return known, protocol, data in _LAST, data != _FIRST, data, place


def _home(known: _Place, boards: Mapping[_Place, Any]) -> _Place:
    """The board of a submission with column `known`: that of its protocol as written, else one of its own."""
    fitting = [place for place in boards if _known(place) == known]
    written = [place for place in fitting if as_written(_first(boards[place]))]
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


def _slugs(titles: Sequence[str], places: Sequence[_Place]) -> list[str]:
    """Addresses that stay when other boards come: of the title; where two have the same, or it is hostile, of all."""
    plain = [slug_of(title) for title in titles]
    counts = Counter(plain)
    return [
        slug
        if counts[slug] == 1 and re.fullmatch(r"[\w., :-]{1,60}", title, re.ASCII)
        else f"{slug}-{hashlib.sha256(json.dumps([title, place]).encode()).hexdigest()[:10]}"
        for slug, title, place in zip(plain, titles, places, strict=True)
    ]


def _board(slug: str, title: str, groups: Mapping[_Place, Mapping[str, list[Record]]], printed: pd.DataFrame) -> Board:
    first = _first(groups)
    identity = first["identity"]
    protocol, dataset = identity["protocol"], identity["dataset"]
    every = [record for rows in groups.values() for records in rows.values() for record in records]
    metrics = _metrics(protocol, every)
    definitions = {name for within in groups for name, _ in within if name.startswith("definitions.")}
    texts = {name: {dict(within).get(name, "none") for within in groups if within} for name in definitions}
    differ = sorted(name for name, found in texts.items() if len(found) > 1)
    columns = [_column(within, list(rows.values()), metrics[0], metrics, differ) for within, rows in groups.items()]
    columns.sort(key=lambda column: (not column.sets, -sum(len(r.rows) for r in column.sets), column.name))
    if not columns[-1].sets and len(columns) > 1:  # submissions stand below the first table
        columns[0].submitted = columns.pop().submitted
    as_printed = as_written(first) and not is_of_miniature(first)
    published = _published(printed, protocol, dataset["id"], metrics[0]) if as_printed else []
    for column, anchor in zip(columns, _anchors(columns), strict=True):
        column.slug = anchor
    about = (
        f"Data set version {dataset['version']}, fingerprint {dataset['fingerprint'][:12]}; protocol "
        f"{identity['protocol_sha256'][:12]}; labels: {annotation_text(first)}; harness {identity['harness']}."
    )
    shipped = shipped_protocol(protocol)
    share = identity.get("mask", {}).get("params", {}).get("keep")
    shown = "" if not isinstance(share, int | float) else f"{100 * share:g} %"
    return Board(
        slug,
        title,
        protocol,
        shipped.title if shipped else "",
        shown,
        dataset,
        about,
        metrics,
        columns,
        published,
    )


def _anchors(columns: Sequence[Column]) -> list[str]:
    plain = [slug_of(column.name) for column in columns]
    return [f"{slug}-{plain[:i].count(slug) + 1}" if slug in plain[:i] else slug for i, slug in enumerate(plain)]


def _column(
    within: _Place, groups: Sequence[list[Record]], metric: str, metrics: Sequence[str], differ: Sequence[str]
) -> Column:
    rows = sorted((make_row(group, metrics) for group in groups), key=lambda row: _order(row, metric))
    _tell_apart(rows)
    own = dict(within)
    first = rows[0].records[0]
    identity = first["identity"]
    column = Column(
        "",
        str(identity["track"]),
        str(identity["backbone"]["name"]),
        head_of(first),
        str(identity["precision"]),
        ", ".join(f"{name.removeprefix('definitions.')} {own.get(name, 'none')}" for name in differ),
        [],
        [row for row in rows if row.origin == "submitted"],
    )
    sets: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.origin == "reproduced":
            sets.setdefault(row.ranked, []).append(row)
    column.sets = [_ranked(found, metric) for found in sets.values()]
    column.sets.sort(key=lambda s: (s.supervision != "observed", PRETRAINING.index(s.pretraining), s.supervision))
    column.notes = _notes(column, metric)
    return column


def _tell_apart(rows: Sequence[Row]) -> None:
    """Say of each row what tells it from others of its method that are ranked with it."""
    twins: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        twins.setdefault((row.method, row.ranked), []).append(row)
    for same in twins.values():
        if len(same) > 1:
            firsts = [row.records[0] for row in same]
            found = differing(firsts, settings_of)
            names = sorted(found, key=lambda name: (not name.startswith("method."), name))
            most = {name: max(texts, key=partial(_count, texts)) for name, texts in found.items()}
            for row, record in zip(same, firsts, strict=True):
                own = {name: settings_of(record).get(name, "none") for name in names}
                rare = [name for name in names if own[name] != most[name]] if len(same) > 2 else []
                said = [f"{_short(name)} {own[name]}" for name in (rare or names)[:3]]
                row.apart = ", ".join(said) or "other runs built on"


def _count(texts: Mapping[str, Sequence[str]], text: str) -> int:
    return len(texts[text])


def _short(name: str) -> str:
    return name.removeprefix("method.hyperparameters.").removeprefix("method.").removeprefix("train.")


def _ranked(rows: list[Row], metric: str) -> Ranked:
    """`rows` with their tie groups, chances, and the draws that would tell them from the first."""
    tested = [row for row in rows if row.draws and not math.isnan(row.numbers[metric].mean)]
    # A row without two runs in common with another of its set cannot be told from it: it is in no group.
    ties = column_ties([row.runs for row in tested])
    for i, (row, group) in enumerate(zip(tested, ties.groups, strict=True)):
        row.group = group
        row.best = float(ties.standing.best[i])
        row.rank = float(ties.standing.rank[i]), float(ties.standing.low[i]), float(ties.standing.high[i])
    ranked = Ranked(rows[0].supervision, rows[0].pretraining, rows, tested, ties)
    best = ranked.group
    level = LEVEL / max(1, math.comb(sum(row.group is not None for row in tested), 2))
    for row in best[1:]:
        at = tested.index(best[0]), tested.index(row)
        gap, deviation = abs(float(ties.gaps.gap[at])), float(ties.gaps.deviation[at])
        if math.isnan(gap) or math.isnan(deviation):
            continue
        # The normal approximation is near enough to say that no one will draw so many.
        hopeless = gap == 0 or (4 * deviation / gap) ** 2 > _MOST
        row.needed = math.inf if hopeless else draws_needed(gap, deviation, POWER, level)
    return ranked


def _notes(column: Column, metric: str) -> dict[str, str]:
    """What there is to say of single rows: text to the mark that their `marks` have."""
    notes = Marks()
    for ranked in column.sets:
        odd: dict[int, list[Row]] = {}
        for i, j in ranked.ties.disorder:
            odd.setdefault(j, []).append(ranked.tested[i])
        for j, better in odd.items():
            mark = notes(_odd(ranked.tested[j], better, metric))
            for row in (ranked.tested[j], *better):
                row.marks.append(mark)
    for row in column.rows:
        row.marks += [notes(text) for text in row.notes]
    return notes


def _odd(row: Row, better: Sequence[Row], metric: str) -> str:
    """Why `row` is in a better group than `better`, whose means are higher."""
    names = ", ".join(other.method for other in better)
    own = row.numbers[metric]
    spread = "" if math.isnan(own.interval.low) else f", interval {own.interval.low:.1f} to {own.interval.high:.1f}"
    return (
        f"{row.method} ({own.mean:.1f} ± {own.sd:.1f}{spread}; {len(row.draws)} draws) stands in a better group than "
        f"{names}, of higher mean: groups say what tests tell apart, and its runs are too few, or differ too much, to "
        "tell it from the best"
    )


def _order(row: Row, metric: str) -> tuple[Any, ...]:
    mean = row.numbers[metric].mean
    return math.inf if math.isnan(mean) else -mean, row.method, row.settings


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
