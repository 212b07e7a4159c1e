"""What methods did to unknown labels, epoch by epoch, held against the hidden truth: a table and curves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mlbench.errors import UsageError, visible
from mlbench.files import atomic_write
from mlbench.grid import grid


def label_courses(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each run, kind of report and epoch: entries judged, precision and recall in percent.

    "rejected" and "corrected" are what the method did in that epoch, "added" labels all it had written by its end.
    UsageError where no run reported or wrote anything.
    """
    rows = [
        {
            "run": record["key"][:8],
            "method": record["identity"]["method"]["name"],
            "dataset": record["identity"]["dataset"]["id"],
            "seed": record["identity"]["repetition"],
            "mask": record["identity"]["mask_seed"],
            "kind": kind,
            "epoch": row["epoch"],
            **found,
        }
        for record in records
        for row in record["epochs"]
        if row["phase"] == record["selected"]["phase"]
        for kind, found in row.get("forensics", {}).items()
    ]
    if not rows:
        raise UsageError("no run here rejected, corrected or added a label")
    return rows


def courses_text(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    return grid(rows, headers="keys", floatfmt=".1f", tablefmt="github")


@matplotlib.rc_context({"text.parse_math": False})  # a dollar in a name is a dollar
def draw_courses(rows: Sequence[dict[str, Any]], picture: Path) -> Path:
    """Write `picture` (PNG): precision and recall by epoch, a line for each run and kind."""
    figure = Figure(figsize=(10, 4))
    axes = figure.subplots(1, 2, sharex=True)
    lines: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["method"], row["kind"], row["run"]), []).append(row)
    names: dict[tuple[str, str], str] = {}
    for (method, kind, _), line in lines.items():
        colour = names.setdefault((method, kind), f"C{len(names) % 10}")
        for axis, number in zip(axes, ("precision", "recall"), strict=True):
            shown = [(row["epoch"], row[number]) for row in line if row[number] is not None]
            if shown:
                axis.plot(*zip(*shown, strict=True), color=colour, marker=".", label=visible(f"{method}: {kind}"))
    for axis, number in zip(axes, ("precision", "recall"), strict=True):
        axis.set(xlabel="epoch", ylabel=f"{number} (%)", ylim=(0, None))
        axis.grid(alpha=0.3)
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    if handles:
        axes[0].legend(handles.values(), handles.keys(), fontsize="small")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    atomic_write(picture, buffer.getvalue())
    return picture
