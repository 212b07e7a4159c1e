"""`em`: unknown labels by their entropy."""

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
from scipy.stats import entropy

from mlbench.baselines.entropy import em, entropy_entries
from mlbench.baselines.observed_only import iu
from mlbench.errors import UsageError
from mlbench.registry import load_method

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]
CASES = [*(batch(*size, seed=size[0]) for size in SIZES), saturated(), *(uniform(state) for state in STATES)]


def oracle(logits, observed, alpha, eps):
    """Entries and slopes, derived by hand."""
    p, q = probability(logits), probability(-logits)
    if eps:
        uncertain = -p * np.log(p + eps) - q * np.log(q + eps)
        slope = p * q * (np.log(q + eps) + q / (q + eps) - np.log(p + eps) - p / (p + eps))
    else:
        uncertain = p * np.logaddexp(0, -logits) + q * np.logaddexp(0, logits)
        slope = -logits * p * q
    unknown = observed == UNKNOWN
    return (
        np.where(unknown, -alpha * uncertain, assumed_entries(logits, observed, eps)),
        np.where(unknown, -alpha * slope, assumed_slopes(logits, observed, eps)),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("alpha", [0.1, 0.0, -0.5])
def test_values_and_gradients_follow_the_formula(dtype, tolerance, eps, alpha):
    for logits, observed in CASES:
        logits = exact(logits, dtype)
        entries, slopes = oracle(logits, observed, alpha, eps)
        assert_follows(
            lambda x, y, **k: em(x, y, alpha=alpha, eps=eps, **k), entries, slopes, logits, observed, dtype, tolerance
        )


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_gradients_match_finite_differences(eps):
    assert_gradient_is_numerical(lambda x, y: em(x, y, alpha=0.3, eps=eps), *batch(3, 5, seed=8, largest=4.0))


def test_entropy_is_that_of_a_coin():
    logits, _ = batch(4, 6, seed=1, largest=20.0)
    wanted = entropy(np.stack([probability(logits), probability(-logits)]), axis=0)
    np.testing.assert_allclose(entropy_entries(torch.tensor(logits)).numpy(), wanted, rtol=1e-10, atol=1e-14)
    assert entropy_entries(torch.zeros(1, 1)).item() == pytest.approx(np.log(2))


def test_a_batch_without_labels_has_a_negative_loss_least_at_undecided_scores():
    unknown = torch.zeros(1, 3, dtype=torch.int8)
    undecided = em(torch.zeros(1, 3), unknown, alpha=0.2)
    assert undecided.item() == pytest.approx(-0.2 * np.log(2))
    assert em(torch.tensor([[0.5, -1.0, 3.0]]), unknown, alpha=0.2) > undecided


def test_negative_alpha_drives_unknown_scores_apart():
    x = torch.tensor([[1.0, -1.0]], requires_grad=True)
    for alpha, signs in ((0.1, [1, -1]), (-0.1, [-1, 1])):
        (gradient,) = torch.autograd.grad(em(x, torch.zeros(1, 2), alpha=alpha), x)
        assert gradient.sign().tolist() == [signs]


def test_alpha_zero_ignores_unknown_labels():
    logits, observed = (torch.tensor(part) for part in batch(5, 4, seed=2))
    assert torch.equal(em(logits, observed, alpha=0.0), iu(logits, observed))


@pytest.mark.parametrize("alpha", [math.nan, math.inf])
def test_impossible_alpha_is_refused(alpha):
    with pytest.raises(UsageError, match="alpha"):
        em(torch.zeros(1, 2), torch.zeros(1, 2), alpha=alpha)


def test_alpha_is_declared_and_may_be_negative():
    assert load_method("em").resolve({})["alpha"] == 0.1
    assert load_method("em").resolve({"alpha": -0.1})["alpha"] == -0.1
