"""Numbers of single images and of single (image, class) entries, as functions on arrays [N, C]."""

from __future__ import annotations

import numpy as np

from mlbench.annotation import State
from mlbench.metrics import Logits, Probabilities, Scores, average_precision

#: Probabilities are taken no nearer to 0 and 1 than this in a logarithm.
NEAREST = 1e-7


def image_ap(scores: Scores, targets: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Average precision of every image's ranking of the classes, as fractions in [0, 1].

    The mean over the image's positive classes of: positives that score at least as high, by known classes that score
    at least as high. Tied classes share one threshold, so that the order of the classes never matters. It is the AP of
    a class with images and classes exchanged, and the addend of scikit-learn's
    `label_ranking_average_precision_score`, which however counts an image without positives as 1.

    Parameters
    ----------
    scores : Logits, Probabilities or Ranks [N, C].
    targets, known : bool [N, C]; entries that are not known leave the ranking of their image.

    Returns
    -------
    float64 [N]; NaN for an image without known positives, 1 for one whose known classes are all positive.
    """
    return average_precision(type(scores)(scores.values.T), targets.T, known.T)


def probabilities(scores: Scores) -> np.ndarray | None:
    """Probabilities float64 [N, C]: the sigmoid of logits. None for scores that only order."""
    if isinstance(scores, Logits):
        return np.exp(-np.logaddexp(0.0, -scores.values.astype(np.float64)))
    return scores.values.astype(np.float64) if isinstance(scores, Probabilities) else None


def entry_loss(scores: Scores, targets: np.ndarray) -> np.ndarray | None:
    """Binary cross-entropy of every entry against bool `targets` [N, C], float64 [N, C] in nats.

    Of logits it is exact however large they are; a probability is taken no nearer to 0 and 1 than `NEAREST`. None for
    scores that only order, which have no loss.
    """
    if isinstance(scores, Logits):
        values = scores.values.astype(np.float64)
        return np.logaddexp(0.0, np.where(targets, -values, values))
    chance = probabilities(scores)
    if chance is None:
        return None
    chance = np.clip(chance, NEAREST, 1.0 - NEAREST)
    return -np.log(np.where(targets, chance, 1.0 - chance))


def image_loss(loss: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean of `loss` [N, C] over the entries of each image in bool `counted` [N, C]; float64 [N], NaN where none is."""
    count = counted.sum(axis=1)
    total = np.where(counted, loss, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def found_negatives(decided: np.ndarray, observed: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """False negatives that a model finds, bool [N, C]: truly POSITIVE, not observed (UNKNOWN), and decided present.

    They are false negatives of every method that takes unknown labels for negative.

    decided : bool [N, C]. observed, truth : int8 [N, C] `State` codes.
    """
    return decided & (observed == State.UNKNOWN) & (truth == State.POSITIVE)


def top_unknown(loss: np.ndarray, observed: np.ndarray, count: int) -> np.ndarray:
    """The `count` unknown entries of all images with the largest loss if taken for negative, bool [N, C].

    All of them where there are fewer. Of equal losses the entry of the earlier image, then of the earlier class, is
    taken. Large-loss methods reject or correct such entries first. Source: Kim et al., CVPR 2022, section 3.

    loss : float [N, C], `entry_loss` against all negative. observed : int8 [N, C] `State` codes.
    """
    entries = np.flatnonzero(observed == State.UNKNOWN)
    best = entries[np.argsort(-loss.ravel()[entries], kind="stable")[:count]]
    chosen = np.zeros(loss.shape, dtype=bool)
    chosen.ravel()[best] = True
    return chosen


def largest_unknown_loss(loss: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Largest `loss` [N, C] among the unknown entries of each image; float64 [N], NaN for an image without one."""
    unknown = observed == State.UNKNOWN
    return np.where(unknown.any(axis=1), np.where(unknown, loss, -np.inf).max(axis=1), np.nan)


def suspects(probability: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Observed labels that the model's probabilities speak against, bool [N, C].

    For each class two levels: `high`, the mean probability of the entries observed POSITIVE, and `low`, that of the
    entries observed NEGATIVE, or of the UNKNOWN ones where no negative is observed. A label observed POSITIVE is a
    suspect where its probability is at most `low`; one observed NEGATIVE where it is at least `high`. A class without
    entries for one of the levels, or with high <= low (the model does not tell its labels apart), has no suspects.
    UNKNOWN and UNSPECIFIED entries are never suspects.

    After the per-class thresholds of confident learning (Northcutt et al., JAIR 2021), each class as a two-class
    problem; that unknown entries stand in for negatives is ours.

    probability : float [N, C]. observed : int8 [N, C] `State` codes.
    """
    positive, negative = observed == State.POSITIVE, observed == State.NEGATIVE
    others = np.where(negative.any(axis=0), negative, observed == State.UNKNOWN)
    high, low = _class_means(probability, positive), _class_means(probability, others)
    with np.errstate(invalid="ignore"):
        against = (positive & (probability <= low)) | (negative & (probability >= high))
        return against & (high > low)


def _class_means(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean of `values` [N, C] over the entries in bool `chosen` [N, C] of each class; NaN where there is none."""
    count = chosen.sum(axis=0)
    return np.where(count > 0, np.where(chosen, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
