"""`hill` and `splc`: losses for labels that are missing."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loss_checks import TYPES, all_cases, assert_follows_naive
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED

from mlbench.baselines.robust_losses import hill, splc, splc_mask
from mlbench.errors import UsageError
from mlbench.methods.labels import LabelStore
from mlbench.registry import load_method


def naive_hill(x, observed, lam=1.5, margin=1.0, gamma=2.0):
    p, q, not_q = torch.sigmoid(x), torch.sigmoid(x - margin), torch.sigmoid(margin - x)
    entries = torch.where(observed == POSITIVE, -(not_q**gamma) * torch.log(q), (lam - p) * p**2)
    return torch.where(observed == UNSPECIFIED, 0.0 * x, entries)


def naive_splc(x, observed, epoch, tau=0.6, margin=1.0, gamma=2.0, first_epoch=2):
    z = torch.where(observed == POSITIVE, x - margin, x)
    high = (torch.sigmoid(z) > tau) & (observed == UNKNOWN) & (epoch >= first_epoch)
    s, not_s = torch.sigmoid(z), torch.sigmoid(-z)
    positive = (observed == POSITIVE) | high
    entries = torch.where(positive, -(not_s**gamma) * torch.log(s), -(s**gamma) * torch.log(not_s))
    return torch.where(observed == UNSPECIFIED, 0.0 * x, entries)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("settings", [{}, {"lam": 2.0, "margin": 0.0, "gamma": 1.0}, {"gamma": 0.0}], ids=str)
def test_hill_follows_the_formula(dtype, tolerance, settings):
    for logits, observed in all_cases():
        assert_follows_naive(
            lambda x, y, **k: hill(x, y, **settings, **k),
            lambda x, y: naive_hill(x, y, **settings),
            logits,
            observed,
            dtype,
            tolerance,
        )


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize(
    "settings", [{"epoch": 1}, {"epoch": 2}, {"epoch": 9, "tau": 0.3, "margin": 0.5, "gamma": 1.0}], ids=str
)
def test_splc_follows_the_formula(dtype, tolerance, settings):
    for logits, observed in all_cases():
        assert_follows_naive(
            lambda x, y, **k: splc(x, y, **settings, **k),
            lambda x, y: naive_splc(x, y, **settings),
            logits,
            observed,
            dtype,
            tolerance,
        )


def test_worked_examples():
    x = torch.tensor([[1 + math.log(3), math.log(3), -math.log(3)]], dtype=torch.float64)
    y = torch.tensor([[POSITIVE, UNKNOWN, NEGATIVE]])
    positive = (1 / 4) ** 2 * math.log(4 / 3)  # q = 3/4, the margin of 1 taken off
    assert hill(x, y, reduction="sum").item() == pytest.approx(positive + 0.75 * 0.75**2 + 1.25 / 16, rel=1e-12)
    rest = (1 / 4) ** 2 * math.log(4 / 3)
    before = positive + (3 / 4) ** 2 * math.log(4) + rest
    assert splc(x, y, epoch=1, reduction="sum").item() == pytest.approx(before, rel=1e-12)
    # The unknown label has p = 3/4 > 0.6: it counts as positive, without the margin.
    assert splc(x, y, epoch=2, reduction="sum").item() == pytest.approx(positive + 2 * rest, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_far_outside_the_range_of_probabilities_give_numbers(dtype):
    x = torch.tensor([[1000.0, -1000.0] * 2], dtype=dtype, requires_grad=True)
    y = torch.tensor([[POSITIVE, POSITIVE, UNKNOWN, UNKNOWN]])
    for loss in (hill, lambda a, b, **k: splc(a, b, epoch=1, **k), lambda a, b, **k: splc(a, b, epoch=2, **k)):
        entries = loss(x, y, reduction="none")
        (slopes,) = torch.autograd.grad(entries.sum(), x)
        assert torch.isfinite(entries).all()
        assert torch.isfinite(slopes).all()
        assert entries[0, 1] == 1001.0
        assert slopes[0, 1] == -1.0


def test_only_unknown_entries_above_the_threshold_are_corrected_and_none_in_the_first_epoch():
    x = torch.tensor([[2.0, 2.0, 2.0, 2.0, math.log(1.5) - 1e-3, math.log(1.5) + 1e-3]])
    y = torch.tensor([[UNKNOWN, NEGATIVE, POSITIVE, UNSPECIFIED, UNKNOWN, UNKNOWN]])
    assert splc_mask(x, y, epoch=2).tolist() == [[True, False, False, False, False, True]]
    assert not splc_mask(x, y, epoch=1).any()
    assert splc_mask(x, y, epoch=1, first_epoch=1).sum() == 2


def test_corrections_are_reported_and_change_no_label():
    """The method itself, on labels from a store."""
    method = load_method("splc")
    store = LabelStore(np.zeros((2, 3), dtype=np.int8))
    made = method(SimpleNamespace(hyper=method.resolve({})))
    for epoch, wanted in ((1, 0), (2, 2)):
        labels = store.rows(np.array([0, 1]))
        logits = torch.tensor([[3.0, -3.0, 0.0], [0.0, 3.0, -3.0]], requires_grad=True)
        value = made.loss(logits, labels, SimpleNamespace(epoch=epoch))
        assert value == splc(logits, labels.state, epoch=epoch, reduction="sum")
        (note,) = labels.notes
        assert note.kind == "corrected"
        assert len(note.rows) == wanted
        assert not labels.pending
    assert list(zip(note.rows, note.classes, strict=True)) == [(0, 0), (1, 1)]


def test_the_methods_sum_over_the_batch_as_published():
    assert [load_method(name).reduction for name in ("hill", "splc")] == ["sum", "sum"]
    assert load_method("splc").resolve({})["tau"] == 0.6


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        (hill, {"gamma": -1.0}),
        (hill, {"lam": math.inf}),
        (splc, {"epoch": 0}),
        (splc, {"epoch": 2, "tau": 1.5}),
        (splc, {"epoch": 2, "margin": math.nan}),
        (splc, {"epoch": 2, "gamma": math.inf}),
    ],
)
def test_impossible_settings_are_refused(loss, wrong):
    with pytest.raises(UsageError, match="expected"):
        loss(torch.zeros(1, 2), torch.zeros(1, 2), **wrong)
