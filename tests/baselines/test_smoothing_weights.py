"""`ls` and `wan`: assume-negative with other targets and with other weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import SIZES, TYPES, assert_follows, assert_gradient_is_numerical, exact, saturated, uniform
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, assumed_entries, assumed_slopes, batch

from mlbench.baselines.assume_negative import an, ls, wan
from mlbench.errors import UsageError
from mlbench.registry import load_method


def smoothed(oracle, logits, observed, eps, smoothing=0.1):
    """Own term times 1 - smoothing, opposite term times smoothing; `oracle` gives entries or slopes."""
    opposite = np.select([observed == POSITIVE, observed == UNSPECIFIED], [NEGATIVE, UNSPECIFIED], POSITIVE)
    return (1 - smoothing) * oracle(logits, observed, eps) + smoothing * oracle(logits, opposite, eps)


def weighted(oracle, logits, observed, eps):
    weights = np.where(observed == UNKNOWN, 1 / (logits.shape[1] - 1), 1.0)
    return weights * oracle(logits, observed, eps)


FAMILY = [(ls, smoothed), (wan, weighted)]
EXTREMES = [saturated(), uniform(POSITIVE), uniform(NEGATIVE), uniform(UNKNOWN), uniform(UNSPECIFIED)]


@pytest.mark.parametrize(("loss", "rule"), FAMILY)
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_values_and_gradients_follow_the_formula(loss, rule, dtype, tolerance, eps):
    for logits, observed in [*(batch(*size, seed=size[0]) for size in SIZES), *EXTREMES]:
        logits = exact(logits, dtype)
        assert_follows(
            lambda x, y, **k: loss(x, y, eps=eps, **k),
            rule(assumed_entries, logits, observed, eps),
            rule(assumed_slopes, logits, observed, eps),
            logits,
            observed,
            dtype,
            tolerance,
        )


@pytest.mark.parametrize("loss", [ls, wan])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_gradients_match_finite_differences(loss, eps):
    assert_gradient_is_numerical(lambda x, y: loss(x, y, eps=eps), *batch(3, 5, seed=8, largest=4.0))


def test_worked_examples():
    # p = 1/4 observed positive, 1/2 unknown, 3/4 observed negative.
    logits = torch.tensor([[-np.log(3), 0.0, np.log(3)]])
    observed = torch.tensor([[1, 0, -1]], dtype=torch.int8)
    hard, easy = np.log(4), np.log(4 / 3)
    wanted = 2 * (0.9 * hard + 0.1 * easy) + np.log(2)
    assert ls(logits, observed, reduction="sum").item() == pytest.approx(wanted, abs=1e-12)
    assert wan(logits, observed, reduction="sum").item() == pytest.approx(2 * hard + np.log(2) / 2, abs=1e-12)


def test_smoothed_loss_is_least_where_the_probability_is_the_target():
    logits = torch.tensor([[math.log(9.0), -math.log(9.0), -math.log(9.0)]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ls(logits, torch.tensor([[1, 0, -1]])), logits)
    np.testing.assert_allclose(gradient.numpy(), 0.0, atol=1e-15)


def test_without_smoothing_it_is_assume_negative_bit_for_bit():
    logits, observed = (torch.tensor(part) for part in batch(8, 5, seed=3))
    assert torch.equal(ls(logits, observed, smoothing=0.0), an(logits, observed))


def test_assumed_negatives_of_an_image_weigh_as_much_as_its_single_positive():
    logits = torch.zeros(1, 20, dtype=torch.float64)
    observed = torch.zeros(1, 20, dtype=torch.int8)
    observed[0, 4] = 1
    entries = wan(logits, observed, reduction="none")
    assert entries.sum().item() == pytest.approx(2 * np.log(2), rel=1e-12)
    assert entries[0, 4].item() == pytest.approx(np.log(2), rel=1e-12)


def test_with_two_classes_or_no_unknown_weighting_changes_nothing():
    logits, observed = (torch.tensor(part) for part in batch(8, 2, seed=3))
    assert torch.equal(wan(logits, observed), an(logits, observed))
    logits, observed = (torch.tensor(part) for part in batch(8, 6, seed=3))
    observed[observed == UNKNOWN] = NEGATIVE
    assert torch.equal(wan(logits, observed), an(logits, observed))


def test_one_class_has_no_weight_for_negatives():
    with pytest.raises(UsageError, match="one class"):
        wan(torch.zeros(2, 1), torch.zeros(2, 1))


@pytest.mark.parametrize("smoothing", [-0.1, 0.6, math.nan])
def test_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(UsageError, match="smoothing"):
        ls(torch.zeros(1, 2), torch.zeros(1, 2), smoothing=smoothing)


def test_default_smoothing_is_the_released_one():
    assert load_method("ls").resolve({})["smoothing"] == 0.1
