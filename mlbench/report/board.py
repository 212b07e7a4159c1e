"""`table`: the records of a store, and those published with mlbench, as one table."""

from __future__ import annotations

from pathlib import Path

from mlbench.errors import DataError, UsageError
from mlbench.paths import store_dir
from mlbench.protocol import load_protocol
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
    layout: bool = False,
) -> Table:
    """Methods by data sets over the runs in `store`.

    `metric`, `methods` and `datasets` are names separated by commas. With `layout`, metrics and data sets are those of
    the protocol's own table, where `metric` is left at "mAP" and `datasets` out.
    """
    root = store or store_dir()
    metrics, columns = _names(metric), _names(datasets)
    if layout:
        if protocol is None:
            raise UsageError("--layout: name the protocol whose table is wanted with --protocol")
        own = load_protocol(protocol).table
        metrics = list(own.metrics) if metrics == ["mAP"] else metrics
        columns = columns or list(own.datasets) or None
    filters = {"protocol": protocol, "track": track, "backbone": backbone}
    records, problems = find_records(root, **{name: value for name, value in filters.items() if value is not None})
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    if not records:
        raise UsageError(f"no finished run in {root} matches; `mlbench list runs` shows what is there")
    return build_table(
        records,
        metric=metrics or "mAP",
        protocol=protocol,
        methods=_names(methods),
        datasets=columns,
        published=published,
    )


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None
