"""The legacy split against the output of the papers' code."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mlbench.datasets.splits import legacy_split
from mlbench.errors import UsageError


@pytest.mark.parametrize(
    ("n", "n_val", "expected"),
    [
        (5717, 1143, "f5709e6ab75fb71e"),
        (82081, 16416, "bd52756686feb243"),
        (150000, 30000, "f4211856213c6679"),
        (5994, 1199, "b80f54f4cba60862"),
    ],
)
def test_sizes_and_rows_equal_those_of_the_papers_code(n: int, n_val: int, expected: str) -> None:
    # Hashes of the official function's hold-out rows, computed apart from this repository; sizes: facts 4.1.
    train, val = legacy_split(n)
    assert (len(train), len(val)) == (n - n_val, n_val)
    assert hashlib.sha256(val.astype("<i8").tobytes()).hexdigest()[:16] == expected


def test_ten_rows_split_as_read_off_the_papers_code() -> None:
    train, val = legacy_split(10)
    assert val.tolist() == [3, 7]
    assert train.tolist() == [0, 1, 2, 4, 5, 6, 8, 9]


def test_parts_are_sorted_disjoint_and_complete() -> None:
    train, val = legacy_split(137, 0.3, seed=4)
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()
    assert sorted([*train, *val]) == list(range(137))


def test_an_exact_half_goes_to_the_even_number() -> None:
    assert len(legacy_split(5, 0.5)[1]) == 2
    assert len(legacy_split(7, 0.5)[1]) == 4


@pytest.mark.parametrize(("n", "fraction"), [(0, 0.2), (2, 0.2), (10, 0.0), (10, 1.0)])
def test_a_part_without_rows_is_refused(n: int, fraction: float) -> None:
    with pytest.raises(UsageError, match="leaves"):
        legacy_split(n, fraction)
