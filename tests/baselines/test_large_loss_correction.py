"""`llct`: the unknown entries with the largest loss count as positives for the step."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from loss_checks import TYPES, assert_follows, assert_gradient_is_numerical, exact, saturated, uniform
from numpy_losses import (
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    UNSPECIFIED,
    assumed_entries,
    assumed_slopes,
    batch,
    rejected,
)

from mlbench.baselines.assume_negative import an
from mlbench.baselines.large_loss import llct
from mlbench.errors import UsageError
from mlbench.registry import load_method

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("epoch", [1, 2, 6, 10])
@pytest.mark.parametrize("delta", [0.2, 5.0, 100.0])
def test_values_and_gradients_follow_the_formula(dtype, tolerance, eps, epoch, delta):
    sizes = [(16, 20), (3, 20), (1, 20), (1, 1)]
    cases = [*(batch(*size, seed=31 * size[0] + epoch) for size in sizes), *(uniform(state) for state in STATES)]
    for logits, observed in cases:
        logits = exact(logits, dtype)
        count = math.ceil(Fraction(str(delta)) * logits.size * (epoch - 1) / 100)
        taken = rejected(assumed_entries(logits, observed, eps), observed, count)
        assumed = np.where(taken, POSITIVE, observed)
        assert_follows(
            lambda x, y, **k: llct(x, y, epoch=epoch, delta=delta, eps=eps, **k),
            assumed_entries(logits, assumed, eps),
            assumed_slopes(logits, assumed, eps),
            logits,
            observed,
            dtype,
            tolerance,
        )


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_gradients_match_finite_differences(eps):
    logits, observed = batch(4, 5, seed=5, largest=4.0)
    assert_gradient_is_numerical(lambda x, y: llct(x, y, epoch=5, delta=5.0, eps=eps), logits, observed)


def test_worked_example():
    # One observed positive; k = ceil(4 * 1 * 25 %) = 1 in epoch 2, 2 in epoch 3. A taken entry costs its logit less.
    logits = torch.tensor([[0.0, 3.0], [1.0, -2.0]], dtype=torch.float64)
    observed = torch.tensor([[1, 0], [0, 0]], dtype=torch.int8)
    start = np.log(2) + np.log1p(np.exp(3)) + np.log1p(np.exp(1)) + np.log1p(np.exp(-2))
    for epoch, less in ((1, 0), (2, 3), (3, 4), (4, 2), (9, 2)):
        found = llct(logits, observed, epoch=epoch, delta=25.0, reduction="sum")
        assert found.item() == pytest.approx(start - less, abs=1e-12)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_first_epoch_and_full_labels_are_assume_negative_bit_for_bit(eps):
    logits, observed = (torch.tensor(part) for part in batch(16, 20, seed=0, largest=50.0))
    assert torch.equal(llct(logits, observed, epoch=1, delta=100.0, eps=eps), an(logits, observed, eps=eps))
    observed[observed == UNKNOWN] = NEGATIVE
    assert torch.equal(llct(logits, observed, epoch=9, delta=100.0, eps=eps), an(logits, observed, eps=eps))


def test_all_entries_tied_at_the_threshold_are_taken():
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    entries = llct(logits, torch.zeros(1, 4, dtype=torch.int8), epoch=2, delta=50.0, reduction="none")  # k = 2
    wanted = [np.logaddexp(0, -2), np.logaddexp(0, -1), np.logaddexp(0, -1), np.log(2)]
    np.testing.assert_allclose(entries.numpy(), [wanted], rtol=1e-12)


def test_with_fewer_unknown_entries_than_counted_no_observed_label_is_turned():
    logits = torch.tensor([[-50.0, 50.0, -1.0, 2.0]], dtype=torch.float64)
    observed = torch.tensor([[POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]], dtype=torch.int8)
    entries = llct(logits, observed, epoch=10, delta=50.0, reduction="none")
    np.testing.assert_allclose(entries.numpy(), [[50.0, 50.0, np.logaddexp(0, 1), 0.0]], rtol=1e-14)


def test_labels_are_left_as_they_were():
    logits, observed = (torch.tensor(part) for part in batch(4, 6, seed=3))
    kept = observed.clone()
    llct(logits, observed, epoch=9, delta=5.0)
    assert torch.equal(observed, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_saturated_logits_stay_finite(dtype, eps):
    logits, observed = saturated()
    x = torch.tensor(logits, dtype=dtype, requires_grad=True)
    value = llct(x, torch.tensor(observed), epoch=2, delta=10.0, eps=eps)
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


@pytest.mark.parametrize(("epoch", "delta"), [(0, 0.2), (2, -0.1), (2, math.nan)])
def test_impossible_epoch_or_delta_is_refused(epoch, delta):
    with pytest.raises(UsageError, match="large loss"):
        llct(torch.zeros(1, 2), torch.zeros(1, 2), epoch=epoch, delta=delta)


def test_defaults_are_the_released_settings():
    plain = {"delta": 0.2, "head.alpha_train": 1.0, "head.alpha_infer": 1.0}
    assert load_method("llct").resolve({}) == plain
    assert load_method("llct_boostlu").resolve({}) == plain | {"head.alpha_train": 5.0, "head.alpha_infer": 5.0}
    assert load_method("llct").batch_global
    assert load_method("llct_boostlu").batch_global
