"""R-CNN and R*CNN: regions chosen by hand, the best context by loops, draws that belong to the sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlbench.baselines.context_regions import (
    RegionClassifier,
    context_regions,
    draw_regions,
    with_best_context,
)
from mlbench.baselines.wsddn import pool_regions
from mlbench.errors import UsageError
from mlbench.models.backbones import build_backbone
from mlbench.registry import load_method


def test_context_is_what_covers_a_fifth_to_three_quarters() -> None:
    boxes = torch.tensor([[[0, 0, 0.5, 0.25], [0, 0, 1, 0.25], [0.25, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0.5, 1]]])
    valid = torch.tensor([[True, True, True, True, False]])
    assert context_regions(boxes, valid, 0.2, 0.75).tolist() == [[False, True, True, False, False]]
    assert context_regions(boxes, valid, 0.0, 1.0).tolist() == valid.tolist()
    with pytest.raises(UsageError, match="overlap"):
        context_regions(boxes, valid, 0.8, 0.2)


def test_the_best_context_by_loops_and_nothing_added_without_any() -> None:
    random = np.random.RandomState(0)
    person, context = random.randn(3, 4), 50 * random.randn(3, 5, 4)
    shown = np.array([[True] * 5, [False, True, False, False, True], [False] * 5])
    wanted = person.copy()
    for n in range(2):
        for c in range(4):
            wanted[n, c] += max(context[n, r, c] for r in range(5) if shown[n, r])
    inputs = [torch.tensor(each, requires_grad=True) for each in (person, context)]
    found = with_best_context(*inputs, torch.tensor(shown))
    np.testing.assert_allclose(found.detach().numpy(), wanted)
    found.sum().backward()
    gradient = inputs[1].grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.sum(dim=(1, 2)).tolist() == [4, 4, 0]


def test_draws_are_among_those_shown_and_belong_to_the_row() -> None:
    shown = torch.rand(50, 40, generator=torch.Generator().manual_seed(0)) < 0.4
    shown[0], shown[1] = False, torch.arange(40) < 3
    rows = torch.arange(100, 150)
    index, some = draw_regions(shown, rows, 10, seed=5)
    assert index.shape == some.shape == (50, 10)
    assert some.sum(dim=1).tolist() == shown.sum(dim=1).clamp(max=10).tolist()
    for place, kept, allowed in zip(index, some, shown, strict=True):
        assert allowed[place[kept]].all()
        assert len(set(place.tolist())) == 10
    again, _ = draw_regions(shown[20:23], rows[20:23], 10, seed=5)
    assert torch.equal(again, index[20:23])
    other, _ = draw_regions(shown, rows, 10, seed=6)
    assert (other != index).any(dim=1).float().mean() > 0.9
    counts = torch.zeros(40).index_add_(0, index[some], torch.ones(int(some.sum())))
    assert counts.min() > 0


def test_the_person_is_the_whole_map_and_the_context_its_best_box() -> None:
    torch.manual_seed(0)
    network = RegionClassifier(build_backbone("scenes"), 3, True, cells=2, hidden=16).eval()
    images, boxes = torch.rand(2, 3, 64, 64), torch.tensor([[[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]]] * 2)
    shown = torch.tensor([[True, True], [False, True]])
    with torch.no_grad():
        found, alone = network(images, boxes, shown), network(images)
        maps = network.backbone(images)
        whole = pool_regions(maps, torch.tensor([[[0.0, 0.0, 1.0, 1.0]]] * 2), 2).flatten(2)
        person = network.person(network.hidden(whole))[:, 0]
        each = network.context(network.hidden(pool_regions(maps, boxes, 2).flatten(2)))
    torch.testing.assert_close(alone, person)
    torch.testing.assert_close(found[0], person[0] + torch.maximum(each[0, 0], each[0, 1]))
    torch.testing.assert_close(found[1], person[1] + each[1, 1])


def test_only_the_method_with_context_takes_proposals() -> None:
    assert load_method("rcnn").inputs == ()
    assert load_method("rstar_cnn").inputs == ("proposals",)
    with pytest.raises(UsageError, match="above high"):
        load_method("rstar_cnn").resolve({"low": 0.8})
