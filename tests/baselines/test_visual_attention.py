"""VAA: weights by hand, branches at three layers, and a history that outlives a kill."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mlbench.baselines import visual_attention
from mlbench.baselines.spatial_regularisation import map_shapes
from mlbench.baselines.visual_attention import (
    LAYERS,
    AttentiveClassifier,
    history_weights,
    layers_of,
    wavering_bce,
    weighted_focal,
)
from mlbench.conformance.suite import compare, make_request, read_course, run_with_stops
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.models.backbones import build_backbone
from mlbench.models.heads import Classifier, HeadSpec, build_head
from mlbench.models.weights import TORCHVISION
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run

SHARE = np.array([0.0, 0.2, 0.5, 0.7, 1.0])


@pytest.mark.parametrize("spread", [1.0, 50.0])
def test_weighted_focal_by_hand(spread: float) -> None:
    random = np.random.RandomState(0)
    z = spread * random.randn(6, 5)
    observed = random.choice([1, 0, -1, 2], (6, 5)).astype(np.int8)
    observed[0], observed[1] = 1, 0
    wanted = np.zeros_like(z)
    for (n, c), x in np.ndenumerate(z):
        p = SHARE[c]
        r = p / (1 - p) if p <= 0.5 else 1.0
        y = float(observed[n, c] == 1)
        of_target = x if y else -x
        wrong = math.exp(-np.logaddexp(0, of_target))
        wanted[n, c] = math.exp(y + (1 - 2 * y) * r) * wrong**2 * np.logaddexp(0, -of_target)
    wanted[observed == 2] = 0
    logits, states, share = torch.tensor(z, requires_grad=True), torch.tensor(observed), torch.tensor(SHARE)
    found = weighted_focal(logits, states, share, reduction="none")
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9, atol=1e-50)
    assert weighted_focal(logits, states, share).item() == pytest.approx(wanted.mean())
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_rare_side_weighs_more_as_the_released_ratios_say() -> None:
    # WIDER's second attribute has p = 0.2244; the released code holds 1 / 3.4595959.
    weights = [
        weighted_focal(torch.zeros(1, 1), torch.tensor([[state]]), torch.tensor([0.2244]), gamma=0.0).item()
        for state in (1, -1)
    ]
    ratio = 1 / 3.4595959
    assert weights == pytest.approx([math.log(2) * math.exp(1 - ratio), math.log(2) * math.exp(ratio)], rel=1e-3)


def test_history_weights_by_hand_and_one_where_nothing_wavers() -> None:
    history = np.random.RandomState(0).rand(5, 3, 2)
    history[:, 0] = 0.3
    wanted = np.ones((3, 2))
    for n in range(3):
        for c in range(2):
            v = ((history[:, n, c] - history[:, n, c].mean()) ** 2).sum() / 5
            wanted[n, c] += math.sqrt(v + v**2 / 4)
    found = history_weights(torch.tensor(history)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-7)
    np.testing.assert_allclose(found[0], 1, atol=1e-7)
    for wrong in (torch.rand(1, 3, 2), torch.rand(3, 2)):
        with pytest.raises(UsageError, match="history"):
            history_weights(wrong)


def test_wavering_cross_entropy_by_hand() -> None:
    random = np.random.RandomState(0)
    z, weights = 3 * random.randn(3, 4), 1 + random.rand(3, 4)
    observed = np.array([[1, 0, -1, 2], [1, 1, 1, 1], [0, 0, 2, -1]], dtype=np.int8)
    wanted = np.where(observed == 2, 0, np.logaddexp(0, np.where(observed == 1, -z, z)))
    arguments = torch.tensor(z), torch.tensor(observed)
    np.testing.assert_allclose(wavering_bce(*arguments, torch.tensor(weights)).item(), (weights * wanted).mean())
    np.testing.assert_allclose(wavering_bce(*arguments, reduction="sum").item(), wanted.sum())
    with pytest.raises(UsageError, match="reduction"):
        wavering_bce(*arguments, reduction="men")
    with pytest.raises(UsageError, match="positive_share"):
        weighted_focal(*arguments, torch.rand(3))


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_every_backbone_has_its_three_layers(name: str) -> None:
    with torch.device("meta"):
        trunk = build_backbone(name)
    assert [trunk.get_submodule(layer) for layer in layers_of(trunk)]


def test_branches_of_a_residual_network_are_at_two_depths_of_one_stage_and_at_the_end() -> None:
    shapes = map_shapes(build_backbone("resnet50"), LAYERS["resnet50"], 96)
    assert [tuple(shape) for shape in shapes] == [(1, 1024, 6, 6), (1, 1024, 6, 6), (1, 2048, 3, 3)]


def test_scores_are_the_mean_of_classifier_and_branches() -> None:
    trunk = build_backbone("scenes")
    plain = Classifier(trunk, build_head(HeadSpec(), trunk.out_channels, 3))
    network = AttentiveClassifier(plain, layers_of(trunk), 64, 8)
    output = network(torch.rand(2, 3, 64, 64))
    torch.testing.assert_close(output.logits, (output.main + sum(output.branches)) / 4)
    torch.testing.assert_close(output.main, plain.head(output.features))
    assert len(output.branches) == 3


def test_with_released_code_no_weight_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("weighted")

    monkeypatch.setattr(visual_attention, "weighted_focal", never)
    monkeypatch.setattr(visual_attention, "history_weights", never)
    request = make_request(load_method("vaa"), "full", tmp_path, tiny_dataset())
    changes = {**request.changes, "released": True, "history": 2, "train.epochs": 4, "width": 8}
    request = dataclasses.replace(request, changes=changes)
    assert run(request, Options(store=tmp_path, device="cpu", quiet=True))["results"]["test"]["mAP"] is not None


def test_weights_by_history_begin_when_it_is_full_and_outlive_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spied(history: torch.Tensor) -> torch.Tensor:
        seen.append(history.shape)
        return history_weights(history)

    monkeypatch.setattr(visual_attention, "history_weights", spied)
    request = make_request(load_method("vaa"), "full", tmp_path, tiny_dataset())
    changes = {**request.changes, "history": 2, "train.epochs": 4, "width": 8}
    request = dataclasses.replace(request, changes=changes)
    store = tmp_path / "whole"
    whole = read_course(store, run(request, Options(store=store, device="cpu", quiet=True)))
    assert [tuple(shape) for shape in seen] == [(2, 11, 4), (2, 11, 4), (2, 10, 4)] * 2  # 32 images in two of 4 epochs
    stopped, stops = run_with_stops(request, tmp_path / "stopped", 3)
    assert stops >= 3
    compare(whole, stopped, 0.0)
