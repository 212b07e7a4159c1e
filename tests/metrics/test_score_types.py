"""Score types: what they accept, what they refuse, and where their thresholds lie."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mlbench.errors import DataError, UsageError
from mlbench.metrics import Logits, Probabilities, Ranks, Scores, average_precision, scores_of_kind, threshold, top_k


@pytest.mark.parametrize("kind", [Logits, Probabilities, Ranks])
@pytest.mark.parametrize(
    ("given", "kept"), [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64), (">f8", "=f8")]
)
def test_values_become_contiguous_float32_or_stay_float64(kind, given, kept):
    values = np.asarray([[0.25, 0.5, 0.75], [0.0, 1.0, 0.5]], dtype=given)[:, ::2]
    scores = kind(values)
    assert scores.values.dtype == np.dtype(kept)
    assert scores.values.flags.c_contiguous
    assert scores.shape == (2, 2)
    np.testing.assert_array_equal(scores.values, [[0.25, 0.75], [0.0, 0.5]])


def test_scores_are_frozen_without_freezing_the_callers_array():
    values = np.zeros((2, 2), dtype=np.float32)
    scores = Logits(values)
    with pytest.raises(ValueError, match="read-only"):
        scores.values[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.values = values
    values[0, 0] = 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused_with_count_and_first_position(bad):
    values = np.zeros((3, 4))
    values[1, 2] = values[2, 0] = bad
    with pytest.raises(DataError, match=rf"'logit': 2 of 12 values not finite, the first is {bad} at row 1, class 2"):
        Logits(values)


@pytest.mark.parametrize("bad", [-1e-6, 1.0 + 1e-6, 5.0])
def test_probabilities_outside_the_unit_interval_are_refused(bad):
    values = np.full((2, 2), 0.5)
    values[1, 0] = bad
    with pytest.raises(DataError, match=r"1 of 4 values outside \[0, 1\].*row 1, class 0"):
        Probabilities(values)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((1, 2, 3)), np.float64(1)])
def test_a_shape_other_than_images_by_classes_is_refused(values):
    with pytest.raises(DataError, match="shape"):
        Logits(values)


@pytest.mark.parametrize("dtype", [np.int64, bool, object, complex, np.longdouble])
def test_types_that_float64_may_not_hold_are_refused(dtype):
    with pytest.raises(DataError, match="expected float"):
        Ranks(np.zeros((2, 2), dtype=dtype))


def test_a_bare_array_is_never_taken_for_scores():
    values, targets = np.zeros((2, 2)), np.zeros((2, 2), dtype=bool)
    for call in (lambda: average_precision(values, targets), lambda: threshold(values), lambda: top_k(values, 1)):
        with pytest.raises(UsageError, match="found ndarray"):
            call()


def test_the_base_type_states_no_kind_and_cannot_be_made():
    with pytest.raises(TypeError):
        Scores(np.zeros((1, 1)))


def test_scores_of_kind_names_the_three_types_and_the_nearest_right_name():
    values = np.full((1, 2), 0.5)
    for kind, expected in (("logit", Logits), ("probability", Probabilities), ("rank", Ranks)):
        assert type(scores_of_kind(kind, values)) is expected
    with pytest.raises(UsageError, match="Did you mean 'logit'"):
        scores_of_kind("logits", values)


def test_above_is_strict_for_logits_at_one_half():
    tiny = np.nextafter(np.float32(0), np.float32(1))
    values = np.array([[-tiny, -0.0, 0.0, tiny, -1e4, 1e4]], dtype=np.float32)
    np.testing.assert_array_equal(Logits(values).above(0.5), [[False, False, False, True, False, True]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("probability", [0.8, 0.1, 0.3, 0.5, 1e-9, 1 - 1e-9])
def test_above_is_strict_at_the_limit_itself_in_either_precision(dtype, probability):
    if dtype is np.float64 or probability < 0.9:
        at = np.array([[probability]], dtype=dtype)
        assert not Probabilities(at).above(probability).any()
        assert Probabilities(np.nextafter(at, dtype(2))).above(probability).all()
    at = np.array([[math.log(probability / (1 - probability))]], dtype=dtype)
    assert not Logits(at).above(probability).any()
    assert Logits(np.nextafter(at, dtype(np.inf))).above(probability).all()


def test_logits_beyond_where_sigmoid_saturates_still_decide_and_rank():
    values = np.array([[50.0, 60.0, -50.0, -60.0, 1e4, -1e4]], dtype=np.float32)
    np.testing.assert_array_equal(Logits(values).above(0.5), [[True, True, False, False, True, False]])
    targets = np.array([[False], [True], [False]])
    assert average_precision(Logits(np.array([[50.0], [60.0], [40.0]], dtype=np.float32)), targets)[0] == 1.0


def test_logits_and_their_probabilities_decide_alike_in_float64():
    logits = np.random.default_rng(3).normal(scale=4, size=(200, 7))
    for probability in (0.05, 0.5, 0.8):
        np.testing.assert_array_equal(
            Logits(logits).above(probability), Probabilities(1 / (1 + np.exp(-logits))).above(probability)
        )


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 1.5, math.nan])
@pytest.mark.parametrize("kind", [Logits, Probabilities])
def test_a_threshold_that_is_no_inner_probability_is_refused(kind, probability):
    with pytest.raises(UsageError, match="between 0 and 1"):
        kind(np.full((1, 1), 0.5)).above(probability)


def test_ranks_have_no_threshold():
    with pytest.raises(UsageError, match="rank"):
        Ranks(np.zeros((1, 1))).above(0.5)
