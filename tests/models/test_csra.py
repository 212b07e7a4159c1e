"""The head with class-specific residual attention, held against loops over classes and positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mlbench.errors import UsageError
from mlbench.models.csra import TEMPERATURES, ResidualAttention, attend
from mlbench.models.heads import HeadSpec


def by_hand(head: ResidualAttention, features: Tensor, alpha: float = 1.0) -> Tensor:
    """Logits by loops over images, classes, blocks and positions, in Python's floats."""
    weight = head.weight.detach().double()
    logits = torch.zeros(len(features), weight.shape[1], dtype=torch.float64)
    for i, c, (h, temperature) in (
        (i, c, block)
        for i in range(len(features))
        for c in range(weight.shape[1])
        for block in enumerate(TEMPERATURES[len(weight)])
    ):
        length = math.sqrt(sum(float(w) ** 2 for w in weight[h, c]))
        scores = [
            sum(float(w) * float(f) for w, f in zip(weight[h, c], place, strict=True)) / length
            for place in features[i].double().flatten(1).T
        ]
        scores = [s * alpha if s > 0 else s for s in scores]
        if temperature == 99:
            attended = max(scores)
        else:
            powers = [math.exp(temperature * s) for s in scores]
            attended = sum(s * p for s, p in zip(scores, powers, strict=True)) / sum(powers)
        logits[i, c] += sum(scores) / len(scores) + head.residual * attended
    return logits


@pytest.mark.parametrize("blocks", TEMPERATURES)
@pytest.mark.parametrize("shape", [(3, 4), (1, 1)])
def test_logits_are_those_of_loops(blocks: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(blocks)
    head = ResidualAttention(6, 5, residual=0.4, blocks=blocks).double()
    features = torch.randn(2, 6, *shape, dtype=torch.float64)
    torch.testing.assert_close(head(features).detach(), by_hand(head, features))


def test_the_temperature_of_99_is_the_maximum_and_not_nearly_so() -> None:
    scores = torch.tensor([[[0.0, 0.001, -1.0]]])
    assert attend(scores, 99).item() == scores.max().item()
    soft = (scores * torch.softmax(99.0 * scores, dim=2)).sum().item()
    assert soft < 0.0006  # what the softmax would have given
    assert attend(torch.tensor([[[3.0, 1.0]]]), 2).item() == pytest.approx((3 * math.e**4 + 1) / (math.e**4 + 1))


def test_the_length_of_a_weight_does_not_count_and_there_is_no_bias() -> None:
    torch.manual_seed(0)
    head, features = ResidualAttention(6, 5, blocks=2), torch.randn(2, 6, 3, 3)
    before = head(features).detach()
    with torch.no_grad():
        head.weight *= 7.0
    torch.testing.assert_close(head(features).detach(), before)
    assert torch.equal(head(torch.zeros(1, 6, 2, 2)), torch.zeros(1, 5))
    assert [name for name, _ in head.named_parameters()] == ["weight"]


def test_boostlu_comes_before_both_ways_of_pooling() -> None:
    torch.manual_seed(0)
    head, features = ResidualAttention(6, 5, residual=0.5, blocks=4).double(), torch.randn(2, 6, 3, 3).double()
    head.spec = HeadSpec("boostlu", 1.0, 5.0)
    torch.testing.assert_close(head.train()(features).detach(), by_hand(head, features))
    torch.testing.assert_close(head.eval()(features).detach(), by_hand(head, features, alpha=5.0))


def test_maps_are_what_the_mean_is_taken_of() -> None:
    torch.manual_seed(0)
    head, features = ResidualAttention(6, 5, residual=0.0, blocks=2), torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(head.maps(features).mean(dim=(2, 3)), head(features))
    head.spec = HeadSpec("boostlu", 5.0, 5.0)
    torch.testing.assert_close(head.maps(features, boosted=True).mean(dim=(2, 3)), head(features))
    assert not torch.allclose(head.maps(features), head.maps(features, boosted=True))


def test_heat_maps_are_the_maps_with_weights_as_data() -> None:
    torch.manual_seed(0)
    head, features = ResidualAttention(6, 5, blocks=2), torch.randn(2, 6, 3, 4, requires_grad=True)
    maps = head.heat_maps(features)
    assert torch.equal(maps, head.maps(features))
    maps.square().sum().backward()
    assert head.weight.grad is None
    assert features.grad is not None


def test_a_number_of_blocks_that_has_no_temperatures_is_refused() -> None:
    with pytest.raises(UsageError, match=r"head\.blocks = 3: expected one of 1, 2, 4, 6, 8"):
        ResidualAttention(6, 5, blocks=3)
