"""`site`: the pages, rendered from templates that escape whatever they are given, and written to a folder."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from mlbench.errors import DataError, MlbenchError, UsageError, visible
from mlbench.files import atomic_write
from mlbench.paths import store_dir
from mlbench.report.at_hand import AtHand
from mlbench.report.board import newest
from mlbench.report.cards import judge, load_card, published_gains
from mlbench.report.layouts import load_layouts
from mlbench.report.method_card import LEVELS, MethodCard, method_card
from mlbench.report.paper_tables import paper_tables
from mlbench.report.render import Cell, Part, Table
from mlbench.report.site.boards import Board, Record, Row, make_boards
from mlbench.report.site.cells import entries, number, number_rows, percent, raw
from mlbench.report.site.charts import Line, line_chart, scatter_chart
from mlbench.report.site.evidence import evidence
from mlbench.report.site.side_by_side import attention_sheets
from mlbench.store import find_records, is_submitted

#: Says that a page is one of ours: a folder is only written over where its first page has it.
_GENERATOR = "mlbench site"
#: How the name of a first page begins that was not written to its end.
_HALF = ".index.html."
#: The method that per-class numbers are held against.
_BASELINE = "an"


@dataclass(frozen=True)
class Site:
    """What was written: numbers of pages, runs and methods, and what could not be shown."""

    output: Path
    pages: int
    runs: int
    methods: int
    notes: tuple[str, ...]

    def text(self) -> str:
        line = f"wrote {self.output / 'index.html'}: {self.pages} pages, {self.runs} runs of {self.methods} methods"
        return "\n".join([line, *(f"note: {note}" for note in self.notes)])


def write_site(
    output: Path,
    results: Path | None = None,
    data_root: Path | None = None,
    weights: Path | None = None,
    pictures: bool = False,
) -> Site:
    """Write the leaderboard of the run records in `results` (a store or ``results/runs``) to the folder `output`.

    Runs whose predictions are in the store, and whose data set is at hand (`data_root`), get precision-recall curves;
    with `pictures`, also the test images they rank best and worst with class activation maps, for which their networks
    are loaded (`weights`: the file they were started from), and a page with the maps of several methods side by side.
    Pictures are copied into the pages: mind their licence.

    Pages stand on their own: they need no server and load nothing, not even from beside them. Pages of an earlier site
    in `output` are replaced, those of runs that are gone removed. UsageError where `output` holds anything else;
    DataError for a broken record.
    """
    root = results or store_dir()
    records, problems = find_records(root)
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    _require_ours(output)
    shown = newest(records)
    verdicts, notes = _verdicts(shown)
    if len(shown) < len(records):
        notes.append(f"submitted runs that a later version of the same name replaces: {len(records) - len(shown)}")
    boards = make_boards(shown)
    methods = sorted({row.method for board in boards for row in board.rows})
    here = AtHand(root, data_root)
    sheets = attention_sheets(boards, here, weights) if pictures else []
    count = 2 + bool(sheets) + len(methods) + len(shown)
    site = Site(output, count, len(shown), len(methods), tuple(notes))
    pages = {"index.html": _render("index.html", "", site=site, boards=boards, attention=bool(sheets))}
    if sheets:
        pages["attention.html"] = _render("attention.html", "", sheets=sheets)
    pages["papers.html"] = _render("papers.html", "", tables=list(_papers(shown)))
    for method in methods:
        pages[method_link(method)] = _method_page(method, boards, verdicts)
    for record in shown:
        pages[run_link(record)] = _run_page(record, here, pictures, weights)
    _write(output, pages)
    return site


def method_link(method: str) -> str:
    """The page of `method`, also where its name is no file name or differs from another's by case only."""
    name = re.sub(r"[^a-z0-9_]+", "-", method.lower()).strip("-")[:40]
    if name != method or not name:
        name = f"{name}-{hashlib.sha256(method.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"
    return f"methods/{name}.html"


def run_link(record: Record) -> str:
    return f"runs/{record['key'][:16]}.html"


def _require_ours(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output}: is a file, expected a folder")
    if not output.is_dir() or all(path.name.startswith(_HALF) for path in output.iterdir()):
        return
    index = output / "index.html"
    if not index.is_file() or f'content="{_GENERATOR}"' not in index.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(f"--output {output}: holds other files than a site; expected a new or empty folder")


def _write(output: Path, pages: Mapping[str, str]) -> None:
    index = output / "index.html"
    if not index.exists():  # first of all, so that a folder whose writer was killed is known as ours
        atomic_write(index, f'<!doctype html><meta name="generator" content="{_GENERATOR}">being written\n'.encode())
    for half in output.glob(f"{_HALF}*"):
        half.unlink()
    for folder in ("methods", "runs"):
        (output / folder).mkdir(parents=True, exist_ok=True)
        for old in (output / folder).glob("*.html"):
            if f"{folder}/{old.name}" not in pages:
                old.unlink()
    if "attention.html" not in pages:
        (output / "attention.html").unlink(missing_ok=True)
    for name, page in pages.items():
        if name != index.name:
            (output / name).write_bytes(page.encode())
    atomic_write(index, pages[index.name].encode())


def _verdicts(records: Sequence[dict[str, Any]]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Claims and outcomes by method, and a line for each paper whose claims could not be judged."""
    found: dict[str, list[dict[str, Any]]] = {}
    notes = []
    reproduced = [record for record in records if not is_submitted(record)]
    folder = files("mlbench.results") / "cards"
    for paper in sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if not f.name.startswith("_")):
        try:
            card = load_card(paper)
            claims = {(method, claim.over): claim.statement for method, claim in card.pairs}
            printed = {pair: published_gains(card, *pair) for pair in claims}
            for outcome in judge(card, reproduced):
                pair = outcome.method, outcome.over
                text = ", ".join(f"{name} {gain:+.1f}" for name, gain in printed[pair].items())
                entry = {"paper": paper, "metric": card.metric, "statement": claims[pair], "printed": text}
                found.setdefault(outcome.method, []).append({**entry, "outcome": outcome})
        except MlbenchError as error:
            notes.append(f"claims of {paper} were not judged: {error}")
    return found, notes


def _papers(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    for layout in load_layouts():
        runs = [record for record in records if record["identity"]["protocol"] == layout.protocol]
        problem = ""
        try:
            (table,) = paper_tables(runs, layout.paper, layout.name)
        except UsageError as error:
            problem = str(error)
            (table,) = paper_tables([], layout.paper, layout.name)
        yield {"title": table.title, "problem": problem, "grid": Markup(table.to_html()), "latex": table.to_latex()}


def _method_page(method: str, boards: Sequence[Board], verdicts: Mapping[str, Any]) -> str:
    parts = [_part(board, row) for board in boards for row in board.rows if row.method == method]
    provenance = parts[0]["row"].records[0]["provenance"]
    submission = provenance.get("submission")
    return _render(
        "method.html",
        "../",
        method=method,
        card=MethodCard((submission["title"],)) if submission else method_card(method),
        levels=LEVELS,
        submission=submission,
        claims=verdicts.get(method, []),
        parts=parts,
    )


def _part(board: Board, row: Row) -> dict[str, Any]:
    """What a method's page shows of one of its rows."""
    metric = board.metrics[0]
    figures = [
        line_chart(f"{metric} by epoch", _curves(row.records, metric), "epoch", f"{metric} (%)"),
        *(
            line_chart(f"Pseudo-labels: {number}", _judged(row.records, number), "epoch", f"{number} (%)")
            for number in ("precision", "recall")
        ),
    ]
    ours = _class_means(row.records)
    others = [r for r in board.rows if r.method == _BASELINE != row.method and r.ranked == row.ranked]
    theirs = _class_means(others[0].records) if others else {}
    difference = {name: ap - theirs.get(name, math.nan) for name, ap in ours.items()}
    points = [(theirs[name], ours[name]) for name, gap in difference.items() if not math.isnan(gap)]
    figures.append(scatter_chart("Average precision by class", points, f"{_BASELINE} (%)", "this method (%)"))
    last = {
        (record["key"], kind): {"run": record["key"][:8], "kind": kind, "epoch": epoch["epoch"], **found}
        for record in row.records
        for epoch in record["epochs"]
        for kind, found in epoch.get("forensics", {}).items()
    }
    return {
        "board": board,
        "row": row,
        "figures": [figure for figure in figures if figure],
        "forensics": list(last.values()),
        "classes": (ours, *((theirs, difference) if theirs else ())) if ours else (),
    }


def _curves(records: Sequence[Record], metric: str) -> list[Line]:
    """Validation and test values by epoch, counted over all phases; colours tell runs apart where there are few."""
    kinds = (("val", "validation", False), ("test_sealed", "test", True))
    return [
        Line(name, [(i, e.get(part, {}).get(metric)) for i, e in enumerate(record["epochs"], start=1)], colour, dashed)
        for record in records
        for colour, (part, name, dashed) in enumerate(kinds)
    ]


def _judged(records: Sequence[Record], number: str) -> list[Line]:
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


def _class_means(records: Sequence[Record]) -> dict[str, float]:
    """Average precision by class, mean over runs; NaN where a run has none."""
    every = [record["per_class"].get("AP", {}) for record in records]
    values = [[math.nan if (ap := classes.get(name)) is None else ap for classes in every] for name in every[0]]
    return dict(zip(every[0], np.mean(values, axis=1).tolist() if values else [], strict=True))


def _run_page(record: Record, here: AtHand, pictures: bool, weights: Path | None) -> str:
    found = evidence(record, here, pictures, weights)
    metric = str(record["definitions"].get("headline", "mAP"))
    figures = [
        line_chart(f"{metric} by epoch", _curves([record], metric), "epoch", f"{metric} (%)"),
        line_chart(
            "Training loss",
            [Line("loss", [(i, e.get("loss")) for i, e in enumerate(record["epochs"], start=1)])],
            "epoch",
            "loss",
        ),
        found.curves,
    ]
    return _render(
        "run.html",
        "../",
        record=record,
        origin_name="submitted" if is_submitted(dict(record)) else "reproduced",
        headline=metric,
        value=record["results"].get("test", {}).get(metric),
        metrics=list(dict.fromkeys(name for values in record["results"].values() for name in values)),
        classes=list(dict.fromkeys(name for values in record["per_class"].values() for name in values)),
        figures=[figure for figure in figures if figure],
        evidence=found,
    )


def _latex(board: Board) -> str:
    """The board as a booktabs table."""
    columns = ("method", "origin", "track", "backbone", *board.metrics, "runs")
    header: tuple[Cell, ...] = tuple((Part(name),) for name in columns)
    body = []
    for row in board.rows:
        own = row.identity
        numbers = [row.numbers[metric] for metric in board.metrics]
        texts = [percent(n.mean) + (f" ± {percent(n.sd)}" if not math.isnan(n.sd) else "") for n in numbers]
        first = Part(texts[0], bold=_first_group(row.tie))
        stubs = [Part(text) for text in (row.method, row.origin, own["track"], own["backbone"]["name"])]
        body.append(tuple((part,) for part in (*stubs, first, *map(Part, texts[1:]), Part(row.grid))))
    footer = ("Mean ± sample standard deviation over runs, percent. Bold: first tie group.",)
    return Table(header, tuple(body), (), footer, pd.DataFrame(), title=board.title, stubs=4).to_latex()


def _choices(board: Board) -> list[tuple[str, list[str]]]:
    """The filters of a board that have something to choose."""
    found = {
        "origin": {row.origin for row in board.rows} | ({"published"} if board.published else set()),
        "track": {row.identity["track"] for row in board.rows},
        "backbone": {row.identity["backbone"]["name"] for row in board.rows},
        "supervision": {"+".join(row.identity["method"]["supervision"]) for row in board.rows},
    }
    return [(name, sorted(values)) for name, values in found.items() if len(values) > 1]


def _first_group(tie: str) -> bool:
    return tie.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "1"


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
    environment.globals |= {"generator": _GENERATOR, "number_rows": number_rows, "entries": entries}
    environment.filters |= {
        "percent": percent,
        "number": number,
        "raw": raw,
        "choices": _choices,
        "latex": _latex,
        "first_group": _first_group,
        "method_link": method_link,
        "row_link": lambda row: method_link(row.method),
        "run_link": run_link,
    }
    return environment


_ENVIRONMENT = _environment()


def _render(template: str, root: str, **given: Any) -> str:
    return visible(_ENVIRONMENT.get_template(template).render(root=root, **given))
