"""Spread over repetitions and agreement of orders, against hand-worked values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlbench.significance.describe import kendall, spread


def test_spread_tells_seeds_and_masks_apart() -> None:
    found = spread(np.array([[1.0, 11.0], [3.0, 13.0]]))  # seeds two apart, masks ten apart
    assert found.mean == 7.0
    assert found.over_seeds == pytest.approx(math.sqrt(2.0))
    assert found.over_masks == pytest.approx(math.sqrt(50.0))


def test_one_seed_has_no_spread_over_seeds() -> None:
    found = spread(np.array([[1.0, 2.0, 3.0]]))
    assert math.isnan(found.over_seeds)
    assert found.over_masks == 1.0


def test_kendall_counts_pairs_in_order() -> None:
    assert kendall([1, 2, 3, 4], [10, 20, 40, 30])[0] == pytest.approx((5 - 1) / 6)
    assert math.isnan(kendall([1.0], [2.0])[0])


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(3), np.array([[1.0, np.nan]])])
def test_what_is_no_full_grid_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="full grid"):
        spread(values)
