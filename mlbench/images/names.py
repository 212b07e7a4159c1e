"""Millions of names made of 16 hex digits, kept as numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class HexNames(Sequence[str]):
    """N names ``{prefix}{16 hex digits}{suffix}``, of which only the numbers are held: 8 bytes a name, not 65.

    Parameters
    ----------
    numbers : uint64 [N].
    """

    def __init__(self, numbers: np.ndarray, prefix: str = "", suffix: str = "") -> None:
        self.numbers = np.asarray(numbers, dtype=np.uint64)
        self.prefix, self.suffix = prefix, suffix

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> HexNames: ...
    def __getitem__(self, index: int | slice) -> str | HexNames:
        if isinstance(index, slice):
            return HexNames(self.numbers[index], self.prefix, self.suffix)
        return f"{self.prefix}{int(self.numbers[index]):016x}{self.suffix}"

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 65536):
            for number in self.numbers[start : start + 65536].tolist():
                yield f"{self.prefix}{number:016x}{self.suffix}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"HexNames({len(self)} names{f', {self[0]} first' if len(self) else ''})"


def take_names(names: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    """The names of `rows`, in the order given, kept as they are."""
    if isinstance(names, HexNames):
        return HexNames(names.numbers[rows], names.prefix, names.suffix)
    return tuple(names[row] for row in rows)
