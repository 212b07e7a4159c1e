"""Calibration: by hand, beside scikit-learn, with unknown labels left out, and in records and tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from mlbench.errors import UsageError
from mlbench.metrics import (
    METRICS,
    Definition,
    Lens,
    Logits,
    Probabilities,
    Ranks,
    adaptive_calibration_error,
    brier_score,
    expected_calibration_error,
    reliability,
)

NAMES = ("ECE-O", "ECE-C", "ACE-O", "ACE-C", "Brier-O", "Brier-C")
MEASURES = (expected_calibration_error, adaptive_calibration_error, brier_score)
#: One class: bins of a quarter hold 2, 1, 0 and 2 entries.
HAND = np.array([[0.1], [0.2], [0.4], [0.9], [1.0]])
PRESENT = np.array([[False], [True], [False], [True], [True]])


def drawn(rows: int = 60, classes: int = 4, seed: int = 0) -> tuple[Probabilities, np.ndarray, np.ndarray]:
    """Probabilities without ties, labels, and which of them are known: of the last class none."""
    random = np.random.default_rng(seed)
    values, targets = random.random((rows, classes)) ** 2, random.random((rows, classes)) < 0.3
    known = random.random((rows, classes)) < 0.6
    known[:, -1] = False
    return Probabilities(values), targets, known


def test_by_hand_in_bins_of_equal_width() -> None:
    curve = reliability(Probabilities(HAND), PRESENT, bins=4)
    assert curve.count.tolist() == [[2, 1, 0, 2]]
    np.testing.assert_allclose(curve.probability, [[0.15, 0.4, np.nan, 0.95]])
    np.testing.assert_allclose(curve.share, [[0.5, 0.0, np.nan, 1.0]])
    found = expected_calibration_error(Probabilities(HAND), PRESENT, bins=4)
    assert found.per_class == pytest.approx([(2 * 0.35 + 0.4 + 2 * 0.05) / 5])
    assert found.macro == found.micro == pytest.approx(0.24)


def test_by_hand_in_bins_of_equal_size() -> None:
    """Two bins of 5 entries: the least three, then two."""
    curve = reliability(Probabilities(HAND), PRESENT, bins=2, binning="size")
    assert curve.count.tolist() == [[3, 2]]
    np.testing.assert_allclose(curve.probability, [[0.7 / 3, 0.95]])
    found = adaptive_calibration_error(Probabilities(HAND), PRESENT, bins=2)
    assert found.micro == pytest.approx((abs(0.7 - 1) + abs(1.9 - 2)) / 5)
    assert found.per_class == pytest.approx([found.micro])


def test_brier_by_hand_and_pooled_unlike_the_mean_of_classes() -> None:
    scores = Probabilities(np.array([[0.5, 0.25], [1.0, 0.5]]))
    targets, known = np.array([[True, False], [False, True]]), np.array([[True, True], [True, False]])
    found = brier_score(scores, targets, known)
    assert found.per_class.tolist() == [(0.25 + 1) / 2, 0.0625]
    assert (found.macro, found.micro) == ((0.625 + 0.0625) / 2, (0.25 + 1 + 0.0625) / 3)


def test_classes_together_are_not_the_mean_of_the_classes() -> None:
    """Two classes that are wrong in opposite ways are right together."""
    scores, targets = Probabilities(np.full((4, 2), 0.5)), np.array([[True, False]] * 4)
    for error in (expected_calibration_error, adaptive_calibration_error):
        found = error(scores, targets)
        assert (found.macro, found.micro) == (0.5, 0.0)


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    values = Probabilities(np.array([[0.0], [0.25], [0.5], [0.75], [1.0], [0.75 + 1e-12]]))
    assert reliability(values, np.zeros((6, 1), bool), bins=4).count.tolist() == [[2, 1, 1, 2]]


def test_equal_probabilities_stay_together() -> None:
    values = Probabilities(np.array([[0.3]] * 7 + [[0.6]] * 2))
    curve = reliability(values, np.zeros((9, 1), bool), bins=3, binning="size")
    assert sorted(curve.count[0].tolist()) == [0, 2, 7]


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_scikit_learn_agrees_class_by_class(bins: int) -> None:
    scores, targets, known = drawn()
    known[:, 0] = True  # 60 entries, which 1, 5 and 15 bins share evenly
    widths = reliability(scores, targets, known, bins)
    sizes = reliability(scores, targets, known, bins, "size")
    brier = brier_score(scores, targets, known).per_class
    for c in range(3):
        kept = known[:, c]
        true, values = targets[kept, c], scores.values[kept, c]
        assert brier[c] == pytest.approx(brier_score_loss(true, values))
        for curve, strategy in ((widths, "uniform"), (sizes, "quantile")):
            if strategy == "quantile" and c:
                continue  # scikit-learn interpolates between quantiles: bins differ by an entry where they are uneven
            share, probability = calibration_curve(true, values, n_bins=bins, strategy=strategy)
            filled = curve.count[c] > 0
            np.testing.assert_allclose(curve.share[c][filled], share)
            np.testing.assert_allclose(curve.probability[c][filled], probability)
    assert math.isnan(brier[3])
    assert (widths.count[3] == 0).all()


def test_errors_follow_from_the_curves_and_all_entries_together_are_one_class() -> None:
    scores, targets, known = drawn(seed=3)
    pooled = Probabilities(scores.values[known][:, None])
    for error, binning in ((expected_calibration_error, "width"), (adaptive_calibration_error, "size")):
        found = error(scores, targets, known, bins=6)
        curve = reliability(scores, targets, known, 6, binning)
        for c in range(3):
            gap = np.nan_to_num(np.abs(curve.probability[c] - curve.share[c]))
            assert found.per_class[c] == pytest.approx((gap * curve.count[c]).sum() / known[:, c].sum())
        assert math.isnan(found.per_class[3])
        assert found.macro == pytest.approx(np.nanmean(found.per_class))
        assert found.micro == pytest.approx(error(pooled, targets[known][:, None], bins=6).per_class[0])


def test_unknown_entries_change_nothing() -> None:
    scores, targets, known = drawn()
    other = np.where(known, scores.values, 1 - scores.values)
    for measure in MEASURES:
        one, two = measure(scores, targets, known), measure(Probabilities(other), targets ^ ~known, known)
        np.testing.assert_array_equal(one.per_class, two.per_class)
        assert (one.macro, one.micro) == (two.macro, two.micro)


def test_nothing_depends_on_the_order_of_images_to_the_bit() -> None:
    scores, targets, known = drawn(rows=500)
    order = np.random.default_rng(1).permutation(500)
    for measure in MEASURES:
        one = measure(scores, targets, known)
        two = measure(Probabilities(scores.values[order]), targets[order], known[order])
        np.testing.assert_array_equal(one.per_class, two.per_class)
        assert (one.macro, one.micro) == (two.macro, two.micro)


def test_logits_stand_for_their_sigmoid_in_double_precision() -> None:
    logits = np.array([[-800.0, -40.0, 0.0, 1.5, 40.0, 800.0]], dtype=np.float32).T
    p = np.array([[0.0, math.exp(-40), 0.5, 1 / (1 + math.exp(-1.5)), 1.0, 1.0]]).T
    targets = np.array([[False, False, True, True, True, True]]).T
    for measure in MEASURES:
        assert measure(Logits(logits), targets).micro == pytest.approx(measure(Probabilities(p), targets).micro)


def test_without_known_labels_nothing_is_defined() -> None:
    scores, targets, _ = drawn()
    for measure in MEASURES:
        found = measure(scores, targets, np.zeros_like(targets))
        assert np.isnan([*found.per_class, found.macro, found.micro]).all()


def test_probabilities_that_come_true_as_often_as_foretold_have_no_error_in_the_long_run() -> None:
    random = np.random.default_rng(0)
    values = random.random((20000, 1))
    targets = random.random((20000, 1)) < values
    for error in (expected_calibration_error, adaptive_calibration_error):
        assert error(Probabilities(values), targets).micro < 0.02
        # Logits twice too large are overconfident: |2x| leaves a gap of about 0.1.
        logits = np.log(values / (1 - values))
        assert error(Logits(2 * logits), targets).micro > 0.05


def test_ranks_are_refused_and_shown_as_undefined_in_a_list_of_measures() -> None:
    ranks, targets = Ranks(np.ones((2, 2))), np.ones((2, 2), bool)
    for measure in (*MEASURES, reliability):
        with pytest.raises(UsageError, match=r"kind 'rank' have no probability.*calibration"):
            measure(ranks, targets)
    lens = Lens(ranks, targets, targets)
    assert all(math.isnan(lens.value(Definition(), name)) for name in NAMES)


def test_measures_are_registered_and_less_of_them_is_better() -> None:
    scores, targets, known = drawn()
    lens = Lens(scores, targets, known)
    values = [measure(scores, targets, known) for measure in MEASURES]
    wanted = [value for found in values for value in (found.micro, found.macro)]
    assert [lens.value(Definition(), name) for name in NAMES] == wanted
    assert {METRICS[name].better for name in NAMES} == {"lower"}


@pytest.mark.parametrize(("wrong", "said"), [({"bins": 0}, "bins = 0"), ({"binning": "mass"}, "binning 'mass'")])
def test_impossible_bins_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        reliability(Probabilities(HAND), PRESENT, **wrong)
