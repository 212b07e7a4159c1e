"""`twoway` and `zlpr`: losses by log-sum-exp of images and classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import TYPES, all_cases, assert_follows_naive, exact, uniform
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED

from mlbench.baselines.log_sum_exp import twoway, zlpr
from mlbench.errors import UsageError
from mlbench.registry import load_method


def negatives(observed, unknown_as):
    return (observed == NEGATIVE) | ((observed == UNKNOWN) & (unknown_as == "negative"))


def naive_zlpr(x, observed, unknown_as="negative"):
    """Plain exponentials, as the paper writes them."""
    negative, positive = negatives(observed, unknown_as), observed == POSITIVE
    below = torch.where(negative, torch.exp(x), 0.0).sum(dim=1)
    above = torch.where(positive, torch.exp(-x), 0.0).sum(dim=1)
    return torch.log1p(below) + torch.log1p(above)


def naive_way(vector, positive, negative, tp=4.0, tn=1.0):
    """Of one row or column: the product of the two sums, each to the power of its temperature."""
    if not positive.any() or not negative.any():
        return 0.0 * vector.sum()
    high = torch.exp(vector[negative] / tn).sum() ** tn
    low = torch.exp(-vector[positive] / tp).sum() ** tp
    return torch.log1p(high * low)


def naive_twoway(x, observed, unknown_as="negative", **temperatures):
    """Losses [C + B], first the classes."""
    positive, negative = observed == POSITIVE, negatives(observed, unknown_as)
    columns = [naive_way(x[:, c], positive[:, c], negative[:, c], **temperatures) for c in range(x.shape[1])]
    rows = [naive_way(x[i], positive[i], negative[i], **temperatures) for i in range(x.shape[0])]
    return torch.stack([*columns, *rows])


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("unknown_as", ["negative", "left_out"])
def test_zlpr_follows_the_formula(dtype, tolerance, unknown_as):
    for logits, observed in all_cases():
        assert_follows_naive(
            lambda x, y, **k: zlpr(x, y, unknown_as=unknown_as, **k),
            lambda x, y: naive_zlpr(x, y, unknown_as),
            logits,
            observed,
            dtype,
            tolerance,
        )


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("settings", [{}, {"unknown_as": "left_out"}, {"tp": 1.0, "tn": 2.0}], ids=str)
def test_twoway_follows_the_formula(dtype, tolerance, settings):
    for logits, observed in all_cases():
        logits = exact(logits, dtype)
        plain = torch.tensor(logits, requires_grad=True)
        entries = naive_twoway(plain, torch.tensor(observed), **settings)
        classes, images = entries.split([logits.shape[1], logits.shape[0]])
        counted = [max(1, (observed == POSITIVE).any(axis=axis).sum()) for axis in (0, 1)]
        for reduction, wanted in (
            ("none", entries),
            ("sum", entries.sum()),
            ("mean", classes.sum() / counted[0] + images.sum() / counted[1]),
        ):
            x = torch.tensor(logits, dtype=dtype, requires_grad=True)
            found = twoway(x, torch.tensor(observed), reduction=reduction, **settings)
            (slope,) = torch.autograd.grad(found.sum(), x)
            (right,) = torch.autograd.grad(wanted.sum(), plain, retain_graph=True)
            assert found.dtype == slope.dtype == dtype
            np.testing.assert_allclose(found.detach(), wanted.detach(), rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(slope, right, rtol=tolerance, atol=tolerance)


def test_worked_examples():
    x = torch.tensor([[math.log(2), math.log(3)], [math.log(5), 0.0]], dtype=torch.float64)
    y = torch.tensor([[POSITIVE, UNKNOWN], [NEGATIVE, UNKNOWN]])
    assert zlpr(x, y, reduction="none").tolist() == pytest.approx([math.log(4) + math.log(1.5), math.log(7)])
    left_out = zlpr(x, y, unknown_as="left_out", reduction="none")
    assert left_out.tolist() == pytest.approx([math.log(1.5), math.log(6)])
    # One positive, of score log 2: with a negative of log 5 in its class, of log 3 in its image.
    assert twoway(x, y).item() == pytest.approx(math.log1p(5 / 2) + math.log1p(3 / 2))
    assert twoway(x, y, unknown_as="left_out").item() == pytest.approx(math.log1p(5 / 2))


@pytest.mark.parametrize("state", [NEGATIVE, UNKNOWN, UNSPECIFIED, POSITIVE])
def test_a_batch_without_positives_or_without_negatives_has_loss_and_gradient_0(state):
    logits, observed = uniform(state)
    x = torch.tensor(logits, requires_grad=True)
    value = twoway(x, torch.tensor(observed))
    (slope,) = torch.autograd.grad(value, x)
    assert value == 0
    assert (slope == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_beyond_the_range_of_exponentials_stay_exact(dtype):
    x = torch.tensor([[1000.0, -1000.0]], dtype=dtype, requires_grad=True)
    y = torch.tensor([[UNKNOWN, POSITIVE]])
    for loss, wanted in ((zlpr, 2000.0), (twoway, 2000.0)):
        value = loss(x, y)
        (slope,) = torch.autograd.grad(value, x)
        assert value == wanted
        assert slope.tolist() == [[1.0, -1.0]]


def test_twoway_does_not_change_when_all_logits_move_and_so_gives_ranks():
    logits, observed = all_cases()[0]
    x, y = torch.tensor(logits), torch.tensor(observed)
    torch.testing.assert_close(twoway(x, y), twoway(x + 7.0, y))
    method = load_method("twoway")
    assert (method.scores, method.batch_global) == ("rank", True)


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        (twoway, {"tp": 0.0}),
        (twoway, {"tn": math.inf}),
        (twoway, {"unknown_as": "negatives"}),
        (twoway, {"reduction": "means"}),
        (zlpr, {"unknown_as": "ignored"}),
    ],
)
def test_impossible_settings_are_refused(loss, wrong):
    with pytest.raises(UsageError, match=r"expected|Known: "):
        loss(torch.zeros(1, 2), torch.zeros(1, 2), **wrong)
