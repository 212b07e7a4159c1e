"""Numbers of single images and entries against scikit-learn, torch and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score

from mlbench.annotation import State
from mlbench.inspection.per_image import (
    NEAREST,
    entry_loss,
    found_negatives,
    image_ap,
    image_loss,
    largest_unknown_loss,
    probabilities,
    suspects,
    top_unknown,
)
from mlbench.metrics import Logits, Probabilities, Ranks

P, N, U, X = (int(State[name]) for name in ("POSITIVE", "NEGATIVE", "UNKNOWN", "UNSPECIFIED"))


def known(shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape, dtype=bool)


@pytest.mark.parametrize("levels", [3, 1000])
def test_image_ap_is_what_scikit_learn_averages_also_with_ties(levels: int) -> None:
    draw = np.random.default_rng(levels)
    values = draw.integers(0, levels, (60, 9)).astype(np.float32)
    targets = draw.random((60, 9)) < 0.4
    targets[0], targets[1] = True, False
    found = image_ap(Ranks(values), targets, known(targets.shape))
    assert found[0] == 1.0
    assert np.isnan(found[1])
    for row in np.flatnonzero(targets.any(axis=1)):
        theirs = label_ranking_average_precision_score(targets[row : row + 1], values[row : row + 1])
        assert found[row] == pytest.approx(theirs, abs=1e-12)
    assert np.nanmean(found) == pytest.approx(
        label_ranking_average_precision_score(targets[targets.any(axis=1)], values[targets.any(axis=1)]), abs=1e-12
    )


def test_image_ap_leaves_out_what_is_not_known() -> None:
    values = np.array([[4.0, 3.0, 2.0, 1.0]], dtype=np.float32)
    targets, told = np.array([[False, True, False, True]]), np.array([[False, True, True, True]])
    assert image_ap(Logits(values), targets, told)[0] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_loss_is_binary_cross_entropy_however_large_the_logit() -> None:
    values = np.array([[0.0, 50.0, -50.0, 800.0, -800.0, 0.3]], dtype=np.float32)
    for targets in (np.array([[True, False, True, False, True, True]]), np.zeros((1, 6), dtype=bool)):
        theirs = torch.nn.functional.binary_cross_entropy_with_logits(
            torch.from_numpy(values).double(), torch.from_numpy(targets).double(), reduction="none"
        )
        np.testing.assert_allclose(entry_loss(Logits(values), targets), theirs.numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(probabilities(Logits(values)), torch.from_numpy(values).double().sigmoid(), rtol=1e-12)


def test_loss_of_probabilities_stays_finite_and_ranks_have_none() -> None:
    values = np.array([[0.0, 1.0, 0.25]], dtype=np.float32)
    found = entry_loss(Probabilities(values), np.array([[True, True, False]]))
    np.testing.assert_allclose(found, [[-np.log(NEAREST), -np.log1p(-NEAREST), -np.log(0.75)]])
    assert entry_loss(Ranks(values), np.zeros((1, 3), dtype=bool)) is None
    assert probabilities(Ranks(values)) is None


def test_image_loss_is_a_mean_over_what_counts_and_undefined_where_nothing_does() -> None:
    loss = np.array([[1.0, 2.0, 6.0], [1.0, 1.0, 1.0]])
    counted = np.array([[True, False, True], [False, False, False]])
    found = image_loss(loss, counted)
    assert found[0] == 3.5
    assert np.isnan(found[1])


def test_false_negatives_found_are_true_unobserved_and_decided() -> None:
    draw = np.random.default_rng(0)
    truth, observed = draw.choice([P, N, U], (40, 6)), draw.choice([P, N, U, X], (40, 6))
    decided = draw.random((40, 6)) < 0.5
    found = found_negatives(decided, observed, truth)
    for row, c in np.ndindex(found.shape):
        assert found[row, c] == (truth[row, c] == P and observed[row, c] == U and decided[row, c])
    assert found.any()


def test_top_unknown_takes_the_largest_losses_and_of_ties_the_first() -> None:
    loss = np.array([[5.0, 1.0, 9.0], [5.0, 7.0, 5.0]])
    observed = np.array([[U, U, P], [U, U, X]])
    assert top_unknown(loss, observed, 2).tolist() == [[True, False, False], [False, True, False]]
    assert top_unknown(loss, observed, 3).tolist() == [[True, False, False], [True, True, False]]
    assert top_unknown(loss, observed, 99).sum() == 4
    assert not top_unknown(loss, np.full((2, 3), P), 5).any()
    found = largest_unknown_loss(loss, np.array([[U, U, P], [P, N, X]]))
    assert found[0] == 5.0
    assert np.isnan(found[1])


def test_suspects_are_those_of_a_plain_loop() -> None:
    draw = np.random.default_rng(1)
    observed = draw.choice([P, N, U, X], (80, 7), p=[0.3, 0.2, 0.4, 0.1])
    observed[:, 0] = np.where(observed[:, 0] == N, U, observed[:, 0])  # no negative: unknown ones stand in
    observed[:, 1] = np.where(observed[:, 1] == P, U, observed[:, 1])  # no positive: no level
    chance = np.clip(0.5 + 0.2 * (observed == P) + 0.25 * draw.standard_normal((80, 7)), 0, 1)
    chance[:, 2] = 0.5  # tells nothing apart
    chance[observed[:, 3] == P, 3] -= 0.4  # the wrong way round
    found = suspects(chance, observed)
    expected = np.zeros_like(found)
    for c in range(7):
        high = [chance[row, c] for row in range(80) if observed[row, c] == P]
        low = [chance[row, c] for row in range(80) if observed[row, c] == N]
        low = low or [chance[row, c] for row in range(80) if observed[row, c] == U]
        if not high or not low or np.mean(high) <= np.mean(low):
            continue
        for row in range(80):
            if observed[row, c] == P:
                expected[row, c] = chance[row, c] <= np.mean(low)
            elif observed[row, c] == N:
                expected[row, c] = chance[row, c] >= np.mean(high)
    np.testing.assert_array_equal(found, expected)
    assert expected[:, 0].any()
    assert not expected[:, [1, 2, 3]].any()


def test_all_positive_or_nothing_observed_has_no_suspects() -> None:
    chance = np.random.default_rng(2).random((5, 3))
    for state in (P, U, X):
        assert not suspects(chance, np.full((5, 3), state)).any()
