"""Detection scored against ground-truth boxes: average precision as PASCAL VOC counts it, and CorLoc.

Boxes are x1, y1, x2, y2 in any one frame of the image (shares of its sides do as well as pixels): intersection over
union does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlbench.errors import DataError, unknown

FLAVOURS = ("envelope", "eleven_point")


@dataclass(frozen=True)
class Detections:
    """What was found in an image, or is there: class int [m], score float [m] (of no account for what is there) and
    boxes float [m, 4]."""

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.classes)
        if self.scores.shape != (count,) or self.boxes.shape != (count, 4):
            raise DataError(
                f"detections: {count} classes, scores {list(self.scores.shape)}, boxes {list(self.boxes.shape)}: "
                f"expected [{count}] and [{count}, 4]"
            )
        if not (np.isfinite(self.scores).all() and np.isfinite(self.boxes).all()):
            raise DataError("detections: a score or a box is not finite")

    def of(self, c: int) -> Detections:
        """Those of class `c`."""
        own = self.classes == c
        return Detections(self.classes[own], self.scores[own], self.boxes[own])


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] and [m, 4]: float64 [n, m]; 0 for boxes without area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def detection_average_precision(
    found: Sequence[Detections],
    truth: Sequence[Detections],
    classes: int,
    iou: float = 0.5,
    flavour: str = "envelope",
) -> np.ndarray:
    """Average precision (AP) of every class over images, as fractions in [0, 1].

    Detections of a class are taken in order of falling score (earlier ones first among equals). One is right if the
    ground-truth box of the class that it overlaps most reaches `iou` and was not found before; a second find of it is
    wrong.

    Parameters
    ----------
    found, truth : one entry an image, in the same order.
    flavour : "envelope" (VOC 2010 and later) or "eleven_point" (VOC 2007), over recall.

    Returns
    -------
    float64 [classes]; NaN for a class without ground-truth box.

    Raises
    ------
    DataError : not as many images in both. UsageError : unknown flavour.

    Source: Everingham et al., IJCV 2010, section 4.2.
    """
    if flavour not in FLAVOURS:
        raise unknown("flavour of average precision", flavour, FLAVOURS)
    _same_images(found, truth)
    return np.array([_class_ap(found, truth, c, iou, flavour) for c in range(classes)])


def corloc(found: Sequence[Detections], truth: Sequence[Detections], classes: int, iou: float = 0.5) -> np.ndarray:
    """CorLoc of every class: the share of images with the class where its best-scored detection is right.

    Returns
    -------
    float64 [classes]; NaN for a class without ground-truth box. DataError: not as many images in both.

    Source: Deselaers et al., IJCV 2012, as weakly supervised detection reports it on training images.
    """
    _same_images(found, truth)
    rates = np.full(classes, np.nan)
    for c in range(classes):
        right = [
            bool(len(own.scores)) and bool(box_iou(own.boxes[[own.scores.argmax()]], there.boxes).max() >= iou)
            for own, there in ((one.of(c), other.of(c)) for one, other in zip(found, truth, strict=True))
            if len(there.classes)
        ]
        if right:
            rates[c] = np.mean(right)
    return rates


def _same_images(found: Sequence[Detections], truth: Sequence[Detections]) -> None:
    if len(found) != len(truth):
        raise DataError(f"detections of {len(found)} images, ground truth of {len(truth)}: expected as many")


def _class_ap(found: Sequence[Detections], truth: Sequence[Detections], c: int, iou: float, flavour: str) -> float:
    there = [each.of(c).boxes for each in truth]
    total = sum(map(len, there))
    if not total:
        return np.nan
    own = [each.of(c) for each in found]
    images = np.repeat(np.arange(len(own)), [len(each.scores) for each in own])
    scores = np.concatenate([each.scores for each in own])
    boxes = np.concatenate([each.boxes for each in own])
    taken = [np.zeros(len(each), dtype=bool) for each in there]
    order = np.argsort(-scores, kind="stable")
    right = np.zeros(len(order), dtype=bool)
    for place, at in enumerate(order):
        image = images[at]
        if not len(there[image]):
            continue
        overlaps = box_iou(boxes[[at]], there[image])[0]
        best = int(overlaps.argmax())
        if overlaps[best] >= iou and not taken[image][best]:
            taken[image][best] = right[place] = True
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    # Highest precision at equal or higher recall.
    best_after = np.maximum.accumulate(precision[::-1])[::-1]
    if flavour == "envelope":
        return float(best_after[right].sum() / total)
    levels = [best_after[10 * hits >= level * total] for level in range(11)]
    return float(np.mean([each[0] if len(each) else 0.0 for each in levels]))
