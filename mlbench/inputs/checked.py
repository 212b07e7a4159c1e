"""Cached arrays of which no byte is believed before it was compared with the hash taken when it was written."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from mlbench.errors import DataError
from mlbench.inputs.sidecar import Sidecar, array_digest
from mlbench.provenance import usable_cores


class CheckedArray(NDArrayOperatorsMixin):
    """A memory-mapped array that is read by ``array[rows]``; a chunk is hashed the first time it is touched.

    What is read is a plain array. As a whole (``np.asarray(array)``, a comparison) all its chunks are.

    Parameters
    ----------
    path : its file. array : mapped, [N, ...]. sidecar : its hashes.

    Raises
    ------
    DataError
        On reading: rows that are not what was written.
    """

    def __init__(self, path: Path, array: np.ndarray, sidecar: Sidecar) -> None:
        self.path, self.sha256, self.about = path, sidecar.sha256, sidecar.about
        self._stored = self._shown = array.view(np.ndarray)
        self._chunks = sidecar.chunks
        self._starts = np.array([chunk.start for chunk in sidecar.chunks], dtype=np.int64)
        self._unseen = np.ones(len(sidecar.chunks), dtype=bool)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shown.shape

    @property
    def dtype(self) -> np.dtype:
        return self._shown.dtype

    @property
    def ndim(self) -> int:
        return self._shown.ndim

    @property
    def nbytes(self) -> int:
        return self._shown.nbytes

    def __len__(self) -> int:
        return len(self._shown)

    def __getitem__(self, index: Any) -> Any:
        self._look(index[0] if isinstance(index, tuple) else index)
        return self._shown[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._look(slice(None))
        return np.array(self._shown, dtype=dtype) if copy else np.asarray(self._shown, dtype=dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        whole = [np.asarray(value) if isinstance(value, CheckedArray) else value for value in inputs]
        return getattr(ufunc, method)(*whole, **options)

    @property
    def untouched(self) -> bool:
        """Whether nothing was read yet."""
        return bool(self._unseen.all())

    def first(self, count: int) -> CheckedArray:
        """The first `count` entries of each row: [N, count, ...], checked together with this array."""
        part = copy.copy(self)
        part._shown = self._stored[:, :count]
        return part

    def verify(self) -> None:
        """Hash every byte, also what was looked at before; DataError names the rows that are not what was written.

        Nothing is mended in place: another process may be reading the same rows, and a disk that loses bytes is
        something to be told of.
        """
        self._hash(range(len(self._chunks)))

    def _look(self, rows: Any) -> None:
        """Hash the chunks of `rows` that were not touched before."""
        if not self._unseen.any():
            return
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        chosen = np.asarray(rows)
        if chosen.dtype == bool and chosen.ndim == 1:
            chosen = np.flatnonzero(chosen)
        if chosen.dtype.kind not in "iu":  # a mask of more dimensions, an ellipsis
            chosen = np.arange(len(self))
        chosen = np.where(chosen < 0, chosen + len(self), chosen).ravel()
        touched = np.unique(np.searchsorted(self._starts, chosen, side="right") - 1)
        self._hash(touched[self._unseen[touched]].tolist())

    def _hash(self, chunks: Iterable[int]) -> None:
        numbers = list(chunks)

        def whole(number: int) -> bool:
            chunk = self._chunks[number]
            return array_digest(self._stored[chunk.start : chunk.stop]) == chunk.sha256

        if len(numbers) > 1:
            with ThreadPoolExecutor(usable_cores()) as pool:
                sound = list(pool.map(whole, numbers))
        else:
            sound = [whole(number) for number in numbers]
        damaged = [self._chunks[number] for number, good in zip(numbers, sound, strict=True) if not good]
        if damaged:
            rows = ", ".join(f"{chunk.start} to {chunk.stop - 1}" for chunk in damaged[:5])
            more = ", ..." if len(damaged) > 5 else ""
            raise DataError(
                f"{self.path}: damaged, rows {rows}{more} are not what was written; delete it, and it is built anew"
            )
        self._unseen[numbers] = False


#: What images and features are read from: of the cache, or in memory.
Rows = CheckedArray | np.ndarray


def verify_read(array: Any) -> None:
    """`CheckedArray.verify` of an array of the cache that something was read of; those in memory are left alone."""
    if isinstance(array, CheckedArray) and not array.untouched:
        array.verify()
