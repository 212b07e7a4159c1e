"""Partial labels counted by class and sign: a fixed number, or a fixed fraction, of each class's labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from mlbench.annotation.draws import uniform_words
from mlbench.annotation.states import State


def keep_partial_per_class(labels: np.ndarray, ids: Sequence[str], seed: int, n: int) -> np.ndarray:
    """Fix per class, FPC(n): up to `n` positives and up to `n` negatives of each class, uniformly; -1 keeps all.

    Source: facts 4.3, definition 3 (CSL: coco_simulation.py:41-55); the draw is our own. MLCPL's process of this name
    keeps min(positives, negatives, n / 2) of each sign instead.
    """
    return _keep_by_class(labels, uniform_words("partial_per_class", seed, ids, labels.shape[1]), lambda found: n)


def keep_partial_fraction(labels: np.ndarray, ids: Sequence[str], seed: int, keep: float) -> np.ndarray:
    """Of each class ``max(int(keep * n_pos), 1)`` positives and as many negatives by the same rule, uniformly.

    A class keeps one label of each sign that it has, however small `keep`. The product is taken on the decimal digits
    of `keep`, so that 0.29 of 100 is 29 and not int(28.99...). Source: facts 4.3, definition 4 (IMCL:
    D_utility.py:162-186); the draw is our own.
    """
    words = uniform_words("partial_fraction", seed, ids, labels.shape[1])
    return _keep_by_class(labels, words, lambda found: max(int(Fraction(repr(keep)) * found), 1))


def _keep_by_class(labels: np.ndarray, words: np.ndarray, number: Callable[[int], int]) -> np.ndarray:
    """bool [N, C]: of each class and sign, `number(how many there are)` entries, those with the smallest words."""
    kept = np.zeros(labels.shape, dtype=bool)
    for c in range(labels.shape[1]):
        for sign in (State.POSITIVE, State.NEGATIVE):
            rows = np.flatnonzero(labels[:, c] == sign)
            wanted = number(len(rows))
            if wanted != -1:
                rows = rows[np.argsort(words[rows, c], kind="stable")[:wanted]]
            kept[rows, c] = True
    return kept
