"""`llcp`: in each step the unknown entries with the largest loss become positive for good."""

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

from mlbench.annotation import State
from mlbench.baselines.assume_negative import an
from mlbench.baselines.large_loss import llcp, llcp_mask, llct
from mlbench.errors import UsageError
from mlbench.methods import Step
from mlbench.methods.labels import Labels
from mlbench.registry import load_method

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]
SIZES = [(16, 20), (3, 20), (1, 20), (1, 1)]


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("epoch", [1, 2, 10])
@pytest.mark.parametrize("delta", [0.1, 5.0, 100.0])
def test_values_and_gradients_follow_the_formula(dtype, tolerance, eps, epoch, delta):
    cases = [*(batch(*size, seed=31 * size[0] + epoch) for size in SIZES), *(uniform(state) for state in STATES)]
    for logits, observed in cases:
        logits = exact(logits, dtype)
        count = math.ceil(Fraction(str(delta)) * logits.size / 100) if epoch > 1 else 0
        taken = rejected(assumed_entries(logits, observed, eps), observed, count)
        assumed = np.where(taken, POSITIVE, observed)
        assert_follows(
            lambda x, y, **k: llcp(x, y, epoch=epoch, delta=delta, eps=eps, **k),
            assumed_entries(logits, assumed, eps),
            assumed_slopes(logits, assumed, eps),
            logits,
            observed,
            dtype,
            tolerance,
        )
        found = llcp_mask(torch.tensor(logits), torch.tensor(observed), epoch=epoch, delta=delta, eps=eps)
        np.testing.assert_array_equal(found.numpy(), taken)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_gradients_match_finite_differences(eps):
    logits, observed = batch(4, 5, seed=5, largest=4.0)
    assert_gradient_is_numerical(lambda x, y: llcp(x, y, epoch=5, delta=20.0, eps=eps), logits, observed)


@pytest.mark.parametrize(("classes", "wanted"), [(20, 1), (80, 2), (81, 2), (312, 5)])
def test_as_many_are_taken_of_a_full_batch_as_in_the_released_settings(classes, wanted):
    torch.manual_seed(0)
    logits, unknown = torch.randn(16, classes), torch.zeros(16, classes, dtype=torch.int8)
    for epoch in range(2, 11):
        assert llcp_mask(logits, unknown, epoch=epoch, delta=0.1).sum() == wanted
    assert not llcp_mask(logits, unknown, epoch=1, delta=0.1).any()


def test_in_the_second_epoch_it_is_temporary_correction_bit_for_bit():
    logits, observed = (torch.tensor(part) for part in batch(16, 20, seed=0, largest=50.0))
    assert torch.equal(llcp(logits, observed, epoch=2, delta=3.0), llct(logits, observed, epoch=2, delta=3.0))
    assert torch.equal(llcp(logits, observed, epoch=1, delta=100.0), an(logits, observed))


def test_worked_example_with_ties_and_what_the_strict_rule_makes_permanent():
    # k = ceil(6 * 50 %) = 3, and the third largest loss is that of two entries.
    logits = torch.tensor([[5.0, 4.0, 3.0, 3.0, 1.0, 9.0]])
    observed = torch.tensor([[0, 0, 0, 0, 0, 1]], dtype=torch.int8)
    given = {"epoch": 4, "delta": 50.0}
    entries = llcp(logits, observed, **given, reduction="none")
    wanted = np.logaddexp(0, np.array([[-5.0, -4.0, -3.0, -3.0, 1.0, -9.0]]))
    np.testing.assert_allclose(entries.numpy(), wanted, rtol=1e-6)
    assert llcp_mask(logits, observed, **given).tolist() == [[True, True, True, True, False, False]]
    assert llcp_mask(logits, observed, **given, strict=True).tolist() == [[True, True, False, False, False, False]]
    assert not llcp_mask(logits, observed, epoch=4, delta=1.0, strict=True).any()  # k = 1: none exceeds the largest


@pytest.mark.parametrize("strict", [False, True])
def test_with_fewer_unknown_entries_than_counted_no_observed_label_is_turned(strict):
    logits = torch.tensor([[-50.0, 50.0, -1.0, 2.0]], dtype=torch.float64)
    observed = torch.tensor([[POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]], dtype=torch.int8)
    entries = llcp(logits, observed, epoch=2, delta=75.0, reduction="none")
    np.testing.assert_allclose(entries.numpy(), [[50.0, 50.0, np.logaddexp(0, 1), 0.0]], rtol=1e-14)
    mask = llcp_mask(logits, observed, epoch=2, delta=75.0, strict=strict)
    assert mask.tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_saturated_logits_stay_finite(dtype, eps):
    logits, observed = saturated()
    x = torch.tensor(logits, dtype=dtype, requires_grad=True)
    value = llcp(x, torch.tensor(observed), epoch=2, delta=10.0, eps=eps)
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


@pytest.mark.parametrize(("epoch", "delta"), [(0, 0.2), (2, -0.1), (2, math.nan)])
def test_impossible_epoch_or_delta_is_refused(epoch, delta):
    for function in (llcp, llcp_mask):
        with pytest.raises(UsageError, match="large loss"):
            function(torch.zeros(1, 2), torch.zeros(1, 2), epoch=epoch, delta=delta)


# -- the method -----------------------------------------------------------------------------------------------------


class _Task:
    """As much of a task as this method's loss needs."""

    def __init__(self, **hyper):
        self.hyper = hyper


def step_of(epoch):
    return Step("train", epoch, 9, 0, 9, 1, gather=lambda x: x, whole=lambda: None)


@pytest.mark.parametrize(("strict", "wanted"), [(False, [(7, 0), (7, 1), (9, 0)]), (True, [(7, 0), (9, 0)])])
def test_what_its_loss_turns_is_asked_to_stay_positive(strict, wanted):
    method = load_method("llcp")(_Task(delta=50.0, strict=strict))
    logits = torch.tensor([[5.0, 3.0, 1.0], [4.0, 9.0, 0.0]])
    state = torch.tensor([[0, 0, 0], [0, 1, 2]], dtype=torch.int8)
    for epoch in (1, 2):
        labels = Labels(state, (state == 1).float(), torch.zeros(2, 3, dtype=torch.bool), torch.tensor([7, 9]))
        value = method.loss(logits, labels, step_of(epoch))
        assert value == llcp(logits, state, epoch=epoch, delta=50.0)
        (change,) = labels.pending
        asked = list(zip(change.rows.tolist(), change.classes.tolist(), strict=True))
        assert asked == (wanted if epoch == 2 else [])
        assert (change.states == State.POSITIVE).all()
        assert (change.values == 1).all()


def test_defaults_are_the_released_settings_corrected():
    plain = {"delta": 0.1, "strict": False, "head.alpha_train": 1.0, "head.alpha_infer": 1.0}
    assert load_method("llcp").resolve({}) == plain
    assert load_method("llcp_boostlu").resolve({}) == plain | {"head.alpha_train": 5.0, "head.alpha_infer": 5.0}
    assert load_method("llcp").batch_global
    assert load_method("llcp_boostlu").batch_global


@pytest.mark.parametrize("strict", [False, True])
def test_labels_of_a_run_stay_positive_and_the_variant_is_recorded(train, strict):
    changes = {"train.epochs": 4, "delta": 5.0, "strict": strict}
    record = train("llcp", changes=changes)
    # Batches of 11, 11 and 10 images with 4 classes: k is 3, 3 and 2, of which the strict rule leaves out one each.
    each = 5 if strict else 8
    assert [row["log"]["pseudo_labels"] for row in record["epochs"]] == [0, each, 2 * each, 3 * each]
    assert record["identity"]["method"]["hyperparameters"]["strict"] is strict
