"""The report of a reproduction: the paper's tables, each cell's distance, claims, what is missing, all settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from mlbench.errors import MlbenchError
from mlbench.files import atomic_write
from mlbench.report.paper_tables import paper_tables
from mlbench.report.render import Cell, Part, Table, html_document, latex_document
from mlbench.reproduce.distance import CONFIDENCE, Distance, distances, verdicts
from mlbench.reproduce.frozen import Frozen, on_miniatures
from mlbench.reproduce.listing import settings_rows
from mlbench.reproduce.plans import Plan

Record = Mapping[str, Any]


NO_CLAIM = "no claim on file for these data, track and network: no verdict"


def tables_of(frozen: Frozen, records: Sequence[Record]) -> list[Table]:
    """All tables of the report; `records` are those that claims are judged by (the store's and the published)."""
    found = []
    for plan in frozen.asked.plans:
        own = distances(frozen, plan)
        chosen, made_up = frozen.chosen(plan.table), on_miniatures(frozen.asked)
        (printed,) = paper_tables(frozen.records.values(), plan.paper, plan.table, chosen=chosen, miniatures=made_up)
        printed = replace(printed, footer=(*said(frozen, plan), *printed.footer))
        found += [printed, _distance_table(frozen, plan, own), _claims_table(frozen, plan, records)]
        found += [_missing_table(frozen, plan), _settings_table(frozen, plan)]
    return [table for table in found if table.body]


def write_report(tables: Sequence[Table], folder: Path) -> list[Path]:
    """`tables` as ``report.md``, ``report.tex`` (a whole file for pdflatex), ``report.html`` and ``cells.csv``."""
    cells = pd.concat([table.cells for table in tables if "published" in table.cells])
    texts = {
        "report.md": "\n".join(table.to_markdown() for table in tables),
        "report.tex": latex_document(tables),
        "report.html": html_document(tables),
        "cells.csv": cells.to_csv(index=False, lineterminator="\n"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        atomic_write(folder / name, text.encode())
    return [folder / name for name in texts]


def said(frozen: Frozen, plan: Plan) -> tuple[str, ...]:
    """What of a plan was not as published, a line each, for the foot of a table."""
    lines = []
    if frozen.asked.budget:
        lines.append(
            f"Budget '{frozen.asked.budget}', not the published recipe: {plan.budget(frozen.asked.budget).why}"
        )
    for data, place in frozen.asked.data.items():
        if place.stands_in(data) and any(column.data == data for column in plan.layout.columns):
            lines.append(
                f"On {place.dataset} in place of {data}: other images, never held against the printed numbers."
            )
    for name in ("track", "backbone", "draws"):
        asked, own = getattr(frozen.asked, name), plan.value(name)
        if asked and asked != own:
            lines.append(f"Asked for: {name} {asked}, in place of the plan's {own}.")
    return tuple(lines)


def _distance_table(frozen: Frozen, plan: Plan, own: Sequence[Distance]) -> Table:
    share = f"{100 * CONFIDENCE:g} %"
    header = ["row", "column", "ours by", "printed", "ours", "draws", "ours - printed", "definition", "rest"]
    header += [f"{share} interval of the rest", "print inside", "why not"]
    body = [_distance_line(one) for one in own if one.draws]
    footer = (
        "ours: mean ± sample standard deviation over draws, by our definition. definition: ours by our definition "
        "minus ours by that of the printed number, from the same predictions; rest: ours by the printed number's "
        "definition minus the print. The two add up to ours - printed.",
        "The interval is Student's over draws of their own seed and mask; the print is taken as exact, since its own "
        "spread is not told. One draw has none.",
        *said(frozen, plan),
    )
    return _table(f"{plan.paper}, {plan.layout.printed}: distance from the print", header, body, footer, stubs=3)


def _distance_line(one: Distance) -> list[str]:
    digits = len(one.text.partition(".")[2])

    def number(value: float, signed: bool = True) -> str:
        return "" if math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")

    ours = number(one.ours, False) or "undefined"
    ours += "" if math.isnan(one.sd) else f" ± {one.sd:.{digits}f}"
    whole = "" if math.isnan(one.rest) else number(one.ours - one.value)
    interval = "" if math.isnan(one.low) else f"[{number(one.low)}, {number(one.high)}]"
    inside = {True: "yes", False: "no", None: ""}[one.holds_print]
    numbers = [one.text, ours, str(one.draws), whole, number(one.definition), number(one.rest), interval, inside]
    return [one.printed.row, one.column, one.metric, *numbers, one.why]


def _claims_table(frozen: Frozen, plan: Plan, records: Sequence[Record]) -> Table:
    found, trouble = [], ""
    try:
        found = verdicts(frozen, plan, records)
    except MlbenchError as error:  # days of runs must not be without a report for it
        trouble = f"not judged: {error}"
    header = ["method", "over", "setting", "gain", "interval", "pairs", "draws needed", "verdict"]
    body = []
    for card, outcome in found:
        gain = outcome.interval
        told = gain is not None and math.isfinite(gain.low)
        body.append(
            [
                *(outcome.method, outcome.over, f"{card.settings[outcome.setting].dataset} (claims of {card.paper})"),
                *("" if gain is None else f"{gain.mean:+.2f}".replace("-", "−"),),
                *(f"[{gain.low:+.2f}, {gain.high:+.2f}]".replace("-", "−") if gain is not None and told else "",),
                *(str(outcome.pairs), "" if outcome.needed is None else str(outcome.needed)),
                *(f"{outcome.verdict}: {outcome.why}" if outcome.why else outcome.verdict,),
            ]
        )
    if not body:
        body = [["all", "", "", "", "", "", "", trouble or NO_CLAIM]]
    footer = (
        "Verdicts are those of results/cards, written down before their runs; over all runs of the store and the "
        "published ones that a claim names. draws needed: to find the smallest gain worth claiming in 80 % of cases.",
        *said(frozen, plan),
    )
    return _table(f"{plan.paper}, {plan.layout.printed}: claims on file", header, body, footer, stubs=3)


def _missing_table(frozen: Frozen, plan: Plan) -> Table:
    body = []
    for entry, keys, reason in zip(frozen.entries, frozen.keys, frozen.reasons, strict=True):
        lacking = sum(key not in frozen.records for key in keys)
        if entry.plan is plan and (reason or lacking):
            why = reason or f"{lacking} of {len(keys)} runs are not done"
            body.append([entry.printed.row, entry.method, entry.dataset, why])
    return _table(
        f"{plan.paper}, {plan.layout.printed}: what is missing", ["row", "method", "data set", "why"], body, ()
    )


def _settings_table(frozen: Frozen, plan: Plan) -> Table:
    entries = [entry for entry in frozen.entries if entry.plan is plan]
    body = settings_rows(plan, entries, frozen.asked)
    footer = (
        "published: the paper, its slides or poster say it; released: its authors' code has it; ours: the source has "
        "none, or none that can be run here; unverified: told by others, or from memory.",
    )
    header = ["setting", "value", "level", "source"]
    return _table(f"{plan.paper}, {plan.layout.printed}: settings and their sources", header, body, footer, stubs=4)


def _table(
    title: str, header: Sequence[str], body: Iterable[Sequence[str]], footer: tuple[str, ...], stubs: int = 4
) -> Table:
    def cells(line: Sequence[str]) -> tuple[Cell, ...]:
        return tuple((Part(text),) for text in line)

    rows = list(body)
    frame = pd.DataFrame(rows, columns=list(header))
    return Table(cells(header), tuple(map(cells, rows)), (), footer, frame, title=title, stubs=stubs)
