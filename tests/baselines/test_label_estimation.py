"""`role` and ROLE + LI: label estimates learned beside the classifier."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import SIZES, TYPES, assert_follows, assert_gradient_is_numerical, exact, saturated, uniform
from numpy_losses import (
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    UNSPECIFIED,
    assumed_entries,
    assumed_slopes,
    batch,
    probability,
)
from safetensors.torch import load_file

from mlbench.annotation import State
from mlbench.baselines.label_estimation import role, role_terms, start_estimates
from mlbench.baselines.observed_only import epr
from mlbench.errors import UsageError
from mlbench.models.heads import HeadSpec
from mlbench.registry import load_method
from mlbench.runner.checkpoint import load_checkpoint
from mlbench.runner.feed import Feed
from mlbench.runner.loop import epoch_order
from mlbench.runner.plan import resolve
from mlbench.runner.task import RunTask
from mlbench.runner.world import World
from mlbench.seeds import id_hashes
from mlbench.store import run_dir

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]
CASES = [*(batch(*size, seed=size[0]) for size in SIZES), saturated(), *(uniform(state) for state in STATES)]
K = 1.5


def side(oracle, x, target, observed, eps):
    """Half of what one of the two has: observed positives, and the other's probability as target."""
    up, down = (oracle(x, np.full(x.shape, state), eps) for state in (POSITIVE, NEGATIVE))
    follow = np.where(observed == UNSPECIFIED, 0.0, target * up + (1 - target) * down)
    return (np.where(observed == POSITIVE, up, 0.0) + follow) / 2


def deviation(x, observed, k):
    p = np.where(observed == UNSPECIFIED, 0.0, probability(x))
    return sum(sum(row) for row in p) / len(x) - k


def wanted(x, z, observed, eps, k=K):
    """Entries of `role`, and slopes with respect to `x` of their sum."""
    rows, classes = x.shape
    count = (deviation(x, observed, k) ** 2 + deviation(z, observed, k) ** 2) / classes**2 / 2
    entries = side(assumed_entries, x, probability(z), observed, eps)
    entries = entries + side(assumed_entries, z, probability(x), observed, eps) + count
    pull = np.where(observed == UNSPECIFIED, 0.0, probability(x) * probability(-x)) * deviation(x, observed, k)
    return entries, side(assumed_slopes, x, probability(z), observed, eps) + pull * rows * classes / classes**2 / rows


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_values_and_both_gradients_follow_the_formula(dtype, tolerance, eps):
    for logits, observed in CASES:
        x = exact(logits, dtype)
        z = exact(np.roll(logits, 1, axis=1) / 2, dtype)
        # "sum" is as many times larger than the mean as there are entries.
        closeness = tolerance * (10 if x.size > 100 else 1) if dtype == torch.float32 else tolerance
        for mine, other, call in (
            (x, z, lambda a, b, y, **k: role(a, y, estimates=b, expected=K, eps=eps, **k)),
            (z, x, lambda a, b, y, **k: role(b, y, estimates=a, expected=K, eps=eps, **k)),
        ):
            entries, slopes = wanted(mine, other, observed, eps)
            fixed = torch.tensor(other, dtype=dtype)
            assert_follows(
                lambda a, y, call=call, fixed=fixed, **k: call(a, fixed, y, **k),
                entries,
                slopes,
                mine,
                observed,
                dtype,
                closeness,
            )


def test_targets_are_fixed_so_that_only_the_own_part_of_agreement_has_a_gradient():
    # Were the target sigmoid(x) not fixed, the estimates' cross-entropy would add -z p (1 - p) to the slope at x.
    x = torch.tensor([[0.0]], requires_grad=True)
    z = torch.tensor([[3.0]], requires_grad=True)
    value = role_terms(x, torch.zeros(1, 1), estimates=z, expected=1.0)["agreement"]
    gradients = torch.autograd.grad(value, (x, z))
    p, e = 0.5, 1 / (1 + math.exp(-3))
    assert [g.item() for g in gradients] == pytest.approx([(p - e) / 2, (e - p) / 2], abs=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("term", ["positives", "count"])
def test_gradients_of_terms_without_fixed_targets_match_finite_differences(eps, term):
    logits, observed = batch(3, 5, seed=8, largest=4.0)
    z = torch.tensor(np.roll(logits, 1))
    for call in (
        lambda x, y: role_terms(x, y, estimates=z, expected=K, eps=eps)[term],
        lambda x, y: role_terms(z, y, estimates=x, expected=K, eps=eps)[term],
    ):
        assert_gradient_is_numerical(call, logits, observed)


def test_with_estimates_equal_to_the_logits_it_is_expected_positives_and_entropy():
    logits, observed = batch(6, 5, seed=3)
    observed[observed == UNSPECIFIED] = UNKNOWN
    x = torch.tensor(logits)
    p, q = probability(logits), probability(-logits)
    entropy = -(p * np.log(p) + q * np.log(q)).mean()
    both = role(x, torch.tensor(observed), estimates=x, expected=2.0)
    assert both.item() == pytest.approx(epr(x, torch.tensor(observed), expected=2.0).item() + entropy, abs=1e-12)


def test_worked_example():
    # p = 1/2, 3/4 and e = 3/4, 1/4; the first label is observed.
    x = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    z = torch.tensor([[math.log(3), -math.log(3)]], dtype=torch.float64)
    terms = role_terms(x, torch.tensor([[1, 0]]), estimates=z, expected=1.0)
    a, b, c = math.log(2), math.log(4 / 3), math.log(4)
    assert terms["positives"].item() == pytest.approx((a + b) / 2 / 2)
    follow = a + (b + 3 * c) / 4 + (b + c) / 2 + (3 * c + b) / 4  # p after e: entries 1, 2; e after p: entries 1, 2
    assert terms["agreement"].item() == pytest.approx(follow / 2 / 2)
    assert terms["count"].item() == pytest.approx((0.25**2 + 0.0**2) / 4 / 2)


@pytest.mark.parametrize("expected", [-1.0, math.nan, math.inf])
def test_impossible_expectation_is_refused(expected):
    with pytest.raises(UsageError, match="role: expected"):
        role(torch.zeros(1, 2), torch.zeros(1, 2), estimates=torch.zeros(1, 2), expected=expected)


def test_estimates_of_another_shape_are_refused():
    with pytest.raises(UsageError, match=r"expected both \[B, C\]"):
        role(torch.zeros(1, 2), torch.zeros(1, 2), estimates=torch.zeros(2, 2), expected=1.0)


# -- where estimates start ------------------------------------------------------------------------------------------


def test_estimates_start_undecided_but_for_what_is_observed():
    observed = np.random.RandomState(0).choice([1, 0, 0, 0, -1, 2], (400, 30)).astype(np.int8)
    start = start_estimates(observed, torch.Generator().manual_seed(3))
    p = probability(start.numpy())
    np.testing.assert_allclose(p[observed == POSITIVE], 0.995, atol=1e-6)
    np.testing.assert_allclose(p[observed == NEGATIVE], 0.005, atol=1e-6)
    free = start.numpy()[(observed == UNKNOWN) | (observed == UNSPECIFIED)]
    q = math.log(0.6 / 0.4)
    assert -q <= free.min() < -0.99 * q
    assert 0.99 * q < free.max() <= q
    counts, _ = np.histogram(free, bins=10, range=(-q, q))
    assert np.abs(counts / len(free) - 0.1).max() < 0.01
    assert torch.equal(start, start_estimates(observed, torch.Generator().manual_seed(3)))
    assert start.dtype == torch.float32


# -- the methods ----------------------------------------------------------------------------------------------------


def checkpoints_of(train, tmp_path, method, **given):
    """Every checkpoint of a short run with Adam, and its record."""
    seen = []

    def look():
        (path,) = (tmp_path / "runs").glob("*/checkpoint.pt")
        seen.append(load_checkpoint(path, None))

    record = train(method, checkpoint_seconds=0.0, on_checkpoint=look, **given)
    return seen, record


def rates(saved):
    return {group["role"]: group["lr"] for group in saved["loop"]["optimizer"]["param_groups"]}


def test_estimates_learn_ten_times_faster_and_outside_the_batch_too(train, tmp_path, tiny_request):
    seen, _ = checkpoints_of(train, tmp_path, "role", changes={"train.lr_multipliers": {}, "train.epochs": 1})
    assert rates(seen[0]) == pytest.approx({"backbone": 1e-3, "head": 1e-3, "estimates": 1e-2})
    part = resolve(tiny_request("role")).parts["train"]
    order = epoch_order(id_hashes(part.split.ids), ("tiny", 0, 1))
    first, second = (saved["loop"]["network"]["estimates.logits"] for saved in seen[:2])
    moved = (first != second).any(dim=1).numpy()
    assert moved[order[:22]].all(), "dense Adam moves every row that ever had a gradient"
    assert not moved[order[22:]].any()


def start_of(request):
    """A method of one phase and its network as training starts with them, and the run's feed."""
    run = resolve(request)
    world = World("cpu")
    feed = Feed(run, world.device)
    task = RunTask(run, world, feed)
    method = run.method(task)
    (phase,) = method.phases()
    task.begin(phase)
    return method, method.network(phase), feed


@pytest.mark.parametrize("given", [0.0, 3.5])
def test_the_first_loss_of_a_run_is_that_of_the_formula_with_the_count_given_or_true(train, tiny_request, given):
    changes = {"train.batch_size": 32, "train.epochs": 1, "train.augment": [], "expected_positives": given}
    _, network, feed = start_of(tiny_request("role", changes=changes))
    part = feed.run.parts["train"]
    with torch.no_grad():
        logits = network(feed.batch("train", np.arange(32), None).inputs).logits.double().numpy()
        estimates = network.estimates(torch.arange(32)).double().numpy()
    true_count = (part.labels == State.POSITIVE).sum() / 32
    entries, _ = wanted(logits, estimates, part.observed, 0.0, given or true_count)
    record = train("role", changes=changes)
    assert record["epochs"][0]["loss"] == pytest.approx(entries.mean(), rel=1e-5)
    assert record["supervision"]["extra"] == ["label_count"]


def test_estimates_go_by_row_of_the_training_part(tiny_request):
    _, network, feed = start_of(tiny_request("role"))
    observed = feed.run.parts["train"].observed
    sure = (network.estimates.logits > 5).numpy()
    np.testing.assert_array_equal(sure, observed == State.POSITIVE)
    rows = torch.tensor([5, 0, 31])
    assert torch.equal(network.estimates(rows), network.estimates.logits[rows])


def test_a_linear_start_is_trained_as_released_and_hands_over_head_and_estimates(train, tmp_path):
    changes = {"linear_epochs": 3, "train.epochs": 1, "train.lr": 1e-4}
    seen, record = checkpoints_of(train, tmp_path, "role_li", changes=changes)
    assert [(row["phase"], row["epoch"]) for row in record["epochs"]] == [
        *(("linear", epoch) for epoch in (1, 2, 3)),
        ("finetune", 1),
    ]
    linear = [saved for saved in seen if saved["phase"] == "linear"]
    assert rates(linear[0]) == pytest.approx({"head": 1e-3, "estimates": 1e-2})  # the protocol's head x10 is not its
    assert max(saved["loop"]["position"]["batch"] for saved in linear) == 2  # 32 images in batches of 16
    handed = load_file(run_dir(tmp_path / "runs", record["key"]) / "phase-linear.safetensors")
    assert set(handed) == {"head.weight", "head.bias", "estimates.logits"}
    begun = next(saved for saved in seen if saved["phase"] == "finetune")
    assert rates(begun) == pytest.approx({"backbone": 1e-4, "head": 1e-3, "estimates": 1e-3})
    for name, tensor in handed.items():
        step = (begun["loop"]["network"][name] - tensor).abs().max()
        assert 0 < step <= 1.01e-3, "the first step of Adam goes as far as the rate"


def test_the_linear_phase_has_the_released_defaults_and_cached_features_are_refused(tiny_request):
    hyper = load_method("role_li").resolve({})
    assert [hyper[f"linear_{key}"] for key in ("epochs", "lr", "batch_size")] == [25, 1e-3, 16]
    with pytest.raises(UsageError, match="does not run on track 'head'"):
        resolve(tiny_request("role_li", track="head"))


def test_boostlu_joins_in_the_second_phase(tiny_request):
    method, _, _ = start_of(tiny_request("role"))
    boosted = load_method("role_li_boostlu")(method.task)
    boosted.hyper = boosted.resolve({})
    linear, finetune = boosted.phases()
    first = boosted.network(linear)
    assert first.head.spec == HeadSpec()
    boosted.task.artefacts["linear"] = boosted.handover(linear, first)
    second = boosted.network(finetune)
    assert second.head.spec == HeadSpec("boostlu", 5.0, 5.0)
    assert torch.equal(second.head.weight, first.head.weight)
    assert torch.equal(second.estimates.logits, first.estimates.logits)
