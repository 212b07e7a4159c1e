"""`mcg_cnn_lstm` and `rlsd`: log-odds by enumeration, the maximum over words and regions by loops, regions kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mlbench.baselines.decoders import StateDecoder
from mlbench.baselines.distillation_losses import label_loss
from mlbench.baselines.region_sequences import RegionCoder, RegionWriter, region_label_logits, softmax_log_odds
from mlbench.baselines.wsddn import pool_regions
from mlbench.errors import UsageError
from mlbench.proposals import split_proposals
from mlbench.registry import load_method
from mlbench.store import run_dir

# -- scores --------------------------------------------------------------------------------------------------------


def odds_by_loops(logits: np.ndarray) -> np.ndarray:
    rows = logits.reshape(-1, logits.shape[-1])
    found = [[z - np.logaddexp.reduce(np.delete(row, c)) for c, z in enumerate(row)] for row in rows]
    return np.array(found).reshape(logits.shape)


@pytest.mark.parametrize("spread", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("width", [2, 5])
def test_log_odds_are_those_of_the_softmax_at_any_logit_ties_too(spread: float, width: int) -> None:
    logits = spread * np.random.RandomState(0).randn(3, 4, width)
    given = torch.tensor(logits, requires_grad=True)
    found = softmax_log_odds(given)
    np.testing.assert_allclose(found.detach().numpy(), odds_by_loops(logits), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.sigmoid().detach(), given.softmax(dim=-1).detach(), atol=1e-12)
    single = softmax_log_odds(given.detach().float())
    np.testing.assert_allclose(single, odds_by_loops(given.detach().float().numpy()), rtol=1e-4, atol=1e-4)
    assert torch.autograd.gradcheck(softmax_log_odds, given)


def test_log_odds_by_hand() -> None:
    found = softmax_log_odds(torch.tensor([np.log([1.0, 2.0, 5.0]).tolist()]))
    np.testing.assert_allclose(found, np.log([[1 / 7, 2 / 6, 5 / 3]]), rtol=1e-6)


def test_the_best_word_of_the_best_region_by_loops() -> None:
    logits = 3 * np.random.RandomState(1).randn(3, 4, 2, 6)
    valid = np.array([[True] * 4, [False, True, False, True], [False] * 4])
    given = torch.tensor(logits, requires_grad=True)
    found = region_label_logits(given, torch.tensor(valid))
    odds = odds_by_loops(logits)
    for b in range(2):
        for c in range(5):
            wanted = max(odds[b, r, t, c] for r in range(4) for t in range(2) if valid[b, r])
            assert found[b, c].item() == pytest.approx(wanted, rel=1e-10)
    assert found[2].tolist() == [0.0] * 5
    label_loss(found, torch.ones(3, 5, dtype=torch.int8)).backward()
    assert given.grad.isfinite().all()
    assert not given.grad[~torch.tensor(valid)].any()


def writer(**changes: Any) -> RegionWriter:
    torch.manual_seed(0)
    settings = {"cells": 2, "hidden": 5, "dropout": 0.5, "pooling": "align", **changes}
    width = settings["hidden"] or 4 * settings["cells"] ** 2
    coder = RegionCoder(4, StateDecoder(width, 3, 6, 7), **settings)
    return RegionWriter(torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), coder, length=3).eval()


@pytest.mark.parametrize("hidden", [0, 5])
def test_each_region_writes_its_own_words(hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = writer(hidden=hidden), torch.rand(2, 3, 16, 16)
    corners = torch.rand(2, 5, 2) / 2
    proposals = torch.cat([corners, corners + 0.4, torch.ones(2, 5, 1)], dim=2)
    proposals[1, 2:] = 0
    regions = split_proposals(proposals)
    with torch.no_grad():
        found, maps = network(images, regions), network.backbone(images)
        pooled = pool_regions(maps, regions.boxes, 2)
        for image, count in ((0, 5), (1, 2)):
            best = np.full(3, -np.inf)
            for region in range(count):
                code = network.head.hidden(pooled[image, region].flatten()[None])
                words = network.head.decoder.run_free(network.head.decoder.start(code), 3)
                best = np.maximum(best, odds_by_loops(words.double().numpy())[0, :, :3].max(axis=0))
            np.testing.assert_allclose(found[image], best, rtol=1e-4, atol=1e-5)
        monkeypatch.setattr("mlbench.baselines.wsddn._AT_ONCE", 5)
        torch.testing.assert_close(network(images, regions), found)


# -- regions -------------------------------------------------------------------------------------------------------


def test_regions_are_the_best_by_their_own_score_after_suppression() -> None:
    cls = load_method("rlsd")
    task = SimpleNamespace(hyper=cls.resolve({"regions": 2, "iou": 0.5}))
    proposals = torch.tensor(
        [
            [[0, 0, 0.5, 0.5, 0.6], [0, 0, 0.5, 0.4, 0.9], [0.5, 0.5, 1, 1, 0.2], [0.5, 0, 1, 0.5, 0.3]],
            [[0, 0, 0.5, 0.5, 0.6], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
        ]
    )
    found = cls(task).regions(SimpleNamespace(side={"proposals": proposals}))
    torch.testing.assert_close(found.boxes[0], proposals[0, [1, 3], :4])
    torch.testing.assert_close(found.scores[0], proposals[0, [1, 3], 4])
    assert found.valid.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(found.boxes[1, 0], proposals[1, 0, :4])


# -- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mcg_cnn_lstm", "rlsd"])
def test_approximations_are_marked_and_refuse_boostlu(name: str, train: Any) -> None:
    assert load_method(name).level == "C"
    assert "approximation" in load_method(name).__doc__
    with pytest.raises(UsageError, match="no class activation maps"):
        train(name, changes={"head.alpha": 5.0})


@pytest.mark.parametrize("frozen", [True, False])
def test_the_cnn_is_fixed_unless_asked_for(frozen: bool, train: Any, tmp_path: Any) -> None:
    weights = []
    for epochs in (1, 2):
        record = train("mcg_cnn_lstm", changes={"frozen_cnn": frozen, "train.epochs": epochs})
        weights.append(load_file(run_dir(tmp_path / "runs", record["key"]) / "weights.safetensors"))
    trunk = [name for name in weights[0] if name.startswith("backbone.")]
    assert trunk
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in trunk) == frozen
    assert not np.array_equal(*(each["head.decoder.label.weight"] for each in weights))
