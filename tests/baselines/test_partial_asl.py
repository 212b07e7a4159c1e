"""`p_asl`: three kinds of labels, three modes, and a prior from a temporary model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_checks import SIZES, TYPES, assert_follows, assert_gradient_is_numerical, exact, saturated, uniform
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, batch, probability
from safetensors.numpy import load_file

from mlbench.baselines.partial_asl import MODES, partial_asl_loss, selective_mask
from mlbench.conformance.suite import compare, read_course, run_with_stops
from mlbench.errors import UsageError
from mlbench.registry import load_method
from mlbench.store import run_dir

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]
CASES = [*(batch(*size, seed=size[0]) for size in SIZES), saturated(), *(uniform(state) for state in STATES)]
SETTINGS = [{}, {"gamma_pos": 1.0, "gamma_neg": 3.0, "gamma_unknown": 4.0, "margin": 0.05}, {"eps": 1e-8}]


def left_out(logits, observed, mode, prior, threshold, topk):
    """Which unknown entries do not count, from a sorted list of the whole batch."""
    out = (observed == UNKNOWN) & (mode == "ignore")
    if mode != "selective":
        return out
    highest = sorted((float(x) for x in logits[observed == UNKNOWN]), reverse=True)[: topk * len(logits)]
    for place in zip(*np.nonzero(observed == UNKNOWN), strict=True):
        frequent = prior is not None and prior[place[1]] > threshold
        out[place] = frequent or bool(highest and logits[place] >= highest[-1])
    return out


def oracle(logits, observed, out, gamma_pos=0.0, gamma_neg=1.0, gamma_unknown=2.0, margin=0.0, eps=0.0):
    """Entries and slopes, one entry at a time; the weights are outside the gradient."""
    entries, slopes = np.zeros(logits.shape), np.zeros(logits.shape)
    for place, x in np.ndenumerate(logits):
        p, q, state = float(probability(x)), float(probability(-x)), observed[place]
        if state == UNSPECIFIED or out[place]:
            continue
        if state == POSITIVE:
            kept, change, weight, loss = p, p * q, q**gamma_pos, np.logaddexp(0, -x)
        else:
            if q + margin >= 1 and margin:
                continue
            gamma = gamma_neg if state == NEGATIVE else gamma_unknown
            kept, change, weight = q + margin, -p * q, (p - margin) ** gamma
            loss = -np.log(kept) if margin else np.logaddexp(0, x)
        if kept < eps:
            entries[place] = -weight * np.log(eps)
        else:
            entries[place], slopes[place] = weight * loss, -weight * change / kept
    return entries, slopes


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients_follow_the_formula(dtype, tolerance, settings, mode):
    for logits, observed in CASES:
        logits = exact(logits, dtype)
        prior = np.linspace(0.0, 0.1, logits.shape[1]) if mode == "selective" else None
        out = left_out(logits, observed, mode, prior, 0.05, 1)
        given = {"mode": mode, "likelihood_topk": 1, **settings}
        given["prior"] = None if prior is None else torch.tensor(prior, dtype=dtype)
        assert_follows(
            lambda x, y, given=given, **k: partial_asl_loss(x, y, **given, **k),
            *oracle(logits, observed, out, **settings),
            logits,
            observed,
            dtype,
            tolerance,
        )


def test_without_powers_gradients_match_finite_differences():
    # The powers are outside the gradient by design: only without them is it the slope of the value.
    none = {"gamma_pos": 0.0, "gamma_neg": 0.0, "gamma_unknown": 0.0, "reduction": "mean"}
    for mode in MODES:
        logits, observed = batch(4, 5, seed=8, largest=4.0)
        assert_gradient_is_numerical(
            lambda x, y, mode=mode: partial_asl_loss(x, y, mode=mode, **none), logits, observed
        )


def test_the_selective_mode_leaves_out_frequent_classes_and_the_likely_entries():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [-1.0, -2.0, 4.0, -3.0]], dtype=torch.float64)
    observed = torch.tensor([[0, 0, 0, 1], [0, 0, -1, 0]], dtype=torch.int8)
    prior = torch.tensor([0.0, 0.0, 0.0, 0.9])
    entries = partial_asl_loss(logits, observed, mode="selective", prior=prior, likelihood_topk=1, reduction="none")
    # One an image for two images: 3 and 2, both of the first; class 3 is frequent, known labels always count.
    assert (entries == 0).tolist() == [[True, True, False, False], [False, False, False, True]]


@pytest.mark.parametrize("prior", [None, np.linspace(0.0, 0.1, 7)])
def test_the_mask_is_what_the_loss_leaves_out(prior):
    logits, observed = batch(5, 7, seed=4)
    given = {"prior": None if prior is None else torch.tensor(prior), "likelihood_topk": 2}
    found = selective_mask(torch.tensor(logits), torch.tensor(observed), **given)
    assert found.any()
    assert found.tolist() == left_out(logits, observed, "selective", prior, 0.05, 2).tolist()


def test_entries_of_frequent_classes_take_part_in_the_count_of_likely_ones():
    logits, observed = torch.tensor([[5.0, 1.0]]), torch.zeros(1, 2)
    entries = partial_asl_loss(
        logits, observed, mode="selective", prior=torch.tensor([0.9, 0.0]), likelihood_topk=1, reduction="none"
    )
    assert (entries == 0).tolist() == [[True, False]]


def test_ties_at_the_last_place_and_fewer_unknown_entries_than_asked_for():
    tied = partial_asl_loss(torch.zeros(2, 3), torch.zeros(2, 3), mode="selective", likelihood_topk=1)
    assert tied == 0
    observed = torch.tensor([[1, -1, 0]])
    few = partial_asl_loss(torch.ones(1, 3), observed, mode="selective", likelihood_topk=50, reduction="none")
    assert (few == 0).tolist() == [[False, False, True]]


def test_a_worked_example():
    logits = torch.tensor([[-np.log(3), np.log(3), 0.0]])  # p = 1/4, 3/4, 1/2
    observed = torch.tensor([[1, -1, 0]], dtype=torch.int8)
    wanted = np.log(4) + 0.75 * np.log(4) + 0.5**2 * np.log(2)
    assert partial_asl_loss(logits, observed).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": "selectiv"}, "Did you mean 'selective'"),
        ({"prior": torch.zeros(3)}, "prior"),
        ({"prior_threshold": 1.5}, "prior_threshold"),
        ({"likelihood_topk": -1}, "likelihood_topk"),
        ({"margin": 1.0}, "margin"),
    ],
)
def test_impossible_settings_are_refused(wrong, said):
    with pytest.raises(UsageError, match=said):
        partial_asl_loss(torch.zeros(1, 2), torch.zeros(1, 2), **wrong)


@pytest.mark.parametrize("mode", MODES)
def test_modes_train_once_and_the_selective_one_twice(train, mode):
    record = train("p_asl", changes={"mode": mode, "train.epochs": 1})
    phases = [row["phase"] for row in record["epochs"]]
    assert phases == (["prior", "train"] if mode == "selective" else ["train"])


def test_the_prior_is_the_mean_score_over_all_training_steps_of_the_temporary_model(train, tmp_path, monkeypatch):
    seen = []
    cls = load_method("p_asl")
    plain = cls.loss

    def watched(self, logits, labels, step):
        if step.phase == "prior":
            seen.append(logits.detach().double().sigmoid())
        return plain(self, logits, labels, step)

    monkeypatch.setattr(cls, "loss", watched)
    record = train("p_asl")
    handed = load_file(run_dir(tmp_path / "runs", record["key"]) / "phase-prior.safetensors")
    assert len(seen) == 6
    assert len(torch.cat(seen)) == 64
    np.testing.assert_allclose(handed["prior"], torch.cat(seen).mean(dim=0).numpy(), rtol=1e-6)


def test_the_record_judges_what_the_selective_mode_left_out(train, monkeypatch):
    noted = []
    cls = load_method("p_asl")
    plain = cls.loss

    def watched(self, logits, labels, step):
        value = plain(self, logits, labels, step)
        noted.append((step.phase, step.epoch, labels.unknown.sum().item(), labels.notes))
        return value

    monkeypatch.setattr(cls, "loss", watched)
    record = train("p_asl", changes={"likelihood_topk": 1, "prior_threshold": 1.0})
    for row in record["epochs"]:
        steps = [rest for phase, epoch, *rest in noted if (phase, epoch) == (row["phase"], row["epoch"])]
        notes = [note for _, found in steps for note in found]
        assert {note.kind for note in notes} == ({"rejected"} if row["phase"] == "train" else set())
        left = sum(len(note.rows) for note in notes)
        assert left < sum(unknown for unknown, _ in steps)
        assert row["forensics"].get("rejected", {}).get("entries", 0) == left


def test_stopped_at_every_step_it_reaches_the_same_bits(train, tiny_request, tmp_path):
    changes = {"likelihood_topk": 1, "prior_threshold": 0.5}
    whole = train("p_asl", changes=changes)
    course, stops = run_with_stops(tiny_request("p_asl", changes=changes), tmp_path / "stopped", 1)
    assert stops >= 6
    compare(read_course(tmp_path / "runs", whole), course, 0.0)
