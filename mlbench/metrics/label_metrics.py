"""Precision, recall and F1 of yes/no decisions, averaged as the papers do, and mean accuracy (mA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from mlbench.metrics.checks import bool_matrix, known_matrix


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts over one axis of the label matrix, int64, of shape [C] (over images) or [N] (over classes).

    Attributes
    ----------
    true_positives : decided and present.
    predicted : decided.
    positives : present.
    known : entries looked at; predicted and present are counted among them only.
    """

    true_positives: np.ndarray
    predicted: np.ndarray
    positives: np.ndarray
    known: np.ndarray


@dataclass(frozen=True, eq=False)
class PrecisionRecallF1:
    """Precision (P), recall (R) and F1 of decisions, as fractions in [0, 1]; 0/0 counts as 0 everywhere.

    So a class that is never predicted has P = 0 (VAC, ASL, MLGCN; SRN's evaluate.m says 1), and one without positives
    has R = 0. All classes stay in the class means, all images in the image means, even where every count is 0. A mean
    over no class or no image is NaN.

    Two definitions of "F1-C" (also CF1, macro F1) are in print and differ by up to 2.4 points on COCO:
    `F1_C_mean` (VAC, SRN, ASL) and `F1_C_hm` (WARP, CNN-RNN, MLGCN, CSRA). Never put them in one column.
    """

    per_class: Counts
    per_image: Counts

    @property
    def P(self) -> np.ndarray:
        """Precision of each class, TP / predicted; float64 [C]."""
        return _ratio(self.per_class.true_positives, self.per_class.predicted)

    @property
    def R(self) -> np.ndarray:
        """Recall of each class, TP / positives; float64 [C]."""
        return _ratio(self.per_class.true_positives, self.per_class.positives)

    @property
    def F1(self) -> np.ndarray:
        """F1 of each class, 2 TP / (predicted + positives); float64 [C]."""
        return _ratio(2 * self.per_class.true_positives, self.per_class.predicted + self.per_class.positives)

    @property
    def P_C(self) -> float:
        """Mean of P over classes (macro)."""
        return _mean(self.P)

    @property
    def R_C(self) -> float:
        """Mean of R over classes (macro)."""
        return _mean(self.R)

    @property
    def F1_C_mean(self) -> float:
        """Mean of F1 over classes."""
        return _mean(self.F1)

    @property
    def F1_C_hm(self) -> float:
        """Harmonic mean of P_C and R_C."""
        return harmonic_mean(self.P_C, self.R_C)

    @property
    def P_O(self) -> float:
        """Precision over all entries together (micro)."""
        return float(_ratio(self.per_class.true_positives.sum(), self.per_class.predicted.sum()))

    @property
    def R_O(self) -> float:
        """Recall over all entries together (micro)."""
        return float(_ratio(self.per_class.true_positives.sum(), self.per_class.positives.sum()))

    @property
    def F1_O(self) -> float:
        """F1 over all entries together (micro), which is the harmonic mean of P_O and R_O."""
        counts = self.per_class
        return float(_ratio(2 * counts.true_positives.sum(), counts.predicted.sum() + counts.positives.sum()))

    @property
    def P_I(self) -> float:
        """Mean over images of the image's own precision (Tag-Neighbors)."""
        return _mean(_ratio(self.per_image.true_positives, self.per_image.predicted))

    @property
    def R_I(self) -> float:
        """Mean over images of the image's own recall (Tag-Neighbors)."""
        return _mean(_ratio(self.per_image.true_positives, self.per_image.positives))

    @property
    def mA(self) -> MeanAccuracy:
        """`mean_accuracy` of the same decisions."""
        counts = self.per_class
        negatives = counts.known - counts.positives
        true_negatives = negatives - (counts.predicted - counts.true_positives)
        defined = (counts.positives > 0) & (negatives > 0)
        rates = _ratio(counts.true_positives, counts.positives) + _ratio(true_negatives, negatives)
        per_class = np.where(defined, rates / 2, np.nan)
        return MeanAccuracy(
            value=_mean(per_class[defined]),
            per_class=per_class,
            skipped=tuple(int(c) for c in np.flatnonzero(~defined)),
        )


def precision_recall_f1(
    decisions: np.ndarray, targets: np.ndarray, known: np.ndarray | None = None
) -> PrecisionRecallF1:
    """Count hits of `decisions` against `targets` and derive precision, recall and F1.

    Parameters
    ----------
    decisions : bool [N, C], True where the class is predicted.
    targets : bool [N, C], True where the class is present.
    known : bool [N, C] or None (all known). Other entries count as neither predicted nor present. Where a protocol
        takes unspecified labels as negatives (VAC and SRN on WIDER), pass them as known with target False.

    Raises
    ------
    DataError
        If an argument is not bool or the shapes differ.
    """
    targets = bool_matrix("targets", targets)
    rows, classes = targets.shape
    decisions = bool_matrix("decisions", decisions, (rows, classes))
    known = known_matrix(known, (rows, classes))
    decided, present = (decisions, targets) if known is None else (decisions & known, targets & known)
    hit, count = decided & present, np.count_nonzero

    def counts(axis: int) -> Counts:
        looked_at = np.full((classes, rows)[axis], (rows, classes)[axis]) if known is None else count(known, axis)
        return Counts(count(hit, axis), count(decided, axis), count(present, axis), looked_at)

    return PrecisionRecallF1(per_class=counts(0), per_image=counts(1))


def joined(parts: Sequence[PrecisionRecallF1]) -> PrecisionRecallF1:
    """What `precision_recall_f1` says of the images of all `parts` (of the same classes) one after another, exactly."""
    names = [field.name for field in fields(Counts)]
    by_class = {name: [getattr(part.per_class, name) for part in parts] for name in names}
    by_image = {name: [getattr(part.per_image, name) for part in parts] for name in names}
    return PrecisionRecallF1(
        per_class=Counts(**{name: np.sum(counts, axis=0) for name, counts in by_class.items()}),
        per_image=Counts(**{name: np.concatenate(counts) for name, counts in by_image.items()}),
    )


def harmonic_mean(precision: float, recall: float) -> float:
    """2 P R / (P + R); 0 where both are 0."""
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


@dataclass(frozen=True, eq=False)
class MeanAccuracy:
    """Mean accuracy (mA): the mean over classes of (true positive rate + true negative rate) / 2.

    Attributes
    ----------
    value : the mean as a fraction, over the classes that are not skipped; NaN if none is left.
    per_class : float64 [C], NaN for a skipped class.
    skipped : indices of classes without known positives or without known negatives, for which one rate is 0/0.
    """

    value: float
    per_class: np.ndarray
    skipped: tuple[int, ...]


def mean_accuracy(decisions: np.ndarray, targets: np.ndarray, known: np.ndarray | None = None) -> MeanAccuracy:
    """Mean accuracy of `decisions` against `targets`, bool [N, C], over `known` entries (VAC: test.py:56-72).

    VAC's code stops on a class that lacks positives or negatives. Here such a class leaves the mean and is listed:
    counting its defined half alone would let a constant decision score 1. DataError as in `precision_recall_f1`.
    """
    return precision_recall_f1(decisions, targets, known).mA


@dataclass(frozen=True)
class Accuracies:
    """Accuracies of decisions as VAC's evaluation code has them, as fractions; NaN where undefined.

    Attributes
    ----------
    per_class : mean over classes of the share of known entries that are decided rightly (test.py:38-54).
    overall : that share over all known entries together (test.py:74-86).
    per_image : mean over images of hits by the union of decided and present, 0 where both are empty: the Jaccard
        index (test.py:104-135, `eval_example`).
    balanced : (true positive rate + true negative rate) / 2 over all known entries together, mA without classes
        (test.py:88-102); NaN without positives or without negatives, where the code stops.
    """

    per_class: float
    overall: float
    per_image: float
    balanced: float


def accuracy(decisions: np.ndarray, targets: np.ndarray, known: np.ndarray | None = None) -> Accuracies:
    """Accuracies of `decisions` against `targets`, bool [N, C], over `known` entries.

    A class or an image without a known entry leaves its mean. DataError as in `precision_recall_f1`.
    """
    counted = precision_recall_f1(decisions, targets, known)
    classes, images = counted.per_class, counted.per_image
    wrong = classes.predicted + classes.positives - 2 * classes.true_positives
    seen, union = classes.known > 0, images.predicted + images.positives - images.true_positives
    hits, positives, entries = (int(n.sum()) for n in (classes.true_positives, classes.positives, classes.known))
    negatives = entries - positives
    true_negatives = negatives - (int(classes.predicted.sum()) - hits)
    nan = float("nan")
    return Accuracies(
        per_class=_mean(1 - wrong[seen] / classes.known[seen]),
        overall=1 - int(wrong.sum()) / entries if entries else nan,
        per_image=_mean(_ratio(images.true_positives, union)[images.known > 0]),
        balanced=(hits / positives + true_negatives / negatives) / 2 if positives and negatives else nan,
    )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise division with 0/0 := 0. A zero denominator here always has a zero numerator."""
    return numerator / np.maximum(denominator, 1)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
