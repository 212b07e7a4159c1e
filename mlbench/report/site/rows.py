"""A row of a board: one method with its settings, and what its runs say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlbench.errors import UsageError
from mlbench.evaluation.pretraining import PRETRAINING, pretraining_of
from mlbench.report.cells import value_of
from mlbench.report.ties import Runs
from mlbench.significance.comparability import by_draw, draw_of, is_submitted_name, ranked_with, supervision_of
from mlbench.significance.crossed import Draw, Interval, interval

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

    origin : "reproduced" (trained by this code) or "submitted" (predictions scored here). group : number of the tie
    group; None where nothing was tested. draws : its values by draw; empty where two runs of one draw stand in the
    row, which is then not ranked. compared : what a row shares with those it is ranked with, for people; ranked : the
    same whole, see `ranked_with`. best, rank : chance of being the best of these, and mean rank with the ends of its
    95 % interval. needed : draws that would tell it from the first of its set at the gap and the spread that are seen;
    0 where that is not asked, infinite where there is no gap. apart : what tells it from other rows of its method.
    notes : what there is to say of it; marks : letters under which the table says it.
    """

    method: str
    origin: str
    records: list[Record]
    numbers: dict[str, Number]
    measures: dict[str, float]
    draws: dict[Draw, float]
    compared: str
    ranked: tuple[str, ...]
    group: int | None = None
    best: float = math.nan
    rank: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    needed: float = 0
    apart: str = ""
    notes: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

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
    def supervision(self) -> str:
        return supervision_of(self.records[0])

    @property
    def pretraining(self) -> str:
        return pretraining_of(self.records[0])

    @property
    def version(self) -> int:
        """The method's version, which rises with whatever moves its numbers."""
        return int(self.identity["method"]["version"])

    @property
    def made_by(self) -> str:
        """Versions of mlbench that its runs were made by."""
        return ", ".join(dict.fromkeys(str(r["provenance"].get("mlbench", "unknown")) for r in self.records))

    @property
    def settings(self) -> str:
        """Version and hyperparameters in a line."""
        values = {k: f"{v:g}" if isinstance(v, float) else v for k, v in self._hyperparameters.items()}
        return ", ".join([f"version {self.version}", *(f"{name}={value}" for name, value in values.items())])

    @property
    def _hyperparameters(self) -> Mapping[str, Any]:
        own: Mapping[str, Any] = self.identity["method"]["hyperparameters"]
        return own

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
    def tie(self) -> str:
        return "" if self.group is None else str(self.group)

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


def _measured(records: Sequence[Record], name: str) -> float:
    """The mean of a measure over the runs that were measured; NaN where one of these has no such number."""
    return float(np.mean([value_of(record, name) for record in records if name in record.get("measures", {})]))


def make_row(records: list[Record], metrics: Sequence[str]) -> Row:
    """The row of `records`, which are repetitions of each other, with `metrics` (names under ``results.test``)."""
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
    measured = {name: _measured(shown, name) for record in shown for name in record.get("measures", {})}
    some = max((sum(name in record.get("measures", {}) for record in shown) for name in measured), default=len(shown))
    if some < len(shown):
        notes.append(f"{', '.join(measured)}: mean of {some} of {len(shown)} runs")
    return Row(
        identity["method"]["name"],
        "submitted" if is_submitted_name(identity["method"]["name"]) else "reproduced",
        records,
        numbers,
        measured,
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
