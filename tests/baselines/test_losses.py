"""`bce` and its parts, which `full` and `an` share, against formulas written in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, assumed_entries, assumed_slopes, batch, central_differences
from torch.nn import functional

from mlbench.annotation import State
from mlbench.baselines.assume_negative import an
from mlbench.baselines.large_loss import llr
from mlbench.baselines.losses import assumed_targets, bce, bce_entries, reduce
from mlbench.baselines.reference import full
from mlbench.errors import UsageError

TYPES = [(torch.float32, 1e-6), (torch.float64, 1e-10)]
SAME_FUNCTION = [bce, an, full]
LOSSES = [bce, an, full, lambda x, y, **k: llr(x, y, epoch=3, delta=5.0, **k)]


def value_and_gradient(loss, logits, observed, dtype=torch.float64, **keywords):
    x = torch.tensor(logits, dtype=dtype, requires_grad=True)
    value = loss(x, torch.tensor(observed), **keywords)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.dtype == gradient.dtype == dtype
    return value.detach().numpy(), gradient.numpy()


@pytest.mark.parametrize("loss", SAME_FUNCTION)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize(("rows", "classes"), [(16, 20), (5, 7), (1, 3), (1, 1)])
def test_values_and_gradients_follow_the_formula(loss, eps, dtype, tolerance, rows, classes):
    logits, observed = batch(rows, classes, seed=rows)
    logits = torch.tensor(logits, dtype=dtype).numpy()
    entries, slopes = assumed_entries(logits, observed, eps), assumed_slopes(logits, observed, eps)
    for reduction, wanted, scale in (
        ("none", entries, 1.0),
        ("sum", entries.sum(), 1.0),
        ("mean", entries.sum() / (rows * classes), 1.0 / (rows * classes)),
    ):
        value, gradient = value_and_gradient(loss, logits, observed, dtype, eps=eps, reduction=reduction)
        np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(gradient, slopes * scale, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_gradients_match_finite_differences(eps):
    logits, observed = batch(3, 5, seed=8, largest=4.0)
    _, gradient = value_and_gradient(bce, logits, observed, eps=eps)
    numerical = central_differences(lambda x: float(bce(torch.tensor(x), torch.tensor(observed), eps=eps)), logits)
    np.testing.assert_allclose(gradient, numerical, atol=1e-9)


def test_worked_example():
    # p = 1/4, 1/2, 3/4: an observed positive, an unknown and an observed negative.
    logits = torch.tensor([[-np.log(3), 0.0, np.log(3)]])
    observed = torch.tensor([[1, 0, -1]], dtype=torch.int8)
    wanted = np.log(4) + np.log(2) + np.log(4)
    assert bce(logits, observed).item() == pytest.approx(wanted / 3, abs=1e-12)
    assert bce(logits, observed, reduction="sum").item() == pytest.approx(wanted, abs=1e-12)
    with_eps = -np.log(0.25 + 1e-5) - np.log(0.5 + 1e-5) - np.log(0.25 + 1e-5)
    assert bce(logits, observed, eps=1e-5).item() == pytest.approx(with_eps / 3, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_saturated_logits_stay_finite_and_exact(loss, dtype, tolerance, eps):
    logits = np.array([[50.0, -50.0, 100.0, -100.0, 50.0, -50.0, 100.0, -100.0]])
    observed = np.array([[POSITIVE] * 4 + [NEGATIVE] * 4], dtype=np.int8)
    value, gradient = value_and_gradient(loss, logits, observed, dtype, eps=eps, reduction="none")
    np.testing.assert_allclose(value, assumed_entries(logits, observed, eps), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(gradient, assumed_slopes(logits, observed, eps), rtol=tolerance, atol=tolerance)
    if eps == 0:
        np.testing.assert_allclose(value[0], [0, 50, 0, 100, 50, 0, 100, 0], atol=1e-20)
        np.testing.assert_allclose(gradient[0], [0, -1, 0, -1, 1, 0, 1, 0], atol=1e-20)
    else:  # the SPML variant is capped at -log(eps), where its gradient is gone, and goes a little below zero
        np.testing.assert_allclose(value[0, [1, 3, 4, 6]], -np.log(1e-5), rtol=tolerance)
        assert (value[0, [0, 2, 5, 7]] < 0).all()
        assert np.abs(gradient).max() < 1e-16


@pytest.mark.parametrize("loss", SAME_FUNCTION)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_labels_give_torchs_binary_cross_entropy_bit_for_bit(loss, dtype):
    random = np.random.RandomState(2)
    logits = torch.tensor(random.randn(9, 4) * 8, dtype=dtype)
    truth = torch.tensor(random.rand(9, 4) < 0.4)
    observed = torch.where(truth, 1, -1).to(torch.int8)
    assert torch.equal(loss(logits, observed), functional.binary_cross_entropy_with_logits(logits, truth.to(dtype)))
    on_probabilities = functional.binary_cross_entropy(torch.sigmoid(logits.double()), truth.double())
    assert loss(logits, observed).item() == pytest.approx(on_probabilities.item(), rel=1e-5)
    assert torch.equal(loss(logits, observed, eps=1e-5), bce(logits, observed, eps=1e-5))


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_unknown_counts_as_negative_and_unspecified_as_nothing(eps):
    logits = torch.tensor([[1.5, -0.5, 2.0]])

    def entries(states):
        return bce(logits, torch.tensor([states], dtype=torch.int8), eps=eps, reduction="none")

    assert torch.equal(entries([1, 0, 0]), entries([1, -1, -1]))
    assert entries([1, 2, 2])[0, 1:].tolist() == [0.0, 0.0]
    mean = bce(logits, torch.tensor([[1, 2, 2]], dtype=torch.int8), eps=eps)
    assert mean.item() == pytest.approx(entries([1, 2, 2])[0, 0].item() / 3)  # still divided by all B*C entries


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_but_unspecified_gives_zero_with_zero_gradient(loss):
    value, gradient = value_and_gradient(loss, np.array([[3.0, -90.0]]), np.full((1, 2), 2, dtype=np.int8))
    assert value == 0
    assert (gradient == 0).all()


def test_a_row_and_a_class_without_positives_are_all_negative():
    logits, observed = batch(4, 3, seed=1)
    observed[:, 1] = UNKNOWN
    entries = bce(torch.tensor(logits), torch.tensor(observed), reduction="none").numpy()
    np.testing.assert_allclose(entries[0], np.logaddexp(0, logits[0]), rtol=1e-12)
    np.testing.assert_allclose(entries[:, 1], np.logaddexp(0, logits[:, 1]), rtol=1e-12)


def test_entries_take_soft_targets():
    p, t = 0.3, 0.9
    logit = torch.tensor([[np.log(p / (1 - p))]])
    for eps in (0.0, 1e-5):
        wanted = -t * np.log(p + eps) - (1 - t) * np.log(1 - p + eps)
        assert bce_entries(logit, torch.tensor([[t]], dtype=torch.float64), eps).item() == pytest.approx(wanted)


def test_targets_are_one_only_for_observed_positives():
    states = torch.tensor([[State.POSITIVE, State.NEGATIVE, State.UNKNOWN, State.UNSPECIFIED]], dtype=torch.int8)
    assert assumed_targets(states, torch.float64).tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert assumed_targets(states, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("loss", LOSSES)
def test_inputs_are_not_changed(loss):
    logits, observed = (torch.tensor(part) for part in batch(4, 6, seed=3))
    kept = logits.clone(), observed.clone()
    loss(logits, observed)
    assert torch.equal(logits, kept[0])
    assert torch.equal(observed, kept[1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_labels_that_would_be_broadcast_or_misread_are_refused(loss, eps):
    logits = torch.zeros(2, 3)
    zero_one = torch.tensor([[0, 1, 0], [1, 0, 0]])
    for observed in (zero_one[:1].to(torch.int8), zero_one[0].to(torch.int8)):
        with pytest.raises(UsageError, match=r"expected both \[B, C\]"):
            loss(logits, observed, eps=eps)
    with pytest.raises(UsageError, match="State codes"):
        loss(logits, zero_one.bool(), eps=eps)
    with pytest.raises(UsageError, match="floating-point"):
        loss(logits.long(), zero_one.to(torch.int8), eps=eps)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_codes_may_come_in_any_number_type(loss, dtype):
    logits, observed = torch.randn(4, 3), torch.tensor([[1, 0, -1], [0, 0, 2], [1, 1, 1], [-1, -1, 0]])
    assert torch.equal(loss(logits, observed.to(dtype)), loss(logits, observed.to(torch.int8)))


@pytest.mark.parametrize("loss", LOSSES)
def test_wrong_reduction_and_eps_are_refused(loss):
    logits, observed = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int8)
    with pytest.raises(UsageError, match="Did you mean 'mean'"):
        loss(logits, observed, reduction="maen")
    for eps in (-1e-5, float("nan"), float("inf"), 1e-60):  # the last one is 0 in float32: log(0) times 0 is no number
        with pytest.raises(UsageError, match="eps"):
            loss(logits, observed, eps=eps)


def test_reductions_of_known_numbers():
    entries = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert reduce(entries, "mean").item() == 3.0
    assert reduce(entries, "sum").item() == 12.0
    assert reduce(entries, "none") is entries
