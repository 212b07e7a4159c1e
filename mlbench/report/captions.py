"""What stands around the numbers of a table: footnotes, printed values with their source, and the footer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mlbench.report.cells import Number, Record, method_of
from mlbench.report.render import MISSING, Cell, Part
from mlbench.report.ties import Ties, disorder_line, standing_line
from mlbench.significance.comparability import annotation_text, as_written, column_of
from mlbench.store import SUBMITTED
from mlbench.store.papers import PRINTED_AS

_GROUP = re.compile(r"G[0-9]+")


class Marks(dict[str, str]):
    """Footnotes: text to letters, in order of first use; calling it gives a text's letters."""

    def __call__(self, text: str) -> str:
        tens, ones = divmod(len(self), 26)
        return self.setdefault(text, (chr(96 + tens) if tens else "") + chr(97 + ones))


def cell_text(cell: Mapping[str, Any], digits: int, marks: Marks) -> Cell:
    """Mean and deviation, with the number of runs; nothing where there is none."""
    if not cell["n"]:
        return ()
    text = "undefined"
    if not math.isnan(cell["mean"]):
        spread = f" ± {cell['sd']:.{digits}f}" if cell["n"] > 1 else ""
        text = f"{cell['mean']:.{digits}f}{spread} ({cell['n']})"
    return (Part(text, cell["best"], marks(cell["remark"]) if cell["remark"] else ""),)


def describe_runs(runs: Sequence[Record]) -> str:
    """What the runs of a column share, in words."""
    # Of submissions, track and backbone are not known: a column is described by our own runs where it has any.
    first = next((record for record in runs if not method_of(record).startswith(SUBMITTED)), runs[0])
    identity, own = first["identity"], column_of(first)
    named = {name.removeprefix("definitions."): text for name, text in own.items() if name.startswith("definitions.")}
    annotation = annotation_text(first)
    if not as_written(first):
        annotation += " (not as the protocol is written)"
    return (
        f"{identity['dataset']['id']} version {identity['dataset']['version']} (fingerprint "
        f"{identity['dataset']['fingerprint'][:12]}), protocol {identity['protocol']} "
        f"({identity['protocol_sha256'][:12]}), annotation {annotation}, track {identity['track']}, backbone "
        f"{identity['backbone']['name']}, {identity['precision']}; definitions: "
        f"{', '.join(f'{name} {text}' for name, text in named.items())}"
    )


def published_of(
    papers: pd.DataFrame, method: str, dataset: str, protocol: str | None, metric: str
) -> list[dict[str, Any]]:
    """Rows of the published tables for one cell; a number that stands in several tables is taken once."""
    group, _, name = metric.rpartition("/")
    name, _, detail = name.partition("_")
    groups = ["top3"] if group.startswith("top3") else [detail] if _GROUP.fullmatch(detail) else ["all", "All"]
    printed = papers["dataset"] == PRINTED_AS.get(dataset, dataset)
    found = papers[(papers["method"] == method) & printed & (papers["metric"] == name)]
    found = found[found["group"].isin(groups)]
    if protocol is not None:
        found = found[found["protocol"] == protocol]
    return found.drop_duplicates(["printed", "backbone", "definition"]).to_dict("records")  # type: ignore[return-value]


def source_text(row: Mapping[str, Any]) -> str:
    """Where a printed value stands, and what it was measured on."""
    backbone = row["backbone"] or "backbone not stated"
    return (
        f"published in {row['paper']}, {row['table']}: {row['metric']} {row['definition']}, {backbone}, "
        f"images: {row['dataset_version']}; {row['selection']}" + (f"; {row['note']}" if row["note"] else "")
    )


def standing_lines(methods: Sequence[str], columns: Sequence[tuple[str, Ties]]) -> tuple[str, ...]:
    """Footer lines on the chance of being the best, and on groups that are not in the order of the means."""
    chances = [line for title, ties in columns if (line := standing_line(title, methods, ties))]
    odd = [f"{title}: {line}" for title, ties in columns if (line := disorder_line(methods, ties))]
    lines = [f"Chance of being the best of its column (mean rank, with its 95 % interval). {'. '.join(chances)}."]
    return (*(lines if chances else ()), *(f"Groups against the order of means, {line}." for line in odd))


def footer_lines(
    metrics: Mapping[str, Number],
    cells: Sequence[Mapping[str, Any]],
    published: bool,
    images: bool,
    reasons: Sequence[str],
) -> tuple[str, ...]:
    """What the numbers are, over which runs, and what is bold; `images`: whether their draw was tested, and if it was
    not, the `reasons`."""
    filled = [c for c in cells if c["n"] and c["metric"] == next(iter(metrics))]
    draws = {(c["repetitions"], c["mask_seeds"]) for c in filled}
    listed = "; ".join(
        f"repetitions {r} {f'with mask seeds {m}' if m else 'that see no mask'}" for r, m in sorted(draws)
    )
    lines = [
        f"{_units(metrics)}: mean ± sample standard deviation (ddof 1) over the runs, whose "
        "number stands in brackets; one run shows no deviation.",
        f"Runs: {sum(c['n'] for c in filled)}; {listed}" + (" (not the same in all cells)." if len(draws) > 1 else "."),
        "Bold: of our methods that were given the observed labels only, those that may be the best: no test tells "
        "another of the column to be better (paired by repetition and mask, effects of both allowed for"
        f"{' and the draw of the test images' if images else ''}; all pairs together at 0.05)."
        + ("" if images else " The draw of the test images is not tested."),
    ]
    untested: dict[str, list[str]] = {}
    for cell in cells:
        if cell["untested"]:
            untested.setdefault(cell["dataset"], []).append(cell["method"])
    if untested:
        listed = "; ".join(f"on {data}: {', '.join(dict.fromkeys(names))}" for data, names in untested.items())
        lines.append(f"Not tested, for want of two runs in common: {listed}.")
    lines += [f"Not tested on draws of the test images: {reason}." for reason in reasons]
    if published:
        lines.append(
            "Published values stand as printed, bold where the print is known to be; their marks tell the source."
        )
    if not all(c["n"] for c in cells):
        lines.append(f"{MISSING} : no run.")
    return tuple(lines)


def _units(metrics: Mapping[str, Number]) -> str:
    """The metrics with their units, and which of them are better where they are lower."""
    names = {unit: [name for name, kind in metrics.items() if kind.unit == unit] for unit in ("percent", "number")}
    shown = {"percent": "on test images, percent", "number": "on test images, a number"}
    said = [f"{', '.join(found)} {shown[unit]}" for unit, found in names.items() if found]
    lower = [name for name, kind in metrics.items() if kind.sign < 0]
    return "; ".join(said) + (f" (lower is better: {', '.join(lower)})" if lower else "")
