"""Orders held against each other, by scipy and by hand; spreads by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mlbench.significance.components import components, spread_of
from mlbench.significance.crossed import shares
from mlbench.significance.orders import (
    common_block,
    kendall,
    over_items,
    over_items_and_draws,
    percentiles,
    spearman,
)


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_scipys(ties: bool) -> None:
    random = np.random.default_rng(4)
    for size in (2, 3, 7, 30):
        a, b = random.normal(size=(2, size))
        if ties:
            a, b = np.round(a), np.round(b)
        for ours, theirs in ((kendall, stats.kendalltau), (spearman, stats.spearmanr)):
            expected = theirs(a, b).statistic if len(set(a)) > 1 and len(set(b)) > 1 else math.nan
            assert float(ours(a, b)) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_leading_axes_are_done_at_once() -> None:
    a, b = np.random.default_rng(5).normal(size=(2, 4, 3, 6))
    for measure in (kendall, spearman):
        one_by_one = [[float(measure(a[i, j], b[i, j])) for j in range(3)] for i in range(4)]
        np.testing.assert_allclose(measure(a, b), one_by_one, atol=1e-12)


def test_one_of_six_pairs_changes_places() -> None:
    assert float(kendall(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4]))) == pytest.approx((5 - 1) / 6)


def test_the_interval_over_items_is_scipys_bootstrap() -> None:
    random = np.random.default_rng(6)
    a = random.normal(size=25)
    b = a + random.normal(size=25)
    ours = over_items(a, b, spearman, replicates=4000)
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y: stats.spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(7),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_over_draws_the_methods_stay() -> None:
    a = np.array([[1.0, 2, 3], [1, 3, 2]])  # the mean orders 1, then 2 and 3 alike
    found = over_items_and_draws(a, np.array([[1.0, 2, 3]]), items=False, replicates=500)
    assert found.value == pytest.approx(2 / math.sqrt(2 * 3))
    assert (found.low, found.high) == pytest.approx((1 / 3, 1.0))  # both draws the second, both the first
    alone = over_items_and_draws(a[:1], a[:1], items=False)
    assert alone.value == 1
    assert math.isnan(alone.low)
    assert alone.text() == "1.00"


def test_two_items_have_no_interval() -> None:
    assert over_items(np.array([1.0, 2]), np.array([1.0, 2])).text() == "1.00"
    assert over_items(np.array([1.0]), np.array([1.0])).text() == "undefined"


def test_undefined_replicates_are_left_out() -> None:
    assert percentiles(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert all(map(math.isnan, percentiles(np.array([np.nan]))))


def test_the_block_of_what_all_have() -> None:
    draws = {"a": {0, 1, 2}, "b": {0, 1, 2}, "c": {0}, "d": {0, 1}}
    assert common_block(draws) == (["a", "b", "d"], [0, 1])  # 6 runs, as 2 x 3 is, of more methods
    assert common_block({"a": {0}, "b": {1}}) == (["a"], [0])
    assert common_block({}) == ([], [])


def test_components_by_hand() -> None:
    values = np.array([[1.0, 3.0], [5.0, 7.0]])  # seeds 4 apart, masks 2, and nothing else
    found = components(values)
    assert found.squares == pytest.approx((16, 4, 0))  # 2 masks x (2² + 2²) / 1, 2 seeds x (1² + 1²) / 1
    assert (found.seed, found.mask, found.rest) == pytest.approx((8, 2, 0))  # variances of (2, 6) and (2, 4)
    assert components(values + np.array([[0.5, -0.5], [-0.5, 0.5]])).rest == pytest.approx(1)
    with pytest.raises(ValueError, match="at least two"):
        components(values[:1])


def test_components_are_found_by_simulation() -> None:
    random = np.random.default_rng(8)
    grids = [
        50 + random.normal(size=(3, 1)) * 2 + random.normal(size=(1, 3)) * 1 + random.normal(size=(3, 3)) * 0.5
        for _ in range(3000)
    ]
    found = spread_of(grids, replicates=300)
    assert (found.seed.value, found.mask.value, found.rest.value) == pytest.approx((2, 1, 0.5), rel=0.05)
    assert found.mask_minus_seed.low < 1 - 4 < found.mask_minus_seed.high
    assert found.share_more < 0.5


def test_shares_of_a_column_go_to_what_moves_it() -> None:
    random = np.random.default_rng(9)

    def column(seeds: float, masks: float) -> list[dict[tuple[int, int | None], float]]:
        effects = [(random.normal(size=3) * seeds, random.normal(size=3) * masks) for _ in range(12)]
        return [
            {(i, j): float(s[i] + m[j] + random.normal() * 0.3) for i in range(3) for j in range(3)} for s, m in effects
        ]

    by_mask, by_seed = shares(column(0.1, 2)), shares(column(2, 0.1))
    assert by_mask is not None
    assert by_seed is not None
    assert by_mask.mask_larger > 0.9
    assert by_seed.mask_larger < 0.1
    assert by_mask.mask[0] > 0.6
    assert by_mask.mask[1] <= by_mask.mask[0] <= by_mask.mask[2]
    assert by_mask.pairs == 66
    diagonal = [{(i, i): float(random.normal()) for i in range(9)} for _ in range(4)]
    assert shares(diagonal) is None
