"""Decisions by threshold and by the k best scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlbench.errors import UsageError
from mlbench.metrics import Logits, Probabilities, Ranks, threshold, top_k, top_k_thresholded

quick = settings(max_examples=80, deadline=None, derandomize=True)
tied_rows = hnp.arrays(np.int64, st.tuples(st.integers(0, 6), st.integers(1, 6)), elements=st.integers(-2, 2))


def test_threshold_is_strict_and_defaults_to_one_half():
    np.testing.assert_array_equal(threshold(Probabilities(np.array([[0.4, 0.5, 0.6]]))), [[False, False, True]])
    np.testing.assert_array_equal(threshold(Logits(np.array([[-1.0, 0.0, 1.0]]))), [[False, False, True]])
    np.testing.assert_array_equal(threshold(Probabilities(np.array([[0.7, 0.8, 0.9]])), 0.8), [[False, False, True]])


@quick
@given(tied_rows, st.data())
def test_top_k_takes_higher_scores_then_lower_class_indices(values, data):
    k = data.draw(st.integers(1, values.shape[1]))
    expected = np.zeros(values.shape, dtype=bool)
    for row, scores in enumerate(values):
        for c in sorted(range(len(scores)), key=lambda c: (-scores[c], c))[:k]:
            expected[row, c] = True
    got = top_k(Ranks(values.astype(np.float32)), k)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.bool_
    assert (got.sum(axis=1) == k).all()


@quick
@given(tied_rows, st.data())
def test_thresholded_top_k_is_the_k_best_that_are_also_likely(values, data):
    k = data.draw(st.integers(1, values.shape[1]))
    scores = Logits(values.astype(np.float64))
    got = top_k_thresholded(scores, k)
    for row in range(len(values)):
        order = sorted(range(values.shape[1]), key=lambda c: (-values[row, c], c))
        assert set(np.flatnonzero(got[row])) == {c for c in order[:k] if values[row, c] > 0}


def test_hand_worked_top_three():
    values = np.array([[2.0, -1.0, 2.0, 2.0, 2.0], [-4.0, -3.0, 0.5, -2.0, -2.0]])
    np.testing.assert_array_equal(top_k(Logits(values), 3), [[1, 0, 1, 1, 0], [0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(top_k_thresholded(Logits(values), 3), [[1, 0, 1, 1, 0], [0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(top_k_thresholded(Logits(values), 3, 0.9), np.zeros((2, 5)))


def test_the_two_zeros_and_saturated_logits_are_ordered_as_numbers():
    np.testing.assert_array_equal(top_k(Logits(np.array([[-0.0, 0.0]])), 1), [[True, False]])
    np.testing.assert_array_equal(top_k(Logits(np.array([[50.0, 1e4, 51.0]], dtype="f4")), 2), [[False, True, True]])


@pytest.mark.parametrize("k", [0, -1, 4, 2.0, True, "3", None])
def test_an_impossible_k_is_refused(k):
    with pytest.raises(UsageError, match="whole number from 1 to 3"):
        top_k(Ranks(np.zeros((2, 3))), k)


def test_ranks_can_be_cut_at_k_but_not_at_a_probability():
    scores = Ranks(np.array([[3.0, 1.0]]))
    np.testing.assert_array_equal(top_k(scores, np.int64(1)), [[True, False]])
    with pytest.raises(UsageError, match="no probability"):
        threshold(scores)
    with pytest.raises(UsageError, match="no probability"):
        top_k_thresholded(scores, 1)


def test_a_k_above_the_number_of_classes_takes_all_of_them_where_asked() -> None:
    scores = Logits(np.array([[1.0, -1.0], [0.0, 2.0]]))
    assert top_k(scores, 3, "all").all()
    np.testing.assert_array_equal(top_k(scores, 1, "all"), top_k(scores, 1))
    with pytest.raises(UsageError, match="from 1 to 2"):
        top_k(scores, 3)
    with pytest.raises(UsageError, match="from 1 to 2"):
        top_k(scores, 0, "all")
    with pytest.raises(UsageError, match="unknown rule for a k above the number of classes 'al'"):
        top_k(scores, 3, "al")
