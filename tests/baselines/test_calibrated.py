"""`spa`: the loss, and the link from its scores to probabilities."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loss_checks import TYPES, all_cases, assert_follows_naive
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED
from torch import nn

from mlbench.baselines.calibrated import spa, spa_log_odds
from mlbench.errors import UsageError
from mlbench.metrics import Logits
from mlbench.registry import load_method

OTHER = {"k_pos": 2.0, "b_pos": -0.5, "z_pos": 3.0, "k_neg": 0.7, "b_neg": 0.3, "z_neg": 1.5}


def naive(x, observed, k_pos=1.0, b_pos=0.0, z_pos=1.0, k_neg=3.0, b_neg=1.0, z_neg=5.0):
    found = -torch.log(torch.sigmoid(k_pos * (x - b_pos))) / z_pos
    missed = -torch.log(torch.sigmoid(-k_neg * (x - b_neg))) / z_neg
    return torch.where(observed == UNSPECIFIED, 0.0 * x, torch.where(observed == POSITIVE, found, missed))


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("settings", [{}, OTHER], ids=str)
def test_it_follows_the_formula(dtype, tolerance, settings):
    for logits, observed in all_cases():
        assert_follows_naive(
            lambda x, y, **k: spa(x, y, **settings, **k),
            lambda x, y: naive(x, y, **settings),
            logits,
            observed,
            dtype,
            4 * tolerance,  # k_neg stretches the logits, and their rounding
        )


def test_a_worked_example():
    x = torch.tensor([[math.log(3), 1.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([[POSITIVE, UNKNOWN, NEGATIVE]])
    assert spa(x, y, reduction="sum").item() == pytest.approx(math.log(4 / 3) + 2 * math.log(2) / 5, rel=1e-12)
    # At x = 1 the rising side is 3/5 / 2, the falling one 1 / (1 + e).
    assert spa_log_odds(x)[0, 1].item() == pytest.approx(math.log(0.3 * (1 + math.e)), rel=1e-12)


@pytest.mark.parametrize("settings", [{}, OTHER], ids=str)
@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_the_score_of_least_expected_loss_has_that_probability_by_the_link(settings, probability):
    grid = torch.linspace(-15, 15, 300001, dtype=torch.float64)[None]
    losses = [spa(grid, torch.full(grid.shape, float(s)), reduction="none", **settings) for s in (POSITIVE, NEGATIVE)]
    best = grid[0, (probability * losses[0] + (1 - probability) * losses[1])[0].argmin()]
    assert torch.sigmoid(spa_log_odds(best, **settings)).item() == pytest.approx(probability, abs=1e-4)


@pytest.mark.parametrize("settings", [{}, OTHER], ids=str)
def test_the_link_keeps_the_order_and_does_not_saturate(settings):
    x = torch.tensor([-200.0, -50.0, -1.0, 0.0, 0.1, 20.0, 21.0, 300.0])
    odds = spa_log_odds(x, **settings)
    assert (odds.diff() > 0).all()
    assert torch.isfinite(odds).all()
    k_pos, k_neg = settings.get("k_pos", 1.0), settings.get("k_neg", 3.0)
    # Far up only the positive's side changes, far down only the negative's.
    assert ((odds[-1] - odds[-2]) / 279).item() == pytest.approx(k_pos, rel=1e-4)
    assert ((odds[1] - odds[0]) / 150).item() == pytest.approx(k_neg, rel=1e-4)


def test_a_loss_that_is_cross_entropy_has_the_usual_link():
    plain = {"k_pos": 1.0, "b_pos": 0.0, "z_pos": 1.0, "k_neg": 1.0, "b_neg": 0.0, "z_neg": 1.0}
    x = torch.tensor([-4.0, 0.0, 0.3, 7.0], dtype=torch.float64)
    torch.testing.assert_close(spa_log_odds(x, **plain), x)


def test_decisions_of_the_method_go_by_the_link():
    """Between the two thresholds, sigmoid and link decide differently."""
    method = load_method("spa")
    hyper = method.resolve({})
    made = method(SimpleNamespace(hyper=hyper))

    class Fixed(nn.Module):
        def forward(self, inputs):
            return SimpleNamespace(logits=inputs)

    x = torch.tensor([[0.05, 0.5, 1.1]])
    scores = made.predict(Fixed(), SimpleNamespace(inputs=x))
    assert torch.equal(scores, spa_log_odds(x))
    decided = Logits(scores.numpy()).above(0.5)
    assert decided.tolist() == [[False, False, True]]
    assert (x > 0).all()
    assert np.all(np.diff(scores.numpy()) > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_far_outside_the_range_of_probabilities_give_numbers(dtype):
    x = torch.tensor([[1000.0, -1000.0, 1000.0, -1000.0]], dtype=dtype, requires_grad=True)
    value = spa(x, torch.tensor([[POSITIVE, POSITIVE, UNKNOWN, UNKNOWN]]), reduction="sum")
    assert value.item() == pytest.approx(1000 + 999 * 3 / 5)
    assert torch.autograd.grad(value, x)[0].tolist() == [pytest.approx([0.0, -1.0, 0.6, 0.0])]


@pytest.mark.parametrize("wrong", [{"k_pos": 0.0}, {"z_neg": -1.0}, {"k_neg": math.inf}, {"b_neg": math.nan}], ids=str)
def test_impossible_settings_are_refused(wrong):
    for call in (
        lambda **k: spa(torch.zeros(1, 2), torch.zeros(1, 2), **k),
        lambda **k: spa_log_odds(torch.zeros(2), **k),
    ):
        with pytest.raises(UsageError, match=rf"spa: {next(iter(wrong))}.*expected"):
            call(**wrong)
