"""How many draws a gap needs, against power tables and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mlbench.errors import UsageError
from mlbench.significance.power import draws_needed


@pytest.mark.parametrize(("effect", "runs"), [(0.2, 199), (0.3, 90), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_draws_needed_are_those_of_power_tables(effect: float, runs: int) -> None:
    """G*Power: difference of two dependent means, two-sided, level 0.05, power 0.80."""
    assert draws_needed(0.3, 0.3 / effect) == runs


def test_draws_needed_find_the_gap_as_often_as_asked() -> None:
    runs = draws_needed(0.3, 0.4, power=0.9)
    samples = np.random.default_rng(1).normal(0.3, 0.4, (4000, runs))
    assert (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.9, abs=0.015)


def test_a_gap_above_all_noise_needs_two_runs_and_nonsense_is_refused() -> None:
    assert draws_needed(0.3, 0.0) == draws_needed(100.0, 0.01) == 2
    for bad in ((0, 1), (-1, 1), (1, -1), (math.nan, 1)):
        with pytest.raises(UsageError, match="expected gap > 0"):
            draws_needed(*bad)
