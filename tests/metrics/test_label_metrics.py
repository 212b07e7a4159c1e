"""Precision, recall, F1 and mean accuracy against scikit-learn, plain counting and printed numbers."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from mlbench.errors import DataError
from mlbench.metrics import harmonic_mean, mean_accuracy, precision_recall_f1

quick = settings(max_examples=80, deadline=None, derandomize=True)
NAMES = "P_C R_C F1_C_mean F1_C_hm P_O R_O F1_O P_I R_I"


def means(metrics, names):
    return tuple(getattr(metrics, name) for name in names.split())


@st.composite
def cases(draw):
    shape = (draw(st.integers(1, 10)), draw(st.integers(2, 4)))
    decisions, targets = draw(hnp.arrays(bool, shape)), draw(hnp.arrays(bool, shape))
    return decisions, targets, draw(st.none() | hnp.arrays(bool, shape))


@quick
@given(cases())
def test_every_average_equals_scikit_learn(case):
    decisions, targets, known = case
    got = precision_recall_f1(decisions, targets, known)
    # An entry that is not known counts as neither decided nor present, which scikit-learn ignores as a true negative.
    mask = np.ones_like(targets) if known is None else known
    truth, guess = (targets & mask).astype(int), (decisions & mask).astype(int)

    def oracle(average):
        return precision_recall_fscore_support(truth, guess, average=average, zero_division=0)[:3]

    for mine, theirs in zip((got.P, got.R, got.F1), oracle(None), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)
    assert means(got, "P_C R_C F1_C_mean") == pytest.approx(oracle("macro"), rel=1e-13)
    assert means(got, "P_O R_O F1_O") == pytest.approx(oracle("micro"), rel=1e-13)
    assert means(got, "P_I R_I") == pytest.approx(oracle("samples")[:2], rel=1e-13)


@quick
@given(cases())
def test_counts_equal_plain_counting_of_known_entries(case):
    decisions, targets, known = case
    got = precision_recall_f1(decisions, targets, known)
    rows, classes = targets.shape

    def entries(row, column):
        return (decisions[row, column], targets[row, column], known is None or known[row, column])

    by_class = [[entries(n, c) for n in range(rows)] for c in range(classes)]
    by_image = [[entries(n, c) for c in range(classes)] for n in range(rows)]
    for counts, lines in ((got.per_class, by_class), (got.per_image, by_image)):
        assert counts.true_positives.tolist() == [sum(bool(d and t and k) for d, t, k in line) for line in lines]
        assert counts.predicted.tolist() == [sum(bool(d and k) for d, t, k in line) for line in lines]
        assert counts.positives.tolist() == [sum(bool(t and k) for d, t, k in line) for line in lines]


@quick
@given(cases(), st.randoms(use_true_random=False))
def test_row_order_does_not_matter(case, random):
    decisions, targets, known = case
    order = list(range(len(targets)))
    random.shuffle(order)
    before = precision_recall_f1(decisions, targets, known)
    mask = None if known is None else known[order]
    after = precision_recall_f1(decisions[order], targets[order], mask)
    assert means(before, NAMES) == pytest.approx(means(after, NAMES), rel=1e-13)
    assert mean_accuracy(decisions[order], targets[order], mask).value == pytest.approx(
        mean_accuracy(decisions, targets, known).value, rel=1e-13, nan_ok=True
    )


@quick
@given(cases())
def test_micro_f1_is_the_harmonic_mean_and_the_two_macro_f1_are_ordered(case):
    got = precision_recall_f1(*case)
    expected = harmonic_mean(got.P_O, got.R_O), harmonic_mean(got.P_C, got.R_C)
    assert means(got, "F1_O F1_C_hm") == pytest.approx(expected, rel=1e-13)
    # The harmonic mean is concave, so the harmonic mean of means is at least the mean of harmonic means (Jensen).
    assert got.F1_C_hm >= got.F1_C_mean - 1e-12


def test_hand_worked_table():
    # class 0: TP 2, predicted 3, present 2; class 1: TP 1, predicted 1, present 3.
    decisions = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], dtype=bool)
    targets = np.array([[1, 1], [1, 0], [0, 1], [0, 1]], dtype=bool)
    got = precision_recall_f1(decisions, targets)
    np.testing.assert_allclose(got.P, [2 / 3, 1])
    np.testing.assert_allclose(got.R, [1, 1 / 3])
    np.testing.assert_allclose(got.F1, [4 / 5, 1 / 2])
    assert means(got, "P_C R_C F1_C_mean F1_C_hm") == pytest.approx((5 / 6, 2 / 3, 0.65, 20 / 27))
    assert means(got, "P_O R_O F1_O") == pytest.approx((3 / 4, 3 / 5, 2 / 3))
    assert means(got, "P_I R_I") == pytest.approx(((1 + 1 + 1 / 2 + 0) / 4, (1 / 2 + 1 + 1 + 0) / 4))
    # class 0: rates 1 and 1/2; class 1: rates 1/3 and 1.
    assert mean_accuracy(decisions, targets).value == pytest.approx((3 / 4 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("precision", "recall", "printed"),
    [
        (59.3, 52.5, 55.69),
        (66.0, 55.6, 60.36),
        (80.8, 63.4, 71.05),
        (84.3, 57.4, 68.30),
        (81.6, 65.4, 72.61),
        (85.2, 58.8, 69.58),
        (77.4, 68.3, 72.57),
        (85.2, 59.4, 70.00),
    ],
)
def test_harmonic_mean_gives_the_arithmetic_behind_the_printed_coco_table(precision, recall, printed):
    assert round(harmonic_mean(precision, recall), 2) == printed


def test_harmonic_mean_of_zeros_is_zero():
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 1.0) == 0.0


def test_a_class_never_predicted_or_never_present_counts_zero_in_the_means():
    #                     never predicted, never present, neither, perfect
    decisions = np.array([[0, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)
    targets = np.array([[1, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = precision_recall_f1(decisions, targets)
        assert got.P.tolist() == got.R.tolist() == got.F1.tolist() == [0, 0, 0, 1]
        assert got.P_C == got.R_C == got.F1_C_mean == got.F1_C_hm == 0.25


def test_nothing_predicted_nothing_present_and_nothing_known_give_zero():
    no, yes = np.zeros((3, 2), dtype=bool), np.ones((3, 2), dtype=bool)
    for arguments in ((no, yes), (yes, no), (no, no), (yes, yes, no)):
        got = precision_recall_f1(*arguments)
        assert set(means(got, NAMES)) == {0.0}


def test_no_image_gives_zero_for_classes_and_nan_for_image_means():
    nothing = np.zeros((0, 2), dtype=bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = precision_recall_f1(nothing, nothing)
        assert means(got, "P_C R_C F1_O") == (0.0, 0.0, 0.0)
        assert math.isnan(got.P_I)
        assert math.isnan(precision_recall_f1(nothing.T, nothing.T).P_C)


def test_unspecified_labels_count_only_when_passed_as_known_negatives():
    decisions = np.array([[True], [True]])
    targets = np.array([[True], [False]])
    ignored = precision_recall_f1(decisions, targets, known=np.array([[True], [False]]))
    negative = precision_recall_f1(decisions, targets)
    assert (ignored.P_O, negative.P_O) == (1.0, 0.5)


@quick
@given(cases())
def test_mean_accuracy_equals_balanced_accuracy_where_both_sides_exist(case):
    decisions, targets, known = case
    got = mean_accuracy(decisions, targets, known)
    mask = np.ones_like(targets) if known is None else known
    kept = []
    for c in range(targets.shape[1]):
        truth, guess = targets[mask[:, c], c], decisions[mask[:, c], c]
        if truth.any() and not truth.all():
            kept.append(balanced_accuracy_score(truth, guess))
            assert got.per_class[c] == pytest.approx(kept[-1])
            assert c not in got.skipped
        else:
            assert c in got.skipped
            assert math.isnan(got.per_class[c])
    assert got.value == pytest.approx(np.mean(kept) if kept else math.nan, nan_ok=True)


def test_mean_accuracy_skips_and_lists_classes_that_lack_a_side():
    targets = np.array([[1, 0, 1], [1, 0, 0]], dtype=bool)
    got = mean_accuracy(np.ones((2, 3), dtype=bool), targets)
    assert got.skipped == (0, 1)
    assert got.value == 0.5
    empty = mean_accuracy(np.zeros((0, 1), dtype=bool), np.zeros((0, 1), dtype=bool))
    assert empty.skipped == (0,)
    assert math.isnan(empty.value)


@pytest.mark.parametrize("metric", [precision_recall_f1, mean_accuracy])
def test_label_codes_and_wrong_shapes_are_refused(metric):
    good = np.zeros((2, 3), dtype=bool)
    for arguments, message in (
        ((good.astype(float), good), "decisions: expected a bool array"),
        ((good, good.astype(np.int8)), "targets: expected a bool array"),
        ((good[:1], good), r"decisions: expected shape \[2, 3\], found \[1, 3\]"),
        ((good, good, good[:, :1]), "known: expected shape"),
        ((good, good, good.astype(int)), "known: expected a bool array"),
    ):
        with pytest.raises(DataError, match=message):
            metric(*arguments)
