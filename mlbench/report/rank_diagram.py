"""Critical-difference diagram: methods on an axis of mean ranks, bars over those not told apart. Plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from mlbench.errors import UsageError, visible
from mlbench.significance.ranks import CriticalDifference, critical_difference

_WIDTH, _MARGIN, _AXIS, _LINE = 900, 260, 70, 20


def rank_diagram(cells: pd.DataFrame, level: float = 0.05) -> str:
    """SVG of the methods of a table's `cells`, ranked on each of its columns, which count as independent data sets.

    UsageError for several metrics, for one data set in several columns (track, backbone), for rows of unlike
    pretraining, and for missing cells, which it names: ranks need a full grid of independent columns.
    """
    metrics = list(dict.fromkeys(cells["metric"]))
    if len(metrics) > 1:
        raise UsageError(
            f"diagram of ranks: metrics {', '.join(metrics)} of one data set are not independent; name one with "
            "--metric"
        )
    columns = cells.drop_duplicates("column")
    twice = columns["dataset"][columns["dataset"].duplicated()].unique()
    if len(twice):
        raise UsageError(
            f"diagram of ranks: '{twice[0]}' stands in several columns, which are not independent; choose one kind "
            "with --track or --backbone"
        )
    more = cells[cells["pretrained"]]["method"].unique()
    if len(more):
        raise UsageError(
            f"diagram of ranks: {', '.join(more)} rest on more pretraining than the others, and are not ranked with "
            "them; choose with --methods or --where pretraining=..."
        )
    table = cells.pivot(index="column", columns="method", values="mean")
    if table.isna().any(axis=None):
        missing = [f"{method} on {column}" for column, method in table.isna().stack()[lambda gap: gap].index]
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UsageError(f"diagram of ranks: no value of {listed}; choose with --methods and --datasets")
    sign = -1 if "lower" in set(cells.get("better", ())) else 1
    return draw_ranks(list(table.columns), critical_difference(sign * table.to_numpy(), level), len(table), level)


def draw_ranks(methods: Sequence[str], found: CriticalDifference, sets: int, level: float) -> str:
    """SVG of mean ranks, the best on the left, with the critical difference as a bar above the axis."""
    count = len(methods)
    order = np.argsort(found.ranks, kind="stable")
    ordered = [found.ranks[i] for i in order]
    half = (count + 1) // 2
    below = _AXIS + 16 + 8 * len(found.ties)
    height = below + _LINE * (half + 2)

    def x(rank: float) -> float:
        return round(_MARGIN + (rank - 1) / (count - 1) * (_WIDTH - 2 * _MARGIN), 1)

    def line(x1: float, y1: float, x2: float, y2: float, width: float = 1) -> str:
        return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="currentColor" stroke-width="{width}"/>'

    def text(at: float, y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{at}" y="{y}" text-anchor="{anchor}">{escape(visible(words))}</text>'

    said = (
        f"Mean rank on {sets} data sets (1 is the best). Friedman's test that all are alike: p = {found.p:.2g}. Bars "
        f"join methods that Nemenyi's test does not tell apart at {level:g} (critical difference "
        f"{found.difference:.2f})."
    )
    end = min(x(1 + found.difference), _WIDTH - 10.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" font-family="sans-serif" '
        'font-size="13">',
        f"<title>{escape(said)}</title>",
        *(line(x(1), 24, end, 24, 2), line(x(1), 20, x(1), 28), line(end, 20, end, 28)),
        text((x(1) + end) / 2, 16, f"critical difference {found.difference:.2f}"),
        line(x(1), _AXIS, x(count), _AXIS),
    ]
    for rank in range(1, count + 1):
        parts += [line(x(rank), _AXIS - 6, x(rank), _AXIS), text(x(rank), _AXIS - 10, str(rank))]
    for number, (first, last) in enumerate(found.ties):
        y = _AXIS + 10 + 8 * number
        parts.append(line(x(ordered[first]) - 4, y, x(ordered[last]) + 4, y, 4))
    for position, index in enumerate(order):
        left = position < half
        y = below + _LINE * (position if left else count - 1 - position) + _LINE
        at, label = x(ordered[position]), f"{methods[index]} ({ordered[position]:.2f})"
        edge = _MARGIN - 20 if left else _WIDTH - _MARGIN + 20
        parts += [line(at, _AXIS, at, y), line(at, y, edge, y)]
        parts.append(text(edge - 5 if left else edge + 5, y + 4, label, "end" if left else "start"))
    return "\n".join([*parts, "</svg>", ""])
