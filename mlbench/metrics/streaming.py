"""Metrics of images that come batch by batch, to one process or several."""

from __future__ import annotations

import numpy as np

from mlbench.errors import DataError
from mlbench.metrics.average_precision import average_precision_of_entries
from mlbench.metrics.checks import bool_matrix, known_matrix
from mlbench.metrics.label_metrics import PrecisionRecallF1, joined, precision_recall_f1
from mlbench.metrics.scores import Scores, require_scores


class Streaming:
    """What was seen of scores and labels so far; each metric is that of all images at once, to the bit.

    Average precision keeps score, class and label of every known entry, 9 bytes of a float32 score: matrices of labels
    are never joined. Precision, recall, F1 and mA add up whole numbers. Neither depends on the order of the images, so
    several processes add what they have each and one of them merges the others' (they can be pickled: `gather_items` of
    `mlbench.runner.world.World`, `all_gather_object` of torch).
    """

    def __init__(self) -> None:
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._counted: list[PrecisionRecallF1] = []
        self._about: tuple[str, int] | None = None

    def add(self, scores: Scores, decisions: np.ndarray, targets: np.ndarray, known: np.ndarray | None = None) -> None:
        """Take in a batch.

        Parameters
        ----------
        scores : Logits, Probabilities or Ranks [n, C], of the same kind and classes in every batch.
        decisions, targets : bool [n, C], True where the class is predicted, and where it is present.
        known : bool [n, C] or None (all known). Other entries count nowhere.

        Raises
        ------
        UsageError
            For scores given as a bare array.
        DataError
            If an argument is not bool, the shapes differ, or this batch is of another kind or number of classes.
        """
        values, (rows, classes) = require_scores(scores).values, scores.shape
        targets = bool_matrix("targets", targets, (rows, classes))
        known = known_matrix(known, (rows, classes))
        self._agree((scores.kind, classes))
        self._counted.append(precision_recall_f1(decisions, targets, known))
        looked_at = np.ones((rows, classes), dtype=bool) if known is None else known
        self._entries.append((values[looked_at], np.nonzero(looked_at)[1].astype(np.int32), targets[looked_at]))

    def merge(self, other: Streaming) -> None:
        """Take in what `other` has seen; DataError if it is of another kind or number of classes."""
        if other._about is not None:
            self._agree(other._about)
        self._entries += other._entries
        self._counted += other._counted

    def average_precision(self, flavour: str = "step") -> np.ndarray:
        """`mlbench.metrics.average_precision` of all that was added; float64 [C]. DataError before the first batch."""
        self._require_batch()
        values, classes, present = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        return average_precision_of_entries(values, classes, present, len(self._counted[0].per_class.known), flavour)

    def precision_recall_f1(self) -> PrecisionRecallF1:
        """`mlbench.metrics.precision_recall_f1` of all that was added. DataError before the first batch."""
        self._require_batch()
        return joined(self._counted)

    def _agree(self, about: tuple[str, int]) -> None:
        if self._about not in (None, about):
            raise DataError(f"a batch of scores (kind, classes) {about}: expected {self._about}, as those before")
        self._about = about

    def _require_batch(self) -> None:
        if not self._counted:
            raise DataError("no batch was added: there is nothing to measure")
