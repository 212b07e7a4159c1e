"""The runs of a plan: a printed row on a column's data set, with all its settings, and what stands in its way."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlbench.catalogue import resolving
from mlbench.errors import UsageError, unknown
from mlbench.protocol import Protocol, load_protocol
from mlbench.registry import METHODS
from mlbench.report.layouts import stands_in_for
from mlbench.reproduce.places import Place, missing_weights
from mlbench.reproduce.plans import Budget, Plan, Printed
from mlbench.settings import TrainSettings
from mlbench.sweep.grid import Grid


@dataclass(frozen=True)
class Asked:
    """What a person wants of the plans: see `mlbench reproduce --help`.

    data : places by data set of the tables. weights : files by backbone. side : files by data set ("" for all) and
    kind. track, backbone, draws : instead of the plans'. rows : labels or methods, all where there are none.
    """

    plans: Sequence[Plan]
    data: Mapping[str, Place] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)
    side: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    rows: Sequence[str] = ()
    budget: str | None = None
    track: str | None = None
    backbone: str | None = None
    draws: int | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        known = {text for plan in self.plans for row in plan.printed for text in (row.row, row.method)}
        for row in self.rows:
            if row not in known:
                raise unknown("row", row, known, "--rows")
        if self.draws is not None and self.draws < 1:
            raise UsageError(f"--draws {self.draws}: expected at least 1")


@dataclass(frozen=True)
class Entry:
    """A printed row on one data set of its table. `reason` says why nothing is run for it, and is empty otherwise.

    data : of the table's column. dataset, root : what is run instead of it, or it itself. train : on paper, before the
    data set is looked at; None where there is no method.
    """

    plan: Plan
    printed: Printed
    data: str
    dataset: str
    root: Path | None
    protocol: str
    method: str
    track: str
    backbone: str
    weights: Path | None
    head: str | None
    draws: int
    changes: Mapping[str, Any]
    side: Mapping[str, Path]
    precision: str
    train: TrainSettings | None
    reason: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Which printed row it is, as `mlbench.report.paper_tables` has it."""
        return dataclasses.astuple(self.printed)  # type: ignore[return-value]

    def requests(self) -> list[dict[str, Any]]:
        """Plain requests of its runs, one a draw; one a seed where the method sees no mask."""
        grid = Grid(
            methods=(self.method,),
            protocol=self.protocol,
            dataset=self.dataset,
            data_root=None if self.root is None else str(self.root),
            track=self.track,
            backbone=self.backbone,
            weights=None if self.weights is None else str(self.weights),
            head=self.head,
            draws=self.draws,
            precision=self.precision,
            set=self.changes,
            side={kind: str(file) for kind, file in self.side.items()},
        )
        return list(grid.cells())


@functools.cache
def protocol_of(name: str) -> Protocol:
    """A shipped protocol, read once."""
    return load_protocol(name)


def entries_of(asked: Asked) -> list[Entry]:
    """Every printed row of the plans asked for on every data set of its table, in the tables' order."""
    return [entry for plan in asked.plans for entry in _entries(plan, asked)]


def data_of(plans: Sequence[Plan]) -> list[str]:
    """The data sets of the plans' tables."""
    return list(dict.fromkeys(column.data for plan in plans for column in plan.layout.columns))


def _entries(plan: Plan, asked: Asked) -> Iterator[Entry]:
    budget = plan.budget(asked.budget)
    columns = dict.fromkeys((column.data, column.protocol) for column in plan.layout.columns)
    printed = {(text, data) for data, text in _printed_in(plan)}
    for row in plan.printed:
        if asked.rows and not {row.row, row.method} & set(asked.rows):
            continue
        for data, protocol in columns:
            if (row.row, data) in printed:
                yield _entry(plan, row, data, protocol, budget, asked)


def _printed_in(plan: Plan) -> Iterator[tuple[str, str]]:
    """(data set, row) of the cells that have a printed number."""
    from mlbench.store.papers import load_published

    table = load_published(plan.paper)
    rows = set(table[table["table"] == plan.layout.printed][["row", "dataset"]].itertuples(index=False, name=None))
    for column in plan.layout.columns:
        yield from ((column.data, str(row)) for row, dataset in rows if dataset == column.dataset)


def _entry(plan: Plan, printed: Printed, data: str, protocol: str, budget: Budget, asked: Asked) -> Entry:
    own = plan.own(printed)
    method = (own.method if own else "") or printed.method
    backbone = (
        asked.backbone
        or budget.backbone
        or (own.backbone if own else "")
        or printed.backbone
        or str(plan.value("backbone"))
    )
    track = asked.track or budget.track or str(plan.value("track"))
    place = asked.data.get(data)
    dataset = place.dataset if place else data
    if place is not None and place.stands_in(data):
        protocol = stands_in_for(plan.layout, data, place.dataset)
    reason = own.reason if own else ""
    if not reason and method not in METHODS:
        reason = f"method '{method}' is not in mlbench"
    changes: dict[str, Any] = dict(own.set) if own else {}
    changes |= budget.set
    train, epochs = None, budget.epochs
    side: dict[str, Path] = {}
    if method in METHODS:
        declared = resolving(method)
        if asked.track is None and track not in declared.tracks:
            track = declared.tracks[0]
        changes |= {key: value for key, value in budget.hyper.items() if key in declared.hyperparameters}
        kinds = {kind for _, kind in asked.side}
        side = {
            kind: asked.side.get((data, kind)) or asked.side.get((dataset, kind)) or asked.side[("", kind)]
            for kind in kinds
            if {(data, kind), (dataset, kind), ("", kind)} & asked.side.keys()
        }
        if epochs is not None:
            changes["train.epochs"] = epochs
        train = _on_paper(protocol, method, dataset, track, changes)
        reason = reason or _in_the_way(declared, side, track, method)
    if not reason:
        reason = missing_weights(backbone, asked.weights, track)
    if not reason and place is None:
        reason = f"data set '{data}' is not given: --data {data}=DIR"
    return Entry(
        plan=plan,
        printed=printed,
        data=data,
        dataset=dataset,
        root=place.root if place else None,
        protocol=protocol,
        method=method,
        track=track,
        backbone=backbone,
        weights=asked.weights.get(backbone),
        head=(own.head or None) if own else None,
        draws=asked.draws or budget.draws or int(plan.value("draws")),
        changes=changes,
        side=side,
        precision=asked.precision,
        train=train,
        reason=reason,
    )


def _in_the_way(declared: Any, side: Mapping[str, Path], track: str, method: str) -> str:
    """What a method lacks, as far as that shows without data."""
    if track not in declared.tracks:
        return f"method '{method}' does not run on track '{track}'"
    if "vl_scores" in getattr(declared, "inputs", ()) and "vl_scores" not in side:
        return "it learns from scores of a vision-language model: give their file with --side vl_scores=FILE"
    return ""


def _on_paper(protocol: str, method: str, dataset: str, track: str, changes: Mapping[str, Any]) -> TrainSettings:
    """The training settings that a run would have, as `mlbench.runner.plan` resolves them."""
    merged = {**resolving(method).settings_for(dataset, track), **changes}
    train = {key.removeprefix("train."): value for key, value in merged.items() if key.startswith("train.")}
    return protocol_of(protocol).train_settings(dataset, track, train)
