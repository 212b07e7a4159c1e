"""Templates with what they call, and the addresses of pages."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from mlbench.errors import visible
from mlbench.report.render import Cell, Part, Table
from mlbench.report.site.boards import Board, Column
from mlbench.report.site.cells import entries, epoch_rows, number, number_rows, percent, raw
from mlbench.report.site.rows import Record, Row
from mlbench.report.site.start import needed_text

#: Says that a page is one of ours: a folder is only written over where its first page has it.
GENERATOR = "mlbench site"


def method_link(method: str) -> str:
    """The page of `method`, also where its name is no file name or differs from another's by case only."""
    name = re.sub(r"[^a-z0-9_]+", "-", method.lower()).strip("-")[:40]
    if name != method or not name:
        name = f"{name}-{hashlib.sha256(method.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"
    return f"methods/{name}.html"


def run_link(record: Record) -> str:
    return f"runs/{record['key'][:16]}.html"


def board_link(board: Board, column: Column | None = None) -> str:
    """The page of a board; with `column`, the place of that table."""
    return f"boards/{board.slug}.html" + (f"#{column.slug}" if column else "")


def board_data(board: Board, column: Column) -> str:
    """Where the numbers of a table of a board are, short of ".csv" or ".json"."""
    return f"data/{board.slug}--{column.slug}"


def render(template: str, root: str, here: str = "", **given: Any) -> str:
    """A page; `root` leads from it to the folder of the site, `here` is the entry of the menu that it belongs to."""
    return visible(ENVIRONMENT.get_template(template).render(root=root, here=here, **given))


def _latex(board: Board, column: Column) -> str:
    """A table of a board as a booktabs table."""
    columns = ("method", "given", "origin", *board.metrics, "runs")
    header: tuple[Cell, ...] = tuple((Part(name),) for name in columns)
    body = []
    for row in column.rows:
        numbers = [row.numbers[metric] for metric in board.metrics]
        texts = [percent(n.mean) + (f" ± {percent(n.sd)}" if not math.isnan(n.sd) else "") for n in numbers]
        first = Part(texts[0], bold=row.group == 1)
        stubs = [Part(text) for text in (row.method, row.supervision or "nothing", row.origin)]
        body.append(tuple((part,) for part in (*stubs, first, *map(Part, texts[1:]), Part(row.grid))))
    footer = (
        f"{column.name}. Mean ± sample standard deviation over runs, percent. Bold: first tie group of those that are "
        "given the same.",
    )
    return Table(header, tuple(body), (), footer, pd.DataFrame(), title=board.title, stubs=3).to_latex()


def _choices(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The filters of a table of a board that have something to choose."""
    found = {
        "origin": {row.origin for row in rows},
        "supervision": {row.supervision for row in rows},
        "pretraining": {row.pretraining for row in rows},
    }
    return [(name, sorted(values)) for name, values in found.items() if len(values) > 1]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mlbench.report.site"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for kind in ("css", "js"):
        text = (files("mlbench.report.site") / f"site.{kind}").read_text(encoding="utf-8")
        name = "style" if kind == "css" else "script"
        environment.globals[name] = Markup(text)
        environment.globals[f"{name}_hash"] = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    environment.globals |= {
        "generator": GENERATOR,
        "number_rows": number_rows,
        "epoch_rows": epoch_rows,
        "entries": entries,
        "board_link": board_link,
        "board_data": board_data,
        "choices": _choices,
        "latex": _latex,
    }
    environment.filters |= {
        "percent": percent,
        "number": number,
        "raw": raw,
        "needed": needed_text,
        "anchor": lambda method: method_link(method)[len("methods/") : -len(".html")],
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
        "method_link": method_link,
        "row_link": lambda row: method_link(row.method),
        "run_link": run_link,
    }
    return environment


ENVIRONMENT = _environment()
