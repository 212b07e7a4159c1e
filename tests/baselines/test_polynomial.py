"""`poly1`: cross-entropy with a weight on the first term of its expansion."""

from __future__ import annotations

import math

import pytest
import torch
from loss_checks import TYPES, all_cases, assert_follows_naive
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, batch

from mlbench.baselines.assume_negative import an
from mlbench.baselines.focusing import focal
from mlbench.baselines.polynomial import poly1
from mlbench.errors import UsageError


def naive(x, observed, epsilon=2.0, gamma=0.0, alpha=None):
    positive = observed == POSITIVE
    right = torch.where(positive, torch.sigmoid(x), torch.sigmoid(-x))
    wrong = torch.where(positive, torch.sigmoid(-x), torch.sigmoid(x))
    share = 1.0 if alpha is None else torch.where(positive, alpha, 1.0 - alpha)
    entries = share * wrong**gamma * (-torch.log(right) + epsilon * wrong)
    return torch.where(observed == UNSPECIFIED, 0.0 * x, entries)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("settings", [{}, {"epsilon": -1.0}, {"gamma": 2.0, "alpha": 0.25}], ids=str)
def test_it_follows_the_formula(dtype, tolerance, settings):
    for logits, observed in all_cases():
        assert_follows_naive(
            lambda x, y, **k: poly1(x, y, **settings, **k),
            lambda x, y: naive(x, y, **settings),
            logits,
            observed,
            dtype,
            tolerance,
        )


def test_a_worked_example():
    x = torch.tensor([[math.log(3), math.log(3), 0.0]], dtype=torch.float64)
    y = torch.tensor([[POSITIVE, UNKNOWN, NEGATIVE]])
    wanted = (math.log(4 / 3) + 2 / 4) + (math.log(4) + 2 * 3 / 4) + (math.log(2) + 1)
    assert poly1(x, y, reduction="sum").item() == pytest.approx(wanted, rel=1e-12)
    assert poly1(x, y).item() == pytest.approx(wanted / 3, rel=1e-12)


def test_without_epsilon_it_is_assume_negative_and_with_a_power_focal():
    x, y = (torch.tensor(part) for part in batch(6, 5, seed=2))
    assert torch.equal(poly1(x, y, epsilon=0.0), an(x, y))
    torch.testing.assert_close(poly1(x, y, epsilon=0.0, gamma=2.0), focal(x, y))


@pytest.mark.parametrize("wrong", [{"epsilon": math.nan}, {"gamma": -1.0}, {"alpha": 2.0}], ids=str)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=rf"poly1: {next(iter(wrong))}.*expected"):
        poly1(torch.zeros(1, 2), torch.zeros(1, 2), **wrong)
