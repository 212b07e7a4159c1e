"""Tables for people in which names stay as they are written: a class "1.10", a data set "1e5" are no numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tabulate import tabulate

_COLLECTED: ContextVar[list[list[dict[str, Any]]] | None] = ContextVar("_COLLECTED", default=None)


@contextmanager
def collected() -> Iterator[list[list[dict[str, Any]]]]:
    """The tables that `grid` lays out meanwhile: of each its rows by column, with their values as they are."""
    tables: list[list[dict[str, Any]]] = []
    before = _COLLECTED.set(tables)
    try:
        yield tables
    finally:
        _COLLECTED.reset(before)


def collect(rows: Iterable[dict[str, Any]]) -> None:
    """Tell `collected` of a table that is laid out without `grid`."""
    if (tables := _COLLECTED.get()) is not None:
        tables.append(list(rows))


def grid(rows: Iterable[Any], headers: Any, tablefmt: str = "simple", **options: Any) -> str:
    """`tabulate`, but a column that holds any text is left alone; its numbers are not read out of it.

    `rows` are sequences, or dictionaries with ``headers="keys"``.
    """
    listed = [row if isinstance(row, dict) else tuple(row) for row in rows]
    named = [row for row in listed if isinstance(row, dict)]
    collect(named or (dict(zip(headers, row, strict=True)) for row in listed))
    if named:
        keys = list(dict.fromkeys(key for row in named for key in row))
        cells = [[row.get(key) for row in named] for key in keys]
    else:
        cells = [list(column) for column in zip(*listed, strict=True)] if listed else []
    text = [column for column, values in enumerate(cells) if any(isinstance(value, str) for value in values)]
    return tabulate(listed, headers=headers, tablefmt=tablefmt, disable_numparse=text or False, **options)
