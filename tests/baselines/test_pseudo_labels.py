"""`em_apl`: the least likely unknown labels become soft negatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import SIZES, TYPES, assert_follows, assert_gradient_is_numerical, exact, saturated, uniform
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, assumed_entries, assumed_slopes, batch, probability

from mlbench.annotation import State
from mlbench.baselines.entropy import em
from mlbench.baselines.pseudo_labels import apl_quota, em_apl, least_likely
from mlbench.errors import UsageError
from mlbench.registry import load_method
from mlbench.runner.checkpoint import load_checkpoint
from mlbench.runner.plan import resolve
from mlbench.runner.task import RunTask

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]
CASES = [*(batch(*size, seed=size[0]) for size in SIZES), saturated(), *(uniform(state) for state in STATES)]
ALPHA, BETA = 0.1, 0.4


def soft_labels(observed, seed=0):
    """Pseudo-labels on some of the unknown entries, 0 and 1 among them; no numbers elsewhere."""
    random = np.random.RandomState(seed)
    pseudo = (observed == UNKNOWN) & (random.rand(*observed.shape) < 0.5)
    soft = random.choice([0.0, 1.0, 0.001, 0.25, 0.7], observed.shape)
    return np.where(pseudo, soft, np.nan), pseudo


def oracle(logits, observed, soft, pseudo, eps):
    """Entries and slopes, derived by hand."""
    p, q = probability(logits), probability(-logits)
    if eps:
        uncertain = -p * np.log(p + eps) - q * np.log(q + eps)
        slope = p * q * (np.log(q + eps) + q / (q + eps) - np.log(p + eps) - p / (p + eps))
    else:
        uncertain = p * np.logaddexp(0, -logits) + q * np.logaddexp(0, logits)
        slope = -logits * p * q
    found = []
    for assumed, unknown in ((assumed_entries, uncertain), (assumed_slopes, slope)):
        up, down = (assumed(logits, np.full(logits.shape, state), eps) for state in (POSITIVE, NEGATIVE))
        plain = np.where(observed == UNKNOWN, -ALPHA * unknown, assumed(logits, observed, eps))
        found.append(np.where(pseudo, BETA * (soft * up + (1 - soft) * down), plain))
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_values_and_gradients_follow_the_formula(dtype, tolerance, eps):
    for logits, observed in CASES:
        logits = exact(logits, dtype)
        soft, pseudo = soft_labels(observed)
        soft = exact(soft, dtype)
        entries, slopes = oracle(logits, observed, soft, pseudo, eps)
        given = {"soft": torch.tensor(soft, dtype=dtype), "pseudo": torch.tensor(pseudo)}
        assert_follows(
            lambda x, y, given=given, **k: em_apl(x, y, **given, alpha=ALPHA, beta=BETA, eps=eps, **k),
            entries,
            slopes,
            logits,
            observed,
            dtype,
            tolerance,
        )


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_gradients_match_finite_differences(eps):
    logits, observed = batch(3, 5, seed=8, largest=4.0)
    soft, pseudo = (torch.tensor(part) for part in soft_labels(observed))
    assert_gradient_is_numerical(
        lambda x, y: em_apl(x, y, soft=soft, pseudo=pseudo, alpha=0.3, beta=0.7, eps=eps), logits, observed
    )


def test_without_pseudo_labels_it_is_entropy_maximisation_bit_for_bit():
    logits, observed = (torch.tensor(part) for part in batch(5, 4, seed=2))
    nothing = {"soft": torch.full((5, 4), math.nan), "pseudo": torch.zeros(5, 4, dtype=torch.bool)}
    found = em_apl(logits, observed, **nothing, alpha=0.2, beta=0.9)
    assert torch.equal(found, em(logits, observed, alpha=0.2))


def test_worked_example():
    # p = 3/4 with the soft label 1/4, whatever state is kept beside it; an observed negative is no soft label of 1.
    logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    soft, pseudo = torch.tensor([[0.25, 0.0]]), torch.tensor([[True, False]])
    for state in (State.UNKNOWN, State.NEGATIVE):
        observed = torch.tensor([[state, State.NEGATIVE]], dtype=torch.int8)
        entries = em_apl(logits, observed, soft=soft, pseudo=pseudo, alpha=0.1, beta=0.5, reduction="none")
        wanted = [0.5 * (math.log(4 / 3) / 4 + 3 * math.log(4) / 4), math.log(2)]
        assert entries[0].tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": -0.1}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"alpha": math.inf}, "alpha"),
        ({"soft": torch.zeros(2, 1)}, "shape"),
        ({"pseudo": torch.zeros(1, 2, dtype=torch.int8)}, "booleans"),
    ],
)
def test_impossible_arguments_are_refused(changes, message):
    given = {"soft": torch.zeros(1, 2), "pseudo": torch.zeros(1, 2, dtype=torch.bool), "alpha": 0.1, "beta": 0.1}
    with pytest.raises(UsageError, match=message):
        em_apl(torch.zeros(1, 2), torch.zeros(1, 2), **{**given, **changes})


# -- which labels -----------------------------------------------------------------------------------------------------


def test_the_quota_is_an_equal_share_rounded_down():
    # VOC: 10 epochs, 5 of warm-up, 90 %; of 4574 labels 823.32 a round.
    assert apl_quota(torch.tensor([4574, 50, 5, 0]), 0.9, 5).tolist() == [823, 9, 0, 0]
    assert apl_quota(torch.tensor([7]), 1.0, 1).tolist() == [7]
    assert apl_quota(torch.tensor([7]), 0.0, 3).tolist() == [0]


@pytest.mark.parametrize(("theta", "rounds"), [(1.1, 2), (-0.1, 2), (math.nan, 2), (0.9, 0)])
def test_an_impossible_quota_is_refused(theta, rounds):
    with pytest.raises(UsageError, match="pseudo-labels"):
        apl_quota(torch.tensor([4]), theta, rounds)


def test_the_quota_has_no_float_drift():
    for rounds in range(1, 10):
        for count in range(0, 400):
            assert apl_quota(torch.tensor([count]), 0.9, rounds).item() == 9 * count // (10 * rounds)


def test_choice_matches_a_brute_force_one():
    for seed in range(40):
        random = np.random.RandomState(seed)
        logits = random.randint(-4, 4, (7, 5)) / 2.0  # many ties
        unknown = random.rand(7, 5) < 0.6
        quota = random.randint(0, 9, 5)
        found = least_likely(torch.tensor(logits), torch.tensor(unknown), torch.tensor(quota)).numpy()
        for c in range(5):
            rows = sorted((row for row in range(7) if unknown[row, c]), key=lambda row: (logits[row, c], row))
            assert set(np.flatnonzero(found[:, c])) == set(rows[: quota[c]])


def test_a_class_with_fewer_unknown_labels_than_its_quota_gives_them_all():
    unknown = torch.tensor([[True, False], [False, False], [True, False]])
    found = least_likely(torch.zeros(3, 2), unknown, torch.tensor([5, 5]))
    assert torch.equal(found, unknown)


# -- the method -----------------------------------------------------------------------------------------------------


@pytest.fixture
def look(monkeypatch, tmp_path):
    """The logits of each look at the training part, with how it was asked for, as a run goes on."""
    seen = []
    original = RunTask.predict

    def predict(self, network, augment=False, epoch=0):
        scores = original(self, network, augment, epoch)
        seen.append((scores.clone(), self.labels.state.copy(), augment, epoch))
        return scores

    monkeypatch.setattr(RunTask, "predict", predict)
    return seen


def test_the_least_likely_labels_of_each_class_get_their_probability_for_good(train, tmp_path, tiny_request, look):
    kept = {}

    def keep():
        (path,) = (tmp_path / "runs").glob("*/checkpoint.pt")
        kept["log"] = load_checkpoint(path, None)["loop"]["labels"]

    changes = {"train.epochs": 5, "warmup": 2, "theta": 0.9, "beta": 0.5}
    record = train("em_apl", changes=changes, checkpoint_seconds=0.0, on_checkpoint=keep)
    observed = resolve(tiny_request("em_apl")).parts["train"].observed
    # Epochs 2, 3 and 4: the pass after the last one would change nothing any more.
    quota = 9 * (observed == UNKNOWN).sum(axis=0) // 30
    assert len(look) == 3
    assert [row["log"]["pseudo_labels"] for row in record["epochs"]] == [0, *(n * quota.sum() for n in (1, 2, 3, 3))]
    log = {name: tensor.numpy() for name, tensor in kept["log"].items()}
    assert (log["state"] == State.NEGATIVE).all()
    assert len(set(zip(log["row"], log["class"], strict=True))) == len(log["row"]), "a label was given twice"
    for turn, (logits, state, augment, _) in enumerate(look):
        assert augment
        of_turn = log["epoch"] == turn + 2
        p = probability(logits.double().numpy())
        for c in range(4):
            here = of_turn & (log["class"] == c)
            lowest = sorted((p[row, c], row) for row in range(32) if state[row, c] == UNKNOWN)[: quota[c]]
            assert sorted(log["row"][here]) == sorted(row for _, row in lowest)
            np.testing.assert_allclose(log["value"][here], p[log["row"][here], c], rtol=1e-5)
    assert len({epoch for *_, epoch in look}) == 3
    assert min(epoch for *_, epoch in look) > 5, "flips of a look are its own, not those of a training epoch"


def test_pseudo_labels_add_to_the_loss_and_without_them_it_is_entropy_maximisation(train):
    changes = {"train.epochs": 2}
    plain = train("em", changes=changes)["epochs"]
    without = train("em_apl", changes=changes | {"theta": 0.0})["epochs"]
    given = train("em_apl", changes=changes | {"theta": 0.9, "beta": 1.0})["epochs"]
    assert [row["loss"] for row in without] == [row["loss"] for row in plain]
    assert given[0]["loss"] == plain[0]["loss"]
    assert given[1]["loss"] > plain[1]["loss"]


@pytest.mark.parametrize("changes", [{"warmup": 3}, {"train.epochs": 1}])
def test_a_warm_up_that_leaves_no_epoch_is_refused(train, changes):
    with pytest.raises(UsageError, match="leaves none with pseudo-labels"):
        train("em_apl", changes={"train.epochs": 3, **changes})


def test_warm_up_is_half_of_all_epochs_unless_given():
    assert load_method("em_apl").resolve({}) == {
        "alpha": 0.1,
        "beta": 0.2,
        "theta": 0.9,
        "warmup": 0,
        "head.alpha_train": 1.0,
        "head.alpha_infer": 1.0,
    }
