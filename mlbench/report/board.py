"""`table`: the records of a store, and those published with mlbench, as one table."""

from __future__ import annotations

from pathlib import Path

from mlbench.errors import DataError, UsageError
from mlbench.paths import store_dir
from mlbench.report.tables import Table, build_table
from mlbench.store import find_records


def table(
    store: Path | None = None,
    metric: str = "mAP",
    protocol: str | None = None,
    methods: str | None = None,
    datasets: str | None = None,
    track: str | None = None,
    backbone: str | None = None,
    published: bool = True,
) -> Table:
    """Methods by data sets over the runs in `store`; `methods` and `datasets` are names separated by commas."""
    root = store or store_dir()
    filters = {"protocol": protocol, "track": track, "backbone": backbone}
    records, problems = find_records(root, **{name: value for name, value in filters.items() if value is not None})
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    if not records:
        raise UsageError(f"no finished run in {root} matches; `mlbench list runs` shows what is there")
    return build_table(
        records,
        metric=metric,
        protocol=protocol,
        methods=_names(methods),
        datasets=_names(datasets),
        published=published,
    )


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None
