"""`focal` and `asl`: losses that turn to hard entries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import SIZES, TYPES, assert_follows, assert_gradient_is_numerical, exact, saturated, uniform
from numpy_losses import (
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    UNSPECIFIED,
    assumed_entries,
    assumed_slopes,
    batch,
    probability,
)

from mlbench.baselines.assume_negative import an
from mlbench.baselines.focusing import asl, focal
from mlbench.errors import UsageError
from mlbench.registry import load_method

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]
CASES = [*(batch(*size, seed=size[0]) for size in SIZES), saturated(), *(uniform(state) for state in STATES)]


def focal_oracle(logits, observed, gamma, eps):
    p, q = probability(logits), probability(-logits)
    wrong = np.where(observed == POSITIVE, q, p)
    slope = np.where(observed == POSITIVE, -1, 1) * gamma * wrong**gamma * (1 - wrong)
    plain = assumed_entries(logits, observed, eps)
    return wrong**gamma * plain, slope * plain + wrong**gamma * assumed_slopes(logits, observed, eps)


def asl_oracle(logits, observed, gamma_neg=4.0, gamma_pos=1.0, margin=0.05, detach=True, eps=0.0):
    """Entries and slopes, one entry at a time."""
    entries, slopes = np.zeros(logits.shape), np.zeros(logits.shape)
    for place, x in np.ndenumerate(logits):
        p, q = float(probability(x)), float(probability(-x))
        if observed[place] == POSITIVE:
            kept, change, power, wrong, wrong_change = p, p * q, gamma_pos, q, -p * q
            exact_loss = np.logaddexp(0, -x)
        elif observed[place] == UNSPECIFIED or p <= margin:
            continue
        else:
            kept, change, power, wrong, wrong_change = q + margin, -p * q, gamma_neg, p - margin, p * q
            exact_loss = -np.log(kept) if margin else np.logaddexp(0, x)
        below = kept < eps
        loss = -np.log(eps) if below else exact_loss
        weight = wrong**power
        entries[place] = weight * loss
        slopes[place] = 0.0 if below else -weight * change / kept
        if not detach and power:
            slopes[place] += power * wrong ** (power - 1) * wrong_change * loss
    return entries, slopes


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("gamma", [2.0, 0.0, 0.5])
def test_focal_follows_the_formula(dtype, tolerance, eps, gamma):
    for logits, observed in CASES:
        logits = exact(logits, dtype)
        entries, slopes = focal_oracle(logits, observed, gamma, eps)
        assert_follows(
            lambda x, y, **k: focal(x, y, gamma=gamma, eps=eps, **k),
            entries,
            slopes,
            logits,
            observed,
            dtype,
            tolerance,
        )


ASL_SETTINGS = [
    {},
    {"gamma_pos": 0.0},  # official training on COCO
    {"detach": False},
    {"detach": False, "eps": 1e-8},
    {"gamma_neg": 0.5, "gamma_pos": 0.5, "detach": False},
    {"gamma_neg": 2.0, "gamma_pos": 2.0, "margin": 0.0, "detach": False},
    {"gamma_neg": 0.0, "gamma_pos": 0.0, "margin": 0.2},
]


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("settings", ASL_SETTINGS, ids=str)
def test_asl_follows_the_formula(dtype, tolerance, settings):
    for logits, observed in CASES:
        logits = exact(logits, dtype)
        entries, slopes = asl_oracle(logits, observed, **settings)
        assert_follows(
            lambda x, y, **k: asl(x, y, **settings, **k), entries, slopes, logits, observed, dtype, tolerance
        )


@pytest.mark.parametrize("settings", [{}, {"gamma_neg": 2.0, "gamma_pos": 0.5}, {"margin": 0.0}], ids=str)
def test_gradients_match_finite_differences(settings):
    logits, observed = batch(4, 5, seed=8, largest=4.0)
    assert_gradient_is_numerical(lambda x, y: asl(x, y, detach=False, **settings), logits, observed)
    assert_gradient_is_numerical(focal, logits, observed)


def test_asl_matches_the_released_expression_in_float64():
    logits, observed = batch(9, 6, seed=4)
    p, y = probability(logits), observed == POSITIVE
    q = np.minimum(1 - p + 0.05, 1)
    wanted = -np.where(y, (1 - p) * np.log(np.maximum(p, 1e-8)), (1 - q) ** 4 * np.log(np.maximum(q, 1e-8)))
    wanted = wanted[observed != UNSPECIFIED].sum()
    found = asl(torch.tensor(logits), torch.tensor(observed), eps=1e-8, reduction="sum")
    assert found.item() == pytest.approx(wanted, rel=1e-10)


def test_worked_examples():
    logits = torch.tensor([[-np.log(3), 0.0, np.log(3)]])  # p = 1/4, 1/2, 3/4
    observed = torch.tensor([[1, 0, -1]], dtype=torch.int8)
    wanted = 0.75**2 * np.log(4) + 0.5**2 * np.log(2) + 0.75**2 * np.log(4)
    assert focal(logits, observed, reduction="sum").item() == pytest.approx(wanted, abs=1e-12)
    wanted = 0.75 * np.log(4) - 0.45**4 * np.log(0.55) - 0.7**4 * np.log(0.3)
    assert asl(logits, observed, reduction="sum").item() == pytest.approx(wanted, abs=1e-12)


def test_without_focus_both_are_assume_negative():
    logits, observed = (torch.tensor(part) for part in batch(8, 5, seed=3, largest=60.0))
    assert torch.equal(focal(logits, observed, gamma=0.0), an(logits, observed))
    plain = asl(logits, observed, gamma_neg=0.0, gamma_pos=0.0, margin=0.0, reduction="none")
    np.testing.assert_allclose(plain.numpy(), an(logits, observed, reduction="none").numpy(), rtol=1e-14, atol=1e-14)


def test_without_margin_and_with_one_power_asl_is_focal():
    logits, observed = (torch.tensor(part) for part in batch(8, 5, seed=3))
    same = asl(logits, observed, gamma_neg=2.0, gamma_pos=2.0, margin=0.0, reduction="none")
    np.testing.assert_allclose(same.numpy(), focal(logits, observed, reduction="none").numpy(), rtol=1e-12)


def test_negatives_up_to_the_margin_cost_nothing_and_carry_no_gradient():
    logits = torch.tensor([[-5.0, -2.95, -2.9]], dtype=torch.float64, requires_grad=True)  # p = 0.007, 0.0497, 0.0522
    entries = asl(logits, torch.tensor([[0, -1, 0]]), gamma_neg=0.5, detach=False, reduction="none")
    (gradient,) = torch.autograd.grad(entries.sum(), logits)
    assert (entries == 0).tolist() == (gradient == 0).tolist() == [[True, True, False]]


def test_detached_weights_change_the_gradient_and_not_the_value():
    logits, observed = batch(4, 5, seed=1)
    found = []
    for detach in (True, False):
        x = torch.tensor(logits, requires_grad=True)
        value = asl(x, torch.tensor(observed), detach=detach)
        found.append((value.item(), torch.autograd.grad(value, x)[0]))
    assert found[0][0] == found[1][0]
    assert (found[0][1] - found[1][1]).abs().max() > 1e-3


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_switched_off_by_the_caller_stay_off(detach):
    x = torch.zeros(1, 2, requires_grad=True)
    with torch.no_grad():
        value = asl(x, torch.tensor([[1, 0]]), detach=detach)
        assert not torch.is_grad_enabled()
    assert not value.requires_grad
    asl(x, torch.tensor([[1, 0]]), detach=detach)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", ASL_SETTINGS, ids=str)
def test_logits_beyond_the_types_range_of_probabilities_stay_finite(dtype, settings):
    x = torch.tensor([[1000.0, -1000.0, 1000.0, -1000.0]], dtype=dtype, requires_grad=True)
    for loss in (lambda a, b: asl(a, b, **settings), lambda a, b: focal(a, b, gamma=0.5)):
        value = loss(x, torch.tensor([[1, 1, 0, 0]]))
        assert torch.isfinite(value)
        assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        (focal, {"gamma": -1.0}),
        (focal, {"gamma": math.nan}),
        (asl, {"gamma_neg": -1.0}),
        (asl, {"gamma_pos": math.inf}),
        (asl, {"margin": 1.0}),
        (asl, {"eps": -1e-8}),
    ],
)
def test_impossible_settings_are_refused(loss, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        loss(torch.zeros(1, 2), torch.zeros(1, 2), **wrong)


def test_defaults_of_the_method_are_the_released_class_and_its_sum():
    asymmetric = load_method("asl")
    assert asymmetric.reduction == "sum"
    wanted = {"gamma_neg": 4.0, "gamma_pos": 1.0, "margin": 0.05, "detach": True}
    assert asymmetric.resolve({}).items() >= wanted.items()
