"""Label-ranking measures: scikit-learn's where all is known, brute force where labels are not, and the edges."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as sk

from mlbench.errors import DataError, UsageError
from mlbench.metrics import (
    Logits,
    coverage_error,
    hamming_loss,
    label_ranking_average_precision,
    label_ranking_loss,
    one_error,
    roc_auc,
)

RANKED = {
    "loss": (label_ranking_loss, sk.label_ranking_loss),
    "coverage": (coverage_error, sk.coverage_error),
    "lrap": (label_ranking_average_precision, sk.label_ranking_average_precision_score),
}
DEFINED = {**{name: ours for name, (ours, _) in RANKED.items()}, "one": one_error}


def drawn(seed: int, rows: int = 25, classes: int = 5, known: float = 0.6) -> tuple[np.ndarray, ...]:
    """Scores on a coarse grid (with ties), labels with images of no and of all classes, and what is known of them."""
    random = np.random.default_rng(seed)
    values = np.round(random.normal(size=(rows, classes)) * 2) / 2
    targets = random.random((rows, classes)) < 0.5
    if rows > 2:
        targets[0], targets[1] = False, True
    return values, targets, random.random((rows, classes)) < known


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("shape", [(25, 5), (1, 5), (60, 2)])
def test_where_all_is_known_it_is_what_scikit_learn_says(name: str, shape: tuple[int, int]) -> None:
    ours, theirs = RANKED[name]
    for seed in range(20):
        values, targets, _ = drawn(seed, *shape)
        assert ours(Logits(values), targets) == pytest.approx(theirs(targets, values), abs=1e-12)
        assert ours(Logits(values), targets, np.ones_like(targets)) == ours(Logits(values), targets)


def test_areas_are_those_of_scikit_learn() -> None:
    for seed in range(20):
        values, targets, _ = drawn(seed)
        area = roc_auc(Logits(values), targets)
        expected = sk.roc_auc_score(targets, values, average=None)
        np.testing.assert_allclose(area.per_class, expected, atol=1e-12)
        assert area.macro == pytest.approx(sk.roc_auc_score(targets, values, average="macro"), abs=1e-12)
        assert area.micro == pytest.approx(sk.roc_auc_score(targets, values, average="micro"), abs=1e-12)
        assert area.skipped == ()
        assert hamming_loss(values > 0, targets) == pytest.approx(sk.hamming_loss(targets, values > 0), abs=1e-12)


def pairs(values: list[float], present: list[bool]) -> float:
    both = [(a, b) for a, p in zip(values, present, strict=True) for b, q in zip(values, present, strict=True) if p > q]
    return sum(a <= b for a, b in both) / len(both) if both else 0.0


def depth(values: list[float], present: list[bool]) -> float:
    wanted = [a for a, p in zip(values, present, strict=True) if p]
    return float(sum(a >= min(wanted) for a in values)) if wanted else 0.0


def precision(values: list[float], present: list[bool]) -> float:
    wanted = [a for a, p in zip(values, present, strict=True) if p]
    if len(wanted) in (0, len(values)):
        return 1.0
    return sum(sum(b >= a for b in wanted) / sum(b >= a for b in values) for a in wanted) / len(wanted)


def first(values: list[float], present: list[bool]) -> float | None:
    best = min(i for i, a in enumerate(values) if a == max(values))
    return float(not present[best]) if any(present) else None


@pytest.mark.parametrize(
    ("name", "by_hand"), [("loss", pairs), ("coverage", depth), ("lrap", precision), ("one", first)]
)
def test_unknown_labels_are_as_if_their_classes_were_not_there(name: str, by_hand: Callable) -> None:
    for seed, known_share in itertools.product(range(8), (0.1, 0.5, 1.0)):
        values, targets, known = drawn(seed, known=known_share)
        found = []
        for v, t, k in zip(values, targets, known, strict=True):
            if k.any():
                found.append(by_hand([float(x) for x in v[k]], [bool(x) for x in t[k]]))
        found = [value for value in found if value is not None]
        got = DEFINED[name](Logits(values), targets, known)
        assert got == pytest.approx(np.mean(found), abs=1e-12)
        # What stands at unknown entries plays no part.
        other = np.where(known, values, 99.0), np.where(known, targets, ~targets)
        assert DEFINED[name](Logits(other[0]), other[1], known) == got


def test_areas_and_hamming_loss_over_known_entries() -> None:
    for seed in range(8):
        values, targets, known = drawn(seed, known=0.4)
        area = roc_auc(Logits(values), targets, known)

        def by_hand(values: np.ndarray, present: np.ndarray) -> float:
            both = [(a > b) + (a == b) / 2 for a in values[present] for b in values[~present]]
            return float(np.mean(both)) if both else math.nan

        each = [by_hand(values[k, c], targets[k, c]) for c, k in enumerate(known.T)]
        np.testing.assert_allclose(area.per_class, each, atol=1e-12)
        assert area.macro == pytest.approx(np.nanmean(each), abs=1e-12)
        assert area.micro == pytest.approx(by_hand(values[known], targets[known]), abs=1e-12)
        wrong = ((values > 0) != targets)[known]
        assert hamming_loss(values > 0, targets, known) == pytest.approx(wrong.mean(), abs=1e-12)


def test_edges() -> None:
    scores = Logits(np.array([[2.0, 1.0, 0.0]]))
    none, every = np.zeros((1, 3), bool), np.ones((1, 3), bool)
    assert (label_ranking_loss(scores, none), label_ranking_loss(scores, every)) == (0.0, 0.0)
    assert (coverage_error(scores, none), coverage_error(scores, every)) == (0.0, 3.0)
    assert label_ranking_average_precision(scores, none) == label_ranking_average_precision(scores, every) == 1.0
    assert one_error(scores, every) == 0.0
    assert math.isnan(one_error(scores, none))
    constant, mixed = Logits(np.zeros((1, 3))), np.array([[False, True, False]])
    assert label_ranking_loss(constant, mixed) == 1.0  # a constant is no order
    assert coverage_error(constant, mixed) == 3.0
    assert label_ranking_average_precision(constant, mixed) == pytest.approx(1 / 3)
    assert one_error(constant, mixed) == 1.0  # the lower index
    assert roc_auc(Logits(np.zeros((4, 1))), np.array([[True], [False], [False], [True]])).macro == 0.5
    one = Logits(np.array([[1.0], [2.0]]))
    assert label_ranking_loss(one, np.array([[True], [False]])) == 0.0
    assert roc_auc(one, np.array([[True], [False]])).macro == 0.0


def test_what_is_undefined_is_nan_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, targets, _ = drawn(3)
        nothing = np.zeros_like(targets)
        for function in DEFINED.values():
            assert math.isnan(function(Logits(values), targets, nothing))
        assert math.isnan(hamming_loss(targets, targets, nothing))
        area = roc_auc(Logits(values), targets, nothing)
        assert math.isnan(area.macro)
        assert math.isnan(area.micro)
        targets[:, 2] = True
        assert roc_auc(Logits(values), targets).skipped == (2,)
        for rows, classes in ((0, 3), (3, 0), (0, 0)):
            empty = np.zeros((rows, classes), bool)
            for function in DEFINED.values():
                assert math.isnan(function(Logits(np.zeros((rows, classes))), empty))
            assert math.isnan(roc_auc(Logits(np.zeros((rows, classes))), empty).macro)


@pytest.mark.parametrize("function", [*DEFINED.values(), roc_auc])
def test_wrong_arguments_are_refused(function: Callable) -> None:
    values, targets, known = drawn(0)
    with pytest.raises(DataError, match="targets: expected a bool array"):
        function(Logits(values), targets.astype(int))
    with pytest.raises(DataError, match="known: expected shape"):
        function(Logits(values), targets, known[:3])
    with pytest.raises(UsageError, match="expected Logits, Probabilities or Ranks"):
        function(values, targets)
