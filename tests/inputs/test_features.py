"""Cached feature maps: what the frozen backbone gives, extracted once for each network and set of images."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mlbench
from mlbench.conformance.testing import ArrayImages, tiny_dataset
from mlbench.errors import DataError
from mlbench.inputs import pixels
from mlbench.inputs.features import feature_file, load_features
from mlbench.inputs.sidecar import read_sidecar, write_sidecar
from mlbench.inputs.tensors import normalise

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))
    return tmp_path


class Backbone(nn.Module):
    """A convolution, BatchNorm and dropout; counts the images it has seen."""

    mean, std = MEAN, STD

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 16, stride=16), nn.BatchNorm2d(6), nn.Dropout(0.5))
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.layers(images)


CPU = torch.device("cpu")


def test_features_are_those_of_the_backbone_in_evaluation_mode() -> None:
    split, backbone = tiny_dataset(train=40).splits["train"], Backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    found = load_features(split, 64, backbone, "net", CPU)
    with torch.no_grad():
        images = normalise(torch.from_numpy(split.images.array), MEAN, STD)
        expected = backbone.eval()(images).numpy()
    assert found.maps.dtype == np.float16
    assert found.maps.shape == (40, 6, 4, 4)
    np.testing.assert_allclose(found.maps, expected, rtol=1e-3, atol=1e-3)
    assert found.pooled.dtype == np.float32
    np.testing.assert_allclose(found.pooled, np.asarray(found.maps, np.float64).mean(axis=(2, 3)), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_features_are_extracted_once_for_a_network_and_its_images() -> None:
    split, backbone = tiny_dataset().splits["test"], Backbone()
    seen = []
    for name, size in (("net", 64), ("net", 64), ("net other weights", 64), ("net", 32)):
        load_features(split, size, backbone, name, CPU)
        seen.append(backbone.seen)
    probes = [1, 2, 3, 4]  # one image each time tells the shape
    assert [total - probe for total, probe in zip(seen, probes, strict=True)] == [9, 9, 18, 27]


def test_progress_is_told_in_images() -> None:
    steps: list[tuple[int, int]] = []
    load_features(tiny_dataset(train=40).splits["train"], 64, Backbone(), "net", CPU, lambda *step: steps.append(step))
    assert steps == [(32, 40), (40, 40)]


def test_features_of_other_pixels_are_refused_and_those_without_hashes_made_anew(own_cache: Path) -> None:
    split, backbone = tiny_dataset().splits["test"], Backbone()
    load_features(split, 64, backbone, "net", CPU)
    (maps,) = (own_cache / "features").glob("*-maps.npy")
    sidecar = read_sidecar(maps)
    assert sidecar.origin == hashlib.sha256(split.images.array.tobytes()).hexdigest()
    assert sidecar.about["backbone"] == "net"
    write_sidecar(maps, replace(sidecar, origin="of other pixels"))
    with pytest.raises(DataError, match="computed from other data"):
        load_features(split, 64, backbone, "net", CPU)
    for path in (own_cache / "features").glob("*.json"):
        path.unlink()
    seen = backbone.seen
    found = load_features(split, 64, backbone, "net", CPU)
    assert backbone.seen == seen + 10  # one image more tells the shape
    assert read_sidecar(maps).sha256 == hashlib.sha256(np.asarray(found.maps).tobytes()).hexdigest()


def changed_mean(backbone: Any, patch: pytest.MonkeyPatch) -> None:
    backbone.mean = (0.0, 0.0, 0.0)


def changed_std(backbone: Any, patch: pytest.MonkeyPatch) -> None:
    backbone.std = (1.0, 1.0, 1.0)


def changed_weight(backbone: Any, patch: pytest.MonkeyPatch) -> None:
    backbone.layers[0].weight.data[0, 0, 0, 0] += 1


def changed_statistics(backbone: Any, patch: pytest.MonkeyPatch) -> None:
    backbone.layers[1].running_mean[0] = 1


def changed_layer(backbone: Any, patch: pytest.MonkeyPatch) -> None:
    backbone.layers[1].eps = 0.1


def changed_torch(backbone: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "__version__", "0.0")


def changed_harness(backbone: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mlbench, "HARNESS_VERSION", 99)


def changed_resizing(backbone: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pixels, "RESIZE_RULE", "other")


@pytest.mark.parametrize(
    "change",
    [
        changed_mean,
        changed_std,
        changed_weight,
        changed_statistics,
        changed_layer,
        changed_torch,
        changed_harness,
        changed_resizing,
    ],
)
def test_all_that_decides_the_features_is_in_their_name(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    split, backbone = tiny_dataset().splits["test"], Backbone()
    load_features(split, 64, backbone, "net", CPU)
    file = feature_file(split, 64, backbone, "net", CPU)
    change(backbone, monkeypatch)
    assert feature_file(split, 64, backbone, "net", CPU) != file
    seen = backbone.seen
    load_features(split, 64, backbone, "net", CPU)
    assert backbone.seen == seen + 10


def test_a_build_that_was_killed_is_not_resumed_with_other_pictures() -> None:
    backbone, split = Backbone(), tiny_dataset(train=96).splits["train"]

    def stop(done: int, total: int) -> None:
        if done == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_features(split, 64, backbone, "net", CPU, stop)
    other = replace(split, images=ArrayImages(255 - split.images.array))
    found = load_features(other, 64, backbone, "net", CPU)
    with torch.inference_mode():
        images = normalise(torch.from_numpy(other.images.array), MEAN, STD)
        np.testing.assert_allclose(found.maps, backbone(images).numpy(), rtol=1e-3, atol=1e-3)


def test_damaged_features_are_found_when_they_are_read_and_before_a_record(own_cache: Path) -> None:
    split, backbone = tiny_dataset().splits["test"], Backbone()
    load_features(split, 64, backbone, "net", CPU)
    for path in (own_cache / "features").glob("*.npy"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    found = load_features(split, 64, backbone, "net", CPU)
    for array in (found.maps, found.pooled):
        with pytest.raises(DataError, match="damaged, rows 0 to 8"):
            array[3]
        with pytest.raises(DataError, match="damaged, rows 0 to 8"):
            array.verify()


def test_the_head_track_trains_on_these_features_and_not_on_images(train) -> None:
    record = train(track="head")
    assert record["identity"]["track"] == "head"
    assert len(record["identity"]["backbone"]["weights"]) == 64
    assert record["results"]["test"]["mAP"] > 0
    splits = tiny_dataset().splits
    expected = {name: hashlib.sha256(splits[name].images.array.tobytes()).hexdigest() for name in splits}
    assert record["provenance"]["pixels_sha256"] == expected


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooled_features_alone_are_those_of_the_maps_to_the_bit(own_cache: Path, layout: torch.memory_format) -> None:
    split, backbone = tiny_dataset(train=70).splits["train"], Backbone().to(memory_format=layout)
    alone = load_features(split, 64, backbone, "net", CPU, maps=False)
    assert alone.maps is None
    assert not list(own_cache.rglob("*-maps*"))
    seen = backbone.seen
    again = load_features(split, 64, backbone, "net", CPU, maps=False)
    assert backbone.seen - seen == 1, "one image tells the shape"
    whole = load_features(split, 64, backbone, "net", CPU)
    assert whole.maps is not None
    for found in (alone, again, whole):
        np.testing.assert_array_equal(np.asarray(found.pooled[:]), np.asarray(whole.pooled[:]))
    assert load_features(split, 64, backbone, "net", CPU, maps=False).maps is not None, "they are there already"


@pytest.mark.parametrize("change", ["pixels", "weights"])
def test_pooled_features_alone_follow_what_they_are_made_of(change: str) -> None:
    split, backbone = tiny_dataset(train=40).splits["train"], Backbone()
    before = np.array(load_features(split, 64, backbone, "net", CPU, maps=False).pooled[:])
    if change == "pixels":
        split = replace(split, images=ArrayImages(255 - split.images.array))
    else:
        with torch.no_grad():
            backbone.layers[0].weight.mul_(2)
    after = np.array(load_features(split, 64, backbone, "net", CPU, maps=False).pooled[:])
    assert not np.array_equal(before, after)
