"""The columns of a board as questions ask of them: methods by draw, each method by the setting with the most runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlbench.significance.comparability import annotation_text, column_of, draw_of, rows_of
from mlbench.significance.crossed import Draw
from mlbench.significance.orders import common_block
from mlbench.store import is_submitted

Record = Mapping[str, Any]
#: Methods that look at no picture: their place at the end is no question.
CONTROLS = ("prior", "random")


@dataclass(frozen=True)
class Column:
    """Records of runs that may be compared, by method and draw; controls and submissions are left out."""

    protocol: str
    dataset: str
    track: str
    backbone: str
    params: Mapping[str, Any]
    methods: Mapping[str, Mapping[Draw, Record]]

    @property
    def title(self) -> str:
        record = next(iter(next(iter(self.methods.values())).values()))
        where = f"{self.dataset}, {annotation_text(record)}" + (
            f" ({self.protocol})" if self.protocol != record["identity"]["mask"].get("process") else ""
        )
        return f"{where}, {self.track}, {self.backbone}"

    def values(self, metric: str) -> dict[str, dict[Draw, float]]:
        """Test values in percent by method and draw, where they are defined."""
        found = {
            name: {draw: value for draw, r in runs.items() if (value := r["results"]["test"].get(metric)) is not None}
            for name, runs in self.methods.items()
        }
        return {name: runs for name, runs in found.items() if runs}

    def block(self, *metrics: str, of: Collection[str] = ()) -> tuple[list[str], list[tuple[int, int]], np.ndarray]:
        """Methods and draws such that each has each, and the values [metrics, draws, methods] of `metrics`.

        A large block (`common_block`) of all methods; where `of` names some, all of these, if they share a draw.
        """
        tables = [_by_asked(self.values(metric)) for metric in metrics]
        names = [name for name in tables[0] if all(name in table for table in tables) and (not of or name in of)]
        shared = {name: set.intersection(*(set(table[name]) for table in tables)) for name in names}
        methods, draws = common_block(shared)
        if of and shared and (everywhere := set.intersection(*shared.values())):
            methods, draws = list(shared), sorted(everywhere)
        values = [[[table[name][draw] for name in methods] for draw in draws] for table in tables]
        return methods, draws, np.array(values, dtype=np.float64)


def columns_of(records: Iterable[Record]) -> list[Column]:
    """The columns that `records` make, those with the most runs first."""
    kept = [r for r in records if not is_submitted(dict(r)) and r["identity"]["method"]["name"] not in CONTROLS]
    rows = rows_of(kept)
    grouped: dict[str, dict[str, dict[str, dict[Draw, Record]]]] = {}
    for record in sorted(kept, key=lambda r: (r["identity"]["repetition"], r["identity"]["mask_seed"], r["key"])):
        methods = grouped.setdefault(json.dumps(column_of(record), sort_keys=True), {})
        settings = methods.setdefault(record["identity"]["method"]["name"], {})
        settings.setdefault(rows[record["key"]], {}).setdefault(draw_of(record), record)
    columns = []
    for methods in grouped.values():
        chosen = {name: max(settings.values(), key=_rank) for name, settings in sorted(methods.items())}
        identity = next(iter(next(iter(chosen.values())).values()))["identity"]
        columns.append(
            Column(
                identity["protocol"],
                identity["dataset"]["id"],
                identity["track"],
                identity["backbone"]["name"],
                identity["mask"].get("params", {}),
                chosen,
            )
        )
    return sorted(columns, key=lambda column: (-sum(map(len, column.methods.values())), column.title))


def shape_text(methods: int, draws: int) -> str:
    """The size of a block in words."""
    return f"{methods} method{'s' * (methods != 1)}, {draws} draw{'s' * (draws != 1)}"


def _rank(runs: Mapping[Draw, Record]) -> tuple[int, int]:
    """The last version, and of that the setting with the most runs."""
    record = next(iter(runs.values()))
    return record["identity"]["method"]["version"], len(runs)


def _by_asked(values: Mapping[str, Mapping[Draw, float]]) -> dict[str, dict[tuple[int, int], float]]:
    """`values` with a method that sees no mask under every mask that others have with its seed."""
    masks: dict[int, set[int]] = {}
    for runs in values.values():
        for seed, mask in runs:
            masks.setdefault(seed, set()).update(() if mask is None else (mask,))
    return {
        name: {
            (seed, m): value
            for (seed, mask), value in runs.items()
            for m in ((masks[seed] or {0}) if mask is None else {mask})
        }
        for name, runs in values.items()
    }
