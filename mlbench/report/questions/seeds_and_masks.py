"""Do masks or seeds matter more?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlbench.grid import grid
from mlbench.report.questions.columns import Column
from mlbench.significance.components import Spread, spread_of
from mlbench.significance.crossed import Draw, shares

METRIC, BASE = "mAP", "an"


def grid_of(values: Mapping[Draw, float]) -> np.ndarray | None:
    """The largest square-cornered part of a method's runs that has each of its seeds with each of its masks, [S, M].

    Seeds that were run with one mask alone are no part of a grid. None where there are not two of each.
    """
    masks: dict[int, set[int]] = {}
    for seed, mask in values:
        if mask is not None:
            masks.setdefault(seed, set()).add(mask)
    several = {seed: found for seed, found in masks.items() if len(found) > 1}
    if len(several) < 2:
        return None
    shared = sorted(set.intersection(*several.values()))
    if len(shared) < 2:
        return None
    return np.array([[values[seed, mask] for mask in shared] for seed in sorted(several)])


def report(columns: Sequence[Column]) -> str:
    """The answer as Markdown."""
    rows, crossed, lines = [], [], ["# Do masks or seeds matter more?", ""]
    for column in columns:
        values = column.values(METRIC)
        grids = {name: found for name, runs in values.items() if (found := grid_of(runs)) is not None}
        if len(grids) < 3:
            continue
        base = grids.get(BASE)
        gaps = []
        if base is not None:
            gaps = [of - base for name, of in grids.items() if name != BASE and of.shape == base.shape]
        shape = next(iter(grids.values())).shape
        for what, of in ((METRIC, list(grids.values())), (f"gain over {BASE}", gaps)):
            if len(of) > 2:
                rows.append([column.title, what, len(of), f"{shape[0]} x {shape[1]}", *_told(spread_of(of))])
        told = shares([{d: v for d, v in values[name].items() if d[1] is not None} for name in grids])
        if told is not None:
            texts = [f"{100 * a:.0f} % ({100 * b:.0f} to {100 * c:.0f})" for a, b, c in (told.seed, told.mask)]
            crossed.append([column.title, told.pairs, *texts, f"{100 * told.mask_larger:.0f} %"])
    if not rows:
        return "\n".join(
            [
                *lines,
                "Not answerable with runs of draw i = (seed i, mask i) alone, in which both change together: it needs "
                "a grid of at least two seeds by two masks for three methods of a column.",
            ]
        )
    headers = ["data", "of", "methods", "seeds x masks", "sd of seeds", "sd of masks", "sd of the rest", "larger",
               "methods with larger masks"]  # fmt: skip
    lines += [
        f"Standard deviations in points of test {METRIC}, from two-way analysis of variance of each method's grid, the "
        "variances averaged over methods. Intervals (95 %) are over draws of the methods: of three seeds and three "
        "masks a single method knows little, and these few are not drawn anew. *Larger* is said where the interval of "
        "the difference of the two variances leaves out 0.",
        "",
        grid(rows, headers, "github"),
        "",
        "## By the model that tables test with",
        "",
        "Shares of the variance of the gap of two methods in one draw, averaged over pairs of methods, with the "
        "interval (95 %) of a pair and the chance that the mask's share is the larger. The model knows a coarse grid "
        "of shares and leans a little to none; with three seeds and masks its intervals are wide, rightly.",
        "",
        grid(crossed, ["data", "pairs", "seeds", "masks", "mask larger"], "github"),
        "",
        "Draw i = (seed i, mask i) spends a run on both at once. Methods that see no mask have no mask's part and are "
        "left out.",
    ]
    return "\n".join(lines)


def _told(spread: Spread) -> list[str]:
    low, high = spread.mask_minus_seed.low, spread.mask_minus_seed.high
    larger = "masks" if low > 0 else "seeds" if high < 0 else "not told apart"
    parts = [part.text() for part in (spread.seed, spread.mask, spread.rest)]
    return [*parts, larger, f"{100 * spread.share_more:.0f} %"]
