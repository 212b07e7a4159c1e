"""`gpr`: its entries beside those of `gr`, its penalty, and which labels it takes from the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import TYPES, all_cases, assert_follows_naive, assert_gradient_is_numerical
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, batch

from mlbench.baselines.generalised_robust import gr, gr_schedule
from mlbench.baselines.gpr import gpr, grid_scores, likely_positive
from mlbench.errors import UsageError

LATE = {"epoch": 8, "epochs": 8, "expected": 1.5}


def masks(observed) -> tuple[torch.Tensor, torch.Tensor]:
    """Pseudo-positives and pseudo-negatives spread over all states, some labels in both."""
    number = np.arange(np.size(observed)).reshape(np.shape(observed))
    return torch.tensor(number % 3 == 0), torch.tensor(number % 4 < 2)


def naive(x, observed, pseudo, negative, clip=(0.7, 0.5), share=0.9, penalty=0.001, eps=0.0, q2=0.01, q3=1.0, **given):
    """The published formula as it is written, with probabilities; the penalty in every entry."""
    expected = given.pop("expected")
    w, b, mu, sigma = gr_schedule(**given)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    fixed = p.detach()
    k, v = torch.sigmoid(w * fixed + b), torch.exp(-(((fixed - mu) / sigma) ** 2) / 2)
    yes, no = -torch.log(p + eps), -torch.log(q + eps)
    entries = v * (k * (1 - p**q2) / q2 + (1 - k) * (1 - q**q3) / q3)
    entries = torch.where(negative, v * no, entries)
    weight = 1 - torch.clip(v, 1 - clip[0], 1 - clip[1])
    entries = torch.where(pseudo, weight * (share * yes + (1 - share) * no), entries)
    entries = torch.where(observed == POSITIVE, yes, entries)
    entries = torch.where(observed == NEGATIVE, no, entries)
    counted = observed != UNSPECIFIED
    off = torch.where(counted, p, 0.0 * p).sum() / len(x) - expected
    return torch.where(counted, entries, 0.0 * x) + penalty * off**2 / x.shape[1] ** 2


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"eps": 1e-7, "clip": (0.8, 0.2)}, {"penalty": 2.0, "w": (0, 10), "b": (-2, -8), "epoch": 5}],
)
def test_it_follows_the_formula(dtype, tolerance, settings):
    settings = {**LATE, **settings}
    for logits, observed in all_cases():
        pseudo, negative = masks(observed)
        assert_follows_naive(
            lambda x, y, m=(pseudo, negative), **k: gpr(x, y, pseudo=m[0], negative=m[1], **settings, **k),
            lambda x, y, m=(pseudo, negative): naive(x, y, *m, **settings),
            logits,
            observed,
            dtype,
            10 * tolerance,  # as for `gr`
        )


def test_its_gradient_is_numerical_where_nothing_is_outside_of_it():
    """With K and V constant (w 0, sigma huge) autograd has to agree with differences."""
    logits, observed = batch(4, 6, seed=3)
    fixed = {"w": (0.0, 0.0), "sigma": (1e9, 1e9), "q2": 0.5, "penalty": 3.0}
    assert_gradient_is_numerical(lambda x, y: gpr(x, y, pseudo=masks(observed)[0], **LATE, **fixed), logits, observed)


def test_entries_by_hand():
    """p = 3/4 in the last epoch: V = exp(-(0.05 / 0.5)^2 / 2) = 0.995, clipped to 0.5; two entries of C = 2."""
    x = torch.full((1, 2), math.log(3), dtype=torch.float64)
    yes, no, v = -math.log(3 / 4), -math.log(1 / 4), math.exp(-0.005)
    off = 0.05 * ((1.5 - 1.0) / 2) ** 2
    wanted = [0.5 * (0.9 * yes + 0.1 * no) + off, v * no + off]
    found = gpr(
        x,
        torch.tensor([[UNKNOWN, UNKNOWN]]),
        pseudo=torch.tensor([[True, False]]),
        negative=torch.tensor([[True, True]]),
        **{**LATE, "expected": 1.0},
        penalty=0.05,
        reduction="none",
    )
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-12)


def test_a_pseudo_positive_weighs_from_one_limit_to_the_other():
    """Far from mu the weight V is 0 and clipped to 1 - l1; near it, it is clipped to 1 - l2."""
    x, unknown = torch.tensor([[-9.0], [math.log(4)]], dtype=torch.float64), torch.full((2, 1), UNKNOWN)
    found = gpr(x, unknown, pseudo=torch.ones(2, 1, dtype=torch.bool), penalty=0, share=1, **LATE, reduction="none")
    np.testing.assert_allclose(found[:, 0].numpy(), [0.7 * math.log1p(math.exp(9)), 0.5 * math.log(5 / 4)], rtol=1e-9)


def test_without_pseudo_labels_and_penalty_it_is_gr():
    logits, observed = (torch.tensor(part) for part in batch(16, 20, seed=1))
    none = torch.zeros(observed.shape, dtype=torch.bool)
    found = gpr(logits, observed, pseudo=none, penalty=0.0, **LATE)
    assert torch.equal(found, gr(logits, observed, epoch=8, epochs=8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": (0.5, 0.7)}, r"clip = \(0\.5, 0\.7\): expected \(l1, l2\)"),
        ({"clip": (1.1, 0.7)}, "clip = "),
        ({"penalty": -1.0}, r"penalty = -1\.0: expected a number from 0"),
        ({"share": -0.1}, r"share = -0\.1: expected a number from 0 to 1"),
        ({"expected": math.inf}, "expected = inf"),
        ({"negative": torch.zeros(1, 1)}, r"gpr: pseudo is torch.float32 \[1, 1\]: expected bool \[2, 3\]"),
    ],
)
def test_what_it_cannot_take_is_refused(change, message):
    x, y, pseudo = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int8), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=message):
        gpr(x, y, **{"pseudo": pseudo, **LATE, **change})


def test_pseudo_positives_pass_the_threshold_and_are_among_the_best():
    shares = torch.tensor([[0.6, 0.2, 0.55, 0.7], [0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.5, 0.4]])
    assert likely_positive(shares, 0.5, 2).tolist() == [
        [True, False, False, True],
        [False] * 4,
        [True, True, True, False],  # a tie at the end is in
    ]
    assert likely_positive(shares, 0.0, 99).all()


def test_grid_scores_by_hand():
    whole = torch.tensor([[0.4, 0.2]])
    cells = torch.tensor([[[0.9, 0.1], [0.3, 0.2], [0.5, 0.0]]])
    torch.testing.assert_close(grid_scores(whole, cells), torch.tensor([[0.65, 0.2]]))
    torch.testing.assert_close(grid_scores(whole, cells, 0.3), torch.tensor([[0.65, 0.1]]))
    torch.testing.assert_close(grid_scores(whole, cells, torch.tensor([[0.95]])), torch.tensor([[0.35, 0.1]]))


def test_a_run_says_what_it_was_given(train):
    record = train("gpr")
    assert record["supervision"]["extra"] == ["vl_scores", "label_count"]
    assert record["supervision"]["pretraining"] == "vision_language"
    assert record["epochs"][0]["forensics"]["corrected"]["entries"] > 0


def test_observed_negatives_can_be_left_out_of_the_sum_as_in_gr():
    x, observed = torch.tensor([[0.3, -1.0]], dtype=torch.float64), torch.tensor([[NEGATIVE, POSITIVE]])
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    found = gpr(x, observed, pseudo=nothing, **LATE, penalty=0.0, count_negatives=False)
    assert found.item() == pytest.approx(math.log1p(math.e) / 2)
