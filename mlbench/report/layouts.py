"""How the papers' tables are laid out: ``paper_layouts.toml``, read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of values; see the head of ``paper_layouts.toml``. `metric` is empty for one that the paper has not.

    kind : only runs of this track and backbone, see `kinds_of`. stands_for : the data set of the paper's table in whose
    place `data` is; its numbers are never held against the printed ones.
    """

    title: str
    data: str
    ours: str
    over: str = ""
    dataset: str = ""
    group: str = "all"
    metric: str = ""
    images: tuple[str, ...] = ()
    protocol: str = ""
    kind: tuple[str, ...] = ()
    stands_for: str = ""


@dataclass(frozen=True)
class Layout:
    """How one printed table is laid out; see the head of ``paper_layouts.toml``."""

    paper: str
    name: str
    printed: str
    title: str
    protocol: str
    stubs: tuple[str, ...]
    rules: frozenset[int]
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...] = ()
    elsewhere: str = ""


@cache
def load_layouts() -> tuple[Layout, ...]:
    """The layouts of all tables, in the papers' order."""
    text = (files("mlbench.report") / "paper_layouts.toml").read_text(encoding="utf-8")
    layouts = []
    for entry in tomllib.loads(text)["tables"]:
        shared = {
            field.name: entry.pop(field.name) for field in fields(Column) if field.name in entry.keys() - {"title"}
        }
        entry["protocol"] = shared["protocol"]
        columns = tuple(Column(**_tuples(shared | column)) for column in entry.pop("columns"))
        rows = tuple(map(tuple, entry.pop("rows", ())))
        rules = frozenset(entry.pop("rules"))
        layouts.append(Layout(**_tuples(entry), columns=columns, rows=rows, rules=rules))
    return tuple(layouts)


def stands_in_for(layout: Layout, data: str, other: str) -> str:
    """The protocol that data set `other` is run under in place of `data`, a data set of the layout's.

    The paper's own for a part of the same data set, else the layout's `elsewhere`.
    """
    own = next(column.protocol for column in layout.columns if column.data == data)
    return own if other.removesuffix("-partial") == data else layout.elsewhere or own


def columns_of(layout: Layout, in_place: Mapping[str, str]) -> list[Column]:
    """The columns of a layout, those whose data set another stands in for with that one's name and protocol."""

    def moved(column: Column) -> Column:
        other = in_place.get(column.data, column.data)
        if other == column.data:
            return column
        title, protocol = f"{column.title} (on {other} in its place)", stands_in_for(layout, column.data, other)
        return replace(column, data=other, title=title, protocol=protocol, stands_for=column.data)

    return [moved(column) for column in layout.columns]


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
