"""Adjusted p-values of all pairs, groups, and the chance of being the best."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbench.significance.crossed import gaps
from mlbench.significance.ties import adjusted, holm, out_of_order, standing, tie_groups


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


def square(count: int, values: dict[tuple[int, int], float], sign: int = 1) -> np.ndarray:
    made = np.full((count, count), math.nan)
    for (i, j), value in values.items():
        made[i, j], made[j, i] = value, sign * value
    return made


def blocks(count: int) -> set[frozenset[tuple[int, int]]]:
    """Every set of pairs without a gap that means of `count` methods can have, by brute force over equal means."""
    found = set()
    for means in itertools.product(range(count), repeat=count):
        found.add(frozenset((i, j) for i, j in itertools.combinations(range(count), 2) if means[i] == means[j]))
    return found


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_shaffers_factors_are_the_most_pairs_that_can_still_be_without_a_gap(count: int) -> None:
    pairs = list(itertools.combinations(range(count), 2))
    p = square(count, {pair: 1e-6 * (i + 1) for i, pair in enumerate(pairs)})
    expected, raised = [], 0.0
    sizes = {len(equal) for equal in blocks(count)}
    for i in range(len(pairs)):
        raised = max(raised, max(size for size in sizes if size <= len(pairs) - i) * 1e-6 * (i + 1))
        expected.append(raised)
    assert [adjusted(p)[pair] for pair in pairs] == pytest.approx(expected)


def test_a_pair_without_a_test_stays_without_one_and_counts_in_the_family() -> None:
    found = adjusted(square(3, {(0, 1): 0.01, (0, 2): 0.9}))
    assert found[0, 1] == found[1, 0] == pytest.approx(0.03)
    assert math.isnan(found[1, 2])


def test_groups_are_those_that_may_be_the_best_and_again() -> None:
    means = np.array([70.0, 80.0, 79.0, 69.5])
    gap = means[:, None] - means
    told = square(4, {(1, 0): True, (1, 3): True, (2, 0): True, (2, 3): True}) == 1
    assert tie_groups(gap, told) == [2, 1, 1, 2]
    # A noisy method of low mean may still be the best, where a quiet one above it may not.
    told = square(3, {(0, 1): True}) == 1
    means = np.array([80.0, 75.0, 74.0])
    groups = tie_groups(means[:, None] - means, told)
    assert groups == [1, 2, 1]
    assert out_of_order(list(means), groups) == [(1, 2)]
    assert tie_groups(np.full((2, 2), math.nan), np.zeros((2, 2), bool)) == [None, None]
    assert tie_groups(np.zeros((0, 0)), np.zeros((0, 0), bool)) == []


def test_the_groups_do_not_hang_on_the_order_of_the_methods() -> None:
    rng = np.random.default_rng(3)
    runs = [{(i, i): m + float(rng.normal()) for i in range(9)} for m in (0, 0, 3, 3, 6)]
    found = gaps(runs)
    groups = tie_groups(found.gap, adjusted(found.p) < 0.05)
    order = [3, 0, 4, 1, 2]
    moved = gaps([runs[i] for i in order])
    assert tie_groups(moved.gap, adjusted(moved.p) < 0.05) == [groups[i] for i in order]


def test_the_chance_of_being_best_is_that_of_students_gap_for_two_methods() -> None:
    rng = np.random.default_rng(0)
    runs = [{(i, i): float(v) for i, v in enumerate(rng.normal(m, 1, 30))} for m in (0.0, 0.4)]
    found = gaps(runs)
    stood = standing(found)
    above = found.p[0, 1] / 2 if found.gap[0, 1] < 0 else 1 - found.p[0, 1] / 2
    assert stood.best.sum() == pytest.approx(1.0)
    assert stood.best[0] == pytest.approx(above, abs=0.02)
    assert stood.rank == pytest.approx(2 - stood.best)


def test_alike_methods_share_the_chance_and_equal_runs_the_rank() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(4, 9))
    noise -= noise.mean(axis=1, keepdims=True)
    stood = standing(gaps([{(i, i): float(v) for i, v in enumerate(row)} for row in noise]))
    assert stood.best == pytest.approx([0.25] * 4, abs=0.15)  # the wider, the more often first or last
    assert (stood.low >= 1).all()
    assert (stood.high <= 4).all()
    same = {(i, i): float(v) for i, v in enumerate(noise[0])}
    stood = standing(gaps([same, same]))
    assert stood.best == pytest.approx([0.5, 0.5])
    assert stood.rank == pytest.approx([1.5, 1.5])


def test_a_method_that_is_not_compared_has_no_standing() -> None:
    runs = [{(i, i): 1.0 * i for i in range(3)}, {(i, i): 1.5 * i for i in range(3)}, {(7, 7): 9.0}]
    stood = standing(gaps(runs))
    assert math.isnan(stood.best[2])
    assert stood.best[:2].sum() == pytest.approx(1.0)
    assert np.isnan(standing(gaps(runs[2:])).best).all()
