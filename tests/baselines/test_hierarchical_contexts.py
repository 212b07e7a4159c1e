"""DHC: windows by hand, parts and their neighbours by loops, and the network put together from its pieces."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mlbench.baselines.hierarchical_contexts import (
    ContextHierarchy,
    chosen_parts,
    neighbours,
    pyramid_windows,
)
from mlbench.baselines.wsddn import pool_regions
from mlbench.conformance.suite import make_request
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.models.backbones import build_backbone
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import resolve


def small(**changes: int) -> ContextHierarchy:
    torch.manual_seed(0)
    sizes = {"levels": 2, "parts": 2, "count": 3, "scenes": 5, "cells": 2, "hidden": 16, **changes}
    return ContextHierarchy(build_backbone("scenes"), 3, **sizes).eval()


def test_windows_of_a_pyramid_by_hand() -> None:
    third = 1 / 3
    corners = [[x, y, x + 2 * third, y + 2 * third] for y in (0, third) for x in (0, third)]
    torch.testing.assert_close(pyramid_windows(1), torch.tensor(corners))
    windows = pyramid_windows(3)
    assert len(windows) == 4 + 9 + 16
    assert windows[8].tolist() == [0.25, 0.25, 0.75, 0.75]
    torch.testing.assert_close(windows[-1], torch.tensor([0.6, 0.6, 1.0, 1.0]))
    assert windows.min() == 0
    assert windows.max() <= 1 + 1e-6
    mirrored = torch.stack([1 - windows[:, 2], windows[:, 1], 1 - windows[:, 0], windows[:, 3]], dim=1)
    assert (mirrored[:, None] - windows).abs().amax(dim=2).amin(dim=1).max() < 1e-6


def test_parts_by_loops_and_the_choice_has_a_gradient() -> None:
    random = np.random.RandomState(0)
    regions, scores = random.randn(2, 5, 3), 50 * random.randn(2, 5, 4)
    inputs = [torch.tensor(each, requires_grad=True) for each in (regions, scores)]
    index, found = chosen_parts(*inputs)
    for b in range(2):
        for p in range(4):
            best = max(range(5), key=lambda r: scores[b, r, p])
            assert index[b, p] == best
            wanted = regions[b, best] * np.exp(-np.logaddexp(0, -scores[b, best, p]))
            np.testing.assert_allclose(found[b, p].detach().numpy(), wanted)
    chosen_parts(inputs[0], 0.01 * inputs[1])[1].sum().backward()
    gradient = inputs[1].grad
    assert gradient is not None
    assert ((gradient != 0).sum(dim=1) == 1).all()


def test_neighbours_by_loops() -> None:
    random = np.random.RandomState(0)
    regions, apart = random.randn(2, 6, 3), random.rand(6, 6) < 0.6
    apart[0], apart[1] = False, [False, False, True, False, False, False]
    index = np.array([[0, 1, 2], [5, 5, 3]])
    found = neighbours(*map(torch.tensor, (regions, index, apart)), count=2)
    for b in range(2):
        for p in range(3):
            part = regions[b, index[b, p]]
            others = [region for region, other in zip(regions[b], apart[index[b, p]], strict=True) if other]
            others.sort(key=lambda r: -(part @ r) / np.linalg.norm(part) / np.linalg.norm(r))
            wanted = np.mean(others[:2], axis=0) if others else np.zeros(3)
            np.testing.assert_allclose(found[b, p].numpy(), wanted)
    everywhere = torch.ones(6, 6, dtype=torch.bool)
    whole = neighbours(torch.tensor(regions), torch.tensor(index), everywhere, count=50)
    np.testing.assert_allclose(whole.numpy(), np.repeat(regions.mean(axis=1, keepdims=True), 3, axis=1))
    with pytest.raises(UsageError, match="count"):
        neighbours(torch.tensor(regions), torch.tensor(index), everywhere, count=0)


def test_neighbours_of_nothing_are_finite() -> None:
    regions = torch.zeros(1, 4, 3, requires_grad=True)  # a ReLU can leave nothing
    found = neighbours(regions, torch.zeros(1, 2, dtype=torch.int64), torch.ones(4, 4, dtype=torch.bool), count=2)
    assert (found == 0).all()
    found.sum().backward()
    assert regions.grad is not None
    assert regions.grad.isfinite().all()


def test_logits_are_the_sum_of_body_parts_neighbours_and_scene() -> None:
    network = small()
    with torch.no_grad():
        network.log_odds.normal_()
        images = torch.rand(2, 3, 64, 64)
        maps = network.backbone(images)
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])

        def features(boxes: torch.Tensor) -> torch.Tensor:
            return network.hidden(pool_regions(maps, boxes.expand(2, -1, -1), 2).flatten(2))

        windows = features(pyramid_windows(2))
        index, parts = chosen_parts(windows, network.selector(windows))
        near = neighbours(windows, index, network.apart, 3)
        scene = network.scene(maps.mean(dim=(2, 3))).softmax(dim=1) @ network.log_odds
        wanted = network.person(features(whole)[:, 0]) + scene
        for layer, each in ((network.parts, parts), (network.neighbours, near)):
            wanted = wanted + layer(torch.cat([each[:, 0], each[:, 1]], dim=1))
        torch.testing.assert_close(network(images), wanted)
        torch.testing.assert_close(network(images)[1:], network(images[1:]))


def test_no_window_is_its_own_neighbour_and_each_has_some() -> None:
    for levels in (1, 3):
        apart = small(levels=levels).apart
        assert not apart.diagonal().any()
        assert apart.any(dim=1).all()
        assert torch.equal(apart, apart.T)


def test_every_parameter_learns_once_scenes_differ() -> None:
    network = small().train()
    with torch.no_grad():
        network.log_odds.normal_()
    network(torch.rand(4, 3, 64, 64)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_dhc_has_no_head_to_boost(tmp_path: Path) -> None:
    request = make_request(load_method("dhc"), "full", tmp_path, tiny_dataset())
    assert resolve(request).hyper["hidden"] == 16
    boosted = dataclasses.replace(request, changes={**request.changes, "head.alpha": 5.0})
    with pytest.raises(UsageError, match=r"head\.alpha"):
        run(boosted, Options(store=tmp_path, device="cpu", quiet=True))
