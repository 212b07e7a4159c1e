"""How many runs a gap needs: between each method of a table's column and the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from mlbench.errors import UsageError
from mlbench.significance.crossed import Draw, gaps
from mlbench.significance.power import draws_needed

#: Chance to find the gap, and family-wise level of the column's test.
POWER, LEVEL = 0.8, 0.05


def needed_lines(columns: Iterable[tuple[str, Mapping[str, Mapping[Draw, float]]]], gap: float) -> list[str]:
    """For each column, given as its title and runs by method, how many draws find `gap` between best and others.

    The level is divided by the column's pairs, since its tie groups test them all. UsageError for a gap that is not
    above 0.
    """
    if not gap > 0:
        raise UsageError(f"gap {gap}: expected more than 0")
    lines = []
    for title, methods in columns:
        runs = {method: found for method, found in methods.items() if found}
        if len(runs) < 2:
            continue
        names = list(runs)
        best = max(range(len(names)), key=lambda i: float(np.mean(list(runs[names[i]].values()))))
        deviations = gaps(list(runs.values())).deviation[best]
        level = LEVEL / math.comb(len(names), 2)
        listed = [
            f"{name} {draws_needed(gap, float(sd), POWER, level)}"
            for name, sd in zip(names, deviations, strict=True)
            if not math.isnan(sd)
        ]
        if listed:
            lines.append(f"{title}, against {names[best]}: {', '.join(listed)}")
    if not lines:
        return [f"How many runs a gap of {gap:g} needs is not known: no two methods have two runs in common."]
    return [
        f"Draws, each of its own seed and mask, that find a gap of {gap:g} points in {100 * POWER:g} % of tables "
        f"(paired t-test at {LEVEL:g} over all pairs of the column, by the deviation of the pairs there are): "
        f"{'; '.join(lines)}."
    ]
