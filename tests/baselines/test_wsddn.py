"""`wsddn`: scores and loss by loops in float64, pooling by hand, detections, and a teacher that can be scored."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from mlbench.annotation import State
from mlbench.baselines.detection import boxed_rows, detection_metrics, ground_truth
from mlbench.baselines.wsddn import Detector, detect, pool_regions, wsddn_loss, wsddn_scores
from mlbench.errors import DataError, UsageError
from mlbench.proposals import Regions, split_proposals
from mlbench.registry import load_method
from mlbench.runner.plan import resolve
from mlbench.runner.trained import reload_network
from mlbench.seeds import derive


def scores_by_loops(first: np.ndarray, second: np.ndarray, valid: np.ndarray) -> np.ndarray:
    found = np.zeros(first.shape)
    for b, r, c in np.ndindex(*first.shape):
        if valid[b, r]:
            over_classes = sum(np.exp(first[b, r, k] - first[b, r, c]) for k in range(first.shape[2]))
            over_regions = sum(np.exp(second[b, q, c] - second[b, r, c]) for q in range(first.shape[1]) if valid[b, q])
            found[b, r, c] = 1 / over_classes / over_regions
    return found


def draw(*shape: int, seed: int = 0, spread: float = 2.0) -> np.ndarray:
    return spread * np.random.RandomState(seed).randn(*shape)


@pytest.mark.parametrize("spread", [1.0, 50.0])
def test_scores_are_those_of_the_loops_and_sum_to_less_than_one(spread: float) -> None:
    first, second = draw(2, 5, 3, spread=spread), draw(2, 5, 3, seed=1, spread=spread)
    valid = np.array([[True] * 5, [True, False, True, False, False]])
    with np.errstate(over="ignore"):
        wanted = scores_by_loops(first, second, valid)
    found = wsddn_scores(*map(torch.tensor, (first, second, valid)))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10, atol=1e-300)
    images = found.sum(dim=1)
    assert ((images > 0) & (images < 1 + 1e-12)).all()
    sharp = wsddn_scores(
        torch.tensor(first), torch.tensor(second), torch.tensor(valid), class_temperature=0.5, region_temperature=0.25
    )
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(
            sharp.numpy(), scores_by_loops(2 * first, 4 * second, valid), rtol=1e-10, atol=1e-300
        )


def test_gradients_of_scores_and_loss_are_numerical() -> None:
    observed = torch.tensor([[1, 0, -1], [2, 1, 1]], dtype=torch.int8)
    valid = torch.tensor([[True] * 4, [True, True, False, False]])

    def loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return wsddn_loss(wsddn_scores(first, second, valid).sum(dim=1), observed)

    given = [torch.tensor(draw(2, 4, 3, seed=seed), requires_grad=True) for seed in (2, 3)]
    assert torch.autograd.gradcheck(loss, given)
    padded = torch.autograd.grad(loss(*given), given)
    assert not any(gradient[1, 2:].any() for gradient in padded)


def test_loss_by_hand() -> None:
    p = torch.tensor([[0.9, 0.2, 0.5], [0.0, 1.0, 0.3]], dtype=torch.float64, requires_grad=True)
    observed = torch.tensor([[1, 0, 2], [1, -1, 0]], dtype=torch.int8)
    entries = [[-np.log(0.9), -np.log(0.8), 0], [-np.log(1e-4), -np.log(1e-4), -np.log(0.7)]]
    np.testing.assert_allclose(wsddn_loss(p, observed, reduction="none").detach().numpy(), entries, rtol=1e-12)
    assert wsddn_loss(p, observed).item() == pytest.approx(np.sum(entries) / 2)
    assert wsddn_loss(p, observed, reduction="sum").item() == pytest.approx(np.sum(entries))
    assert wsddn_loss(p, observed, clamp=0.01).item() == pytest.approx(
        (np.sum(entries) - 2 * np.log(100) * 1.0) / 2  # 1e-4 is (1e-2)^2
    )
    (slope,) = torch.autograd.grad(wsddn_loss(p, observed), p)
    np.testing.assert_allclose(slope.numpy(), [[-0.5 / 0.9, 0.5 / 0.8, 0], [0, 0, 0.5 / 0.7]], rtol=1e-12)


def test_wrong_arguments_are_refused() -> None:
    logits = torch.zeros(1, 2, 3)
    for given in (
        (logits, logits[:, :1]),
        (logits[0], logits[0]),
        (logits, logits, torch.ones(1, 3, dtype=torch.bool)),
    ):
        with pytest.raises(UsageError, match="wsddn"):
            wsddn_scores(*given)
    with pytest.raises(UsageError, match="above 0"):
        wsddn_scores(logits, logits, class_temperature=0.0)
    for changes in ({"clamp": 0.5}, {"reduction": "max"}):
        with pytest.raises(UsageError):
            wsddn_loss(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.int8), **changes)
    with pytest.raises(UsageError, match="align"):
        pool_regions(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4), 1, "mean")


@pytest.mark.parametrize("pooling", ["align", "max"])
def test_regions_are_pooled_where_they_lie(pooling: str) -> None:
    columns = torch.arange(8.0).expand(1, 1, 4, 8).contiguous()
    boxes = torch.tensor([[[0.25, 0, 0.75, 1], [0.5, 0.25, 1, 0.75]]])
    pooled = pool_regions(columns, boxes, 1, pooling)
    assert pooled.shape == (1, 2, 1, 1, 1)
    # Columns 2 to 5 and 4 to 7: their means; the published pooling also takes the cell at the rounded end.
    assert pooled.flatten().tolist() == ([3.5, 5.5] if pooling == "align" else [6.0, 7.0])


def detector(**changes: Any) -> tuple[Detector, Regions]:
    torch.manual_seed(0)
    trunk = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
    trunk.out_channels = 4
    settings = {"cells": 2, "hidden": 5, "dropout": 0.5, **changes}
    corners = torch.rand(2, 6, 2) / 2
    boxes = torch.cat([corners, corners + 0.4], dim=2)
    boxes[1, 4:] = 0
    return Detector(trunk, 3, **settings), split_proposals(torch.cat([boxes, torch.rand(2, 6, 1)], dim=2))


def test_detector_ignores_places_without_box_and_weights_by_score(monkeypatch: pytest.MonkeyPatch) -> None:
    network, regions = detector(score_scale=10.0, score_bias=1.0)
    network.eval()
    images = torch.rand(2, 3, 16, 16)
    scores, features = network(images, regions)
    assert scores.shape == (2, 6, 3)
    assert features.shape == (2, 4, 8, 8)
    assert not scores[1, 4:].any()
    few, _ = network(images, Regions(*(each[:, :4] for each in regions)))
    torch.testing.assert_close(few[1], scores[1, :4])
    plain = pool_regions(features, regions.boxes, 2)
    weighted = network.weighted(features, regions.boxes, regions.scores)
    torch.testing.assert_close(weighted, plain * (10 * regions.scores + 1)[..., None, None, None])
    with torch.no_grad():
        monkeypatch.setattr("mlbench.baselines.wsddn._AT_ONCE", 1)
        torch.testing.assert_close(network(images, regions)[0], scores)


def test_suppression_is_within_a_class() -> None:
    boxes = torch.tensor([[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4], [0.5, 0.5, 1, 1], [0, 0, 0, 0]]])
    scores = torch.tensor([[[0.6, 0.1], [0.5, 0.3], [0.2, 0.0], [0.9, 0.9]]])
    regions = split_proposals(torch.cat([boxes, torch.ones(1, 4, 1)], dim=2))
    (found,) = detect(scores, regions)
    np.testing.assert_allclose(found[:, :2].numpy(), [[0, 0.6], [1, 0.3], [0, 0.2]])
    np.testing.assert_allclose(found[1, 2:].numpy(), [0, 0, 0.5, 0.4])
    assert len(detect(scores, regions, iou=0.9)[0]) == 5
    assert len(detect(scores, regions, floor=0.55)[0]) == 1


def test_no_class_is_crowded_out_by_others() -> None:
    corners = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 0.9
    boxes = torch.cat([corners, corners + 0.01, torch.ones(300, 1)], dim=1)[None]
    scores = torch.full((1, 300, 2), 0.5)
    scores[..., 1] = 0.01
    found = detect(scores, split_proposals(boxes), iou=1.0)[0][:, 0]
    assert [int((found == c).sum()) for c in (0, 1)] == [300, 300]


@pytest.mark.parametrize("pooling", ["align", "max"])
def test_half_precision_does_not_move_boxes(pooling: str) -> None:
    maps, boxes = (
        torch.rand(1, 3, 42, 42).bfloat16(),
        torch.tensor([[[0.101, 0.2, 0.777, 0.913], [0.3, 0.3, 0.6, 0.9]]]),
    )
    whole = pool_regions(maps.float(), boxes, 7, pooling)
    half = pool_regions(maps, boxes, 7, pooling)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, whole.bfloat16())


def test_one_of_five_sizes_is_drawn_for_a_batch(tiny_request: Any) -> None:
    from types import SimpleNamespace

    import mlbench.methods as contract

    task = SimpleNamespace(hyper={}, generator=lambda name: contract.private_generator(derive(name)))
    method = load_method("wsddn")(task)
    sides = {
        method.rescaled(torch.zeros(1, 3, 672, 672)[:, :, ::4, ::4], SimpleNamespace(phase="train", step=step)).shape[
            -1
        ]
        for step in range(60)
    }
    assert sides == {120, 144, 168, 184, 208}


def test_a_trained_teacher_is_scored_against_boxes(tmp_path, train: Any, tiny_request: Any) -> None:
    record = train("wsddn", changes={"scales": True, "train.epochs": 1})
    assert record["identity"]["inputs"]["proposals"]["count"] == 24
    run = resolve(tiny_request("wsddn", changes={"scales": True, "train.epochs": 1}))
    assert run.key == record["key"]
    _, network, feed = reload_network(run, tmp_path / "runs")
    found = detection_metrics(network, feed)
    assert {"detection_mAP50", "detection_mAP50_eleven_point", "CorLoc", "images", "per_class"} == found.keys()
    assert found["images"] == {name: len(run.parts[name]) for name in ("test", "train")}
    assert 0 <= found["detection_mAP50"] <= 100
    assert found["per_class"]["CorLoc"].keys() == set(run.dataset.classes)


def test_images_with_labels_and_no_box_are_not_scored(tiny_request: Any) -> None:
    part = resolve(tiny_request("wsddn")).parts["test"]
    boxes = part.split.boxes
    assert boxes is not None
    assert np.array_equal(boxed_rows(part, "tiny"), np.arange(len(part)))
    some = dataclasses.replace(part, split=dataclasses.replace(part.split, boxes=boxes[np.isin(boxes[:, 0], [1, 3])]))
    assert boxed_rows(some, "tiny").tolist() == [1, 3]
    assert [len(each.classes) for each in ground_truth(some, boxed_rows(some, "tiny"))] == [
        int((boxes[:, 0] == row).sum()) for row in (1, 3)
    ]
    labels = np.array(part.labels)
    labels[0] = State.NEGATIVE
    assert boxed_rows(dataclasses.replace(some, labels=labels), "tiny").tolist() == [0, 1, 3]
    with pytest.raises(DataError, match="data set 'tiny' has no boxes for its test images"):
        boxed_rows(dataclasses.replace(part, split=dataclasses.replace(part.split, boxes=None)), "tiny")
