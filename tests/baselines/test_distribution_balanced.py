"""`db`: a loss weighted by how rare an image's labels are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import TYPES, all_cases, assert_follows_naive
from numpy_losses import POSITIVE, UNKNOWN, UNSPECIFIED

from mlbench.annotation import State
from mlbench.annotation.sparse import count_states
from mlbench.baselines.distribution_balanced import db
from mlbench.conformance.suite import make_request
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import MlbenchError, UsageError
from mlbench.registry import load_method
from mlbench.runner.feed import Feed
from mlbench.runner.plan import resolve
from mlbench.runner.task import RunTask
from mlbench.runner.world import World

IMAGES = 50


def counts_of(classes: int) -> torch.Tensor:
    return torch.tensor([7, 1, 49, 20, 3, 12, 30, 2, 9, 11] * 2)[:classes]


def naive(x, observed, counts, alpha=0.1, beta=10.0, mu=0.2, kappa=0.05, lam=2.0):
    """Entry by entry."""
    found = []
    for row, states in zip(x, observed, strict=True):
        total = sum(1 / float(counts[c]) for c in range(len(row)) if states[c] == POSITIVE)
        for c, logit in enumerate(row):
            if states[c] == UNSPECIFIED:
                found.append(0.0 * logit)
                continue
            n = float(counts[c])
            rarity = math.inf if total == 0 else (1 / n) / total
            w = alpha + 1 / (1 + math.exp(-beta * (rarity - mu)))
            z = logit - kappa / lam * math.log(IMAGES / n - 1)
            if states[c] == POSITIVE:
                found.append(w * 2 * torch.sigmoid(-z) ** 2 * -torch.log(torch.sigmoid(z)))
            else:
                found.append(w * 2 * torch.sigmoid(lam * z) ** 2 * -torch.log(torch.sigmoid(-lam * z)) / lam)
    return torch.stack(found).reshape(x.shape)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("settings", [{}, {"mu": 0.3, "lam": 5.0}, {"alpha": 0.0, "beta": 1.0, "kappa": 0.5}], ids=str)
def test_it_follows_the_formula(dtype, tolerance, settings):
    for logits, observed in all_cases():
        counts = counts_of(logits.shape[1])
        assert_follows_naive(
            lambda x, y, counts=counts, **k: db(x, y, counts=counts, images=IMAGES, **settings, **k),
            lambda x, y, counts=counts: naive(x, y, counts, **settings),
            logits,
            observed,
            dtype,
            4 * tolerance,  # lam stretches the logits, and their rounding
        )


def test_a_worked_example():
    """Two classes with 1 and 3 of 4 images: offsets of -+ kappa / lam log 3; the image has the rarer."""
    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[POSITIVE, UNKNOWN]])
    settings = {"alpha": 0.0, "beta": 1.0, "mu": 0.0, "kappa": 2.0, "lam": 2.0}
    found = db(x, y, counts=torch.tensor([1, 3]), images=4, reduction="none", **settings)
    # z = -log 3 of the positive, p = 1/4; z = +log 3 of the negative, sigmoid(2 z) = 9/10; rarities 1 and 1/3.
    positive = 2 * (3 / 4) ** 2 * math.log(4) / (1 + math.exp(-1))
    negative = 2 * (9 / 10) ** 2 * math.log(10) / 2 / (1 + math.exp(-1 / 3))
    np.testing.assert_allclose(found[0].numpy(), [positive, negative], rtol=1e-12)


def test_an_image_without_positives_has_the_largest_weight():
    x, y = torch.zeros(2, 2, dtype=torch.float64), torch.tensor([[UNKNOWN, UNKNOWN], [POSITIVE, UNKNOWN]])
    found = db(x, y, counts=torch.tensor([2, 2]), images=4, reduction="none")
    # N / n - 1 = 1: no offset, and both p are 1/2. Twice a quarter, softplus(0), over lam.
    np.testing.assert_allclose(found[0].numpy(), [1.1 * math.log(2) / 4] * 2, rtol=1e-12)
    assert db(x, y, counts=torch.tensor([2, 2]), images=4, beta=0.0, reduction="none")[0, 0] == found[0, 0]


def test_classes_that_no_image_has_or_all_have_are_taken_as_one_image_off():
    x, y = torch.tensor([[0.5, -0.5, 0.1]]), torch.tensor([[POSITIVE, UNKNOWN, UNKNOWN]])
    wanted = db(x, y, counts=torch.tensor([1, 9, 5]), images=10)
    assert torch.isfinite(wanted)
    assert db(x, y, counts=[0, 10, 5], images=10) == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_far_outside_the_range_of_probabilities_give_numbers(dtype):
    x = torch.tensor([[1000.0, -1000.0, 1000.0, -1000.0]], dtype=dtype, requires_grad=True)
    value = db(x, torch.tensor([[POSITIVE, POSITIVE, UNKNOWN, UNKNOWN]]), counts=counts_of(4), images=IMAGES)
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


@pytest.mark.parametrize(
    "wrong",
    [{"counts": torch.ones(3)}, {"images": 1}, {"alpha": -0.1}, {"beta": math.inf}, {"mu": math.nan}, {"lam": 0.0}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=r"db: .*expected"):
        db(torch.zeros(1, 2), torch.zeros(1, 2), **{"counts": torch.ones(2), "images": 4, **wrong})


@pytest.mark.parametrize("name", ["db", "db_label_count"])
def test_the_method_counts_observed_positives_and_only_its_sibling_the_true_ones(name, tmp_path):
    run = resolve(make_request(load_method(name), "full", tmp_path, tiny_dataset()))
    world = World("cpu")
    method = run.method(RunTask(run, world, Feed(run, world.device)))
    part = run.parts["train"]
    seen = part.observed if name == "db" else part.labels
    assert method.counts.tolist() == count_states(seen, State.POSITIVE).tolist()
    assert count_states(part.labels, State.POSITIVE).sum() > count_states(part.observed, State.POSITIVE).sum()
    if name == "db":
        with pytest.raises(MlbenchError, match=r"reads class_counts, .* without declaring 'label_count'"):
            _ = method.task.class_counts
    assert run.method.supervision == (("observed",) if name == "db" else ("observed", "label_count"))
