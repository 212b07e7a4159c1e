"""Plans: what is run for a printed table, and where each of its settings comes from. One TOML file a table."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from mlbench.errors import UsageError, unknown
from mlbench.report.layouts import Layout, load_layouts
from mlbench.settings import build
from mlbench.store.papers import load_published

#: How well a setting is known. "published": the paper, or its slides or poster, says it. "released": its authors' code
#: has it. "ours": the source has none, or none that can be run here. "unverified": told by others, or from memory.
Level = Literal["published", "released", "ours", "unverified"]
#: What each plan gives the source of. Those of `VALUED` it also gives; all others are the protocol's, and stand there.
SETTINGS = (
    *("methods", "data", "annotation", "track", "backbone", "weights", "image_size", "schedule", "batch_size"),
    *("draws", "definitions", "selection"),
)
VALUED: Mapping[str, type] = {"track": str, "backbone": str, "weights": str, "draws": int}


@dataclass(frozen=True)
class Setting:
    """Where a setting of a plan comes from, how well it is known, and its value where the protocol has none."""

    level: Level
    source: str
    value: Any = None


@dataclass(frozen=True)
class Row:
    """What a printed row has of its own.

    method, backbone, head : instead of the printed ones. set : hyperparameters and ``train.KEY``. reason : why nothing
    is run for it. level, source : of all this.
    """

    level: Level
    source: str
    method: str = ""
    backbone: str = ""
    head: str = ""
    set: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Budget:
    """A stated reduction of a plan: what is not given stays.

    why : what it is for, and what it costs. track, backbone : of all rows. draws : of each. epochs : of each phase that
    a method does not fix. set : ``train.KEY`` of all runs. hyper : hyperparameters of those methods that have them.
    """

    why: str
    track: str = ""
    backbone: str = ""
    draws: int = 0
    epochs: int | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    hyper: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Printed:
    """A printed row: its label, the method it stands for, and the backbone that it names ("" where it does not)."""

    row: str
    method: str
    backbone: str


@dataclass(frozen=True)
class Plan:
    """The plan of one printed table; `table` is its name in ``paper_layouts.toml``, `where` the file."""

    paper: str
    table: str
    settings: Mapping[str, Setting]
    rows: Mapping[str, Row] = field(default_factory=dict)
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    where: str = ""

    @property
    def layout(self) -> Layout:
        return next(one for one in load_layouts() if (one.paper, one.name) == (self.paper, self.table))

    @property
    def printed(self) -> list[Printed]:
        """The rows of the printed table, in its order."""
        table = load_published(self.paper)
        rows = table[table["table"] == self.layout.printed][["row", "method", "backbone"]].drop_duplicates()
        return [Printed(**{str(name): str(text) for name, text in row.items()}) for row in rows.to_dict("records")]

    def own(self, printed: Printed) -> Row | None:
        """What the plan says of one row, by its label or by its method."""
        return self.rows.get(printed.row) or self.rows.get(printed.method)

    def value(self, setting: str) -> Any:
        return self.settings[setting].value

    def budget(self, name: str | None) -> Budget:
        """The reduction `name`; the published recipe, which changes nothing, for None."""
        if name is None:
            return Budget("")
        if name not in self.budgets:
            raise unknown("budget", name, self.budgets, self.where)
        return self.budgets[name]


def load_plans(paper: str, table: str | None = None) -> list[Plan]:
    """The plans of a paper's tables ("all": of all papers), or of its one `table`, in the order of the layouts.

    UsageError for a name that is not known, with the nearest that is.
    """
    papers = list(dict.fromkeys(layout.paper for layout in load_layouts()))
    if paper not in (*papers, "all"):
        raise unknown("paper", paper, (*papers, "all"))
    chosen = [layout for layout in load_layouts() if paper in (layout.paper, "all")]
    if table is not None:
        known = [name for layout in chosen for name in (layout.name, layout.printed)]
        if table not in known:
            raise unknown("table", table, known, f"paper '{paper}'")
        chosen = [layout for layout in chosen if table in (layout.name, layout.printed)]
    return [load_plan(f"{layout.paper}.{layout.name}") for layout in chosen]


@cache
def load_plan(name: str) -> Plan:
    """The plan in the file `name`, "PAPER.TABLE"; UsageError names file and key of what is wrong in it."""
    table, where = _read(name), f"{name}.toml"
    sections: dict[str, type] = {"settings": Setting, "rows": Row, "budgets": Budget}
    for key, cls in sections.items():
        entries = table.get(key, {})
        table[key] = {one: build(cls, entry, f"{where}: [{key}.{one}]") for one, entry in entries.items()}
    plan: Plan = build(Plan, table | {"where": where}, where)
    for key in (*plan.settings, *SETTINGS):
        if key not in SETTINGS:
            raise unknown("setting", key, SETTINGS, where)
        if key not in plan.settings:
            raise UsageError(f"{where}: [settings.{key}] is missing: expected level and source")
        value = plan.settings[key].value
        if key not in VALUED and value is not None:
            raise UsageError(f"{where}: [settings.{key}] value = {value!r}: expected none, the protocol has it")
        if key in VALUED and type(value) is not VALUED[key]:
            raise UsageError(f"{where}: [settings.{key}] value = {value!r}: expected a {VALUED[key].__name__}")
    names = {text for printed in plan.printed for text in (printed.row, printed.method)}
    for row in plan.rows:
        if row not in names:
            raise unknown("row", row, names, f"{where}: [rows]")
    return plan


def plan_names() -> list[str]:
    """The shipped plans, "PAPER.TABLE", sorted."""
    folder = files("mlbench.reproduce") / "plans"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.count(".") == 2)


def _read(name: str) -> dict[str, Any]:
    """The table in a file of ``plans/``, over that of the file it extends."""
    text = (files("mlbench.reproduce") / "plans" / f"{name}.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    base = table.pop("extends", None)
    return table if base is None else _over(_read(base), table)


def _over(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`change` over `base`: of settings and budgets one by one, each whole; rows are the table's own."""
    merged = {key: value for key, value in base.items() if key != "rows"} | change
    for key in ("settings", "budgets"):
        merged[key] = base.get(key, {}) | change.get(key, {})
    return merged


LEVELS: tuple[str, ...] = get_args(Level)
