"""What is believed of the shares that seeds and masks have in the variance of a gap, before the runs are seen.

Of three seeds the runs of two methods say next to nothing: the prior decides, and is judged by what follows from it,
the coverage of the intervals. A flat one made them cover 100 % where neither seeds nor masks do anything, and 90 %
where one of them is nearly all there is. `_alone` covers 95 % or more at every ratio, 99 % where there is no effect.
Much less is not to be had there: a search among all priors for the least straying from 95 % over all ratios came to
98.6 % there and 94.3 % elsewhere, one among all intervals that never shrink when seeds or masks differ more to 99.4 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

#: Mean square of the seeds (or masks) over that of the rest, in a grid of three by three.
_RATIOS = 2 ** np.array([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 11.5, 13.5, 15.5])
#: From which of `_RATIOS` on a pair on its own expects an effect, if there is one.
_LARGE = 16.0


def ratio_grid(
    pairs: Sequence[Mapping[tuple[int, int | None], float]], methods: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances of seeds and of masks over that of the rest, float [G, 2]; weights [G] of the column's common ratios,
    and of those of a pair on its own.

    A factor that no pair repeats is left out. How often the runs show the shares (a pair on a grid of 3 x 3, by the 4
    degrees of freedom of the rest: once) decides between `_alone` and weights that are about flat in the log of
    `_RATIOS`, but for no effect, which weighs the more the more there is to show it.
    """
    levels = [_repeated(pairs, axis) for axis in (0, 1)]
    step = np.gradient(np.log(_RATIOS))
    axes = [(_RATIOS, step) if count else (np.ones(1), np.ones(1)) for count in levels]
    places, steps = (
        np.stack([part.ravel() for part in np.meshgrid(*found, indexing="ij")], axis=1)
        for found in zip(*axes, strict=True)
    )
    alone = _alone(places, steps)

    def weights(shown: float) -> np.ndarray:
        flat = np.prod(steps * np.where(places == 1, min(shown + 1, 12) / 2, places**0.12), axis=1)
        near = min(1.0, 2 / (shown + 1))
        mixed = flat ** (1 - near) * alone**near
        return np.asarray(mixed / mixed.sum())

    runs = float(np.mean([len(pair) for pair in pairs]))
    once = max(1.0, (runs - 1 - sum(count - 1 for count in levels if count)) / 4)
    return (places - 1) / 3, weights(once * (methods - 1)), weights(once)


def _repeated(pairs: Sequence[Mapping[tuple[int, int | None], float]], axis: int) -> float:
    """Seeds (or masks) that a pair has in more than one draw, averaged over pairs; 0 where none vary and repeat."""
    counts = []
    for pair in pairs:
        often = Counter(draw[axis] for draw in pair)
        if len(often) > 1 and (repeated := sum(count > 1 for count in often.values())):
            counts.append(repeated)
    return float(np.mean(counts)) if counts else 0.0


def _alone(places: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Weights [G] of the ratios [G, 2] for a pair of which nothing else is known; `steps` of their logs [G, 2].

    No effect, or one that is large, or two that are as large: chosen so that the intervals of two methods on a grid of
    3 x 3 cover 95 % at every ratio, and not much more where there is no effect. What is between weighs little: three
    seeds do not show it, and it makes intervals wide where seeds and masks do nothing.
    """
    small, large = places.min(axis=1), places.max(axis=1)
    none, one = large == 1, (small == 1) & (large >= _LARGE)
    both = (small == large) & (large >= _LARGE)
    step = steps[np.arange(len(places)), places.argmax(axis=1)]
    return np.select([none, one, both], [5.5, step, 0.1 * step], 0.01 * steps.prod(axis=1))
