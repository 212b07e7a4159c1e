"""How many runs a gap needs."""

from __future__ import annotations

import math

from scipy import special

from mlbench.errors import UsageError


def draws_needed(gap: float, deviation: float, power: float = 0.8, level: float = 0.05) -> int:
    """How many draws a two-sided paired t-test needs to find a true mean `gap` with probability `power`.

    Each draw is a pair of runs of its own seed and mask.

    `deviation` is the sample deviation of the paired differences; for two methods that each vary by s and do not move
    together it is s times the square root of 2. Found by the noncentral t distribution. UsageError for a gap that is
    not above 0, a negative deviation, or shares outside 0 to 1.
    """
    if not (gap > 0 and deviation >= 0 and 0 < level < power < 1):
        raise UsageError(
            f"gap {gap}, deviation {deviation}, power {power}, level {level}: expected gap > 0, deviation >= 0, "
            "0 < level < power < 1"
        )

    if deviation == 0:
        return 2
    # The normal approximation is below the answer by a few runs at most.
    quantiles = float(special.ndtri(1 - level / 2) + special.ndtri(power))
    runs = max(2, math.floor((quantiles * deviation / gap) ** 2))
    # The chance to find the gap the wrong way round is left out: it is far below 1 in 1,000 at any power of use.
    while _chance(runs, gap / deviation, level) < power:
        runs += 1
    return runs


def _chance(runs: int, effect: float, level: float) -> float:
    # Of `scipy.special`: `scipy.stats` takes half a second to import.
    bound = special.stdtrit(runs - 1, 1 - level / 2)
    return 1 - float(special.nctdtr(runs - 1, effect * math.sqrt(runs), bound))
