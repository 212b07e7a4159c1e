"""Checks shared by the metric functions (a wrong shape or type is an error, never broadcast or cast away), and how
large arrays are walked through in little memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlbench.errors import DataError

#: Entries of a matrix that are looked at together.
_AT_ONCE = 2**22


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


def row_blocks(matrix: np.ndarray) -> Iterator[slice]:
    """Slices that cut the rows of `matrix` [N, C] into pieces of some million entries, at least a row each."""
    step = max(1, _AT_ONCE // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), step):
        yield slice(start, min(start + step, len(matrix)))


def release(array: np.ndarray) -> None:
    """Let go of the memory in which the system keeps what was read of, or written to, a memory-mapped `array`.

    Nothing is lost: what was written is in the file. Of arrays that are not mapped, or whose changes are private to
    this process, nothing happens.
    """
    held: Any = array
    while isinstance(held, np.ndarray):
        if isinstance(held, np.memmap) and held.mode == "c":
            return
        held = held.base
    if isinstance(held, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        held.madvise(mmap.MADV_DONTNEED)
