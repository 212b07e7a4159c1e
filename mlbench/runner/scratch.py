"""Matrices too large for memory that live as long as they are used: in a file without a name, mapped."""

from __future__ import annotations

import errno
import os
import tempfile

import numpy as np
import torch
from torch import Tensor

from mlbench.errors import MlbenchError
from mlbench.paths import cache_dir

#: Matrices of more bytes are kept in a file.
IN_MEMORY = 2**28


def new_matrix(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros; of more than `IN_MEMORY` bytes in a file of the cache's folder, which goes when the matrix goes.

    MlbenchError if there is no room for it.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype=dtype)
    folder = cache_dir() / "scratch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now and not a crash later
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
            return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
    except OSError as error:
        raise MlbenchError(
            f"{folder}: no room for a matrix of {size / 1e9:.1f} GB ({error.strerror or error}); MLBENCH_CACHE names "
            "another folder"
        ) from error


def as_tensor(matrix: np.ndarray) -> Tensor:
    """`matrix` as a tensor of the same memory, which `as_array` gives back."""
    tensor = torch.from_numpy(matrix)
    tensor.mapped = matrix  # type: ignore[attr-defined]
    return tensor


def as_array(tensor: Tensor) -> np.ndarray:
    """The array behind a tensor on the CPU, mapped if it is (`mlbench.metrics.checks.release` then works on it)."""
    found: np.ndarray | None = getattr(tensor, "mapped", None)
    return tensor.numpy() if found is None else found
