"""Single positives that are not drawn uniformly: large, frequent or expected classes are named first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlbench.annotation.draws import uniform_words
from mlbench.annotation.states import State
from mlbench.errors import DataError

if TYPE_CHECKING:
    from mlbench.annotation.material import Statistics


def exponentials(process: str, seed: int, ids: Sequence[str], n_classes: int) -> np.ndarray:
    """One standard exponential number an entry, float64 [N, C], from `uniform_words`.

    Divided by weights, the smallest of a row falls on entry c with probability ``w_c / sum w``, and the order of
    the row is a weighted draw without replacement (Efraimidis and Spirakis, 2006).
    """
    words = uniform_words(process, seed, ids, n_classes)
    return -np.log(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)  # never 0, never infinite


def _keep_one(positive: np.ndarray, race: np.ndarray, log_weights: np.ndarray) -> np.ndarray:
    """One positive a row, entry c with probability proportional to ``exp(log_weights[c])``; bool [N, C]."""
    finish = np.where(positive, np.log(race) - log_weights, np.inf)
    kept = np.zeros(positive.shape, dtype=bool)
    rows = np.flatnonzero(positive.any(axis=1))
    kept[rows, finish[rows].argmin(axis=1)] = True
    return kept


def keep_by_frequency(
    labels: np.ndarray, ids: Sequence[str], seed: int, statistics: Statistics, bias: float
) -> np.ndarray:
    """One positive an image, class c with probability proportional to ``n_c ** bias``.

    ``n_c`` counts the training images in which c is positive; a class that has none there (a validation part's)
    counts as seen once. `bias` 0 is uniform over the positives, 1 proportional to frequency, below 0 rare classes
    first. Our own draw.
    """
    weights = bias * np.log(np.maximum(statistics.counts, 1))
    race = exponentials("single_positive_frequency", seed, ids, labels.shape[1])
    return _keep_one(labels == State.POSITIVE, race, np.broadcast_to(weights, labels.shape))


def keep_by_cooccurrence(
    labels: np.ndarray, ids: Sequence[str], seed: int, statistics: Statistics, bias: float
) -> np.ndarray:
    """One positive an image, class c with probability proportional to ``e_c ** bias``.

    ``e_c`` says how much the image's other positives P \\ {c} lead one to expect c: the mean over them of
    ``P(c | d) = n_cd / n_d``, with ``n_cd`` training images in which both are positive and ``n_d`` in which d is.
    A pair or class not seen in training (of a validation part) counts as seen once. The only positive of an image
    is always kept; `bias` 0 is uniform, below 0 the unexpected is named first. Our own draw.
    """
    positive = labels == State.POSITIVE
    together = statistics.together
    expected = np.ones(labels.shape)  # of an only positive: its weight decides nothing
    for row in np.flatnonzero(positive.sum(axis=1) > 1):
        named = np.flatnonzero(positive[row])
        pairs = np.maximum(together[np.ix_(named, named)], 1)
        given = pairs / np.diag(pairs)  # [c, d]: P(c | d)
        np.fill_diagonal(given, 0)
        expected[row, named] = given.sum(axis=1) / (len(named) - 1)
    log_weights = bias * np.log(expected)
    race = exponentials("single_positive_cooccurrence", seed, ids, labels.shape[1])
    return _keep_one(positive, race, log_weights)


def keep_by_size(labels: np.ndarray, ids: Sequence[str], seed: int, boxes: np.ndarray, bias: float) -> np.ndarray:
    """One positive an image, class c with probability proportional to ``a_c ** bias``.

    ``a_c`` is the share of the image that the class's boxes cover, overlaps counted once. A positive without a box
    counts as the smallest one of its image that has one; an image whose positives have no box is drawn uniformly, as
    every image is with `bias` 0. Our own draw.
    """
    positive = labels == State.POSITIVE
    areas = np.where(positive, covered_areas(boxes, labels.shape), 0.0)
    smallest = np.where(areas > 0, areas, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    # The image's own area is a factor of all its classes and falls out.
    areas = np.where(areas > 0, areas, np.where(np.isfinite(smallest), smallest, 1.0))
    race = exponentials("single_positive_size", seed, ids, labels.shape[1])
    return _keep_one(positive, race, bias * np.log(areas))


def covered_areas(boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels that each class's boxes cover in each image, overlaps counted once.

    Parameters
    ----------
    boxes : float [M, 6] rows (sample row, class, x1, y1, x2, y2) in pixels, in any order.
    shape : (N, C).

    Returns
    -------
    float64 [N, C], 0 where a class has no box. DataError for boxes that do not fit `shape`.
    """
    areas = np.zeros(shape, dtype=np.float64)
    boxes = check_boxes(boxes, shape)
    owners, group = np.unique(boxes[:, :2].astype(np.int64), axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    sizes = np.bincount(group.ravel(), minlength=len(owners))
    ends = np.cumsum(sizes)
    corners = boxes[order, 2:]
    for (row, c), start, end in zip(owners, ends - sizes, ends, strict=True):
        areas[row, c] = _union_area(corners[start:end])
    return areas


def check_boxes(boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Boxes as float64 [M, 6]; DataError if they do not fit labels of `shape` [N, C]."""
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 6:
        raise DataError(f"boxes: expected a matrix [boxes, 6], found shape {boxes.shape}")
    wrong = ~np.isfinite(boxes).all(axis=1) | (boxes[:, :2] < 0).any(axis=1) | (boxes[:, :2] >= shape).any(axis=1)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"boxes: box {first} is {boxes[first].tolist()}, outside {shape[0]} samples x {shape[1]} classes"
        )
    return boxes


def _union_area(corners: np.ndarray) -> float:
    """Area of the union of boxes float [K, 4] (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = corners.T
    if len(corners) == 1:
        return float(max(x2[0] - x1[0], 0) * max(y2[0] - y1[0], 0))
    xs, ys = np.unique([x1, x2]), np.unique([y1, y2])
    inside_x = (x1[:, None] <= xs[:-1]) & (xs[1:] <= x2[:, None])
    inside_y = (y1[:, None] <= ys[:-1]) & (ys[1:] <= y2[:, None])
    covered = inside_x.T.astype(np.float64) @ inside_y > 0
    return float(np.diff(xs) @ covered @ np.diff(ys))
