"""Biased single positives: how often each class is drawn, against probabilities worked out by hand or brute force."""

from __future__ import annotations

import numpy as np
import pytest

from mlbench.annotation import draw_mask
from mlbench.annotation.biased import covered_areas
from mlbench.errors import DataError

BIASED = ["single_positive_size", "single_positive_frequency", "single_positive_cooccurrence"]


def names(n: int) -> list[str]:
    return [f"{i}.jpg" for i in range(n)]


def assert_drawn_with(drawn: np.ndarray, probabilities: list[float]) -> None:
    """Each count within five standard deviations of a binomial with the given probability."""
    n, p = drawn.sum(), np.array(probabilities)
    assert abs(p.sum() - 1) < 1e-9
    assert (np.abs(drawn - n * p) <= 5 * np.sqrt(n * p * (1 - p))).all(), (drawn, n * p)


def drawn_counts(labels: np.ndarray, process: str, bias: float, **known: np.ndarray) -> np.ndarray:
    mask = draw_mask(labels, process, {"bias": bias}, 3, ids=names(len(labels)), **known)
    assert ((mask.observed == 1).sum(axis=1) == (labels == 1).any(axis=1)).all()
    return (mask.observed == 1).sum(axis=0)


def box(row: int, c: int, width: float, height: float, x: float = 0, y: float = 0) -> list[float]:
    return [row, c, x, y, x + width, y + height]


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bias", "expected"),
    [(0, [1 / 3, 1 / 3, 0, 1 / 3]), (1, [1 / 7, 2 / 7, 0, 4 / 7]), (2, [1 / 21, 4 / 21, 0, 16 / 21])],
)
def test_size_draws_by_covered_area_to_the_power_of_the_bias(bias: float, expected: list[float]) -> None:
    n = 4000
    labels = np.tile(np.array([[1, 1, -1, 1]], dtype=np.int8), (n, 1))
    # Class 3 has 8 x 2 = 16 pixels of two boxes that overlap, class 2 (negative) the largest box of all.
    each = [(0, 2, 2, 0), (1, 4, 2, 0), (2, 50, 50, 0), (3, 6, 2, 0), (3, 6, 2, 2)]
    boxes = np.array([box(row, c, w, h, x) for row in range(n) for c, w, h, x in each])
    assert_drawn_with(drawn_counts(labels, "single_positive_size", bias, boxes=boxes), expected)


def test_size_is_uniform_in_an_image_without_boxes_and_at_the_smallest_size_for_a_class_without() -> None:
    n = 4000
    labels = np.tile(np.array([[1, 1, 1]], dtype=np.int8), (2 * n, 1))
    boxes = np.array([line for row in range(n) for line in (box(row, 0, 2, 2), box(row, 1, 3, 4))])
    observed = draw_mask(labels, "single_positive_size", {"bias": 1}, ids=names(2 * n), boxes=boxes).observed == 1
    assert_drawn_with(observed[:n].sum(axis=0), [4 / 20, 12 / 20, 4 / 20])
    assert_drawn_with(observed[n:].sum(axis=0), [1 / 3, 1 / 3, 1 / 3])


def test_a_box_without_area_counts_as_none() -> None:
    labels = np.ones((3000, 2), dtype=np.int8)
    boxes = np.array([box(row, 0, 0, 5) for row in range(3000)])
    assert_drawn_with(drawn_counts(labels, "single_positive_size", 4, boxes=boxes), [0.5, 0.5])


def test_the_scale_of_an_image_does_not_matter() -> None:
    labels = np.ones((200, 3), dtype=np.int8)
    boxes = np.array([box(row, c, 1 + c, 2 + row % 5) for row in range(200) for c in range(3)])
    larger = boxes * [1, 1, 8, 8, 8, 8]
    first, second = (
        draw_mask(labels, "single_positive_size", {"bias": 1.5}, ids=names(200), boxes=b) for b in (boxes, larger)
    )
    assert first.sha256 == second.sha256


def test_covered_areas_are_those_of_painted_pixels() -> None:
    rng = np.random.default_rng(0)
    rows, classes = rng.integers(0, 4, 60), rng.integers(0, 3, 60)
    corners = np.sort(rng.integers(0, 20, (60, 2, 2)), axis=2)  # [box, axis, ends]
    boxes = np.column_stack([rows, classes, corners[:, 0, 0], corners[:, 1, 0], corners[:, 0, 1], corners[:, 1, 1]])
    painted = np.zeros((4, 3, 20, 20), dtype=bool)
    for row, c, x1, y1, x2, y2 in boxes:
        painted[row, c, y1:y2, x1:x2] = True
    assert (covered_areas(boxes, (4, 3)) == painted.sum(axis=(2, 3))).all()
    assert not covered_areas(np.zeros((0, 6)), (4, 3)).any()


def test_size_needs_boxes_that_fit() -> None:
    labels = np.ones((2, 2), dtype=np.int8)
    for boxes, message in (
        (None, "'single_positive_size' needs boxes, and the data set has none"),
        (np.zeros((1, 4)), r"expected a matrix \[boxes, 6\]"),
        (np.array([box(2, 0, 1, 1)]), "box 0 is .*outside 2 samples x 2 classes"),
        (np.array([box(0, 0, 1, 1), box(0, -1, 1, 1)]), "box 1 is"),
        (np.array([box(0, 0, np.nan, 1)]), "box 0 is"),
    ):
        with pytest.raises(DataError, match=message):
            draw_mask(labels, "single_positive_size", {"bias": 1}, ids=names(2), boxes=boxes)


# --- frequency and co-occurrence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [-1.0, 0.0, 0.5, 1.0])
def test_frequency_draws_by_count_to_the_power_of_the_bias(bias: float) -> None:
    n = 3000
    labels = np.full((4 * n, 3), -1, dtype=np.int8)
    labels[:n] = 1  # the images looked at: all three classes
    labels[n:, 0] = 1
    labels[n : 2 * n, 1] = 1
    counts = np.array([4 * n, 2 * n, n], dtype=float)
    observed = draw_mask(labels, "single_positive_frequency", {"bias": bias}, ids=names(4 * n)).observed == 1
    assert_drawn_with(observed[:n].sum(axis=0), (counts**bias / (counts**bias).sum()).tolist())
    assert observed[2 * n :, 0].all()


def expectation(labels: np.ndarray, row: int, c: int) -> float:
    """Mean over the other positives d of row of P(c | d), by counting."""
    others = [d for d in range(labels.shape[1]) if d != c and labels[row, d] == 1]
    found = []
    for d in others:
        with_d = [line for line in labels.tolist() if line[d] == 1]
        found.append(sum(line[c] == 1 for line in with_d) / len(with_d))
    return sum(found) / len(found)


@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0, 3.0])
def test_cooccurrence_draws_by_how_far_the_other_labels_lead_one_to_expect_a_class(bias: float) -> None:
    kinds = np.array([[1, 1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1], [1, 1, -1, 1], [-1, -1, 1, -1]], dtype=np.int8)
    n = 2000
    labels = np.repeat(kinds, [n, 2 * n, n, n, n], axis=0)
    observed = draw_mask(labels, "single_positive_cooccurrence", {"bias": bias}, ids=names(6 * n)).observed == 1
    small = np.repeat(kinds, [1, 2, 1, 1, 1], axis=0)
    for first, row in ((0, 0), (3 * n, 3), (4 * n, 4)):
        weights = [expectation(small, row, c) ** bias if small[row, c] == 1 else 0.0 for c in range(4)]
        assert_drawn_with(observed[first : first + n].sum(axis=0), [w / sum(weights) for w in weights])
    assert observed[5 * n :, 2].all()  # the only positive


def test_statistics_are_those_of_the_training_labels_given() -> None:
    train = np.array([[1, 1, -1]] * 9 + [[1, -1, -1]] * 90, dtype=np.int8)
    val = np.ones((3000, 3), dtype=np.int8)
    drawn = drawn_counts(val, "single_positive_frequency", 1, train_labels=train)
    assert_drawn_with(drawn, [99 / 109, 9 / 109, 1 / 109])  # a class not seen counts once
    assert drawn_counts(val, "single_positive_cooccurrence", 1, train_labels=train).sum() == 3000


# --- all three --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", BIASED)
@pytest.mark.parametrize("bias", [0.0, 1.0, 300.0])
def test_rows_without_positives_show_nothing_and_extreme_biases_stay_finite(process: str, bias: float) -> None:
    rng = np.random.default_rng(2)
    labels = rng.choice(np.array([1, -1, 2, 0], dtype=np.int8), size=(80, 6))
    labels[3] = -1
    labels[4] = 1
    boxes = np.array([box(row, c, 1 + 500 * c, 1 + row) for row in range(80) for c in range(6)])
    with np.errstate(all="raise"):
        observed = draw_mask(labels, process, {"bias": bias}, ids=names(80), boxes=boxes).observed
    assert ((observed == 1).sum(axis=1) == (labels == 1).any(axis=1)).all()
    assert not (observed == -1).any()
    if (process, bias) == ("single_positive_size", 300.0):
        largest = np.where(labels == 1, np.arange(6), -1).max(axis=1)
        rows = largest >= 0
        assert (observed[rows, largest[rows]] == 1).all()


@pytest.mark.parametrize("process", BIASED)
def test_a_class_added_at_the_end_changes_no_draw_it_does_not_win(process: str) -> None:
    labels = np.random.default_rng(6).choice(np.array([1, -1], dtype=np.int8), size=(60, 5))
    wider = np.concatenate([labels, np.full((60, 1), -1, dtype=np.int8)], axis=1)
    boxes = np.array([box(row, c, 1 + c, 1 + row % 4) for row in range(60) for c in range(5)])
    first, second = (draw_mask(m, process, {"bias": 1}, ids=names(60), boxes=boxes).observed for m in (labels, wider))
    assert (first == second[:, :5]).all()
