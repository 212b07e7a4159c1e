"""`table`: the records of a store, and those published with mlbench, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mlbench.errors import DataError, UsageError
from mlbench.paths import store_dir
from mlbench.protocol import load_protocol, protocol_named
from mlbench.report.ages import ages_text
from mlbench.report.render import csv_text, html_document, latex_document
from mlbench.report.tables import Table, build_table
from mlbench.significance.comparability import KNOWN_OF_SUBMITTED, among, place_of
from mlbench.significance.where import choose, parse_where
from mlbench.store import find_records, is_submitted


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
    replicates: int = 0,
    data_root: Path | None = None,
    gap: float | None = None,
    conditions: Sequence[str] = (),
) -> Table:
    """Methods by data sets over the runs in `store`.

    `metric`, `methods` and `datasets` are names separated by commas. With `layout`, metrics and data sets are those of
    the protocol's own table, where `metric` is left at "mAP" and `datasets` out. With `replicates` above 0, tie groups
    are tested on so many draws of the test images, too, where predictions and data (`data_root`) are at hand.
    With `gap`, the table says how many paired runs would find a difference of so many points to the best.
    `conditions`, as "mask.params.keep=0.1", choose among the runs; see `mlbench.significance.where`.
    """
    root = store or store_dir()
    metrics, columns = _names(metric), _names(datasets)
    if layout and protocol is None:
        raise UsageError("--layout: name the protocol whose table is wanted with --protocol")
    if protocol is not None and protocol.endswith(".toml"):
        protocol = load_protocol(protocol).name
    records = _records(root, protocol, track, backbone)
    if layout and protocol is not None:
        own = protocol_named(protocol, records).table
        metrics = list(own.metrics) if metrics == ["mAP"] else metrics
        columns = columns or list(own.datasets) or None
    shown, drawn = choose(newest(records), parse_where(conditions), others=True), None
    reasons: list[str] = []
    if replicates:
        from mlbench.report.ties import image_replicates

        drawn, reasons = image_replicates(shown, root, replicates, data_root, metrics or ())
    return build_table(
        shown,
        metric=metrics or "mAP",
        protocol=protocol,
        methods=_names(methods),
        datasets=columns,
        published=published,
        replicates=drawn,
        untested=reasons,
        gap=gap,
    )


def ages(
    store: Path | None = None,
    protocol: str | None = None,
    methods: str | None = None,
    datasets: str | None = None,
    track: str | None = None,
    backbone: str | None = None,
    conditions: Sequence[str] = (),
) -> str:
    """How old the rows of `table` with these arguments are, as Markdown: see `mlbench.report.ages`."""
    records = newest(_records(store or store_dir(), protocol, track, backbone))
    wanted = {("method", "name"): _names(methods), ("dataset", "id"): _names(datasets)}
    shown = [
        record
        for record in choose(records, parse_where(conditions), others=True)
        if all(names is None or record["identity"][a][b] in names for (a, b), names in wanted.items())
    ]
    return ages_text(shown)


def _records(root: Path, protocol: str | None, track: str | None, backbone: str | None) -> list[dict[str, Any]]:
    if protocol is not None and protocol.endswith(".toml"):
        protocol = load_protocol(protocol).name
    filters = {"protocol": protocol, "track": track, "backbone": backbone}
    records, problems = find_records(root, **{name: value for name, value in filters.items() if value is not None})
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    if not records:
        raise UsageError(f"no finished run in {root} matches; `mlbench list runs` shows what is there")
    return records


def papers(
    store: Path | None = None,
    paper: str = "all",
    name: str | None = None,
    datasets: str | None = None,
    track: str | None = None,
    backbone: str | None = None,
    conditions: Sequence[str] = (),
) -> list[Table]:
    """The tables of `paper`, or its one table `name`, with the runs in `store`; see `paper_tables`.

    A store that is not named and not there is an empty one.
    """
    from mlbench.report.paper_tables import paper_tables

    root = store or store_dir()
    records, problems = find_records(root) if store is not None or root.is_dir() else ([], [])
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    filters = {"track": track, "backbone.name": backbone}
    where = {column: value for column, value in filters.items() if value is not None} | parse_where(conditions)
    return paper_tables(records, paper, name, where, _names(datasets) or ())


def render(tables: list[Table], form: str, document: bool = False) -> str:
    """`tables` as text: "markdown", "latex", "csv" or "html"; with `document`, LaTeX and HTML are whole files."""
    if form == "csv":
        return csv_text(pd.concat([table.cells for table in tables]))
    if document and form in ("latex", "html"):
        return latex_document(tables) if form == "latex" else html_document(tables)
    write = {"markdown": Table.to_markdown, "latex": Table.to_latex, "html": Table.to_html}[form]
    return "\n".join(write(table) for table in tables)


def newest(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`records` without submissions that a later version of the same name, protocol and data set replaces."""

    def line(record: dict[str, Any]) -> tuple[str, ...]:
        known = {name: text for name, text in place_of(record).items() if among(name, KNOWN_OF_SUBMITTED)}
        return record["identity"]["method"]["name"], *known.values()

    last: dict[tuple[str, ...], int] = {}
    for record in filter(is_submitted, records):
        last[line(record)] = max(last.get(line(record), 0), record["identity"]["method"]["version"])
    return [r for r in records if not is_submitted(r) or r["identity"]["method"]["version"] == last[line(r)]]


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None
