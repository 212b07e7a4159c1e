"""Runs by what their identity says: ``--where KEY=VALUE`` of the commands that read many runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from mlbench.errors import UsageError, nearest, unknown
from mlbench.evaluation.pretraining import pretraining_of
from mlbench.settings import parse_value
from mlbench.significance.comparability import ROW, among, flatten, text_of

R = TypeVar("R", bound=Mapping[str, Any])
_LISTED = 12


def parse_where(conditions: Iterable[str]) -> dict[str, str]:
    """Read ``("mask.params.keep=0.1", "precision=fp32")``; UsageError for what is none, and for a key given twice."""
    found: dict[str, str] = {}
    for text in conditions:
        key, equals, value = text.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key or not value:
            raise UsageError(f"--where {text}: expected KEY=VALUE, as precision=fp32 or mask.params.keep=0.1")
        if key in found:
            raise UsageError(f"--where {key}: given twice")
        found[key] = value
    return found


def choose(records: Sequence[R], where: Mapping[str, Any], others: bool = False) -> list[R]:
    """The `records` whose identity and definitions have these values under dotted names, all of them.

    Parameters
    ----------
    where : entries as ``{"mask.params.keep": 0.1, "definitions.ap": "step"}``; values may be text ("0.10", "none").
    others : also keep runs that have no such entry where it is a row's (another method's hyperparameter).

    UsageError for a name that no record has, and, with the values there are, for a value without a run.
    """
    kept = list(records)
    if not where:
        return kept
    flat = {
        id(record): flatten(record["identity"])
        | flatten({"definitions": record["definitions"], "pretraining": pretraining_of(record)})
        for record in kept
    }
    known = dict.fromkeys(name for entries in flat.values() for name in entries)
    for name, value in where.items():
        if records and name not in known:
            raise _unknown_key(name, known)
        fitting = [record for record in kept if _fits(flat[id(record)].get(name), value)]
        if records and not fitting:
            values = sorted({_shown(flat[id(record)].get(name)) for record in kept})
            listed = ", ".join(values[:_LISTED]) + (", ..." if len(values) > _LISTED else "")
            raise UsageError(
                f"--where {name}={value}: no run has it.{nearest(text_of(value), values)} Values of '{name}' here: "
                f"{listed}"
            )
        if others and among(name, ROW):
            fitting = [r for r in kept if name not in flat[id(r)] or _fits(flat[id(r)][name], value)]
        kept = fitting
    return kept


def _fits(found: Any, wanted: Any) -> bool:
    """Whether an entry is the value that was asked for: as text, or as a number ("0.10" for 0.1)."""
    if text_of(wanted) in (text_of(found), _shown(found)):
        return True
    number = parse_value(wanted) if isinstance(wanted, str) else wanted
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (found, number)]
    if all(numbers):
        return bool(found == number)
    return isinstance(found, bool) and isinstance(number, bool) and found == number


def _shown(found: Any) -> str:
    """An entry as a person writes it: lists joined by "+", truths in small letters."""
    if isinstance(found, bool):
        return str(found).lower()
    text = text_of(found)
    items = parse_value(text) if text.startswith("[") else None
    return "+".join(map(str, items)) if isinstance(items, list) else text


def _unknown_key(name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that no run has; one that is the end of a dotted name ("keep") gets the whole name."""
    ends = [key for key in known if key.endswith(f".{name}")]
    if len(ends) == 1:
        return UsageError(f"--where: unknown key '{name}'. Did you mean '{ends[0]}'?")
    return unknown("key", name, known, "--where")
