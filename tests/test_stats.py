"""Statistics over repetitions, against hand-worked values, SciPy, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mlbench.stats import deviation_of_draws, kendall, mean_interval, spread


def test_spread_tells_seeds_and_masks_apart() -> None:
    found = spread(np.array([[1.0, 11.0], [3.0, 13.0]]))  # seeds two apart, masks ten apart
    assert found.mean == 7.0
    assert found.over_seeds == pytest.approx(math.sqrt(2.0))
    assert found.over_masks == pytest.approx(math.sqrt(50.0))


def test_one_seed_has_no_spread_over_seeds() -> None:
    found = spread(np.array([[1.0, 2.0, 3.0]]))
    assert math.isnan(found.over_seeds)
    assert found.over_masks == 1.0


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_factor_gives_students_interval(shape: tuple[int, int]) -> None:
    values = np.array([0.3, -0.1, 0.4, 0.8, 0.2]).reshape(shape)
    theirs = stats.ttest_1samp(values.ravel(), 0.0).confidence_interval(0.9)
    ours = mean_interval(values, 0.9)
    assert (ours.low, ours.high, ours.df) == pytest.approx((theirs.low, theirs.high, 4))


def test_two_factors_worked_by_hand() -> None:
    values = np.array([[1.0, 2.0], [4.0, 9.0]])
    # grand mean 4; seed means 1.5, 6.5; mask means 2.5, 5.5; MS_seed 25, MS_mask 9, MS_rest 4.
    half = stats.t.ppf(0.975, 1) * math.sqrt((25 + 9 - 4) / 4)
    found = mean_interval(values)
    assert (found.mean, found.low, found.high, found.df) == pytest.approx((4.0, 4 - half, 4 + half, 1))


def test_without_any_effect_of_seed_and_mask_the_rest_alone_counts() -> None:
    values = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = mean_interval(values)
    assert found.df == 1
    assert found.high == pytest.approx(stats.t.ppf(0.975, 1) * math.sqrt(4 / 4))


def test_equal_differences_have_an_interval_of_no_width() -> None:
    found = mean_interval(np.full((3, 3), 0.7))
    assert (found.low, found.high) == pytest.approx((0.7, 0.7))


def test_the_deviation_of_draws_worked_by_hand() -> None:
    # MS_seed 25, MS_mask 9, MS_rest 4 as above: (25 - 4) / 2 + (9 - 4) / 2 + 4 = 17.
    assert deviation_of_draws(np.array([[1.0, 2.0], [4.0, 9.0]])) == pytest.approx(math.sqrt(17))
    assert deviation_of_draws(np.array([[1.0, -1.0], [-1.0, 1.0]])) == pytest.approx(2.0)  # the rest alone: 4
    assert deviation_of_draws(np.array([[1.0, 2.0, 4.0]])) == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert math.isnan(deviation_of_draws(np.array([[2.5]])))


def test_the_deviation_of_draws_is_that_of_single_draws_on_average() -> None:
    rng = np.random.default_rng(0)
    shape = (4000, 3, 3)
    grids = rng.normal(0, 2, (4000, 3, 1)) + rng.normal(0, 1, (4000, 1, 3)) + rng.normal(0, 0.5, shape)
    found = np.mean([deviation_of_draws(grid) ** 2 for grid in grids])
    assert found == pytest.approx(4 + 1 + 0.25, rel=0.05)


def test_a_single_run_has_no_interval() -> None:
    found = mean_interval(np.array([[2.5]]))
    assert found.mean == 2.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(("seed_sd", "mask_sd"), [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.2, 2.0)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seed_sd: float, mask_sd: float) -> None:
    draw = np.random.default_rng(7)
    covered = 0
    for _ in range(600):
        seeds, masks = draw.normal(0, seed_sd, (3, 1)), draw.normal(0, mask_sd, (1, 3))
        found = mean_interval(5 + seeds + masks + draw.normal(0, 0.5, (3, 3)))
        covered += found.low <= 5 <= found.high
    assert covered / 600 > 0.94


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(3), np.array([[1.0, np.nan]])])
def test_what_is_no_full_grid_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="full grid"):
        mean_interval(values)


def test_kendall_counts_pairs_in_order() -> None:
    assert kendall([1, 2, 3, 4], [10, 20, 40, 30])[0] == pytest.approx((5 - 1) / 6)
    assert math.isnan(kendall([1.0], [2.0])[0])
