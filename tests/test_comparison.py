"""Tie groups and critical differences, against worked examples in print, SciPy, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlbench.comparison import critical_difference, difference_p, holm, runs_needed, tie_groups
from mlbench.errors import UsageError
from mlbench.stats import mean_interval

#: Ranks of C4.5, with m, with cf, with both, on 14 data sets: Demsar, JMLR 2006, table 6.
DEMSAR = np.array(
    [
        *([4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1]),
        *([2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5] * 4, [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2]),
    ]
)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_leaves_untested_pairs_out_of_the_count() -> None:
    adjusted = holm([math.nan, 0.02, 0.03])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.04, 0.04])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)


def test_diagonal_runs_are_tested_as_students_pairs() -> None:
    first = {(i, i): v for i, v in enumerate([60.0, 61.5, 59.0, 62.0])}
    second = {(i, i): v for i, v in enumerate([59.5, 60.0, 58.8, 60.9])} | {(9, 9): 0.0}  # one without a partner
    theirs = stats.ttest_rel([60.0, 61.5, 59.0, 62.0], [59.5, 60.0, 58.8, 60.9]).pvalue
    assert difference_p(first, second) == pytest.approx(theirs)
    assert difference_p(second, first) == pytest.approx(theirs)


def test_a_full_grid_is_tested_in_the_crossed_model() -> None:
    rng = np.random.default_rng(0)
    grid = rng.normal(0.5, 1, (3, 4))
    first = {(s, m): 50 + float(grid[s, m]) for s in range(3) for m in range(4)}
    second = dict.fromkeys(first, 50.0)
    p = difference_p(first, second)
    low, high = (mean_interval(grid, 1 - share) for share in (p * 1.001, p * 0.999))
    assert min(abs(low.low), abs(low.high)) < 1e-2
    assert low.low * low.high > 0 > high.low * high.high  # zero lies on the end of the interval of level p


def test_a_broken_grid_is_averaged_within_repetitions() -> None:
    gaps = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 1.0}
    assert difference_p(gaps, dict.fromkeys(gaps, 0.0)) == pytest.approx(stats.ttest_1samp([2.0, 1.0], 0).pvalue)


def test_one_run_in_common_is_no_test_and_equal_runs_do_not_differ() -> None:
    assert math.isnan(difference_p({(0, 0): 1.0}, {(0, 0): 2.0}))
    assert math.isnan(difference_p({(0, 0): 1.0}, {(1, 1): 2.0}))
    same = {(0, 0): 1.0, (1, 1): 2.0}
    assert difference_p(same, same) == 1.0
    assert difference_p({d: v + 1 for d, v in same.items()}, same) == 0.0


def test_tie_groups_follow_the_tests_against_each_groups_best() -> None:
    means = [70.0, 80.0, 79.0, 69.5]
    p = {frozenset(pair): value for *pair, value in [(1, 2, 0.3), (1, 0, 0.001), (1, 3, 0.001), (0, 3, 0.4)]}
    assert tie_groups(means, lambda i, j: p[frozenset((i, j))]) == [2, 1, 1, 2]
    # 0.02 is below the level alone, not among three tests.
    assert tie_groups([3.0, 2.0, 1.0, 0.0], lambda i, j: 0.02) == [1, 1, 1, 1]
    assert tie_groups([3.0, 2.0], lambda i, j: 0.02) == [1, 2]
    assert tie_groups([3.0, 2.0], lambda i, j: math.nan) == [1, 1]
    assert tie_groups([5.0], lambda i, j: 0.0) == [1]
    assert tie_groups([], lambda i, j: 0.0) == []


def test_critical_difference_of_demsars_example() -> None:
    found = critical_difference(-DEMSAR)
    assert found.ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert found.difference == pytest.approx(1.25, abs=5e-3)
    assert critical_difference(-DEMSAR, level=0.1).difference == pytest.approx(1.12, abs=5e-3)
    assert found.ties == ((0, 3),)
    # In print 9.28, without a correction for ties, which only raises it.
    sets, methods = DEMSAR.shape
    plain = 12 * sets / (methods * (methods + 1)) * (np.square(found.ranks).sum() - methods * (methods + 1) ** 2 / 4)
    assert plain == pytest.approx(9.28, abs=0.02)
    assert found.p == pytest.approx(stats.friedmanchisquare(*DEMSAR.T).pvalue)
    assert found.p < stats.chi2.sf(plain, methods - 1)


@pytest.mark.parametrize(("methods", "quantile"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_the_quantiles_are_those_of_demsars_table_5(methods: int, quantile: float) -> None:
    values = np.random.default_rng(0).normal(size=(8, methods))
    expected = quantile * math.sqrt(methods * (methods + 1) / 48)
    assert critical_difference(values).difference == pytest.approx(expected, rel=5e-4)


def test_methods_far_apart_are_not_tied_and_neighbours_are() -> None:
    order = np.tile(np.arange(12.0), (20, 1))  # ranks 1 to 12 on each of 20 data sets: the difference is 3.73
    found = critical_difference(order)
    assert found.ranks == tuple(range(12, 0, -1))
    assert found.ties == tuple((start, start + 3) for start in range(9))
    assert critical_difference(np.ones((3, 4))).p == 1.0


@pytest.mark.parametrize("shape", [(1, 4), (5, 2), (4,)])
def test_too_little_for_ranks_is_refused(shape) -> None:
    with pytest.raises(UsageError, match="at least 2 data sets"):
        critical_difference(np.ones(shape))
    with pytest.raises(UsageError):
        critical_difference(np.full((4, 4), np.nan))


@pytest.mark.parametrize(("effect", "runs"), [(0.2, 199), (0.3, 90), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_runs_needed_are_those_of_power_tables(effect: float, runs: int) -> None:
    """G*Power: difference of two dependent means, two-sided, level 0.05, power 0.80."""
    assert runs_needed(0.3, 0.3 / effect) == runs


def test_runs_needed_find_the_gap_as_often_as_asked() -> None:
    runs = runs_needed(0.3, 0.4, power=0.9)
    samples = np.random.default_rng(1).normal(0.3, 0.4, (4000, runs))
    assert (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.9, abs=0.015)


def test_a_gap_above_all_noise_needs_two_runs_and_nonsense_is_refused() -> None:
    assert runs_needed(0.3, 0.0) == runs_needed(100.0, 0.01) == 2
    for bad in ((0, 1), (-1, 1), (1, -1), (math.nan, 1)):
        with pytest.raises(UsageError, match="expected gap > 0"):
            runs_needed(*bad)
