"""AR: the share of a map that is attended to, by hand and by loops, and a loss of the observed positives alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mlbench.baselines.refined_attention import attention_area, refinement_loss
from mlbench.errors import UsageError


def area_by_loops(values: np.ndarray) -> float:
    powers = [math.exp(value - values.max()) for value in values.flat]
    shares = [power / sum(powers) for power in powers]
    return math.exp(-sum(share * math.log(share) for share in shares if share)) / values.size


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_area_by_loops(spread: float) -> None:
    values = spread * np.random.RandomState(0).randn(3, 2, 4, 5)
    wanted = [[area_by_loops(each) for each in image] for image in values]
    maps = torch.tensor(values, requires_grad=True)
    found = attention_area(maps)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9)
    found.sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_area_of_maps_known_by_hand() -> None:
    flat, peak, half = torch.full((2, 4), 3.0), torch.zeros(2, 4), torch.zeros(2, 4)
    peak[1, 2] = 1000.0
    half[:, :2] = 1000.0
    found = attention_area(torch.stack([flat, peak, half])[None])
    torch.testing.assert_close(found, torch.tensor([[1.0, 1 / 8, 0.5]]))
    torch.testing.assert_close(attention_area(torch.stack([peak, half])[None] - 50), found[:, 1:])
    # Two cells with log 3 between them attend 3/4 and 1/4: exp(H) is 4 / 3^(3/4).
    two = torch.tensor([[[[math.log(3), 0.0]]]])
    assert attention_area(two).item() == pytest.approx(2 / 3**0.75)


def test_one_cell_is_all_there_is_and_shapes_are_checked() -> None:
    assert attention_area(torch.randn(2, 3, 1, 1)).tolist() == [[1.0] * 3] * 2
    for wrong in (torch.randn(2, 3, 4), torch.randn(2, 3, 0, 4)):
        with pytest.raises(UsageError, match="attention area"):
            attention_area(wrong)


def test_only_observed_positives_have_a_loss() -> None:
    values = np.random.RandomState(1).randn(3, 4, 2, 3)
    observed = np.array([[1, 0, -1, 2], [1, 1, 1, 1], [0, 0, 2, -1]], dtype=np.int8)
    wanted = [
        [area_by_loops(m) if o == 1 else 0.0 for m, o in zip(*each, strict=True)]
        for each in zip(values, observed, strict=True)
    ]
    maps, states = torch.tensor(values, requires_grad=True), torch.tensor(observed)
    entries = refinement_loss(maps, states, reduction="none")
    np.testing.assert_allclose(entries.detach().numpy(), wanted)
    assert refinement_loss(maps, states).item() == pytest.approx(np.mean(wanted))
    assert refinement_loss(maps, states, reduction="sum").item() == pytest.approx(np.sum(wanted))
    entries.sum().backward()
    assert maps.grad is not None
    assert torch.equal(maps.grad.abs().sum(dim=(2, 3)) > 0, states == 1)
    assert refinement_loss(maps[2:], states[2:]).item() == 0
    for arguments, named in (((maps, states[:, :2]), {}), ((maps, states), {"reduction": "men"})):
        with pytest.raises(UsageError):
            refinement_loss(*arguments, **named)


def test_a_step_down_the_loss_narrows_the_map_around_its_peak() -> None:
    maps = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps.requires_grad_()
    refinement_loss(maps, torch.ones(1, 1, dtype=torch.int8)).backward()
    assert maps.grad is not None
    peak = maps.detach().flatten().argmax()
    assert maps.grad.flatten()[peak] < 0
    stepped = maps.detach() - 10 * maps.grad
    assert attention_area(stepped).item() < attention_area(maps).item()
    assert stepped.flatten().argmax() == peak
