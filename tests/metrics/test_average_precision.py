"""Average precision against scikit-learn, against plain counting over all thresholds, and by hand."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score

from mlbench.errors import DataError, UsageError
from mlbench.metrics import (
    EmptyClasses,
    GroupMeans,
    Logits,
    Probabilities,
    Ranks,
    average_precision,
    empty_classes,
    group_means,
    mean_average_precision,
)

FLAVOURS = ("step", "envelope", "eleven_point")
quick = settings(max_examples=60, deadline=None, derandomize=True)


def operating_points(scores, present):
    """(recall, precision) at every distinct score taken as threshold, counted anew each time, exactly."""
    total = sum(map(bool, present))
    points = []
    for limit in sorted(set(scores), reverse=True):
        taken = [bool(y) for s, y in zip(scores, present, strict=True) if s >= limit]
        points.append((Fraction(sum(taken), total), Fraction(sum(taken), len(taken))))
    return points


def reference(scores, present, flavour):
    """AP of one class straight from its definition, in exact fractions, O(N^2)."""
    if not any(present):
        return math.nan
    points = operating_points(list(map(float, scores)), list(present))
    if flavour == "eleven_point":
        levels = [Fraction(k, 10) for k in range(11)]
        return float(sum(max(p for r, p in points if r >= level) for level in levels) / 11)
    area, before = Fraction(0), Fraction(0)
    for recall, precision in points:
        best = max(p for r, p in points if r >= recall) if flavour == "envelope" else precision
        area += (recall - before) * best
        before = recall
    return float(area)


def column(*values, dtype=np.float64):
    return np.array(values, dtype=dtype)[:, None]


@st.composite
def cases(draw, ties=True):
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 3)))
    value = st.integers(-3, 3) if ties else st.integers(-1000, 1000)
    values = draw(hnp.arrays(np.int64, shape, elements=value)).astype(np.float64) / 8
    targets = draw(hnp.arrays(bool, shape))
    known = draw(st.none() | hnp.arrays(bool, shape))
    return values, targets, known


def test_step_equals_scikit_learn_on_hundreds_of_matrices_with_many_ties():
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows, levels = int(rng.integers(2, 60)), int(rng.integers(1, 12))
        values = rng.integers(0, levels, size=(rows, 4)) / 4
        targets = rng.random((rows, 4)) < rng.uniform(0.05, 0.95)
        targets[0] = True
        expected = [average_precision_score(targets[:, c], values[:, c]) for c in range(4)]
        np.testing.assert_allclose(average_precision(Logits(values), targets), expected, rtol=1e-12)


def test_step_equals_scikit_learn_on_known_entries_only():
    rng = np.random.default_rng(1)
    for _ in range(100):
        values = np.round(rng.normal(size=(40, 3)), 1)
        targets, known = rng.random((40, 3)) < 0.3, rng.random((40, 3)) < 0.5
        targets[0] = known[0] = True
        expected = [average_precision_score(targets[k, c], values[k, c]) for c, k in enumerate(known.T)]
        np.testing.assert_allclose(average_precision(Ranks(values), targets, known), expected, rtol=1e-12)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("ties", [True, False])
def test_every_flavour_equals_its_definition_counted_exactly(flavour, ties):
    @quick
    @given(cases(ties))
    def check(case):
        values, targets, known = case
        mask = np.ones_like(targets) if known is None else known
        expected = [reference(values[k, c], targets[k, c], flavour) for c, k in enumerate(mask.T)]
        got = average_precision(Logits(values), targets, known, flavour)
        np.testing.assert_allclose(got, expected, rtol=1e-13)

    check()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_long_random_columns_equal_the_definition(flavour):
    rng = np.random.default_rng(2)
    for rows in (100, 150):
        scores = rng.integers(0, 40, rows) / 7
        present = rng.random(rows) < 0.3
        got = average_precision(Logits(scores[:, None]), present[:, None], flavour=flavour)[0]
        assert got == pytest.approx(reference(scores, present, flavour), rel=1e-13)


def test_hand_worked_ranking():
    # Ranked + - - + + : precision 1, 1/2, 1/3, 1/2, 3/5 at recall 1/3, 1/3, 1/3, 2/3, 1.
    scores = Logits(column(5, 4, 3, 2, 1))
    targets = column(1, 0, 0, 1, 1, dtype=bool)
    assert average_precision(scores, targets)[0] == pytest.approx((1 + 1 / 2 + 3 / 5) / 3)
    assert average_precision(scores, targets, flavour="envelope")[0] == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)
    # Recall 0 to 0.3 (four levels) is reached with precision 1, the other seven levels with 3/5.
    assert average_precision(scores, targets, flavour="eleven_point")[0] == pytest.approx((4 * 1 + 7 * 3 / 5) / 11)


@pytest.mark.parametrize(("count", "reached"), [(10, 3), (20, 6), (30, 9), (1, 1), (3, 1)])
def test_eleven_point_compares_recall_exactly_at_the_level(count, reached):
    # `reached` positives on top, then one negative, then the rest: precision is 1 while recall <= reached / count.
    # In floating point 0.1 * 3 > 0.3, which would lose the level 0.3.
    present = [True] * reached + [False] + [True] * (count - reached)
    levels = sum(Fraction(k, 10) <= Fraction(reached, count) for k in range(11))
    later = count / (count + 1)
    got = average_precision(
        Logits(-np.arange(count + 1.0)[:, None]), np.array(present)[:, None], flavour="eleven_point"
    )
    assert got[0] == pytest.approx((levels + (11 - levels) * later) / 11, rel=1e-14)


@quick
@given(cases())
def test_envelope_is_never_below_step(case):
    values, targets, known = case
    step, envelope = (average_precision(Logits(values), targets, known, f) for f in ("step", "envelope"))
    filled = ~np.isnan(step)
    np.testing.assert_array_equal(filled, ~np.isnan(envelope))
    assert (envelope[filled] >= step[filled] - 1e-15).all()
    assert ((step[filled] > 0) & (envelope[filled] <= 1)).all()


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_constant_score_gives_the_prevalence(flavour, level):
    targets = np.zeros((40, 2), dtype=bool)
    targets[:7, 0] = targets[:, 1] = True
    got = average_precision(Probabilities(np.full((40, 2), level)), targets, flavour=flavour)
    np.testing.assert_allclose(got, [7 / 40, 1.0], rtol=1e-15)


def test_positive_and_negative_zero_are_tied():
    targets = column(1, 0, dtype=bool)
    assert average_precision(Logits(column(0.0, -0.0)), targets)[0] == 0.5
    assert average_precision(Logits(column(-0.0, 0.0)), targets)[0] == 0.5


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_classes_without_known_positives_are_nan_and_all_positive_ones_are_one(flavour):
    values = np.random.default_rng(4).normal(size=(6, 4))
    targets = np.zeros((6, 4), dtype=bool)
    targets[:, 1:] = True
    known = np.ones((6, 4), dtype=bool)
    known[:, 2] = False
    targets[0, 3] = False
    known[1:, 3] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = average_precision(Logits(values), targets, known, flavour)
    np.testing.assert_array_equal(got, [np.nan, 1.0, np.nan, np.nan])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_one_image_and_no_image(flavour):
    one = average_precision(Logits(np.array([[3.0, -3.0]])), np.array([[True, False]]), flavour=flavour)
    np.testing.assert_array_equal(one, [1.0, np.nan])
    none = average_precision(Logits(np.zeros((0, 2))), np.zeros((0, 2), dtype=bool), flavour=flavour)
    np.testing.assert_array_equal(none, [np.nan, np.nan])
    assert average_precision(Logits(np.zeros((3, 0))), np.zeros((3, 0), dtype=bool), flavour=flavour).shape == (0,)


def test_hidden_entries_leave_the_ranking_whatever_they_hold():
    values = column(9, 3, 2, 1)
    known = column(0, 1, 1, 1, dtype=bool)
    for hidden in (True, False):
        targets = np.array([[hidden], [True], [False], [True]])
        assert average_precision(Logits(values), targets, known)[0] == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_extreme_logits_keep_their_order(flavour):
    values = column(1e4, 50, 49.9, -50, -1e4, 0, dtype=np.float32)
    targets = column(1, 1, 0, 0, 0, 1, dtype=bool)
    small = column(6, 5, 4, 2, 1, 3, dtype=np.float32)
    assert average_precision(Logits(values), targets, flavour=flavour) == average_precision(
        Logits(small), targets, flavour=flavour
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_scaling_logits_by_five_leaves_average_precision_unchanged(flavour):
    rng = np.random.default_rng(5)
    # In float32 a product by 5 is rounded and may merge neighbours; in float64 five float32 logits stay exact.
    values = rng.normal(scale=8, size=(500, 6)).astype(np.float32).astype(np.float64)
    targets = rng.random((500, 6)) < 0.1
    before = average_precision(Logits(values), targets, flavour=flavour)
    np.testing.assert_array_equal(before, average_precision(Logits(5 * values), targets, flavour=flavour))
    coarse = (np.round(values * 8) / 8).astype(np.float32)
    np.testing.assert_array_equal(
        average_precision(Logits(coarse), targets, flavour=flavour),
        average_precision(Logits(np.float32(5) * coarse), targets, flavour=flavour),
    )


@quick
@given(cases(), st.randoms(use_true_random=False))
def test_row_order_and_float_width_do_not_matter(case, random):
    values, targets, known = case
    order = list(range(len(values)))
    random.shuffle(order)
    for flavour in FLAVOURS:
        before = average_precision(Logits(values), targets, known, flavour)
        shuffled = average_precision(
            Logits(values[order]), targets[order], None if known is None else known[order], flavour
        )
        np.testing.assert_array_equal(before, shuffled)
        np.testing.assert_array_equal(before, average_precision(Logits(values.astype("f4")), targets, known, flavour))


def test_classes_are_scored_independently():
    rng = np.random.default_rng(6)
    values, targets, known = rng.normal(size=(50, 5)), rng.random((50, 5)) < 0.3, rng.random((50, 5)) < 0.6
    together = average_precision(Logits(values), targets, known)
    for c in range(5):
        alone = average_precision(Logits(values[:, [c]]), targets[:, [c]], known[:, [c]])
        np.testing.assert_array_equal(alone, together[[c]])


def test_an_unknown_flavour_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'eleven_point'"):
        average_precision(Logits(np.zeros((1, 1))), np.zeros((1, 1), dtype=bool), flavour="11_point")


@pytest.mark.parametrize(
    ("targets", "known", "message"),
    [
        (np.zeros((2, 3), dtype=np.int8), None, "targets: expected a bool array, found int8"),
        (np.zeros((3, 2), dtype=bool), None, r"targets: expected shape \[2, 3\], found \[3, 2\]"),
        (np.zeros((1, 3), dtype=bool), None, "targets: expected shape"),
        (np.zeros(6, dtype=bool), None, "targets: expected shape"),
        (np.zeros((2, 3), dtype=bool), np.zeros((2, 3)), "known: expected a bool array"),
        (np.zeros((2, 3), dtype=bool), np.ones((2, 1), dtype=bool), "known: expected shape"),
    ],
)
def test_label_codes_and_wrong_shapes_are_refused(targets, known, message):
    with pytest.raises(DataError, match=message):
        average_precision(Logits(np.zeros((2, 3))), targets, known)


def test_mean_over_classes_counts_or_skips_the_empty_ones():
    ap = np.array([0.5, np.nan, 1.0])
    assert mean_average_precision(ap, "zero") == 0.5
    assert mean_average_precision(ap, "skip") == 0.75
    assert mean_average_precision(np.array([np.nan]), "zero") == 0.0
    assert np.isnan(ap[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(mean_average_precision(np.array([np.nan]), "skip"))
        assert math.isnan(mean_average_precision(np.array([]), "zero"))
    with pytest.raises(UsageError, match="Did you mean 'skip'"):
        mean_average_precision(ap, "skipped")


def test_a_class_without_known_labels_is_skipped_and_one_without_positives_kept_as_zero():
    """The rule of large loss matters and BoostLU on OpenImages: all positive counts 1, no positive 0, unknown not."""
    #                  normal, no positives, all positive, no known
    targets = np.array([[1, 0, 1, 1], [0, 0, 1, 0]], dtype=bool)
    known = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], dtype=bool)
    ap = average_precision(Logits(np.array([[2.0, 1, 1, 1], [1, 2, 1, 1]])), targets, known)
    assert mean_average_precision(ap, "zero_if_known", known) == pytest.approx((1 + 0 + 1) / 3)
    assert mean_average_precision(ap, "zero") == pytest.approx(2 / 4)
    assert mean_average_precision(ap, "skip") == 1
    assert mean_average_precision(ap, "zero_if_known") == mean_average_precision(ap, "zero")  # all known
    means = group_means(ap, [np.array([1, 3]), np.array([3]), np.array([0, 1])], "zero_if_known", known)
    assert means.groups[0] == 0
    assert math.isnan(means.groups[1])
    assert means.groups[2] == 0.5
    assert means.overall == pytest.approx(2 / 3)
    with pytest.raises(DataError, match=r"known: expected shape \[2, 4\], found \[2, 3\]"):
        mean_average_precision(ap, "zero_if_known", known[:, :3])


def test_empty_classes_are_listed_by_what_they_lack():
    #                  normal, no positives, all positive, no known, known negatives only
    targets = np.array([[1, 0, 1, 1, 1], [0, 0, 1, 0, 0]], dtype=bool)
    known = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 0, 1]], dtype=bool)
    assert empty_classes(targets, known) == EmptyClasses(no_known=(3,), no_positives=(1, 4), no_negatives=(2,))
    assert empty_classes(targets) == EmptyClasses(no_known=(), no_positives=(1,), no_negatives=(2,))
    nothing = EmptyClasses(no_known=(0, 1), no_positives=(), no_negatives=())
    assert empty_classes(np.zeros((0, 2), dtype=bool)) == nothing


@quick
@given(cases())
def test_empty_classes_are_exactly_the_nan_ones(case):
    values, targets, known = case
    found = empty_classes(targets, known)
    ap = average_precision(Logits(values), targets, known)
    assert set(found.no_known) | set(found.no_positives) == set(np.flatnonzero(np.isnan(ap)))
    assert (ap[list(found.no_negatives)] == 1).all()


def test_group_means_follow_the_rule_for_empty_classes():
    ap = np.array([0.2, 0.4, np.nan, 0.8, 1.0])
    groups = [np.array([0, 1]), np.array([2, 3])]
    zero, skip = group_means(ap, groups, "zero"), group_means(ap, groups, "skip")
    assert isinstance(zero, GroupMeans)
    assert zero.groups == pytest.approx((0.3, 0.4))
    assert zero.overall == pytest.approx(2.4 / 5)
    assert skip.groups == pytest.approx((0.3, 0.8))
    assert skip.overall == pytest.approx(0.6)


def test_an_empty_group_is_nan_and_one_group_of_all_is_the_overall_mean():
    ap = np.array([0.2, 0.4])
    means = group_means(ap, [np.array([]), np.array([1, 0])], "skip")
    assert math.isnan(means.groups[0])
    assert means.groups[1] == means.overall
    assert group_means(ap, [], "skip") == GroupMeans((), means.overall)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ([0, 2], "class index 2, expected 0 to 1"),
        ([-1], "class index -1"),
        ([0, 0], "twice"),
        ([0.0], "class indices"),
        ([True, False], "class indices"),
        ([[0, 1]], "class indices"),
    ],
)
def test_wrong_group_indices_are_refused(group, message):
    with pytest.raises(DataError, match=message):
        group_means(np.array([0.5, 0.5]), [np.array([1]), np.array(group)], "skip")
