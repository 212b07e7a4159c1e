"""`warp` and `lsep`: losses against loops over all pairs, ranks by counting, decisions by rule."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loss_checks import SIZES, TYPES, exact, saturated, uniform
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, batch, central_differences

from mlbench.baselines.ranking import highest, lsep_loss, rank_weights, sampled_ranks, violator_ranks, warp_loss
from mlbench.conformance.suite import make_request
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.methods.labels import LabelStore
from mlbench.protocol import load_protocol
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.store import run_dir

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]
CASES = [*(batch(*size, seed=size[0]) for size in SIZES), saturated(), *(uniform(state) for state in STATES)]
#: Rows with several positives, and the extremes on both sides.
CASES.append((np.array([[50.0, -50.0, 50.0, -50.0], [1.0, 2.0, 0.5, 2.0]]), np.array([[1, 1, 0, -1], [1, 0, 1, 2]])))
CASES = [(logits, observed.astype(np.int8)) for logits, observed in CASES]


def sides(row):
    return np.flatnonzero(row == POSITIVE), np.flatnonzero(np.isin(row, (NEGATIVE, UNKNOWN)))


def warp_by_loops(logits, observed):
    """Each image's loss, and its derivative by each logit."""
    losses, slopes = np.zeros(len(logits)), np.zeros(logits.shape)
    for b, (f, row) in enumerate(zip(logits, observed, strict=True)):
        positives, below = sides(row)
        for j in positives:
            rank = sum(1 - f[j] + f[k] > 0 for k in below)
            weight = sum(1 / i for i in range(1, rank + 1))
            for k in below:
                if 1 - f[j] + f[k] > 0:
                    losses[b] += weight * (1 - f[j] + f[k])
                    slopes[b, j] -= weight
                    slopes[b, k] += weight
    return losses, slopes


def lsep_by_loops(logits, observed):
    losses, slopes = np.zeros(len(logits)), np.zeros(logits.shape)
    for b, (f, row) in enumerate(zip(logits, observed, strict=True)):
        positives, below = sides(row)
        pairs = [(u, v) for u in positives for v in below]
        losses[b] = np.logaddexp.reduce([0.0, *(f[v] - f[u] for u, v in pairs)])
        for u, v in pairs:
            share = np.exp(f[v] - f[u] - losses[b])
            slopes[b, v] += share
            slopes[b, u] -= share
    return losses, slopes


LOSSES = [(warp_loss, warp_by_loops), (lsep_loss, lsep_by_loops)]


@pytest.mark.parametrize(("loss", "oracle"), LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
def test_values_and_gradients_are_those_of_the_loops(loss, oracle, dtype, tolerance):
    for logits, observed in CASES:
        logits = exact(logits, dtype)
        losses, slopes = oracle(logits, observed)
        scale = max(1.0, np.abs(losses).max())  # sums over many pairs: float32 is as close as their size allows
        for reduction, wanted, share in (
            ("none", losses, 1.0),
            ("sum", losses.sum(), 1.0),
            ("mean", losses.mean(), 1.0 / len(logits)),
        ):
            x = torch.tensor(logits, dtype=dtype, requires_grad=True)
            found = loss(x, torch.tensor(observed), reduction=reduction)
            (gradient,) = torch.autograd.grad(found.sum(), x)
            assert found.dtype == gradient.dtype == dtype
            np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=tolerance, atol=tolerance * scale)
            np.testing.assert_allclose(gradient.numpy(), slopes * share, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("loss", [warp_loss, lsep_loss])
def test_gradient_is_the_numerical_one(loss):
    logits, observed = batch(6, 9, seed=4, largest=3.0)
    labels = torch.tensor(observed)
    x = torch.tensor(logits, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(x, labels), x)
    numerical = central_differences(lambda moved: float(loss(torch.tensor(moved), labels)), logits)
    np.testing.assert_allclose(gradient.numpy(), numerical, atol=1e-7)


@pytest.mark.parametrize("loss", [warp_loss, lsep_loss])
def test_rows_that_rank_nothing_cost_nothing(loss):
    logits = torch.tensor([[3.0, -2.0], [3.0, -2.0], [3.0, -2.0]], requires_grad=True)
    observed = torch.tensor([[0, -1], [1, 1], [1, 2]], dtype=torch.int8)
    assert loss(logits, observed, reduction="none").tolist() == [0.0, 0.0, 0.0]
    loss(logits, observed).backward()
    assert not logits.grad.any()


def test_by_hand():
    logits, observed = torch.tensor([[1.0, 0.5, -1.0]]), torch.tensor([[1, 0, 0]], dtype=torch.int8)
    assert violator_ranks(logits, observed).tolist() == [1]
    assert warp_loss(logits, observed).item() == pytest.approx(1.0 * 0.5)
    assert lsep_loss(logits, observed).item() == pytest.approx(np.log(1 + np.exp(-0.5) + np.exp(-2.0)))
    logits = torch.tensor([[0.0, 0.5, 0.25]])
    assert warp_loss(logits, observed).item() == pytest.approx(1.5 * (1.5 + 1.25))


def test_a_score_on_the_margin_is_no_violator():
    logits, observed = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1, 0, -1]], dtype=torch.int8)
    assert violator_ranks(logits, observed).tolist() == [0]
    assert warp_loss(logits, observed).item() == 0.0


def test_rank_weights_are_harmonic_numbers():
    assert rank_weights(4).tolist() == pytest.approx([0.0, 1.0, 1.5, 1.5 + 1 / 3, 1.5 + 1 / 3 + 1 / 4])
    assert rank_weights(0).tolist() == [0.0]


def sampled_by_loops(logits, observed, draws):
    found, left = [], iter(draws)
    for f, row in zip(logits, observed, strict=True):
        positives, below = sides(row)
        for j in positives:
            tries = next(left)
            rank = 0
            for s, draw in enumerate(tries, start=1):
                if len(below) and 1 - f[j] + f[below[int(draw * len(below))]] > 0:
                    rank = (len(f) - 1) // s
                    break
            found.append(rank)
    return found


def test_sampled_ranks_are_those_of_a_loop_over_the_draws():
    for logits, observed in CASES:
        count = int((observed == POSITIVE).sum())
        draws = np.random.RandomState(3).rand(count, logits.shape[1] - 1)
        ranks = sampled_ranks(torch.tensor(logits), torch.tensor(observed), torch.tensor(draws))
        assert ranks.tolist() == sampled_by_loops(logits, observed, draws)


def test_the_sampled_rank_only_changes_the_weight():
    logits, observed = torch.tensor([[0.0, 0.5, -5.0, 0.25]]), torch.tensor([[1, 0, 0, 0]], dtype=torch.int8)
    pairs = 1.5 + 1.25
    for draws, rank in (([0.0, 0.9, 0.9], 3), ([0.5, 0.4, 0.9], 1), ([0.5, 0.4, 0.5], 0)):
        found = warp_loss(logits, observed, draws=torch.tensor([draws]))
        assert found.item() == pytest.approx(sum(1 / i for i in range(1, rank + 1)) * pairs)


def test_draws_of_another_shape_are_refused():
    logits, observed = torch.zeros(1, 3), torch.tensor([[1, 1, 0]], dtype=torch.int8)
    with pytest.raises(UsageError, match="one row for each of 2 positives"):
        warp_loss(logits, observed, draws=torch.zeros(1, 2))


@pytest.mark.parametrize("loss", [warp_loss, lsep_loss])
def test_wrong_inputs_are_refused(loss):
    with pytest.raises(UsageError, match="expected both"):
        loss(torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.int8))
    with pytest.raises(UsageError, match="unknown reduction 'men'"):
        loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), reduction="men")


def test_the_highest_are_taken_with_ties_to_the_lower_index():
    scores = torch.tensor([[1.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    assert highest(scores, 2).int().tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert highest(scores, torch.tensor([[1], [3]])).int().tolist() == [[0, 1, 0, 0], [1, 1, 1, 0]]


# -- the methods ---------------------------------------------------------------------------------------------------


def tiny_run(name, tmp_path, protocol="full", **changes):
    request = make_request(load_method(name), "head", tmp_path, tiny_dataset())
    changes = {**request.changes, "train.epochs": 3, "train.lr": 3e-2, **changes}
    request = replace(request, protocol=load_protocol(protocol), changes=changes)
    record = run(request, Options(store=tmp_path / "store", device="cpu", quiet=True))
    return record, read_predictions(run_dir(tmp_path / "store", record["key"]) / record["predictions"]["test"]["file"])


def test_warp_decides_for_exactly_k_labels(tmp_path):
    _, found = tiny_run("warp", tmp_path, top_k=2)
    assert (found.decisions.sum(axis=1) == 2).all()
    lowest = np.where(found.decisions, found.scores, np.inf).min(axis=1)
    assert (np.where(found.decisions, -np.inf, found.scores).max(axis=1) <= lowest).all()


def test_warp_refuses_more_labels_than_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"top_k = 5: expected 1 to 4"):
        tiny_run("warp", tmp_path, top_k=5)


def test_sampled_warp_draws_for_an_image_and_a_step_whoever_has_the_image():
    method = object.__new__(load_method("warp"))
    method.task = SimpleNamespace(
        num_classes=4, generator=lambda name: torch.Generator().manual_seed(sum(map(ord, name)))
    )
    store = LabelStore(np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=np.int8))
    step = SimpleNamespace(step=7)
    whole = method._draws(store.rows(np.array([0, 1, 2])), step)
    parts = [method._draws(store.rows(np.array(rows)), step) for rows in ([0], [1, 2])]
    assert whole.shape == (3, 3)
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, method._draws(store.rows(np.array([0, 1, 2])), SimpleNamespace(step=8)))


def test_sampled_warp_trains_otherwise_than_exact_warp(tmp_path):
    exactly, _ = tiny_run("warp", tmp_path, rank="exact")
    sampled, _ = tiny_run("warp", tmp_path, rank="sampled")
    assert exactly["epochs"][-1]["loss"] != sampled["epochs"][-1]["loss"]


def test_lsep_thresholds_decide_on_scores_that_stay(tmp_path):
    record, found = tiny_run("lsep", tmp_path)
    assert {row["phase"] for row in record["epochs"]} == {"ranking", "decision"}
    decision = [row["val"] for row in record["epochs"] if row["phase"] == "decision"]
    assert all(row == decision[0] for row in decision), "scores moved in the second phase"
    assert 0 < found.decisions.mean() < 1


def test_lsep_counts_decide_for_that_many_highest(tmp_path):
    _, found = tiny_run("lsep", tmp_path, decision="count", max_count=2)
    counts = found.decisions.sum(axis=1)
    assert set(counts.tolist()) <= {1, 2}
    for scores, decisions in zip(found.scores, found.decisions, strict=True):
        assert scores[decisions].min() >= scores[~decisions].max()
    _, found = tiny_run("lsep", tmp_path, protocol="single_positive", decision="count")
    assert (found.decisions.sum(axis=1) == 1).all(), "every observed count is 1"
