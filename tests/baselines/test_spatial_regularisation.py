"""Crops by hand, attention by loops, and the stages of SRN one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from mlbench.baselines.crops import BOXES, Crops, cut
from mlbench.baselines.spatial_regularisation import (
    STAGES_OF_TRAINING,
    RegularisedClassifier,
    attended_logits,
    map_shapes,
    spatial_attention,
)
from mlbench.errors import UsageError
from mlbench.inputs.placement import Placement
from mlbench.models.backbones import build_backbone
from mlbench.models.heads import Classifier, HeadSpec, build_head
from mlbench.registry import load_method
from mlbench.seeds import id_hashes

IDS = id_hashes([f"image {number}" for number in range(4000)])


def small_network(stage: str, backbone: str = "scenes", image_size: int = 64) -> RegularisedClassifier:
    torch.manual_seed(0)
    trunk = build_backbone(backbone)
    plain = Classifier(trunk, build_head(HeadSpec(), trunk.out_channels, 3))
    layer = {"scenes": "scenes.layers.8", "resnet50": "layer3"}[backbone]
    (shape,) = map_shapes(trunk, [layer], image_size)
    return RegularisedClassifier(plain, layer, shape, 8, stage)


def test_a_crop_holds_the_pixels_of_its_corner() -> None:
    images = torch.arange(64.0).view(1, 1, 8, 8)
    corners = {(0.0, 0.0): (0, 0), (1.0, 0.0): (0, 4), (0.0, 1.0): (4, 0), (1.0, 1.0): (4, 4), (0.5, 0.5): (2, 2)}
    for (left, top), (y, x) in corners.items():
        found = cut(images, np.array([[left, top, 0.5, 0.5]]), 4)
        torch.testing.assert_close(found, images[..., y : y + 4, x : x + 4])


def test_width_and_height_of_a_crop_are_apart_and_it_is_stretched_without_pixels_from_outside() -> None:
    images = torch.full((2, 3, 8, 8), 100.0)
    images[:, :, :4, 2:] = torch.rand(2, 3, 4, 6)
    found = cut(images, np.array([[1.0, 0.0, 0.75, 0.5]] * 2), 6)
    torch.testing.assert_close(found, functional.interpolate(images[:, :, :4, 2:], (6, 6), mode="bilinear"))
    assert found.max() <= 1


def test_the_whole_image_at_its_own_size_is_itself() -> None:
    images = torch.rand(2, 3, 9, 9)
    assert torch.equal(cut(images, np.array([[1.0, 0.5, 1.0, 1.0]] * 2), 9), images)


def test_crops_are_cut_from_the_larger_image_and_have_the_size_of_the_run() -> None:
    view = Crops("crop", cells=1)
    assert view.side(224, 32) == 256
    assert view.place(5, 256 / 32, IDS[:5]).image(torch.rand(5, 3, 256, 256)).shape == (5, 3, 224, 224)
    assert Crops("crop").place(5, 8, IDS[:5]).image(torch.rand(5, 3, 64, 64)).shape == (5, 3, 64, 64)


def test_draws_belong_to_sample_and_seed_and_give_every_box_alike() -> None:
    view = Crops("crop", cells=1)
    boxes = view.place(len(IDS), 8, IDS, seed=3).boxes
    np.testing.assert_array_equal(view.place(7, 8, IDS[20:27], seed=3).boxes, boxes[20:27])
    assert (view.place(len(IDS), 8, IDS, seed=4).boxes != boxes).any(axis=1).mean() > 0.9
    _, counts = np.unique(boxes, axis=0, return_counts=True)
    assert len(counts) == len(BOXES) == 125
    assert counts.min() > 10
    assert counts.max() < 65  # 32 expected


def test_the_placement_of_a_crop_says_where_its_pixels_lie() -> None:
    view = Crops("crop")
    placement = view.place(64, 8, IDS[:64], seed=1)
    smooth = torch.linspace(0, 1, 64).expand(64, 64) + 2 * torch.linspace(0, 1, 64).view(64, 1)
    images = smooth.expand(64, 1, 64, 64)
    by_matrix = Placement(placement.matrix).image(images)[..., 4:-4, 4:-4]
    assert (placement.image(images)[..., 4:-4, 4:-4] - by_matrix).abs().max() < 1e-5


def test_crops_refuse_what_they_cannot_do() -> None:
    for wrong in ({"flip": True}, {"rotate": 90.0}, {"cells": -1}, {"size": 96}):
        with pytest.raises(UsageError, match="crops combine"):
            Crops("crop", **wrong)
    with pytest.raises(UsageError, match="hashes"):
        Crops("crop").place(2, 8)
    with pytest.raises(UsageError, match="expected"):
        cut(torch.rand(1, 3, 8, 9), np.array([[0, 0, 1, 1]]), 4)


@pytest.mark.parametrize("spread", [1.0, 50.0])
def test_attention_and_attended_logits_by_loops(spread: float) -> None:
    random = np.random.RandomState(0)
    scores, confidence = spread * random.randn(2, 3, 2, 4), random.randn(2, 3, 2, 4)
    wanted = np.zeros((2, 3))
    for n in range(2):
        for c in range(3):
            weights = np.exp(scores[n, c] - scores[n, c].max())
            wanted[n, c] = (weights / weights.sum() * confidence[n, c]).sum()
    attention = spatial_attention(torch.tensor(scores))
    np.testing.assert_allclose(attention.sum(dim=(2, 3)).numpy(), 1, rtol=1e-12)
    np.testing.assert_allclose(attended_logits(torch.tensor(confidence), attention).numpy(), wanted, rtol=1e-10)
    with pytest.raises(UsageError, match="expected"):
        spatial_attention(torch.rand(2, 3))


def test_the_joint_logits_are_the_mean_of_both_parts() -> None:
    images = torch.rand(2, 3, 64, 64)
    network = small_network("main").eval()
    found = {}
    with torch.no_grad():
        for stage in STAGES_OF_TRAINING:
            network.stage = stage
            found[stage] = network(images).logits
    torch.testing.assert_close(found["joint"], (found["main"] + found["regularisation"]) / 2)
    assert not torch.allclose(found["attention"], found["regularisation"])


def test_each_channel_of_the_last_convolution_is_filtered_apart() -> None:
    layer = small_network("joint").regularisation[6]
    assert tuple(layer.weight.shape) == (32, 1, 8, 8)
    with torch.no_grad():
        maps = torch.rand(1, 8, 8, 8)
        other = maps.clone()
        other[:, 3] += 1
        changed = (layer(maps) != layer(other)).flatten().nonzero().flatten().tolist()
    assert changed == [12, 13, 14, 15]


def test_on_a_residual_network_attention_sees_the_maps_before_the_last_stage() -> None:
    network = small_network("joint", "resnet50", image_size=96)
    assert network.confidence.weight.shape[1] == 1024
    assert network.side == 6
    assert network.backbone.training
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 3, 96, 96)).logits.shape == (1, 3)
        with pytest.raises(UsageError, match="built for 6"):
            network(torch.rand(1, 3, 128, 128))


def test_stages_train_what_they_are_named_for() -> None:
    for stage, roles in STAGES_OF_TRAINING.items():
        network = small_network(stage)
        network(torch.rand(2, 3, 64, 64)).logits.square().sum().backward()
        reached = {name.partition(".")[0] for name, p in network.named_parameters() if p.grad is not None}
        if roles is None:
            roles = ("backbone", "head", "attention", "confidence", "regularisation")
        assert set(roles) <= reached


def test_settings_marked_as_recalled() -> None:
    for name in ("resnet_aug", "srn"):
        found = load_method(name).settings_for("wider", "full")
        assert (found["train.lr"], found["train.augment"]) == (0.001, ["flip"])
        assert load_method(name).level == "A"
