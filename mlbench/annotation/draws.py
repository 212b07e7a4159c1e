"""The draws of the published protocols, and the random numbers every draw of ours is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from mlbench.annotation.states import State
from mlbench.errors import DataError


def uniform_words(process: str, seed: int, ids: Sequence[str], n_classes: int) -> np.ndarray:
    """One uniform 64-bit number an entry, uint64 [N, C].

    Row i is the SHAKE-256 stream of (process, seed, ids[i]): it does not depend on the other rows, so a subset
    keeps its draw, nor on any library's random generator. The numbers do not depend on a process's parameters
    either, so masks of one seed are nested: what is kept at 10 % is kept at 30 %.
    """
    words = np.empty((len(ids), n_classes), dtype=np.uint64)
    for row, sample in enumerate(ids):
        stream = hashlib.shake_256(f"{process}\0{seed}\0{sample}".encode()).digest(8 * n_classes)
        words[row] = np.frombuffer(stream, dtype="<u8")
    return words


def keep_all(labels: np.ndarray, ids: Sequence[str], seed: int) -> np.ndarray:
    """Complete labels: nothing is hidden."""
    return np.ones(labels.shape, dtype=bool)


def keep_partial(labels: np.ndarray, ids: Sequence[str], seed: int, keep: float) -> np.ndarray:
    """Each (image, class) entry is kept independently with probability `keep`.

    Source: facts 4.3, definition 2 (there given as the rate of dropping); the draw is our own.
    """
    words = uniform_words("partial", seed, ids, labels.shape[1])
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 < keep


def hidden_per_image(n_classes: int, keep: float) -> int:
    """Number of entries an image loses under ``partial_exact``: the whole part of ``(1 - keep) * n_classes``.

    Computed on the decimal digits of `keep`, so that 0.9 of 10 classes hides 1 and not int(0.99...) = 0.
    Source: facts 4.3, definition 1, ``int((100 - x) * C / 100)``.
    """
    return int((1 - Fraction(repr(keep))) * n_classes)


def keep_partial_exact(labels: np.ndarray, ids: Sequence[str], seed: int, keep: float) -> np.ndarray:
    """Per image exactly `hidden_per_image` entries are hidden, uniformly, positives and negatives alike.

    Source: facts 4.3, definition 1; the draw is our own.
    """
    n_classes = labels.shape[1]
    words = uniform_words("partial_exact", seed, ids, n_classes)
    order = np.argsort(words, axis=1, kind="stable")
    kept = np.zeros(labels.shape, dtype=bool)
    np.put_along_axis(kept, order[:, : n_classes - hidden_per_image(n_classes, keep)], True, axis=1)
    return kept


def keep_single_positive(labels: np.ndarray, ids: Sequence[str], seed: int) -> np.ndarray:
    """One positive an image, uniformly; images without a positive keep nothing. Our own draw."""
    positive = labels == State.POSITIVE
    # Halving leaves the largest word free to stand for "no positive here".
    words = uniform_words("single_positive", seed, ids, labels.shape[1]) >> np.uint64(1)
    words[~positive] = np.iinfo(np.uint64).max
    kept = np.zeros(labels.shape, dtype=bool)
    rows = np.flatnonzero(positive.any(axis=1))
    kept[rows, words[rows].argmin(axis=1)] = True
    return kept


def keep_listed(
    labels: np.ndarray, ids: Sequence[str], seed: int, lists: Callable[[str], np.ndarray], list: str
) -> np.ndarray:
    """The positives that a published list shows, and nothing else; there is no draw.

    DataError for a listed label that the data set denies: a list of other images, or of classes in another order.
    Source: the fixed masks of Zhang et al., arXiv 2112.07368 (SPLC).
    """
    listed = lists(list) == State.POSITIVE
    denied = listed & (labels != State.POSITIVE)
    if denied.any():
        row, column = np.argwhere(denied)[0]
        raise DataError(
            f"the published list '{list}' shows {int(denied.sum())} labels that the data set does not have, the first "
            f"at sample '{ids[row]}', class {column}"
        )
    return listed


def keep_single_positive_spml(
    labels: np.ndarray, ids: Sequence[str], seed: int, generator: np.random.RandomState, num_pos: int, num_neg: int
) -> np.ndarray:
    """The draw of the single-positive papers' code, bit for bit: `num_pos` positives, `num_neg` negatives an image.

    A number of -1 keeps all of that sign. One legacy `generator` of the seed runs through the rows in order, so the
    draw belongs to the whole official training part, in its row order, before any split. Everything that is not
    positive counts as negative in the shuffle, whatever a protocol makes of UNSPECIFIED. Source: facts 4.1
    (preproc/generate_observed_labels.py of Cole et al., CVPR 2021).
    """
    kept = np.zeros(labels.shape, dtype=bool)
    for row, positive in enumerate(labels == State.POSITIVE):
        # Negatives are shuffled even where none is kept: it moves the generator on.
        for columns, number in ((np.flatnonzero(positive), num_pos), (np.flatnonzero(~positive), num_neg)):
            generator.shuffle(columns)
            kept[row, columns if number == -1 else columns[:number]] = True
    return kept
