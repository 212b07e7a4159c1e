"""`imcl`: squashing, completion, joint matching against a naive one, and a state that survives a stop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import SIZES, TYPES, exact, saturated
from numpy_losses import batch

from mlbench.annotation.sparse import SparseLabels
from mlbench.baselines.imcl import (
    LabelGraph,
    complete,
    cooccurrence,
    known_mean,
    least_squares,
    match,
    residual,
    squash,
)
from mlbench.conformance.suite import compare, read_course, run_with_stops
from mlbench.errors import UsageError
from mlbench.runner.loop import PhaseLoop


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("c", [1.0, 2.0, 5.0])
def test_squashing_follows_the_formula(dtype, tolerance, c):
    x = exact(np.array([-100.0, -50.0, -3.0, -0.2, 0.0, 0.1, 4.0, 50.0, 100.0]), dtype)
    u = np.clip(x + 0.5 * np.log(1 / c), -80, 80)
    wanted = (np.exp(u) - np.exp(-u) / c) / (np.exp(u) + np.exp(-u))
    slope = (1 + 1 / c) * 2 / (np.exp(u) + np.exp(-u)) ** 2 * (abs(x) < 80)
    logits = torch.tensor(x, dtype=dtype, requires_grad=True)
    found = squash(logits, c)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=tolerance)
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=tolerance, atol=tolerance)


def test_squashed_scores_lie_between_a_negative_and_a_positive():
    assert squash(torch.tensor([-60.0, 0.0, 60.0]), 2.0).tolist() == pytest.approx([-0.5, 0.0, 1.0], abs=1e-7)
    with pytest.raises(UsageError, match=r"c = 0\.5"):
        squash(torch.zeros(1), 0.5)


def test_known_labels_replace_scores():
    observed = torch.tensor([[1, -1, 0, 2]], dtype=torch.int8)
    found = complete(observed, torch.full((1, 4), 0.25), c=2.0)
    assert found.tolist() == [[1.0, -0.5, 0.25, 0.25]]


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
def test_the_logistic_term_is_a_mean_over_known_labels(dtype, tolerance):
    for logits, observed in [*(batch(*size, seed=size[0]) for size in SIZES), saturated()]:
        x, known = exact(logits, dtype), np.isin(observed, [1, -1])
        entries = np.logaddexp(0, np.where(observed == 1, -x, x))[known]
        found = known_mean(torch.tensor(x, dtype=dtype), torch.tensor(observed))
        np.testing.assert_allclose(found.item(), entries.sum() / max(known.sum(), 1), rtol=tolerance, atol=tolerance)
    assert known_mean(torch.ones(2, 3), torch.zeros(2, 3)) == 0


# -- matching ------------------------------------------------------------------------------------------------------


def naive_match(y, f, label_atoms, feature_atoms, label_weight, feature_weight, excluded, most, threshold, balance):
    """One image, one atom and one number at a time; least squares by numpy."""
    largest = max(label_weight, feature_weight) * (1 + 1e-4)
    weights = (label_weight / largest, feature_weight / largest)
    chosen, solutions = [], [np.zeros(0), np.zeros(0)]
    rests = [y.copy(), f.copy()]
    free = [m for m in range(len(label_atoms)) if not excluded[m]]
    while len(chosen) < most and free:
        scores = dict.fromkeys(free, 0.0)
        signs = dict.fromkeys(free, 0.0)
        for rest, atoms, weight in zip(rests, (label_atoms, feature_atoms), weights, strict=True):
            if weight == 0:
                continue
            inner = {m: float(np.dot(atoms[m], rest)) for m in free}
            gains = {m: inner[m] ** 2 / float(np.dot(atoms[m], atoms[m])) for m in free}
            top = max(gains.values()) if balance else 1.0
            for m in free:
                scores[m] += weight * gains[m] / top
                signs[m] += float(np.sign(inner[m]))
        best = max(free, key=lambda m: scores[m] * signs[m])
        if scores[best] * signs[best] < threshold or best in chosen:
            break
        chosen.append(best)
        solutions = [
            np.linalg.lstsq(atoms[chosen].T, target, rcond=None)[0]
            for atoms, target in ((label_atoms, y), (feature_atoms, f))
        ]
        rests = [
            target - solution @ atoms[chosen]
            for solution, atoms, target in zip(solutions, (label_atoms, feature_atoms), (y, f), strict=True)
        ]
    return chosen, solutions


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 0.5), (1e5, 1.0), (2.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize(("most", "threshold"), [(3, 1e-3), (1, 1e-3), (5, 0.4)])
def test_matching_a_batch_is_matching_image_by_image(balance, weights, most, threshold):
    random = np.random.RandomState(3)
    y, f = random.randn(12, 9), random.randn(12, 6)
    label_atoms, feature_atoms = random.randn(20, 9), random.randn(20, 6)
    excluded = random.rand(12, 20) < 0.2
    excluded[0], excluded[1, 1:] = True, True
    chosen, for_labels, for_features = match(
        *(torch.tensor(part) for part in (y, f, label_atoms, feature_atoms)),
        label_weight=weights[0],
        feature_weight=weights[1],
        excluded=torch.tensor(excluded),
        most=most,
        threshold=threshold,
        balance=balance,
    )
    counts = set()
    for row in range(12):
        wanted, solutions = naive_match(
            y[row], f[row], label_atoms, feature_atoms, *weights, excluded[row], most, threshold, balance
        )
        counts.add(len(wanted))
        rest = [-1] * (most - len(wanted))
        assert chosen[row].tolist() == wanted + rest
        for found, solution in zip((for_labels, for_features), solutions, strict=True):
            np.testing.assert_allclose(found[row].numpy(), [*solution, *np.zeros(len(rest))], atol=1e-9)
    assert 0 in counts, "an image without a free atom takes none"
    left = residual(torch.tensor(y), torch.tensor(label_atoms), chosen, for_labels)
    for row in range(12):
        taken = [m for m in chosen[row].tolist() if m >= 0]
        np.testing.assert_allclose(label_atoms[taken] @ left[row].numpy(), np.zeros(len(taken)), atol=1e-9)


def test_atom_zero_may_be_taken_second():
    atoms = torch.eye(3, dtype=torch.float64)
    y = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    none = torch.zeros(1, 3, dtype=torch.bool)
    chosen, coefficients, _ = match(y, y, atoms, atoms, label_weight=1.0, feature_weight=1.0, excluded=none)
    assert chosen.tolist() == [[1, 0, -1]]
    assert coefficients.tolist() == [[pytest.approx(2.0), pytest.approx(1.0), 0.0]]


def test_equal_atoms_share_their_coefficient():
    atoms = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])
    found = least_squares(torch.tensor([[3.0, 1.0]]), atoms)
    np.testing.assert_allclose(found.numpy(), [[1.5, 1.5, 0.0]], atol=1e-6)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_impossible_weights_are_refused(weights):
    part, none = torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.bool)
    with pytest.raises(UsageError, match="weights"):
        match(part, part, part, part, label_weight=weights[0], feature_weight=weights[1], excluded=none)


# -- the graph ------------------------------------------------------------------------------------------------------


def test_the_graph_starts_from_labels_seen_together():
    observed = np.array([[1, 1, 0], [1, -1, 0], [1, 1, 1], [0, 0, 2]], dtype=np.int8)
    # Class 0 is seen with every image of class 1; class 2 is seen once, with both others; ties go to the first.
    found = cooccurrence(observed, neighbours=1)
    np.testing.assert_allclose(found, np.array([[0.6, 0.5, 0.5], [0.4, 0.5, 0.0], [0.0, 0.0, 0.5]]))
    np.testing.assert_allclose(cooccurrence(observed, 0), np.eye(3))
    np.testing.assert_allclose(cooccurrence(np.zeros((2, 3), np.int8), 2), np.eye(3))


def test_the_label_graph_of_sparse_labels_is_that_of_their_matrix(monkeypatch):
    observed = np.random.RandomState(0).choice([1, -1, 0, 2], p=[0.3, 0.2, 0.4, 0.1], size=(40, 6)).astype(np.int8)
    sparse = SparseLabels.from_dense(observed)
    monkeypatch.setattr("mlbench.annotation.sparse.MAX_DENSE", 10)  # too many to be made dense
    np.testing.assert_array_equal(cooccurrence(sparse, 3), cooccurrence(observed, 3))


def test_zeros_of_the_graph_stay_zero_and_the_rest_learns():
    start = np.array([[0.5, 0.0], [0.5, 1.0]])
    graph = LabelGraph(start)
    assert graph().tolist() == start.tolist()
    graph().sum().backward()
    assert graph.values.grad.tolist() == [1.0, 1.0, 1.0]


# -- the method -----------------------------------------------------------------------------------------------------


def test_the_first_interactive_step_weighs_the_label_term_like_the_logistic_one(train, monkeypatch):
    seen = []
    plain = PhaseLoop._backward

    def watched(self, terms, *rest):
        if self.phase.name == "interactive":
            seen.append({name: term.item() for name, term in terms.items()})
        plain(self, terms, *rest)

    monkeypatch.setattr(PhaseLoop, "_backward", watched)
    changes = {"alpha_labels": 0.5, "train_features": True, "alpha_features": 2.0, "annotation.keep": 0.5, "atoms": 1}
    record = train("imcl", protocol="partial", changes=changes)
    assert [row["phase"] for row in record["epochs"]] == ["logistic", "interactive"]
    assert seen[0]["labels"] == pytest.approx(0.5 * seen[0]["logistic"], rel=1e-5)
    assert seen[0]["features"] == pytest.approx(2.0 * seen[0]["logistic"], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "track", "said"),
    [({"train_features": True}, "head", "train_features"), ({"alpha_labels": 0.0}, "full", "alpha_labels")],
)
def test_settings_without_effect_are_refused(train, changes, track, said):
    with pytest.raises(UsageError, match=said):
        train("imcl", changes=changes, track=track)


@pytest.mark.parametrize("track", ["head", "full"])
def test_stopped_again_and_again_it_reaches_the_same_bits(train, tiny_request, tmp_path, track):
    changes = {"dictionary": 9, "refresh": 4, "train.epochs": 4, "train_features": track == "full"}
    whole = train("imcl", track=track, changes=changes)
    request = tiny_request("imcl", track=track, changes=changes)
    course, stops = run_with_stops(request, tmp_path / "stopped", 2)
    assert stops >= 5
    compare(read_course(tmp_path / "runs", whole), course, 0.0)
