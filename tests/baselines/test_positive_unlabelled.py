"""`pu_mlc_loss`: means of probabilities over a batch, class by class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import TYPES, all_cases, assert_follows_naive, uniform
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED

from mlbench.baselines.positive_unlabelled import pu_mlc_loss
from mlbench.errors import UsageError
from mlbench.registry import load_method


def naive(x, observed, alpha=1.0, gamma=0.55, eps=0.0):
    """Class by class, with plain probabilities."""
    found = []
    for logits, states in zip(x.T, observed.T, strict=True):
        kept = logits[states != UNSPECIFIED]
        if not len(kept):
            found.append(0.0 * logits.sum())
            continue
        spread = alpha * float(kept.detach().numpy().std())
        s = 1.0 if spread == 0 else min(spread, 1.0)
        mean = torch.sigmoid(kept / s).mean()
        value = mean.detach() ** gamma * torch.log(mean + eps)
        if (states == POSITIVE).any():
            value = value - torch.log(torch.sigmoid(logits[states == POSITIVE] / s) + eps).mean()
        found.append(value)
    return torch.stack(found)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("settings", [{}, {"alpha": 2.0, "gamma": 0.85}, {"alpha": 0.1}, {"eps": 1e-10}], ids=str)
def test_it_follows_the_formula(dtype, tolerance, settings):
    for logits, observed in all_cases():
        if dtype == torch.float32 and settings.get("eps") and np.abs(logits).max() > 20:
            continue  # where p is near eps, rounding of its exponent is seen in the result
        assert_follows_naive(
            lambda x, y, **k: pu_mlc_loss(x, y, **settings, **k),
            lambda x, y: naive(x, y, **settings),
            logits,
            observed,
            dtype,
            20 * tolerance,  # a small deviation stretches the logits, and their rounding
        )


def test_a_worked_example():
    """Logits of +-log 3 have deviation log 3 > 1: s is 1, p is 3/4 and 1/4, their mean 1/2."""
    x = torch.tensor([[math.log(3)], [-math.log(3)]], dtype=torch.float64)
    for state in (UNKNOWN, NEGATIVE):
        y = torch.tensor([[POSITIVE], [state]])
        wanted = 0.5**0.55 * math.log(0.5) - math.log(0.75)
        assert pu_mlc_loss(x, y, reduction="sum").item() == pytest.approx(wanted, rel=1e-12)
    # Half as far apart and alpha 1, they are divided by their deviation: sigmoid(+-1).
    x, p = x / 4, 1 / (1 + math.exp(-1))
    wanted = 0.5**0.55 * math.log(0.5) - math.log(p)
    assert pu_mlc_loss(x, torch.tensor([[POSITIVE], [UNKNOWN]])).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_equal_logits_have_temperature_1(rows):
    """0.1 is no binary fraction: its mean over 3 or 7 need not be itself, which must not make a deviation of it."""
    x = torch.full((rows, 2), 0.1, requires_grad=True)
    y = torch.tensor([[POSITIVE, UNKNOWN]] * rows)
    p = 1 / (1 + math.exp(-0.1))
    value = pu_mlc_loss(x, y, reduction="none")
    first = p**0.55 * math.log(p)
    np.testing.assert_allclose(value.detach().numpy(), [first - math.log(p), first], rtol=1e-6)
    (slope,) = torch.autograd.grad(value.sum(), x)
    wanted = (1 - p) * np.array([p**0.55 - 1, p**0.55]) / rows
    np.testing.assert_allclose(slope.numpy(), np.tile(wanted, (rows, 1)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [-3.0, 0.1, 20.0])
def test_logits_that_differ_by_rounding_alone_have_temperature_1_too(level, dtype):
    """Two copies of an image: one bit apart, the loss of a positive at -3 would be 10 million."""
    x = torch.full((2, 1), level, dtype=dtype)
    x[1] = torch.nextafter(x[0], torch.zeros(1, dtype=dtype))
    y = torch.tensor([[POSITIVE], [UNKNOWN]])
    equal = x[:1].expand(2, 1)
    torch.testing.assert_close(pu_mlc_loss(x, y), pu_mlc_loss(equal, y))
    apart = torch.stack([x[0], x[0] + 0.1 * abs(level)])
    p = torch.sigmoid(apart.double() / apart.double().std(dim=0, unbiased=False))
    wanted = p.mean() ** 0.55 * p.mean().log() - p[0, 0].log()
    torch.testing.assert_close(pu_mlc_loss(apart.double(), y), wanted)


@pytest.mark.parametrize("state", [NEGATIVE, UNKNOWN, POSITIVE, UNSPECIFIED])
def test_classes_of_one_kind_give_numbers(state):
    logits, observed = uniform(state)
    x = torch.tensor(logits, requires_grad=True)
    value = pu_mlc_loss(x, torch.tensor(observed), reduction="none")
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(value).all()
    if state == UNSPECIFIED:
        assert (value == 0).all()
        assert (slope == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_far_outside_the_range_of_probabilities_give_numbers(dtype):
    x = torch.tensor([[1000.0, -1000.0], [1000.0, -1000.0], [-1000.0, 1000.0]], dtype=dtype, requires_grad=True)
    y = torch.tensor([[POSITIVE, POSITIVE], [UNKNOWN, UNKNOWN], [POSITIVE, UNKNOWN]])
    for eps in (0.0, 1e-10):
        value = pu_mlc_loss(x, y, eps=eps)
        assert torch.isfinite(value)
        assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


def test_the_method_sees_the_whole_batch_and_is_not_the_papers_row():
    method = load_method("pu_mlc_loss")
    assert method.batch_global
    assert method.level == "C"
    assert "not the paper's row" in method.__doc__


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"gamma": -1.0}, {"eps": math.nan}], ids=str)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=rf"pu_mlc_loss: {next(iter(wrong))}.*expected"):
        pu_mlc_loss(torch.zeros(1, 2), torch.zeros(1, 2), **wrong)
