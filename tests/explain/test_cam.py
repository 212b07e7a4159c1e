"""Class activation maps: what is drawn is what the score is made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.explain import cam
from mlbench.explain.cam import chosen_cells, class_maps, colour
from mlbench.models.csra import ResidualAttention
from mlbench.models.heads import Classifier, Head
from mlbench.models.ml_decoder import MLDecoder


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
    decoder = MLDecoder(6, 3, width=8, heads=2, feedforward=8)
    with pytest.raises(UsageError, match="no class activation maps: give runs whose head has them, as linear and csra"):
        class_maps(Classifier(nn.Identity(), decoder), torch.zeros(1, 6, 2, 2))
    assert class_maps(Classifier(nn.Identity(), ResidualAttention(6, 3)), torch.ones(1, 6, 2, 4)).shape == (1, 3, 2, 4)


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


def test_the_first_images_with_two_labels_are_drawn_for_their_own_classes() -> None:
    data = tiny_dataset()
    test = data.splits["test"]
    cells = chosen_cells(test, data.classes, 2, (), ())
    expected = [row for row in range(len(test)) if (test.labels[row] == 1).sum() >= 2][:2]
    assert cells == [(row, int(c)) for row in expected for c in np.flatnonzero(test.labels[row] == 1)]


def test_images_and_classes_can_be_chosen_also_where_the_image_has_the_class_not() -> None:
    data = tiny_dataset()
    ids = data.splits["test"].ids
    cells = chosen_cells(data.splits["test"], data.classes, 4, [ids[3], ids[0]], ["class 2", "class 0"])
    assert cells == [(3, 2), (3, 0), (0, 2), (0, 0)]


def test_classes_alone_take_the_first_images_that_have_them() -> None:
    data = tiny_dataset()
    test = data.splits["test"]
    cells = chosen_cells(test, data.classes, 3, (), ["class 1"])
    assert cells == [(int(row), 1) for row in np.flatnonzero(test.labels[:, 1] == 1)[:3]]


@pytest.mark.parametrize(("ids", "classes", "message"), [(["test/00"], [], "test/00"), ([], ["clas 1"], "class 1")])
def test_an_unknown_image_or_class_is_named_with_the_nearest(ids, classes, message) -> None:
    data = tiny_dataset()
    with pytest.raises(UsageError, match=message):
        chosen_cells(data.splits["test"], data.classes, 4, ids, classes)
