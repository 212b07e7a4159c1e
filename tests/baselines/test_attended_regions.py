"""`rmam` and `rarlf`: grids by hand, losses against loops, REINFORCE against the exact gradient."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from mlbench.baselines.attended_regions import (
    ANCHORS,
    SHAPES,
    RegionExplorer,
    RegionReader,
    found_share,
    localisation_loss,
    normal_log_density,
    region_grid,
    reinforce_loss,
    sample_regions,
    softmax_loss,
)
from mlbench.errors import UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.registry import load_method
from mlbench.store import run_dir

POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED = 1, -1, 0, 2


def exact(*values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_grid_of_a_region_is_the_one_worked_out_by_hand() -> None:
    # Half as wide, a quarter as high, moved right by 0.5 and up by 0.25; two cells: centres at -1/2 and 1/2 of it.
    grid = region_grid(exact([0.5, 0.25, 0.5, -0.25]), 2)[0]
    assert grid[..., 0].tolist() == [[0.25, 0.75], [0.25, 0.75]]
    assert grid[..., 1].tolist() == [[-0.375, -0.375], [-0.125, -0.125]]


def test_the_grid_is_that_of_an_affine_map() -> None:
    regions = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theta = torch.zeros(6, 2, 3, dtype=torch.float64)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, 0, 2], theta[:, 1, 2] = regions.unbind(dim=1)
    wanted = functional.affine_grid(theta, [6, 1, 5, 5], align_corners=False)
    torch.testing.assert_close(region_grid(regions, 5), wanted)


def test_regions_read_the_cells_they_lie_on() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    whole, corner, outside = [1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, -0.5], [0.5, 0.5, 3.0, 0.0]
    found = sample_regions(maps, torch.tensor([[whole, corner, outside]]), 2)
    assert found.shape == (1, 3, 1, 2, 2)
    # Two cells of the whole lie between four of the map; two of the upper right quarter are its own.
    assert found[0, 0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert found[0, 1, 0].tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert not found[0, 2].any()
    assert torch.equal(sample_regions(maps, torch.tensor([[whole]]), 4)[0, 0], maps[0])


def test_each_image_has_its_own_regions() -> None:
    draw = torch.Generator().manual_seed(1)
    maps, regions = torch.randn(3, 2, 5, 7, generator=draw), torch.randn(3, 4, 4, generator=draw)
    together = sample_regions(maps, regions, 3)
    for image, region in itertools.product(range(3), range(4)):
        alone = sample_regions(maps[image, None], regions[image, None, region, None], 3)
        torch.testing.assert_close(together[image, region], alone[0, 0])
    with pytest.raises(UsageError, match=r"regions \[3, 4, 2\] of maps"):
        sample_regions(maps, regions[..., :2], 3)


def test_gradients_reach_the_place_of_a_region() -> None:
    maps = torch.randn(1, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    regions = exact([[0.43, 0.37, 0.11, -0.23]]).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: sample_regions(maps, r, 3), (regions,))


def by_loop(logits: np.ndarray, observed: np.ndarray) -> list[float]:
    losses = []
    for row, states in zip(logits, observed, strict=True):
        counted = [c for c, state in enumerate(states) if state != UNSPECIFIED]
        positive = [c for c in counted if states[c] == POSITIVE]
        if not positive:
            losses.append(0.0)
            continue
        top = max(row[c] for c in counted)
        total = sum(math.exp(row[c] - top) for c in counted)
        losses.append(sum((math.exp(row[c] - top) / total - (c in positive) / len(positive)) ** 2 for c in counted))
    return losses


@pytest.mark.parametrize("scale", [1.0, 50.0])
@pytest.mark.parametrize("size", [(1, 3), (5, 4), (8, 2)])
def test_the_loss_of_the_softmax_is_that_of_a_loop(size: tuple[int, int], scale: float) -> None:
    draw = np.random.default_rng(size[0])
    logits = np.clip(draw.normal(size=size) * scale, -50, 50)
    observed = draw.choice([POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED], size=size).astype(np.int8)
    found = softmax_loss(torch.from_numpy(logits), torch.from_numpy(observed), reduction="none")
    np.testing.assert_allclose(found.numpy(), by_loop(logits, observed), rtol=1e-12, atol=1e-15)
    mean = softmax_loss(torch.from_numpy(logits), torch.from_numpy(observed))
    assert mean.item() == pytest.approx(np.mean(by_loop(logits, observed)))


def test_the_loss_of_the_softmax_by_hand_and_at_its_edges() -> None:
    # Softmax 1/2, 1/4, 1/4; target 1/2, 1/2, 0.
    logits, observed = exact([math.log(2), 0.0, 0.0]), torch.tensor([[1, 1, -1]], dtype=torch.int8)
    assert softmax_loss(logits, observed).item() == pytest.approx(1 / 16 + 1 / 16)
    assert softmax_loss(torch.zeros(2, 3), torch.full((2, 3), NEGATIVE)).item() == 0
    ignored = torch.zeros(1, 3, requires_grad=True)
    softmax_loss(ignored, torch.full((1, 3), UNSPECIFIED)).backward()
    assert ignored.grad is not None
    assert not ignored.grad.any()
    assert softmax_loss(torch.zeros(1, 4), torch.ones(1, 4)).item() == 0  # all positive: the softmax is the target


def test_localisation_losses_by_hand() -> None:
    regions = exact([[0.7, -0.6, 0.5, 0.0], [0.05, 0.3, -0.5, 0.5]])
    anchors = torch.tensor([[0.0, 0.0], [-0.5, -0.5]])
    scale = 0.2**2 + 0.1**2
    anchor = 0.5 * 0.5**2 + 0.5 * 1.0**2
    positive = 0.7 + 0.05
    found = localisation_loss(regions, anchors)
    assert found.item() == pytest.approx(scale + 0.01 * anchor + 0.1 * positive)
    assert localisation_loss(regions, anchors, anchor_weight=0, positive_weight=0).item() == pytest.approx(scale)
    in_place = torch.cat([torch.full((5, 2), 0.5), torch.tensor(ANCHORS)], dim=1)
    assert localisation_loss(in_place[None], torch.tensor(ANCHORS)).item() == 0
    with pytest.raises(UsageError, match=r"expected \[B, K, 4\] and \[K, 2\]"):
        localisation_loss(regions, anchors[:1])


def test_the_reward_is_the_share_of_labels_among_as_many_highest_scores() -> None:
    scores = exact([0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0])
    observed = torch.tensor([[1, 0, -1, 1], [-1, -1, -1, 1], [0, 1, 1, 2], [0, -1, 0, 2]], dtype=torch.int8)
    # Ties go to the lower class: of two, classes 0 and 1 are taken.
    assert found_share(scores, observed).tolist() == [0.5, 1.0, 0.5, 0.0]


def test_unspecified_labels_take_no_place_in_the_reward() -> None:
    scores = exact([0.9, 0.8, 0.1, 0.0], [0.9, 0.8, 0.7, 0.6], [-50.0, 50.0, -50.0, 50.0])
    observed = torch.tensor([[2, 1, -1, 0], [1, 2, 0, 1], [1, 2, 1, 2]], dtype=torch.int8)
    # In the second image classes 0 and 2 are the highest of the others.
    assert found_share(scores, observed).tolist() == [1.0, 0.5, 1.0]


def test_reinforce_has_on_average_the_gradient_of_the_expected_reward() -> None:
    """Three draws of three outcomes, the second and third policy depending on what was drawn before."""
    draw = torch.Generator().manual_seed(3)
    first, table = torch.randn(3, dtype=torch.float64, generator=draw), torch.randn(3, 3, generator=draw).double()
    parameters = [first.requires_grad_(), table.requires_grad_()]
    reward = torch.rand(3, 3, 3, generator=draw).double()

    def log_probabilities(path: tuple[int, ...]) -> torch.Tensor:
        before = [first, table[path[0]], table[path[1]]]
        return torch.stack([each.log_softmax(dim=0)[a] for each, a in zip(before, path, strict=True)])

    paths = list(itertools.product(range(3), repeat=3))
    expected = sum(log_probabilities(path).sum().exp() * reward[path] for path in paths)
    wanted = torch.autograd.grad(expected, parameters)
    average = [torch.zeros_like(each) for each in parameters]
    for path in paths:
        logs = log_probabilities(path)
        # Any baseline of what came before the draw leaves the average as it is.
        baseline = exact([0.7, 0.1 + path[0], 2.0 * path[1] - path[0]])
        loss = reinforce_loss(logs[None], reward[path][None], baseline)
        for total, gradient in zip(average, torch.autograd.grad(loss, parameters), strict=True):
            total -= logs.sum().exp().detach() * gradient
    for found, known in zip(average, wanted, strict=True):
        torch.testing.assert_close(found, known)


def test_reinforce_on_a_normal_centre_has_the_gradient_of_the_smoothed_reward() -> None:
    """A reward of 1 to the right of 0: its expectation is Phi(mean / sigma), whose derivative is a normal density."""
    sigma, mean = 0.3, exact([0.2]).requires_grad_()
    points = torch.linspace(-3, 3, 20001, dtype=torch.float64)[:, None]
    logs = normal_log_density(points, mean, sigma)
    reward = (points[:, 0] > 0).double()
    entries = reinforce_loss(logs[:, None], reward, torch.full_like(logs[:, None], 0.4), reduction="none")
    weight = logs.exp().detach() * (points[1] - points[0])
    (found,) = torch.autograd.grad((weight * entries).sum(), mean)
    wanted = math.exp(-0.5 * (0.2 / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    assert -found.item() == pytest.approx(wanted, rel=1e-3)


def test_no_gradient_flows_through_rewards_and_baselines() -> None:
    logs, rewards, baselines = (torch.randn(shape, requires_grad=True) for shape in ((2, 3), (2,), (2, 3)))
    reinforce_loss(logs, rewards, baselines).backward()
    assert rewards.grad is None
    assert baselines.grad is None
    torch.testing.assert_close(logs.grad, -(rewards[:, None] - baselines).detach() / 2)
    with pytest.raises(UsageError, match=r"expected \[B, T\], \[B\], \[B, T\]"):
        reinforce_loss(logs, rewards, baselines[:, :2])


def test_the_density_is_that_of_a_normal_distribution() -> None:
    draw = torch.Generator().manual_seed(4)
    values, means = (torch.randn(5, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    wanted = torch.distributions.Normal(means, 0.2).log_prob(values).sum(dim=-1)
    torch.testing.assert_close(normal_log_density(values, means, 0.2), wanted)


def test_the_nine_regions_have_the_areas_and_shapes_they_should() -> None:
    assert len(SHAPES) == 9
    assert sorted(round(x * y, 9) for x, y in SHAPES) == [0.0625] * 3 + [0.25] * 3 + [0.5625] * 3
    assert sorted(round(x / y, 9) for x, y in SHAPES) == [0.5] * 3 + [1.0] * 3 + [2.0] * 3


def test_a_reader_returns_its_highest_scores_and_the_regions_after_the_first_look() -> None:
    torch.manual_seed(5)
    reader, maps = RegionReader(6, 4, cells=2, hidden=8, regions=3), torch.randn(2, 6, 5, 5)
    seen = reader(maps)
    assert seen.regions.shape == (2, 3, 4)
    # By hand, image by image.
    for image in range(2):
        state, region, best = None, torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), torch.full((4,), -torch.inf)
        for number in range(4):
            part = functional.max_pool2d(sample_regions(maps[image, None], region, 4)[0], 2)
            state = reader.lstm(torch.relu(reader.read[2](part.flatten(1))), state)
            z = reader.hidden(state[0])
            if number:
                best = torch.maximum(best, reader.classes(z)[0])
                torch.testing.assert_close(seen.regions[image, number - 1], region[0, 0])
            region = reader.where(z)[:, None]
        torch.testing.assert_close(seen.logits[image], best)


def test_an_explorer_draws_with_noise_only_and_is_told_by_the_reward_alone_where_to_look() -> None:
    torch.manual_seed(6)
    explorer, maps = RegionExplorer(6, 4, cells=2, hidden=8, steps=3, sigma=0.2), torch.randn(2, 6, 5, 5)
    plain, still = explorer(maps), explorer(maps, torch.zeros(2, 2, 2))
    torch.testing.assert_close(plain.logits, still.logits)
    noise = torch.tensor([[[1.0, -2.0], [0.5, 0.0]]] * 2)
    seen = explorer(maps, noise)
    # The density of a draw depends on its noise alone.
    wanted = -0.5 * noise.square().sum(dim=2) - 2 * math.log(0.2 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(seen.log_densities, wanted)
    assert not torch.equal(seen.logits, plain.logits)
    seen.logits.sum().backward()
    assert explorer.centre.weight.grad is None
    assert explorer.expected.weight.grad is None
    explorer(maps, noise).log_densities.sum().backward()
    assert explorer.centre.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["rmam", "rarlf"])
def test_methods_decide_by_rule_and_refuse_boostlu(name, train, tmp_path) -> None:
    record = train(name, changes={"train.epochs": 1})
    stored = run_dir(tmp_path / "runs", record["key"]) / record["predictions"]["test"]["file"]
    found = read_predictions(stored)
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, rtol=1e-5)
    assert np.array_equal(found.decisions, found.scores >= 0.1)  # four classes: ten are never reached
    with pytest.raises(UsageError, match="no class activation maps"):
        train(name, changes={"head.alpha": 5.0})


def test_draws_depend_on_step_and_image_not_on_the_batch() -> None:
    method = object.__new__(load_method("rarlf"))
    method.hyper = {"steps": 3}
    method.task = SimpleNamespace(generator=lambda name: torch.Generator().manual_seed(sum(map(ord, name))))
    whole = method._noise(torch.tensor([4, 7, 9]), SimpleNamespace(step=2))
    parts = [method._noise(torch.tensor(rows), SimpleNamespace(step=2)) for rows in ([4], [7, 9])]
    assert whole.shape == (3, 2, 2)
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, method._noise(torch.tensor([4, 7, 9]), SimpleNamespace(step=3)))
