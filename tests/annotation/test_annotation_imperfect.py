"""Class-wise missing labels, label noise and annotator budgets against their rates and counts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from mlbench.annotation import draw_mask
from mlbench.annotation.imperfect import beta_rates, frequency_rates, questions_asked


def names(n: int) -> list[str]:
    return [f"{i}.jpg" for i in range(n)]


def some_labels(n: int = 4000, c: int = 8, seed: int = 0) -> np.ndarray:
    """Class k is positive in a share of (k + 1) / 10 of the images."""
    return np.where(np.random.default_rng(seed).random((n, c)) < (np.arange(c) + 1) / 10, 1, -1).astype(np.int8)


def drawn(labels: np.ndarray, process: str, params: Mapping[str, object], seed: int = 5) -> np.ndarray:
    return draw_mask(labels, process, params, seed, ids=names(len(labels))).observed


def assert_shares(found: np.ndarray, of: np.ndarray, rates: np.ndarray) -> None:
    """Counts found [C] of so many [C] within five standard deviations of binomials with `rates` [C]."""
    assert (np.abs(found - of * rates) <= 5 * np.sqrt(of * rates * (1 - rates)) + 1e-9).all(), (found / of, rates)


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "spread"), [(0.5, 0.5), (0.2, 0.1), (0.8, 0.9), (0.3, 1.0)])
def test_beta_rates_have_the_mean_and_variance_asked_for(mean: float, spread: float) -> None:
    rates = beta_rates("any", 0, 2000, mean, spread)
    variance = spread * mean * (1 - mean)
    assert ((rates >= 0) & (rates <= 1)).all()
    assert abs(rates.mean() - mean) < 5 * np.sqrt(variance / 2000)
    assert abs(rates.var() - variance) < 0.15 * variance
    if spread == 1:
        assert set(rates) == {0.0, 1.0}


def test_a_class_has_the_same_rate_in_any_company_and_another_with_another_seed() -> None:
    assert (beta_rates("any", 3, 4, 0.5, 0.5) == beta_rates("any", 3, 9, 0.5, 0.5)[:4]).all()
    assert (beta_rates("any", 3, 9, 0.5, 0.5) != beta_rates("any", 4, 9, 0.5, 0.5)).all()
    assert len(set(beta_rates("any", 3, 9, 0.5, 0.5))) == 9


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 0.5), (1.0, 0.5), (0.4, 0.0)])
def test_beta_rates_without_room_are_the_mean(mean: float, spread: float) -> None:
    assert beta_rates("any", 0, 5, mean, spread).tolist() == [mean] * 5


def test_frequency_rates_fall_with_the_rank_and_keep_the_mean() -> None:
    labels = np.full((10, 4), -1, dtype=np.int8)
    for c, positives in enumerate((7, 2, 2, 1)):
        labels[:positives, c] = 1
    # Ranks: 1, (1 + 2) / 2 / 3 twice, 0.
    counts = (labels == 1).sum(axis=0)
    assert np.allclose(frequency_rates(counts, 0.4, 0.5), [0.2, 0.4, 0.4, 0.6])
    assert np.allclose(frequency_rates(counts, 0.4, -0.5), [0.6, 0.4, 0.4, 0.2])
    assert np.allclose(frequency_rates(counts, 0.9, 1.0), [0.8, 0.9, 0.9, 1.0])
    assert frequency_rates(counts[:1], 0.4, 1.0).tolist() == [0.4]


# --- class-wise missing labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["beta", "rare", "frequent"])
@pytest.mark.parametrize("negatives", ["hidden", "same"])
def test_labels_are_missing_at_their_class_s_rate(by: str, negatives: str) -> None:
    labels = some_labels()
    params = {"mean": 0.4, "spread": 0.5, "by": by, "negatives": negatives}
    observed = drawn(labels, "per_class_missing", params)
    if by == "beta":
        rates = beta_rates("per_class_missing", 5, 8, 0.4, 0.5)
    else:
        rates = frequency_rates((labels == 1).sum(axis=0), 0.4, 0.5 if by == "rare" else -0.5)
    positives = (labels == 1).sum(axis=0)
    assert_shares(((labels == 1) & (observed == 0)).sum(axis=0), positives, rates)
    if negatives == "hidden":
        assert not (observed == -1).any()
    else:
        assert_shares(((labels == -1) & (observed == 0)).sum(axis=0), len(labels) - positives, rates)


def test_nothing_or_everything_is_missing_at_the_ends() -> None:
    labels = some_labels(50)
    assert (drawn(labels, "per_class_missing", {"mean": 0, "negatives": "same"}) == labels).all()
    assert not drawn(labels, "per_class_missing", {"mean": 1, "negatives": "same"}).any()
    assert (drawn(labels, "per_class_missing", {"mean": 0}) == np.maximum(labels, 0)).all()


# --- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_labels_are_flipped_at_the_rates_of_their_sign_and_class(spread: float) -> None:
    labels = some_labels()
    observed = drawn(labels, "label_noise", {"false_negative": 0.3, "false_positive": 0.05, "spread": spread})
    assert (observed != 0).all()
    for sign, name, mean in ((1, "false_negative", 0.3), (-1, "false_positive", 0.05)):
        rates = beta_rates(f"label_noise {name}", 5, 8, mean, spread)
        mine = labels == sign
        assert_shares((mine & (observed == -sign)).sum(axis=0), mine.sum(axis=0), rates)


def test_noise_leaves_unknown_and_unspecified_alone_and_ends_at_truth_and_its_opposite() -> None:
    labels = np.array([[1, -1, 0, 2]] * 20, dtype=np.int8)
    assert (drawn(labels, "label_noise", {"false_negative": 0, "false_positive": 0}) == labels).all()
    opposite = drawn(labels, "label_noise", {"false_negative": 1, "false_positive": 1})
    assert (opposite == [-1, 1, 0, 2]).all()
    assert (drawn(labels, "label_noise", {"false_negative": 1, "false_positive": 0}) == [-1, -1, 0, 2]).all()


def test_more_noise_flips_what_less_noise_flips() -> None:
    labels = some_labels(300)
    flipped = [
        drawn(labels, "label_noise", {"false_negative": rate, "false_positive": rate}) != labels
        for rate in (0.1, 0.2, 0.6)
    ]
    assert all((less <= more).all() for less, more in itertools.pairwise(flipped))


# --- budget -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["random", "popularity"])
@pytest.mark.parametrize("budget", [0.0, 0.01, 0.1, 0.29, 0.5, 1.0])
def test_exactly_the_budget_is_spent_evenly_over_images_on_true_answers(order: str, budget: float) -> None:
    labels = some_labels(137, 7)
    observed = drawn(labels, "annotator_budget", {"budget": budget, "order": order})
    asked = observed != 0
    assert asked.sum() == questions_asked(137 * 7, budget) == int(round(100 * budget) * 137 * 7 / 100)
    assert np.ptp(asked.sum(axis=1)) <= 1
    assert (observed[asked] == labels[asked]).all()


def test_random_questions_fall_on_every_class_alike_and_popular_ones_by_weight() -> None:
    n = 6000
    labels = np.full((n, 3), -1, dtype=np.int8)
    labels[: n // 2, 0] = 1
    labels[: n // 6, 1] = 1
    weights = np.array([n // 2 + 1, n // 6 + 1, 1])
    for order, rates in (("random", np.full(3, 1 / 3)), ("popularity", weights / weights.sum())):
        asked = drawn(labels, "annotator_budget", {"budget": 1 / 3, "order": order}) != 0
        # The float 1/3 lies below the fraction: one image is left without a question.
        assert asked.sum() == n - 1
        assert_shares(asked.sum(axis=0), np.full(3, n - 1), rates)


@pytest.mark.parametrize("order", ["random", "popularity"])
def test_a_larger_budget_asks_the_same_questions_and_more(order: str) -> None:
    labels = some_labels(61, 9)
    asked = [
        drawn(labels, "annotator_budget", {"budget": b, "order": order}) != 0 for b in (0, 0.05, 0.1, 0.35, 0.8, 1)
    ]
    assert all((less <= more).all() for less, more in itertools.pairwise(asked))


def test_rows_added_change_the_questions_about_an_image_in_number_only() -> None:
    labels = some_labels(90, 9)
    few = drawn(labels[:60], "annotator_budget", {"budget": 0.3}) != 0
    many = drawn(labels, "annotator_budget", {"budget": 0.3})[:60] != 0
    assert all((a <= b).all() or (b <= a).all() for a, b in zip(few, many, strict=True))
    assert (np.abs(few.sum(axis=1) - many.sum(axis=1)) <= 1).all()


def test_a_question_about_what_is_not_known_is_spent() -> None:
    labels = np.array([[1, 0, 2, -1]] * 30, dtype=np.int8)
    observed = drawn(labels, "annotator_budget", {"budget": 1})
    assert (observed == labels).all()
    half = drawn(labels, "annotator_budget", {"budget": 0.5})
    assert (half[:, 2] == 2).all()
    assert ((half == 1) | (half == -1)).sum() < 60
