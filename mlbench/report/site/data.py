"""The numbers of every table as CSV and JSON, beside the pages."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlbench.report.render import escape_csv
from mlbench.report.site.boards import Board, Column
from mlbench.report.site.rows import Record, Row

Line = Mapping[str, Any]


def both(name: str, title: str, lines: Sequence[Line], **more: Any) -> dict[str, str]:
    """`lines` (of the same keys) as files `name`.csv and `name`.json; the latter has `title` and `more`, too."""
    return {
        f"{name}.csv": csv_of(lines),
        f"{name}.json": json_of({"title": title, **more, "rows": list(lines)}),
    }


def json_of(value: Any) -> str:
    """`value` as JSON in ASCII; numbers that there are not are null."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":")) + "\n"


def csv_of(lines: Sequence[Line]) -> str:
    """`lines` as CSV, numbers unrounded; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer.writerow([escape_csv(name) for name in names])
    writer.writerows([_cell(line.get(name)) for name in names] for line in lines)
    return buffer.getvalue()


def board_lines(board: Board, column: Column) -> list[Line]:
    """A line for each row of a table of a board."""
    place = {
        "protocol": board.protocol,
        "dataset": board.dataset["id"],
        "labels": board.title.partition(", labels: ")[2],
    }
    network = {"track": column.track, "backbone": column.backbone, "head": column.head, "precision": column.precision}
    return [place | network | _row(board, row) for row in column.rows]


def printed_lines(board: Board) -> list[Line]:
    """A line for each row of a board that is printed in a paper."""
    names = ("row", "method", "metric", "printed", "backbone", "paper", "table", "definition", "selection", "note")
    return [{name: row[name] for name in names} for row in board.published]


def run_lines(records: Sequence[Record]) -> Iterator[Line]:
    """A line for each run with all its test metrics."""
    for record in records:
        own = record["identity"]
        yield {
            "key": record["key"],
            "method": own["method"]["name"],
            "method_version": own["method"]["version"],
            "protocol": own["protocol"],
            "dataset": own["dataset"]["id"],
            "track": own["track"],
            "backbone": own["backbone"]["name"],
            "seed": own["repetition"],
            "mask_seed": own["mask_seed"],
            "epoch": record["selected"]["epoch"],
            "seconds": record["provenance"]["seconds"],
            "started": record["provenance"]["started"],
            "mlbench": record["provenance"].get("mlbench"),
            **record["results"].get("test", {}),
            **{name: found.get("value") for name, found in record.get("measures", {}).items()},
        }


def _row(board: Board, row: Row) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for metric in board.metrics:
        found = row.numbers[metric]
        values |= {metric: found.mean, f"{metric}_sd": found.sd}
    first = row.numbers[board.metrics[0]].interval
    return {
        "method": row.method,
        "origin": row.origin,
        "supervision": row.supervision,
        "pretraining": row.pretraining,
        "tie_group": row.group,
        **values,
        "low": first.low,
        "high": first.high,
        "chance_best": row.best,
        "rank": row.rank[0],
        "rank_low": row.rank[1],
        "rank_high": row.rank[2],
        "draws": len(row.draws),
        "runs": len(row.records),
        "draws_needed": row.needed or None,
        **row.measures,
        "seconds": row.seconds,
        "peak_memory_mib": row.memory,
        "labels": row.labels,
        "hardware": row.hardware,
        "newest": row.newest,
        "method_version": row.version,
        "mlbench": row.made_by,
        "settings": row.settings,
    }


def _cell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return escape_csv(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value
