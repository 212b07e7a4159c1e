"""What is compared: one or several runs a side (seeds of one method and its settings), and how sides pair up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlbench.errors import UsageError
from mlbench.significance.comparability import (
    KNOWN_OF_SUBMITTED,
    Draw,
    among,
    column_of,
    differing,
    draw_of,
    rows_of,
    settings_of,
    told_apart,
)
from mlbench.store import all_runs, find_run

Record = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """Runs that differ in what was drawn only: `name` is their method, with a key where that is not enough."""

    name: str
    records: tuple[Record, ...]


def sides_of(runs: Sequence[str], store: Path | None = None) -> list[Side]:
    """A side for each of `runs`: the first characters of a key, or of several keys joined by commas.

    Without `runs`, those of the whole store: a side for each method and its settings.

    Raises
    ------
    UsageError
        Runs of one side differ in more than their draws, or a run is named twice.
    """
    if runs:
        groups = [[find_run(key.strip(), store) for key in side.split(",") if key.strip()] for side in runs]
    else:
        every = all_runs(store)
        rows = rows_of(every)
        by_settings: dict[str, list[Record]] = {}
        for record in every:
            by_settings.setdefault(rows[record["key"]], []).append(record)
        groups = list(by_settings.values())
    for side, group in zip(runs or groups, groups, strict=True):
        if not group:
            raise UsageError(f"run '{side}': expected the first characters of a key")
        for record in group:
            found = differing([group[0], record], settings_of)
            if found:
                raise UsageError(
                    f"runs {_short(group[0])} and {_short(record)} are given as one side but differ in "
                    f"{told_apart(found)}: expected one method and its settings with other seeds or masks"
                )
    keys = [record["key"] for group in groups for record in group]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(f"run '{key[:16]}' is given twice")
    names = [method_of(group[0]) for group in groups]
    return [
        Side(name if names.count(name) == 1 else f"{name} ({group[0]['key'][:8]})", tuple(group))
        for name, group in zip(names, groups, strict=True)
    ]


def method_of(record: Record) -> str:
    return str(record["identity"]["method"]["name"])


def require_same_test(records: Sequence[Record]) -> None:
    """UsageError unless all runs were tested on the same data, under the same protocol and definitions."""
    for record in records[1:]:
        found = differing([records[0], record], _tested)
        if found:
            raise UsageError(
                f"runs {_short(records[0])} and {_short(record)} differ in {told_apart(found)}: expected the same data "
                "set, protocol and definitions"
            )


def pairs_of(first: Side, second: Side) -> list[tuple[Record, Record]]:
    """The runs of both sides that share a draw; one run each is a pair whatever was drawn.

    Runs that no mask decides are one for each repetition, and pair with all of the other side's of that repetition.
    UsageError where a side has two runs of one draw, or no draw is shared.
    """
    if len(first.records) == len(second.records) == 1:
        return [(first.records[0], second.records[0])]
    sides: list[dict[Draw, Record]] = []
    for side in (first, second):
        asked = [(r["identity"]["repetition"], r["identity"]["mask_seed"]) for r in side.records]
        if len(set(asked)) < len(asked):
            raise UsageError(f"the runs of {side.name}: two have the same seed and mask, expected each draw once")
        found: dict[Draw, Record] = {}
        for record in side.records:
            found.setdefault(draw_of(record), record)
        sides.append(found)
    shared = [(a, b) for a in sides[0] for b in sides[1] if a[0] == b[0] and (a[1] == b[1] or None in (a[1], b[1]))]
    if not shared:
        raise UsageError(f"no run of {first.name} and {second.name} shares seed and mask: nothing to pair")
    return [(sides[0][a], sides[1][b]) for a, b in shared]


def _tested(record: Mapping[str, Any]) -> dict[str, str]:
    """The part of the column that the test depends on, whatever was trained."""
    return {name: text for name, text in column_of(record).items() if among(name, KNOWN_OF_SUBMITTED)}


def _short(record: Record) -> str:
    return f"{record['key'][:8]} ({method_of(record)})"
