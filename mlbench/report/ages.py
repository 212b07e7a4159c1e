"""How old the rows of a board are: when their runs were made, by which version of the method and of mlbench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlbench.grid import grid

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Age:
    """Of one method's runs: their number, the days (ISO, UTC) of the first and the last, and all versions among them.

    methods : `Method.version`. mlbench : version of the package that ran them. harness : the harness's integer.
    """

    method: str
    runs: int
    first: str
    last: str
    methods: tuple[int, ...]
    mlbench: tuple[str, ...]
    harness: tuple[int, ...]


def age_of(records: Iterable[Record]) -> Age:
    """The `Age` of records of one method; ValueError for none."""
    kept = list(records)
    if not kept:
        raise ValueError("no record")
    days = sorted(str(record["provenance"]["started"])[:10] for record in kept)
    return Age(
        str(kept[0]["identity"]["method"]["name"]),
        len(kept),
        days[0],
        days[-1],
        tuple(sorted({int(record["identity"]["method"]["version"]) for record in kept})),
        tuple(sorted({str(record["provenance"]["mlbench"]) for record in kept}, key=_parts)),
        tuple(sorted({int(record["identity"]["harness"]) for record in kept})),
    )


def ages_of(records: Iterable[Record]) -> list[Age]:
    """The `Age` of each method's runs, by name."""
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(str(record["identity"]["method"]["name"]), []).append(record)
    return [age_of(by_method[name]) for name in sorted(by_method)]


def ages_text(records: Iterable[Record]) -> str:
    """`ages_of` as a Markdown table."""
    rows = [
        [age.method, age.runs, age.first, age.last, *(", ".join(map(str, of)) for of in _versions(age))]
        for age in ages_of(records)
    ]
    return grid(rows, ["method", "runs", "first run", "last run", "version", "mlbench", "harness"], "github")


def _versions(age: Age) -> tuple[tuple[Any, ...], ...]:
    return age.methods, age.mlbench, age.harness


def _parts(version: str) -> tuple[tuple[int, str], ...]:
    """Orders 0.10 behind 0.9."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in version.split("."))
