"""Lines by epoch, of runs."""

from __future__ import annotations

from collections.abc import Sequence

from mlbench.report.site.charts import Line
from mlbench.report.site.rows import Record


def curves(records: Sequence[Record], metric: str) -> list[Line]:
    """Validation and test values by epoch, counted over all phases; colours tell runs apart where there are few."""
    kinds = (("val", "validation", False), ("test_sealed", "test", True))
    return [
        Line(name, [(i, e.get(part, {}).get(metric)) for i, e in enumerate(record["epochs"], start=1)], colour, dashed)
        for record in records
        for colour, (part, name, dashed) in enumerate(kinds)
    ]


def judged(records: Sequence[Record], number: str) -> list[Line]:
    kinds = sorted({kind for r in records for e in r["epochs"] for kind in e.get("forensics", {})})
    return [
        Line(
            kind,
            [(i, e.get("forensics", {}).get(kind, {}).get(number)) for i, e in enumerate(record["epochs"], start=1)],
            colour,
        )
        for record in records
        for colour, kind in enumerate(kinds)
    ]
