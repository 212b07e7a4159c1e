"""How many runs a gap needs: between each method of a table's column and the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from mlbench.comparison import Draw, runs_needed
from mlbench.stats import deviation_of_draws

#: Chance to find the gap, and level of the two-sided test.
POWER, LEVEL = 0.8, 0.05


def gap_deviation(first: Mapping[Draw, float], second: Mapping[Draw, float]) -> float:
    """Deviation of the difference of two methods' runs, paired by draw (seed, mask seed), each pair of its own draw.

    On a full grid that of `deviation_of_draws`, otherwise the sample deviation of the pairs; NaN for fewer than two.
    """
    common = sorted(first.keys() & second.keys())
    if len(common) < 2:
        return math.nan
    gaps = np.array([first[draw] - second[draw] for draw in common])
    seeds, masks = ({draw[axis] for draw in common} for axis in (0, 1))
    if len(common) == len(seeds) * len(masks):
        return deviation_of_draws(gaps.reshape(len(seeds), len(masks)))
    return float(gaps.std(ddof=1))


def needed_lines(columns: Iterable[tuple[str, Mapping[str, Mapping[Draw, float]]]], gap: float) -> list[str]:
    """For each column, given as its title and runs by method, how many paired runs find `gap` between best and others.

    UsageError for a gap that is not above 0.
    """
    lines = []
    for title, methods in columns:
        means = {method: float(np.mean(list(runs.values()))) for method, runs in methods.items() if runs}
        if not means:
            continue
        best = max(means, key=lambda method: means[method])
        found = {m: gap_deviation(methods[m], methods[best]) for m in means if m != best}
        listed = [f"{m} {runs_needed(gap, sd, POWER, LEVEL)}" for m, sd in found.items() if not math.isnan(sd)]
        if listed:
            lines.append(f"{title}, against {best}: {', '.join(listed)}")
    if not lines:
        return [f"How many runs a gap of {gap:g} needs is not known: no two methods have two runs in common."]
    return [
        f"Paired runs, each of its own seed and mask, that find a gap of {gap:g} points in {100 * POWER:g} % of cases "
        f"(two-sided t-test at {LEVEL:g}, by the deviation of the pairs there are): {'; '.join(lines)}."
    ]
