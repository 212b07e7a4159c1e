"""Critical differences of mean ranks, against worked examples in print and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mlbench.errors import UsageError
from mlbench.significance.ranks import critical_difference

#: Ranks of C4.5, with m, with cf, with both, on 14 data sets: Demsar, JMLR 2006, table 6.
DEMSAR = np.array(
    [
        *([4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1]),
        *([2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5] * 4, [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2]),
    ]
)


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
