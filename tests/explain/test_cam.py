"""Class activation maps: what is drawn is what the score is made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mlbench.errors import UsageError
from mlbench.explain import cam
from mlbench.explain.cam import class_maps, colour
from mlbench.models.heads import Classifier, Head
from mlbench.testing import tiny_dataset


@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_the_mean_of_a_map_is_the_score_of_its_class(alpha: float) -> None:
    torch.manual_seed(0)
    network = Classifier(nn.Identity(), Head(6, 3, alpha_infer=alpha)).eval()
    features = torch.randn(2, 6, 4, 5)
    maps = class_maps(network, features)
    assert maps.shape == (2, 3, 4, 5)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), network(features).logits)


def test_a_network_without_maps_says_so() -> None:
    with pytest.raises(UsageError, match="no class activation maps"):
        class_maps(nn.Identity(), torch.zeros(1, 3, 2, 2))


def test_red_is_for_a_class_blue_against_it_and_white_neither() -> None:
    heat = np.array([[1.0, 0.0], [-1.0, 0.5]])
    assert colour(heat).tolist() == [[[255, 0, 0], [255, 255, 255]], [[0, 0, 255], [255, 127, 127]]]


def test_runs_of_different_data_sets_are_not_drawn_together(tmp_path: Path, monkeypatch) -> None:
    runs = {name: SimpleNamespace(dataset=tiny_dataset(test=size)) for name, size in (("a", 9), ("b", 10))}
    monkeypatch.setattr(cam, "find_run", lambda prefix, store: prefix)
    monkeypatch.setattr(cam, "reload_run", lambda prefix, *others: runs[prefix])
    with pytest.raises(UsageError, match="the runs are of different data sets"):
        cam.draw_cams(["a", "b"], tmp_path)
    assert not list(tmp_path.iterdir())
