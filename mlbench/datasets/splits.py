"""Splits that published protocols draw themselves."""

from __future__ import annotations

import numpy as np

from mlbench.errors import UsageError


def legacy_split(n: int, val_fraction: float = 0.2, seed: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    """Split the `n` rows of an official training part as the single-positive papers' code does, bit for bit.

    Parameters
    ----------
    n : number of rows; their order is the source's (facts 4.1).
    val_fraction : share held out. The number held out is ``numpy.round(val_fraction * n)``: to the nearest whole
        number, an exact half to the even one.
    seed : of the legacy ``numpy.random.RandomState``.

    Returns
    -------
    train, val : int64 row numbers, each in ascending order; not stratified. UsageError if a part would be empty.

    Notes
    -----
    Source: facts 4.1 (datasets.py of Cole et al., CVPR 2021; the same in LargeLossMatters and BoostLU).
    """
    n_val = int(np.round(val_fraction * n))
    if not 0 < n_val < n:
        raise UsageError(
            f"split: val_fraction {val_fraction} of {n} rows leaves {n - n_val} to train and {n_val} to val"
        )
    order = np.random.RandomState(seed).permutation(n)
    return np.sort(order[: n - n_val]).astype(np.int64), np.sort(order[n - n_val :]).astype(np.int64)
