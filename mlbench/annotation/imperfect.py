"""Annotators with faults and limits: classes they overlook, answers that are wrong, a budget of questions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from mlbench.annotation.biased import exponentials
from mlbench.annotation.draws import uniform_words
from mlbench.annotation.states import State

if TYPE_CHECKING:
    from mlbench.annotation.material import Statistics


def uniform_numbers(process: str, seed: int, ids: Sequence[str], n_classes: int) -> np.ndarray:
    """One uniform number in [0, 1) an entry, float64 [N, C], from `uniform_words`."""
    return (uniform_words(process, seed, ids, n_classes) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def beta_rates(name: str, seed: int, n_classes: int, mean: float, spread: float) -> np.ndarray:
    """A rate for each class from a beta distribution, float64 [C] in [0, 1].

    The distribution has mean `mean` and variance ``spread * mean * (1 - mean)``: `spread` 0 gives every class the
    mean, 1 gives each class rate 0 or 1. Class c's rate comes from (`name`, seed, c) alone.
    """
    if spread == 0 or mean in (0, 1):
        return np.full(n_classes, mean)
    rates = np.empty(n_classes)
    for c in range(n_classes):
        digest = hashlib.sha256(f"{name}\0{seed}\0{c}".encode()).digest()
        # NumPy keeps the streams of its legacy generator as they are, for good.
        generator = np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.int64))
        if spread == 1:
            rates[c] = generator.random_sample() < mean
        else:
            size = 1 / spread - 1
            rates[c] = generator.beta(mean * size, (1 - mean) * size)
    return rates


def frequency_rates(counts: np.ndarray, mean: float, spread: float) -> np.ndarray:
    """A rate for each class by its rank in frequency (positives `counts`, [C]), float64 [C] in [0, 1].

    ``mean + spread * min(mean, 1 - mean) * (1 - 2 r)``, where r runs from 0 for the class with the fewest positives
    to 1 for the one with the most (classes of equal frequency share the mean rank): with `spread` above 0 the rare
    classes have the higher rates, below 0 the frequent ones. The mean over classes is `mean`.
    """
    below = (counts[None] < counts[:, None]).sum(axis=1)
    equal = (counts[None] == counts[:, None]).sum(axis=1)
    ranks = (below + (equal - 1) / 2) / (len(counts) - 1) if len(counts) > 1 else np.full(len(counts), 0.5)
    return mean + spread * min(mean, 1 - mean) * (1 - 2 * ranks)


def keep_by_class_rate(
    labels: np.ndarray,
    ids: Sequence[str],
    seed: int,
    statistics: Statistics,
    mean: float,
    spread: float,
    by: str,
    negatives: str,
) -> np.ndarray:
    """Each positive of class c is missing independently with the class's own rate.

    The rates come from `beta_rates` (`by` "beta"), or from `frequency_rates` with the highest rates for the "rare" or
    the "frequent" classes. `negatives` "hidden" shows no negative, so
    that a missing positive looks like any other unknown entry; "same" hides negatives at their class's rate too.
    (All negatives shown would give the missing positives away.) Our own draw.
    """
    if by == "beta":
        rates = beta_rates("per_class_missing", seed, labels.shape[1], mean, spread)
    else:
        rates = frequency_rates(statistics.counts, mean, spread if by == "rare" else -spread)
    kept = uniform_numbers("per_class_missing", seed, ids, labels.shape[1]) >= rates
    return kept if negatives == "same" else kept & (labels == State.POSITIVE)


def flip_by_class_rate(
    labels: np.ndarray, ids: Sequence[str], seed: int, false_negative: float, false_positive: float, spread: float
) -> np.ndarray:
    """Every label is shown, some of them wrong: int8 [N, C], -1 where the shown state is the opposite of the true one.

    A positive of class c is shown as negative with the class's rate around mean `false_negative`, a negative as
    positive around `false_positive`; `beta_rates` with `spread` gives the two rates of each class. Our own draw.
    """
    n_classes = labels.shape[1]
    missed = beta_rates("label_noise false_negative", seed, n_classes, false_negative, spread)
    added = beta_rates("label_noise false_positive", seed, n_classes, false_positive, spread)
    rates = np.where(labels == State.POSITIVE, missed, added)
    return np.where(uniform_numbers("label_noise", seed, ids, n_classes) < rates, np.int8(-1), np.int8(1))


def answer_queries(
    labels: np.ndarray,
    ids: Sequence[str],
    seed: int,
    statistics: Statistics,
    quota: np.ndarray,
    budget: float,
    order: str,
) -> np.ndarray:
    """Annotators answer ``int(budget * N * C)`` questions "is class c in image i?", truthfully.

    Each image gets its `quota` (`questions_an_image`). In an image the classes come in random order, or with `order`
    "popularity" by a weighted draw without replacement with weight ``n_c + 1`` (n_c: the training images in which c is
    positive). A question about an UNSPECIFIED or UNKNOWN entry is spent and shows nothing new. Our own draw.
    """
    race = exponentials("annotator_budget", seed, ids, labels.shape[1])
    if order == "popularity":
        race = race / (statistics.counts + 1)
    rank = np.argsort(np.argsort(race, axis=1, kind="stable"), axis=1, kind="stable")
    return rank < quota[:, None]


def questions_an_image(ids: Sequence[str], n_classes: int, seed: int, budget: float) -> np.ndarray:
    """Of ``int(budget * N * C)`` questions, how many are about each image, int [N].

    Every image gets the same number; what is left over goes, one each, to images drawn by their ids.
    """
    n = len(ids)
    each, left = divmod(questions_asked(n * n_classes, budget), n) if n else (0, 0)
    lots = uniform_words("annotator_budget image", seed, ids, 1)[:, 0]
    quota = np.full(n, each)
    quota[np.argsort(lots, kind="stable")[:left]] += 1
    return quota


def questions_asked(entries: int, budget: float) -> int:
    """The whole part of ``budget * entries``, computed on the decimal digits of `budget`."""
    return int(Fraction(repr(budget)) * entries)
