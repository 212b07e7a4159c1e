"""Large-loss rejection: which entries are chosen, how many, and what is left of the loss."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy_losses import (
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    UNSPECIFIED,
    assumed_entries,
    assumed_slopes,
    batch,
    central_differences,
    rejected,
)

from mlbench.baselines.assume_negative import an
from mlbench.baselines.large_loss import large_loss_count, large_loss_mask, llr
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.models.heads import Head, HeadSpec, build_head
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request
from mlbench.store import run_dir

BATCH = 16
EPOCHS = range(2, 11)


# -- how many -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        (20, [2, 4, 5, 7, 8, 10, 12, 13, 15]),  # VOC: epoch 6 is 320 * 2.5 % = 8 exactly
        (80, [7, 13, 20, 26, 32, 39, 45, 52, 58]),  # COCO: epoch 6 is 1280 * 2.5 % = 32 exactly
    ],
)
def test_counts_of_a_full_batch_are_exact(classes, wanted):
    assert [large_loss_count(BATCH * classes, epoch, 0.5) for epoch in EPOCHS] == wanted


@pytest.mark.parametrize(
    ("classes", "delta", "released"),
    [
        (20, 0.5, [2, 4, 5, 7, 9, 10, 12, 13, 15]),
        (80, 0.5, [7, 13, 20, 26, 33, 39, 45, 52, 58]),
        (20, 0.2, [1, 2, 2, 3, 4, 4, 5, 6, 6]),
    ],
)
def test_counts_of_the_released_code_differ_only_by_its_float_drift(classes, delta, released):
    # The released code subtracts delta / 100 from a float once an epoch; that alone explains every difference.
    clean_rate, drifted = 1.0, []
    for _ in EPOCHS:
        clean_rate -= delta / 100
        drifted.append(math.ceil(BATCH * classes * (1 - clean_rate)))
    assert drifted == released
    exact = [large_loss_count(BATCH * classes, epoch, delta) for epoch in EPOCHS]
    differ = [epoch for epoch, a, b in zip(EPOCHS, exact, released, strict=True) if a != b]
    assert differ == ([6] if delta == 0.5 else [])
    assert all(b - a == 1 for a, b in zip(exact, released, strict=True) if a != b)


@pytest.mark.parametrize(("classes", "first", "last"), [(81, 7, 59), (312, 25, 225)])
def test_counts_on_nus_and_cub(classes, first, last):
    assert large_loss_count(BATCH * classes, 2, 0.5) == first
    assert large_loss_count(BATCH * classes, 10, 0.5) == last


def test_counts_are_the_ceiling_of_the_exact_share():
    for entries in (1, 7, 140, 320, 1280, 20480):
        for tenths in (1, 2, 3, 5, 7, 25):
            for epoch in range(1, 40):
                wanted = -((-entries * (epoch - 1) * tenths) // 1000)
                assert large_loss_count(entries, epoch, tenths / 10) == wanted


def test_nothing_is_counted_in_the_first_epoch_or_with_delta_zero():
    assert large_loss_count(320, 1, 100.0) == 0
    assert large_loss_count(320, 9, 0.0) == 0
    assert large_loss_count(320, 9, 0) == 0


@pytest.mark.parametrize(("epoch", "delta"), [(0, 0.5), (-3, 0.5), (2, -0.1), (2, math.nan), (2, math.inf)])
def test_impossible_epoch_or_delta_is_refused(epoch, delta):
    with pytest.raises(UsageError, match="large loss"):
        large_loss_count(320, epoch, delta)
    with pytest.raises(UsageError, match="large loss"):
        llr(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int8), epoch=epoch, delta=delta)


# -- which --------------------------------------------------------------------------------------------------------


def chosen(losses, unknown, count):
    return large_loss_mask(torch.tensor(losses), torch.tensor(unknown), count).tolist()


def test_largest_losses_of_the_whole_batch_are_chosen_whatever_their_row():
    losses = [[5.0, 4.0, 3.0], [0.1, 0.2, 9.0]]
    assert chosen(losses, [[True] * 3] * 2, 3) == [[True, True, False], [False, False, True]]


def test_all_entries_tied_at_the_threshold_are_chosen():
    losses = [[2.0, 1.0, 1.0], [1.0, 0.5, 2.0]]
    assert chosen(losses, [[True] * 3] * 2, 3) == [[True, True, True], [True, False, True]]
    assert chosen(losses, [[True, True, False], [True, True, True]], 3) == [[True, True, False], [True, False, True]]


def test_observed_entries_are_never_chosen_however_large_their_loss():
    losses = [[100.0, 1.0, 100.0, 2.0]]
    unknown = [[False, True, False, True]]
    assert chosen(losses, unknown, 1) == [[False, False, False, True]]
    assert chosen(losses, unknown, 3) == [[False, True, False, True]]
    assert chosen(losses, unknown, 99) == [[False, True, False, True]]
    assert chosen(losses, [[False] * 4], 2) == [[False] * 4]


def test_losses_of_zero_and_below_are_chosen_only_among_unknown_entries():
    # The threshold of U * L is 0 here (or below, with eps): `>=` alone would take the observed entries too.
    assert chosen([[0.0, 0.0, 3.0]], [[True, False, False]], 2) == [[True, False, False]]
    assert chosen([[-1e-5, 0.0, -1e-5]], [[True, False, True]], 1) == [[True, False, True]]


def test_choice_matches_a_brute_force_one():
    for seed in range(60):
        random = np.random.RandomState(seed)
        losses = random.randint(0, 6, (4, 5)) / 2.0  # many ties
        observed = random.choice([POSITIVE, NEGATIVE, UNKNOWN, UNKNOWN, UNSPECIFIED], (4, 5))
        for count in (0, 1, 2, 7, 20, 50):
            mask = large_loss_mask(torch.tensor(losses), torch.tensor(observed == UNKNOWN), count)
            np.testing.assert_array_equal(mask.numpy(), rejected(losses, observed, count))


# -- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("epoch", [1, 2, 6, 10])
@pytest.mark.parametrize(("rows", "classes"), [(16, 20), (3, 20), (1, 20), (1, 1)])
def test_values_and_gradients_follow_the_formula(dtype, tolerance, eps, epoch, rows, classes):
    logits, observed = batch(rows, classes, seed=31 * rows + epoch)
    logits = torch.tensor(logits, dtype=dtype).numpy()
    entries = assumed_entries(logits, observed, eps)
    count = math.ceil(Fraction(rows * classes * (epoch - 1), 200))  # 0.5 % an epoch of the batch as it is
    gone = rejected(entries, observed, count)
    assert gone.sum() == min(count, (observed == UNKNOWN).sum())
    wanted = np.where(gone, 0.0, entries)
    slopes = np.where(gone, 0.0, assumed_slopes(logits, observed, eps))
    for reduction, value, scale in (
        ("none", wanted, 1.0),
        ("sum", wanted.sum(), 1.0),
        ("mean", wanted.sum() / (rows * classes), 1.0 / (rows * classes)),
    ):
        x = torch.tensor(logits, requires_grad=True)
        found = llr(x, torch.tensor(observed), epoch=epoch, delta=0.5, eps=eps, reduction=reduction)
        (gradient,) = torch.autograd.grad(found.sum(), x)
        assert found.dtype == gradient.dtype == dtype
        np.testing.assert_allclose(found.detach().numpy(), value, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(gradient.numpy(), slopes * scale, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_gradients_match_finite_differences(eps):
    logits, observed = batch(4, 5, seed=5, largest=4.0)

    def value(x):
        return llr(x, torch.tensor(observed), epoch=5, delta=5.0, eps=eps)

    x = torch.tensor(logits, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(x), x)
    numerical = central_differences(lambda moved: float(value(torch.tensor(moved))), logits)
    np.testing.assert_allclose(gradient.numpy(), numerical, atol=1e-9)


def test_worked_example():
    # One observed positive; k = ceil(4 * 1 * 25 %) = 1 in epoch 2, 2 in epoch 3.
    logits = torch.tensor([[0.0, 3.0], [1.0, -2.0]], dtype=torch.float64)
    observed = torch.tensor([[1, 0], [0, 0]], dtype=torch.int8)
    a, b, c, d = np.log(2), np.log1p(np.exp(3)), np.log1p(np.exp(1)), np.log1p(np.exp(-2))
    for epoch, wanted in ((1, a + b + c + d), (2, a + c + d), (3, a + d), (4, a), (9, a)):
        assert llr(logits, observed, epoch=epoch, delta=25.0).item() == pytest.approx(wanted / 4, abs=1e-14)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_first_epoch_is_assume_negative_bit_for_bit(eps):
    logits, observed = (torch.tensor(part) for part in batch(16, 20, seed=0, largest=50.0))
    assert torch.equal(llr(logits, observed, epoch=1, delta=100.0, eps=eps), an(logits, observed, eps=eps))
    assert torch.equal(llr(logits, observed, epoch=7, delta=0.0, eps=eps), an(logits, observed, eps=eps))


def test_full_labels_leave_nothing_to_reject():
    logits, observed = (torch.tensor(part) for part in batch(16, 20, seed=0))
    observed[observed == UNKNOWN] = NEGATIVE
    assert torch.equal(llr(logits, observed, epoch=10, delta=100.0), an(logits, observed))


def test_with_fewer_unknown_entries_than_counted_the_observed_ones_keep_their_loss():
    logits = torch.tensor([[-50.0, 50.0, -1.0, 2.0]], dtype=torch.float64)
    observed = torch.tensor([[POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]], dtype=torch.int8)
    entries = llr(logits, observed, epoch=10, delta=50.0, reduction="none")
    assert entries.tolist() == [[50.0, 50.0, 0.0, 0.0]]


def test_a_batch_without_positives_is_rejected_like_any_other():
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    entries = llr(logits, torch.zeros(2, 2, dtype=torch.int8), epoch=2, delta=50.0, reduction="none")
    np.testing.assert_allclose(entries.numpy(), [[np.logaddexp(0, 1), np.logaddexp(0, 2)], [0, 0]], rtol=1e-6)


def test_unspecified_entries_are_never_chosen_but_count_in_the_batchs_size():
    logits = torch.tensor([[9.0, 8.0, 2.0, 1.0]], dtype=torch.float64)
    observed = torch.tensor([[2, 2, 0, 0]], dtype=torch.int8)
    entries = llr(logits, observed, epoch=2, delta=25.0, reduction="none")  # k = 1 of 4 entries
    np.testing.assert_allclose(entries.numpy(), [[0, 0, 0, np.logaddexp(0, 1)]], rtol=1e-12)
    mean = llr(logits, observed, epoch=2, delta=25.0)
    assert mean.item() == pytest.approx(np.logaddexp(0, 1) / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_saturated_logits_are_ranked_and_stay_finite(dtype, eps):
    logits = torch.tensor([[50.0, -50.0, 100.0, -100.0, -50.0]], dtype=dtype, requires_grad=True)
    observed = torch.tensor([[0, 0, 0, 0, 1]], dtype=torch.int8)
    entries = llr(logits, observed, epoch=2, delta=20.0, eps=eps, reduction="none")  # k = 1
    # Without eps the loss grows on, so 100 goes alone; with eps both stand at -log(eps): tied, so both go.
    assert (entries[0, [0, 2, 4]] == 0).tolist() == [eps > 0, True, False]
    (gradient,) = torch.autograd.grad(entries.sum(), logits)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 2] == 0


def test_the_choice_carries_no_gradient():
    losses = torch.rand(3, 4, requires_grad=True)
    mask = large_loss_mask(losses, torch.ones(3, 4, dtype=torch.bool), 3)
    assert mask.dtype == torch.bool
    assert not mask.requires_grad
    assert mask.sum() == 3


def test_a_logit_that_is_no_number_is_not_hidden_by_being_rejected():
    logits = torch.tensor([[math.nan, 1.0, 2.0, 3.0]])
    for epoch in (1, 2, 4):
        assert torch.isnan(llr(logits, torch.zeros(1, 4, dtype=torch.int8), epoch=epoch, delta=25.0))


# -- the methods ----------------------------------------------------------------------------------------------------


def test_a_boostlu_head_with_alpha_one_is_the_plain_head_bit_for_bit():
    features = torch.rand(6, 8, 3, 3)
    _, observed = batch(6, 5, seed=4)
    found = []
    for spec in (HeadSpec("linear"), HeadSpec("boostlu", 1.0, 1.0)):
        torch.manual_seed(0)
        head: Head = build_head(spec, 8, 5)
        logits = head(features)
        value = llr(logits, torch.tensor(observed), epoch=4, delta=5.0)
        found.append([logits, value, *torch.autograd.grad(value, list(head.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_defaults_are_the_released_settings():
    plain = {"delta": 0.5, "head.alpha_train": 1.0, "head.alpha_infer": 1.0}
    assert load_method("llr").resolve({}) == plain
    assert load_method("llr_boostlu").resolve({}) == plain | {"head.alpha_train": 5.0, "head.alpha_infer": 5.0}
    assert load_method("llr").batch_global
    assert load_method("llr_boostlu").batch_global


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Records and epochs' test scores of three short runs on one store."""
    store = tmp_path_factory.mktemp("store")
    base = {"train.batch_size": 11, "train.image_size": 64, "train.lr": 1e-3}
    found = {}
    for method, more in (("an", {}), ("llr", {"delta": 20.0}), ("llr_boostlu", {"delta": 20.0, "head.alpha": 1.0})):
        changes = base | more
        request = Request("single_positive", method, tiny_dataset(), backbone="scenes", track="full", epochs=2)
        record = run(dataclasses.replace(request, changes=changes), Options(store=store, device="cpu", quiet=True))
        folder = run_dir(store, record["key"]) / "epochs"
        scores = [read_predictions(folder / f"{epoch:03d}-test.safetensors").scores for epoch in (1, 2)]
        found[method] = [row["loss"] for row in record["epochs"]], scores
    return found


def test_a_run_trains_as_assume_negative_until_the_second_epoch(runs):
    (plain, plain_scores), (rejecting, rejecting_scores) = runs["an"], runs["llr"]
    assert rejecting[0] == plain[0]
    np.testing.assert_array_equal(rejecting_scores[0], plain_scores[0])
    assert rejecting[1] < plain[1]
    assert np.abs(rejecting_scores[1] - plain_scores[1]).max() > 1e-4


def test_a_run_with_boostlu_alpha_one_is_the_plain_method_bit_for_bit(runs):
    assert runs["llr_boostlu"][0] == runs["llr"][0]
    np.testing.assert_array_equal(runs["llr_boostlu"][1], runs["llr"][1])


@pytest.mark.parametrize(("method", "kind"), [("llr", "rejected"), ("llct", "corrected")])
def test_what_a_method_chose_is_in_the_record(train, method: str, kind: str) -> None:
    record = train(method, changes={"delta": 10.0, "train.epochs": 3})
    entries = [row["forensics"].get(kind, {"entries": 0})["entries"] for row in record["epochs"]]
    assert entries[0] == 0
    assert 0 < entries[1] < entries[2]
