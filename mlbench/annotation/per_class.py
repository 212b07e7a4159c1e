"""Partial labels counted by class and sign: a fixed number, or a fixed fraction, of each class's labels.

These draws are of all entries that are known at once, and not of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from mlbench.annotation.states import State


def keep_partial_per_class(classes: np.ndarray, states: np.ndarray, words: np.ndarray, n: int) -> np.ndarray:
    """Fix per class, FPC(n): up to `n` positives and up to `n` negatives of each class, uniformly; -1 keeps all.

    Source: facts 4.3, definition 3 (CSL: coco_simulation.py:41-55); the draw is our own. MLCPL's process of this name
    keeps min(positives, negatives, n / 2) of each sign instead.
    """
    return _keep_by_class(classes, states, words, lambda found: n)


def keep_partial_fraction(classes: np.ndarray, states: np.ndarray, words: np.ndarray, keep: float) -> np.ndarray:
    """Of each class ``max(int(keep * n_pos), 1)`` positives and as many negatives by the same rule, uniformly.

    A class keeps one label of each sign that it has, however small `keep`. The product is taken on the decimal digits
    of `keep`, so that 0.29 of 100 is 29 and not int(28.99...). Source: facts 4.3, definition 4 (IMCL:
    D_utility.py:162-186); the draw is our own.
    """
    return _keep_by_class(classes, states, words, lambda found: max(int(Fraction(repr(keep)) * found), 1))


def _keep_by_class(
    classes: np.ndarray, states: np.ndarray, words: np.ndarray, number: Callable[[int], int]
) -> np.ndarray:
    """bool [M]: of each class and sign, `number(how many there are)` entries, those with the smallest words.

    Entries [M] stand in the order of their rows: class, state, and random word of each.
    """
    kept = np.zeros(len(classes), dtype=bool)
    for sign in (State.POSITIVE, State.NEGATIVE):
        own = np.flatnonzero(states == sign)
        own = own[np.lexsort((own, words[own], classes[own]))]
        for entries in np.split(own, np.flatnonzero(np.diff(classes[own])) + 1):
            wanted = number(len(entries))
            kept[entries if wanted == -1 else entries[:wanted]] = True
    return kept
