"""Cached feature maps: what the frozen backbone gives, extracted once for each network and set of images."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mlbench.errors import DataError
from mlbench.images.features import load_features
from mlbench.images.sidecar import read_sidecar, write_sidecar
from mlbench.images.tensors import normalise
from mlbench.testing import tiny_dataset

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


def test_features_of_other_pixels_are_refused_and_older_ones_kept(own_cache: Path) -> None:
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
    assert backbone.seen == seen + 1  # the one image that tells the shape
    assert read_sidecar(maps).sha256 == hashlib.sha256(found.maps.tobytes()).hexdigest()


def test_the_head_track_trains_on_these_features_and_not_on_images(train) -> None:
    record = train(track="head")
    assert record["identity"]["track"] == "head"
    assert len(record["identity"]["backbone"]["weights"]) == 64
    assert record["results"]["test"]["mAP"] > 0
    splits = tiny_dataset().splits
    expected = {name: hashlib.sha256(splits[name].images.array.tobytes()).hexdigest() for name in splits}
    assert record["provenance"]["pixels_sha256"] == expected
