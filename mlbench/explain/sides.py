"""What is compared: one or several runs a side (seeds of one method and its settings), and how sides pair up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlbench.errors import UsageError
from mlbench.store import canonical_json
from mlbench.trained import all_runs, find_run

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
        by_settings: dict[bytes, list[Record]] = {}
        for record in all_runs(store):
            by_settings.setdefault(canonical_json(settings(record)), []).append(record)
        groups = list(by_settings.values())
    for side, group in zip(runs or groups, groups, strict=True):
        if not group:
            raise UsageError(f"run '{side}': expected the first characters of a key")
        for record in group:
            ours, theirs = settings(group[0]), settings(record)
            differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
            if differing:
                raise UsageError(
                    f"runs {_short(group[0])} and {_short(record)} are given as one side but differ in "
                    f"{', '.join(differing)}: expected one method and its settings with other seeds or masks"
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


def settings(record: Record) -> dict[str, Any]:
    """A record's identity without what was drawn: repetition, mask, and the runs of the same draw it builds on."""
    identity = {k: v for k, v in record["identity"].items() if k not in ("repetition", "mask_seed", "uses")}
    mask = identity.get("mask", {})
    return identity | {"mask": {k: v for k, v in mask.items() if k not in ("seed", "sha256")}}


def method_of(record: Record) -> str:
    return str(record["identity"]["method"]["name"])


def draw_of(record: Record) -> tuple[int, int]:
    """(repetition, mask seed), by which runs of two methods are paired."""
    return int(record["identity"]["repetition"]), int(record["identity"]["mask_seed"])


def require_same_test(records: Sequence[Record]) -> None:
    """UsageError unless all runs were tested on the same data, under the same protocol and definitions."""
    first = _tested(records[0])
    for record in records[1:]:
        for what, ours in first.items():
            theirs = _tested(record)[what]
            if ours != theirs:
                raise UsageError(
                    f"runs {_short(records[0])} and {_short(record)} are of different {what}"
                    + (f" ({ours[0]} and {theirs[0]})" if ours[0] != theirs[0] else "")
                    + ": expected the same data set, protocol and definitions"
                )


def pairs_of(first: Side, second: Side) -> list[tuple[Record, Record]]:
    """The runs of both sides that share repetition and mask seed; one run each is a pair whatever was drawn.

    UsageError where a side has two runs of one draw, or no draw is shared.
    """
    if len(first.records) == len(second.records) == 1:
        return [(first.records[0], second.records[0])]
    by_draw: list[dict[tuple[int, int], Record]] = []
    for side in (first, second):
        found = {draw_of(record): record for record in side.records}
        if len(found) < len(side.records):
            raise UsageError(f"the runs of {side.name}: two have the same seed and mask, expected each draw once")
        by_draw.append(found)
    shared = [draw for draw in by_draw[0] if draw in by_draw[1]]
    if not shared:
        raise UsageError(f"no run of {first.name} and {second.name} shares seed and mask: nothing to pair")
    return [(by_draw[0][draw], by_draw[1][draw]) for draw in shared]


def _tested(record: Record) -> Mapping[str, tuple[Any, ...]]:
    identity, data = record["identity"], record["identity"]["dataset"]
    # Older records lack what newer ones leave open.
    definitions = {name: rule for name, rule in record["definitions"].items() if rule is not None}
    return {
        "data sets": (f"{data['id']} {data['version']}", data["fingerprint"]),
        "protocols": (identity["protocol"], identity["protocol_sha256"]),
        "versions of the harness": (identity["harness"],),
        "definitions": ("", definitions),
    }


def _short(record: Record) -> str:
    return f"{record['key'][:8]} ({method_of(record)})"
