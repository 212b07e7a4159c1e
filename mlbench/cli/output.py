"""What commands print: text for people, or with ``--json`` one object for programs.

The object has ``command``, ``rows`` (a list of flat objects, numbers as they are and not rounded, null where there is
none) and what else is to be said. Nothing else goes to stdout; progress, notes and errors are on stderr as ever.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from mlbench.errors import visible

F = TypeVar("F", bound=Callable[..., Any])

_ASKED = f"{__name__}.json"


def _ask(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[_ASKED] = value


#: ``--json``, of every command that prints a table or a list; it prints by `answer`.
JSON = click.option(
    "--json", is_flag=True, expose_value=False, callback=_ask, help="Print one JSON object instead, for pipes."
)


def wants_json() -> bool:
    """Whether the command that runs was called with ``--json``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_ASKED))


class Laid(str):
    """Text that is laid out already, as LaTeX, HTML or CSV: what stands in it is escaped by its own rules."""


def echo(text: object, err: bool = False) -> None:
    """Print `text` as a person may see it: what steers a terminal or hides in a line is written out.

    With ``--json`` it goes to stderr: stdout is for the object alone.
    """
    click.echo(visible(str(text)), err=err or wants_json())


def answer(text: Callable[[], object], rows: Iterable[Any] | None = None, **facts: Any) -> None:
    """Print ``text()``; with ``--json`` in its place `rows` and `facts`.

    Parameters
    ----------
    rows : mappings or dataclasses; where not given, the rows of the first table that ``text()`` lays out with
        `mlbench.grid.grid`, the others of it being ``tables``.
    facts : what stands beside the rows, of any values that `plain` takes.
    """
    if not wants_json():
        told = text()
        click.echo(told) if isinstance(told, Laid) else echo(told)
        return
    if rows is None:
        from mlbench.grid import collected  # and with it tabulate, which few commands need

        with collected() as tables:
            text()
        rows, facts = (tables[0] if tables else []), facts | ({"tables": tables[1:]} if tables[1:] else {})
    click.echo(
        json.dumps({"command": _command(), "rows": [plain(row) for row in rows], **plain(facts)}, allow_nan=False)
    )


def _command() -> str:
    """The words of the command that runs, without the program's name."""
    words: list[str] = []
    context = click.get_current_context()
    while context.parent is not None:
        words.insert(0, str(context.info_name))
        context = context.parent
    return " ".join(words)


def plain(value: Any) -> Any:
    """`value` as JSON has it: dataclasses, mappings, sequences, arrays and frames; not a number becomes None."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "to_dict"):  # a frame, without importing pandas
        return plain(value.to_dict("records"))
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value))
    return [plain(item) for item in value]
