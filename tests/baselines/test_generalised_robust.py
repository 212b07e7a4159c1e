"""`gr`: its entries, what is outside the gradient, and its schedule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import TYPES, all_cases, assert_follows_naive
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED

from mlbench.baselines.generalised_robust import GRParameters, gr, gr_entries, gr_schedule
from mlbench.errors import UsageError
from mlbench.registry import load_method

LATE = {"epoch": 8, "epochs": 8}


def naive(x, observed, parameters, q2=0.01, q3=1.0, eps=0.0):
    """The published formula as it is written, with probabilities."""
    w, b, mu, sigma = parameters
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    fixed = p.detach()
    k = torch.sigmoid(w * fixed + b)
    v = torch.exp(-(((fixed - mu) / sigma) ** 2) / 2)
    guessed = v * (k * (1 - p**q2) / q2 + (1 - k) * (1 - q**q3) / q3)
    entries = torch.where(observed == POSITIVE, -torch.log(p + eps), guessed)
    entries = torch.where(observed == NEGATIVE, -torch.log(q + eps), entries)
    return torch.where(observed == UNSPECIFIED, 0.0 * x, entries)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"eps": 1e-7}, {"q2": 0.5, "q3": 1.5, "w": (0.0, 10.0), "b": (-2.0, -8.0)}, {"epoch": 1}, {"epoch": 4}],
    ids=str,
)
def test_it_follows_the_formula(dtype, tolerance, settings):
    settings = {**LATE, **settings}
    parameters = gr_schedule(**{k: v for k, v in settings.items() if k not in ("q2", "q3", "eps")})
    shape = {k: v for k, v in settings.items() if k in ("q2", "q3", "eps")}
    for logits, observed in all_cases():
        assert_follows_naive(
            lambda x, y, **k: gr(x, y, **settings, **k),
            lambda x, y: naive(x, y, parameters, **shape),
            logits,
            observed,
            dtype,
            10 * tolerance,  # of p**0.01 three digits are lost to 1 - p**0.01, here and there
        )


def test_an_entry_by_hand():
    """p = 3/4: K = sigmoid(2 p - 2) and V = exp(-(0.05 / 0.5)^2 / 2), the squared entries of q2 = q3 = 2."""
    x = torch.tensor([[math.log(3), math.log(3), -math.log(3)]], dtype=torch.float64)
    k, v = 1 / (1 + math.exp(0.5)), math.exp(-((0.05 / 0.5) ** 2) / 2)
    wanted = [v * (k * (1 - 9 / 16) / 2 + (1 - k) * (1 - 1 / 16) / 2), -math.log(3 / 4), -math.log(3 / 4)]
    found = gr_entries(x, torch.tensor([[UNKNOWN, POSITIVE, NEGATIVE]]), GRParameters(2, -2, 0.8, 0.5), q2=2.0, q3=2.0)
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-12)


def test_the_guess_and_its_weight_carry_no_gradient():
    x = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    parameters = GRParameters(2.0, -1.0, 0.2, 0.3)
    (slope,) = torch.autograd.grad(gr_entries(x, torch.tensor([[UNKNOWN]]), parameters, q2=1.0, q3=1.0).sum(), x)
    p = torch.sigmoid(x.detach())
    k, v = torch.sigmoid(2 * p - 1), torch.exp(-(((p - 0.2) / 0.3) ** 2) / 2)
    # Absolute errors: 1 - p falls and p rises with slope p (1 - p).
    torch.testing.assert_close(slope, v * (1 - 2 * k) * p * (1 - p))


def test_observed_negatives_are_left_out_where_the_released_code_is_followed():
    x, y = torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([[NEGATIVE, UNKNOWN, POSITIVE]])
    counted, left_out = (gr(x, y, **LATE, count_negatives=kept, reduction="none") for kept in (True, False))
    assert counted[0, 0] > 0
    assert left_out[0, 0] == 0
    assert torch.equal(counted[0, 1:], left_out[0, 1:])
    assert gr(x, y, **LATE, count_negatives=False) == left_out.sum() / 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_probability_that_underflows_keeps_its_power_and_its_gradient(dtype):
    """Of p = e^-200 the hundredth power is e^-2: far from 0, though float32 holds no such p."""
    x = torch.tensor([[-200.0, -1000.0, 1000.0]], dtype=dtype, requires_grad=True)
    parameters = GRParameters(0.0, 0.0, 0.5, 2.0)
    entries = gr_entries(x, torch.zeros(1, 3, dtype=torch.int8), parameters)
    (slopes,) = torch.autograd.grad(entries.sum(), x)
    k, v = 0.5, math.exp(-1 / 32)
    assert entries[0, 0].item() == pytest.approx(v * k * (1 - math.exp(-2)) / 0.01, rel=1e-6)
    assert slopes[0, 0].item() == pytest.approx(-v * k * math.exp(-2), rel=1e-6)
    assert torch.isfinite(entries).all()
    assert torch.isfinite(slopes).all()


@pytest.mark.parametrize(
    ("epoch", "linear_init", "wanted"),
    [
        (1, 0, (0.0, -2.0, 0.5 + 0.3 / 8, 2 - 1.5 / 8)),
        (5, 0, (1.0, -5.0, 0.5 + 0.3 * 5 / 8, 2 - 1.5 * 5 / 8)),
        (8, 0, (2 * 7 / 8, -2 - 6 * 7 / 8, 0.8, 0.5)),
        (1, 3, (0.0, -2.0, 0.5, 2.0)),
        (3, 3, (0.0, -2.0, 0.5, 2.0)),
        (4, 3, (0.0, -2.0, 0.5 + 0.3 / 5, 2 - 1.5 / 5)),
        (8, 3, (2 * 4 / 5, -2 - 6 * 4 / 5, 0.8, 0.5)),
    ],
)
def test_the_guess_ends_a_step_before_its_last_value_and_the_weight_at_it(epoch, linear_init, wanted):
    assert gr_schedule(epoch, 8, b=(-2.0, -8.0), linear_init=linear_init) == pytest.approx(wanted)


def test_one_epoch_begins_with_the_guess_and_ends_with_the_weight():
    assert gr_schedule(1, 1) == pytest.approx((0.0, -2.0, 0.8, 0.5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": 0},
        {"epoch": 9},
        {"linear_init": 8},
        {"sigma": (2.0, 0.0)},
        {"mu": (0.5, math.nan)},
        {"q2": 0.0},
        {"q3": math.inf},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=r"gr: .*expected"):
        gr(torch.zeros(1, 2), torch.zeros(1, 2), **{**LATE, **wrong})


def test_other_data_sets_have_the_steep_guess_of_the_code_that_builds_on_it():
    method = load_method("gr")
    for dataset, ends, q3, epochs in (
        ("voc2012", (2.0, -2.0), 1.0, 8),
        ("coco2014", (10.0, -8.0), 1.0, 8),
        ("nuswide-spml", (10.0, -8.0), 1.0, 10),
        ("cub", (10.0, -8.0), 1.5, 10),
    ):
        kept = method.settings_for(dataset, "full")
        hyper = method.resolve({name: value for name, value in kept.items() if not name.startswith("train.")})
        assert (hyper["w_end"], hyper["b_end"]) == ends
        assert (hyper["q3"], kept["train.epochs"]) == (q3, epochs)
