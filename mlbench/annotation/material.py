"""What the draw of some rows needs to know of all of them: class statistics, boxes, a budget, a running generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mlbench.annotation.biased import check_boxes
from mlbench.annotation.imperfect import questions_an_image
from mlbench.annotation.states import State
from mlbench.errors import DataError


class Statistics:
    """Counts over the positives of labels, made when they are first asked for.

    Parameters
    ----------
    rows, classes : int [M], the entries that are positive. n_classes : C.
    """

    def __init__(self, rows: np.ndarray, classes: np.ndarray, n_classes: int) -> None:
        self._rows, self._classes, self._n_classes = rows, classes, n_classes

    @staticmethod
    def of(labels: np.ndarray) -> Statistics:
        """Of int8 [N, C] `State` values."""
        rows, classes = np.nonzero(labels == State.POSITIVE)
        return Statistics(rows, classes, labels.shape[1])

    @cached_property
    def counts(self) -> np.ndarray:
        """Positives of each class, float64 [C]."""
        return np.bincount(self._classes, minlength=self._n_classes).astype(np.float64)

    @cached_property
    def together(self) -> np.ndarray:
        """Rows in which two classes are both positive, float64 [C, C]."""
        from scipy.sparse import coo_array

        shape = (int(self._rows.max(initial=-1)) + 1, self._n_classes)
        positive = coo_array((np.ones(len(self._rows)), (self._rows, self._classes)), shape=shape).tocsr()
        return (positive.T @ positive).toarray()


class Material:
    """What a draw of N samples and C classes may ask for beside the labels of the rows that it is given.

    Parameters
    ----------
    process : its name, for messages. ids, n_classes, seed, params : of the whole draw.
    boxes : float [M, 6] rows (sample row, class, x1, y1, x2, y2), None where there are none.
    train : gives the statistics of the labels trained on. lists : gives a published list of shown labels, int8 [N, C],
        by its name; None where there are none.
    """

    def __init__(
        self,
        process: str,
        ids: Sequence[str],
        n_classes: int,
        seed: int,
        params: Mapping[str, Any],
        boxes: np.ndarray | None,
        train: Callable[[], Statistics],
        lists: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        self._process, self._ids, self._n_classes = process, ids, n_classes
        self._seed, self._params, self._given, self._train = seed, params, boxes, train
        self._published = lists

    def of(self, needs: Sequence[str], rows: slice) -> dict[str, Any]:
        """What a process that `needs` these takes with the labels of `rows`, which follow each other."""
        return {name: getattr(self, f"_{name}")(rows) for name in needs}

    def _lists(self, rows: slice) -> Callable[[str], np.ndarray]:
        published = self._published
        if published is None:
            raise DataError(f"annotation process '{self._process}' needs published lists, and the data set has none")
        return lambda name: published(name)[rows]

    def _boxes(self, rows: slice) -> np.ndarray:
        boxes = self._sorted_boxes
        start, stop, _ = rows.indices(len(self._ids))
        own = boxes[np.searchsorted(boxes[:, 0], start) : np.searchsorted(boxes[:, 0], stop)]
        return own - [start, 0, 0, 0, 0, 0]

    @cached_property
    def _sorted_boxes(self) -> np.ndarray:
        if self._given is None:
            raise DataError(f"annotation process '{self._process}' needs boxes, and the data set has none")
        boxes = check_boxes(self._given, (len(self._ids), self._n_classes))
        return boxes[np.argsort(boxes[:, 0], kind="stable")]

    def _statistics(self, rows: slice) -> Statistics:
        return self._counted

    @cached_property
    def _counted(self) -> Statistics:
        return self._train()

    def _quota(self, rows: slice) -> np.ndarray:
        return self._quotas[rows]

    @cached_property
    def _quotas(self) -> np.ndarray:
        return questions_an_image(self._ids, self._n_classes, self._seed, self._params["budget"])

    def _generator(self, rows: slice) -> np.random.RandomState:
        return self._running

    @cached_property
    def _running(self) -> np.random.RandomState:
        return np.random.RandomState(self._seed)
