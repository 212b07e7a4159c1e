"""Gaps in the crossed model: against Student's tests, by hand, and by simulation at fixed seeds."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mlbench.significance.crossed import Draw, gaps, interval

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from significance import GRID, Setting, measure


def diagonal(values) -> dict[Draw, float]:
    return {(i, i): float(value) for i, value in enumerate(values)}


@pytest.mark.parametrize("count", [2, 4, 9])
def test_two_methods_with_draws_of_their_own_are_students_paired_test(count: int) -> None:
    rng = np.random.default_rng(count)
    first, second = rng.normal(60, 1, count), rng.normal(59, 2, count)
    found = gaps([diagonal(first), diagonal(second) | {(99, 99): 0.0}], 0.9)  # one without a partner
    theirs = stats.ttest_rel(first, second)
    ends = theirs.confidence_interval(0.9)
    assert found.p[0, 1] == found.p[1, 0] == pytest.approx(theirs.pvalue, rel=1e-6)
    assert (found.low[0, 1], found.high[0, 1]) == pytest.approx((ends.low, ends.high), rel=1e-5)
    assert found.deviation[0, 1] == pytest.approx(np.std(first - second, ddof=1))
    assert found.draws[0, 1] == count
    assert (found.gap[1, 0], found.low[1, 0], found.high[1, 0]) == pytest.approx(
        (-found.gap[0, 1], -found.high[0, 1], -found.low[0, 1])
    )


@pytest.mark.parametrize("draws", [[(0, m) for m in range(5)], [(s, 7) for s in range(5)]])
def test_one_seed_or_one_mask_is_an_interval_over_the_other(draws: list[Draw]) -> None:
    values = [0.3, -0.1, 0.4, 0.8, 0.2]
    ends = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    found = interval(dict(zip(draws, values, strict=True)))
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-5)


def test_a_balanced_grid_is_estimated_by_its_mean() -> None:
    values = np.random.default_rng(0).normal(size=(3, 3))
    assert interval({draw: float(values[draw]) for draw in GRID}).mean == pytest.approx(values.mean())


def mean_squares(seeds: float, masks: float) -> dict[Draw, float]:
    """A grid of 3 x 3 with exactly these mean squares of seeds and masks, and 1 of the rest."""
    steps = np.array([-1.0, 0.0, 1.0])
    rest = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]]) * math.sqrt(2 / 3)
    values = steps[:, None] * math.sqrt(seeds / 3) + steps * math.sqrt(masks / 3) + rest
    return {draw: float(values[draw]) for draw in GRID}


def test_two_methods_on_a_grid_have_students_interval_at_both_ends() -> None:
    """Of nine independent gaps where seeds and masks do less than the rest; of three seeds where these are all."""
    nothing, seeds = interval(mean_squares(0.5, 0.5)), interval(mean_squares(1000.0, 1.0))
    of_nine = stats.t.ppf(0.975, 8) * math.sqrt(6 / 8 / 9)
    of_three = stats.t.ppf(0.975, 2) * math.sqrt(1000 / 9)
    assert 1.0 < (nothing.high - nothing.low) / 2 / of_nine < 1.4
    assert (seeds.high - seeds.low) / 2 / of_three == pytest.approx(1.0, abs=0.1)


def test_a_column_that_knows_the_shares_and_the_variance_gives_the_normal_interval() -> None:
    """Sixty methods that vary by seed alone: a gap's error is that of three seeds, and nearly known."""
    rng = np.random.default_rng(5)
    runs = []
    for _ in range(60):
        seeds = rng.normal(size=3)
        runs.append({(s, m): float(seeds[s] + 0.1 * rng.normal()) for s, m in GRID})
    found = gaps(runs)
    upper = np.triu_indices(60, 1)
    half = (found.high - found.low)[upper] / 2
    known = 1.96 * math.sqrt(2 / 3)
    assert 0.95 * known < np.quantile(half, 0.1) < 1.2 * known  # a pair's own variance, where larger, is kept


def test_a_method_without_a_mask_is_held_against_every_run_of_its_seed() -> None:
    seeing = {(s, m): 10.0 * s + m for s in range(3) for m in range(3)}
    blind: dict[Draw, float] = {(s, None): 10.0 * s for s in range(3)}
    found = gaps([seeing, blind])
    assert (found.draws[0, 1], found.gap[0, 1], found.gap[1, 0]) == (9, pytest.approx(1.0), pytest.approx(-1.0))
    both = gaps([blind, {draw: value - 1 + 0.1 * draw[0] for draw, value in blind.items()}])
    assert both.draws[0, 1] == 3
    assert both.gap[0, 1] == pytest.approx(0.9)


def test_constant_gaps_have_no_width_and_equal_runs_do_not_differ() -> None:
    one = diagonal([1.0, 2.0, 5.0])
    found = gaps([one, {draw: value + 0.7 for draw, value in one.items()}, one])
    assert (found.low[1, 0], found.high[1, 0], found.p[1, 0]) == pytest.approx((0.7, 0.7, 0.0))
    assert (found.gap[0, 2], found.p[0, 2]) == (0.0, 1.0)


def test_one_draw_in_common_is_no_test() -> None:
    found = gaps([{(0, 0): 1.0}, {(0, 0): 2.0, (1, 1): 3.0}, {(1, 1): 3.0}])
    assert np.isnan(found.p).all()
    assert math.isnan(interval({(0, 0): 2.5}).low)
    assert interval({(0, 0): 2.5}).mean == 2.5
    with pytest.raises(ValueError, match="not finite"):
        gaps([diagonal([1.0, math.nan]), diagonal([1.0, 2.0])])
    with pytest.raises(ValueError, match="between 0 and 1"):
        gaps([], 1.0)


def test_the_test_images_variance_is_added_to_that_over_the_runs() -> None:
    rng = np.random.default_rng(2)
    runs = [diagonal(rng.normal(size=400)), diagonal(rng.normal(0.5, 1, 400))]
    alone, both = gaps(runs), gaps(runs, images=np.array([[0.0, 0.09], [0.09, 0.0]]))
    error = (alone.high - alone.low)[0, 1] / 2 / 1.96
    assert (both.high - both.low)[0, 1] / 2 / 1.96 == pytest.approx(math.sqrt(error**2 + 0.09), rel=0.01)
    assert both.p[0, 1] > alone.p[0, 1]


# Monte-Carlo: the bounds leave three standard errors, which `measure` estimates from the tables themselves.
@pytest.mark.parametrize("shape", ["3 x 3", "9 draws"])
@pytest.mark.parametrize("noise", ["equal", "log-normal 0.6"])
def test_intervals_cover_and_alike_methods_are_not_told_apart(shape: str, noise: str) -> None:
    found = measure(Setting(12, shape, "seed and mask", noise), 25)
    assert found["coverage"] > 0.94 - 3 * found["coverage_error"]
    assert found["coverage"] < 0.97 + 3 * found["coverage_error"]
    assert found["false_tables"] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 25)


@pytest.mark.parametrize("ratio", ["rest alone", "mixed", "seed and mask", "seed"])
def test_two_methods_on_a_grid_are_not_told_apart_too_often(ratio: str) -> None:
    found = measure(Setting(2, "3 x 3", ratio), 120)
    assert found["coverage"] > 0.94 - 3 * math.sqrt(0.05 * 0.95 / 120)


def test_missing_runs_do_not_raise_false_alarms() -> None:
    found = measure(Setting(4, "3 x 3", "seed", missing=3), 60)
    assert found["coverage"] > 0.94 - 3 * found["coverage_error"]
    assert found["false_tables"] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 60)


def test_a_gap_of_three_deviations_is_found_among_twelve_methods_with_nine_draws() -> None:
    assert measure(Setting(12, "9 draws", "seed and mask", gap=3.0), 25)["power"] >= 0.9
