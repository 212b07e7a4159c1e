"""Checks shared by the metric functions: a wrong shape or type is an error, never broadcast or cast away."""

from __future__ import annotations

import numpy as np

from mlbench.errors import DataError


def bool_matrix(name: str, array: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Return `array` if it is bool [N, C] (of `shape` where given), else raise DataError naming it.

    Label codes (-1, 0, 1, 2) are refused rather than cast: as truth values, "negative" (-1) would become True.
    """
    array = np.asarray(array)
    if array.dtype != np.bool_:
        raise DataError(f"{name}: expected a bool array, found {array.dtype}")
    if array.ndim != 2:
        raise DataError(f"{name}: expected shape [N, C], found {list(array.shape)}")
    if shape is not None and array.shape != shape:
        raise DataError(f"{name}: expected shape {list(shape)}, found {list(array.shape)}")
    return array


def known_matrix(known: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray | None:
    """Check `known` as `bool_matrix` does; None (everything is known) passes through."""
    return None if known is None else bool_matrix("known", known, shape)
