"""How many labels is a method worth? The share of labels at which assuming the rest negative (`an`) does as well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mlbench.grid import grid
from mlbench.report.questions.columns import Column
from mlbench.significance.crossed import Draw
from mlbench.significance.orders import Estimate, percentiles

METRIC, BASE, SHARE = "mAP", "an", "keep"
#: Methods that are given every label: what they reach is the end of the scale, and no worth.
ALL_LABELS = ("full", "full_boostlu")


def share_reached(shares: Sequence[float], values: Sequence[float], value: float) -> float:
    """The share of labels at which the curve through `values` at `shares` (ascending) first reaches `value`.

    The curve is linear between its points, after the running maximum has made it rise; minus infinity for a value below
    its first point and infinity for one above its last: these are not extrapolated.
    """
    rising = np.maximum.accumulate(np.asarray(values, dtype=np.float64))
    if value < rising[0]:
        return -math.inf
    at = int(np.searchsorted(rising, value, side="left"))
    if at == len(rising):
        return math.inf
    if at == 0:
        return float(shares[0])
    part = (value - rising[at - 1]) / (rising[at] - rising[at - 1])
    return float(shares[at - 1] + part * (shares[at] - shares[at - 1]))


def worth(
    base: Mapping[float, Mapping[Draw, float]], method: Mapping[Draw, float], replicates: int = 2000
) -> tuple[Estimate, int]:
    """The share that `base` (values by share and draw) needs for the mean of `method`, and the draws in common.

    The interval is over draws with replacement of the common draws, which all points keep together; of one there is
    none.
    """
    shares = sorted(base)
    draws = sorted(set(method).intersection(*(base[share] for share in shares)), key=str)
    if not draws:
        return Estimate(math.nan), 0
    curve = np.array([[base[share][draw] for share in shares] for draw in draws])
    own = np.array([method[draw] for draw in draws])
    value = share_reached(shares, curve.mean(0).tolist(), float(own.mean()))
    if len(draws) < 2:
        return Estimate(value), len(draws)
    rows = np.random.default_rng(0).integers(len(draws), size=(replicates, len(draws)))
    drawn = [share_reached(shares, curve[r].mean(0).tolist(), float(own[r].mean())) for r in rows]
    return Estimate(value, *_ends(np.array(drawn))), len(draws)


def report(columns: Sequence[Column]) -> str:
    """The answer as Markdown."""
    scales: dict[tuple[str, ...], dict[float, Column]] = {}
    for column in columns:
        if set(column.params) == {SHARE} and BASE in column.methods:
            place = column.protocol, column.dataset, column.track, column.backbone
            scales.setdefault(place, {}).setdefault(float(column.params[SHARE]), column)
    lines = ["# How many labels is a method worth?", ""]
    usable = {place: found for place, found in scales.items() if len(found) > 2}
    if not usable:
        needs = f"it needs runs of `{BASE}` and of others under `partial` with three shares of labels or more"
        return "\n".join([*lines, f"Not answerable with what is published: {needs}."])
    lines += [
        f"A method trained with a share of the labels is worth as many as `{BASE}` needs for the same test {METRIC}. "
        f"The curve of `{BASE}` is linear between its points, after its running maximum made it rise; beyond its ends "
        "nothing is extrapolated: `<` and `>` say that a method is below or above the whole curve. Intervals (95 %) "
        "are over draws of the runs; from one draw there is none, and a few percent of the labels may be chance.",
        "",
    ]
    for (protocol, dataset, track, backbone), scale in usable.items():
        shares = sorted(scale)
        base = {share: scale[share].values(METRIC)[BASE] for share in shares}
        told = ", ".join(f"{100 * s:.0f} % {np.mean(list(base[s].values())):.1f}" for s in shares)
        counts = {len(base[s]) for s in shares}
        lines += [
            f"## {dataset}, {protocol}, {track}, {backbone}",
            "",
            f"`{BASE}` by share of labels: {told} ({_numbers(counts)} a share).",
            "",
        ]
        names = sorted({name for column in scale.values() for name in column.methods} - {BASE, *ALL_LABELS})
        rows = []
        for name in names:
            cells, draws = [], set()
            for share in shares:
                values = scale[share].values(METRIC).get(name)
                found, number = worth(base, values) if values else (Estimate(math.nan), 0)
                draws.add(number)
                cells.append(_cell(found, shares))
            rows.append([name, *cells, _numbers(draws)])
        lines += [grid(rows, ["method", *(f"given {100 * s:.0f} %" for s in shares), "draws"], "github"), ""]
    return "\n".join(lines)


def _ends(drawn: np.ndarray) -> tuple[float, float]:
    """Percentile ends that may lie beyond the curve."""
    finite = np.where(drawn == math.inf, 1e9, np.where(drawn == -math.inf, -1e9, drawn))
    low, high = (-math.inf if end < 0 else math.inf if end > 1 else end for end in percentiles(finite))
    return low, high


def _cell(found: Estimate, shares: Sequence[float]) -> str:
    if math.isnan(found.value):
        return "-"

    def text(share: float) -> str:
        if share == math.inf:
            return f">{100 * shares[-1]:.0f}"
        return f"<{100 * shares[0]:.0f}" if share == -math.inf else f"{100 * share:.0f}"

    ends = "" if math.isnan(found.low) else f" ({text(found.low)} to {text(found.high)})"
    return f"{text(found.value)} %{ends}"


def _numbers(counts: set[int]) -> str:
    known = sorted(counts)
    text = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
    return f"{text} draw{'s' * (known[-1] != 1)}"
