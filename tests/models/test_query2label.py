"""Query2Label, held against torch's own transformer layers with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlbench.errors import UsageError
from mlbench.models.query2label import Query2Label, position_code

SMALL = {"heads": 2, "feedforward": 24}


def made(channels: int = 8, classes: int = 5, **changes: int) -> Query2Label:
    torch.manual_seed(classes)
    return Query2Label(channels, classes, **{**SMALL, **changes}).double().eval()


def code_by_hand(height: int, width: int, channels: int) -> Tensor:
    half = channels // 2
    code = torch.zeros(height * width, channels, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            for side, (place, places) in enumerate(((row, height), (column, width))):
                for i in range(half):
                    angle = 2 * math.pi * (place + 1) / (places + 1e-6) / 10000 ** (2 * (i // 2) / half)
                    value = math.sin(angle) if i % 2 == 0 else math.cos(angle)
                    code[row * width + column, side * half + i] = value
    return code


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 5)])
def test_the_position_code_is_made_for_maps_of_any_size(shape: tuple[int, int]) -> None:
    code = position_code(*shape, 8, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(code, code_by_hand(*shape, 8))


def attend(layer: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Batch-first attention by torch's function, with the weights of `layer`."""
    own = layer.attention.state_dict()  # type: ignore[union-attr]
    seen, _ = functional.multi_head_attention_forward(
        *(query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)),
        *(query.shape[-1], layer.attention.num_heads),  # type: ignore[union-attr]
        *(own["in_proj_weight"], own["in_proj_bias"], None, None, False, 0.0),
        *(own["out_proj.weight"], own["out_proj.bias"]),
        training=False,
    )
    return seen.transpose(0, 1)


def plain_layer(layer: nn.Module, width: int) -> nn.TransformerEncoderLayer:
    """torch's encoder layer (post-norm, ReLU) with the weights of `layer`: where queries are keys are values."""
    plain = nn.TransformerEncoderLayer(width, 2, 24, dropout=0.0, batch_first=True).double().eval()
    names = {"attention": "self_attn", "norm": "norm1", "further.grow": "linear1", "further.shrink": "linear2"}
    names |= {"further.norm": "norm2"}
    state = {}
    for name, tensor in layer.state_dict().items():
        prefix = max((old for old in names if name.startswith(f"{old}.")), key=len)
        state[names[prefix] + name.removeprefix(prefix)] = tensor
    plain.load_state_dict(state)
    return plain


def restated(head: Query2Label, features: Tensor) -> Tensor:
    """Embeddings [B, C, width]: attention by torch's function, the rest of a layer by torch's encoder layer."""
    maps = head.project(features)
    width = maps.shape[1]
    places = code_by_hand(*maps.shape[2:], width)
    memory = maps.flatten(2).transpose(1, 2)

    def after(layer: nn.Module, x: Tensor, seen: Tensor) -> Tensor:
        plain = plain_layer(layer, width)
        x = plain.norm1(x + seen)
        return plain.norm2(x + plain.linear2(plain.linear1(x).relu()))

    for layer in head.encoder:
        memory = after(layer, memory, attend(layer, memory + places, memory + places, memory))
    found = torch.zeros(len(features), *head.queries.shape, dtype=torch.float64)
    for layer in head.decoder:
        found = after(layer, found, attend(layer, found + head.queries, memory + places, memory))
    return head.norm(found)


@pytest.mark.parametrize("shape", [(2, 2), (3, 5)])
@pytest.mark.parametrize("changes", [{}, {"width": 12}, {"encoders": 0, "decoders": 1}, {"encoders": 2}])
def test_embeddings_are_those_of_the_plain_restatement(shape: tuple[int, int], changes: dict[str, int]) -> None:
    head, features = made(**changes), torch.randn(2, 8, *shape, dtype=torch.float64)
    torch.testing.assert_close(head.embed(features), restated(head, features))


def test_a_layer_whose_queries_are_keys_is_torchs_encoder_layer() -> None:
    head, x = made(), torch.randn(2, 6, 8, dtype=torch.float64)
    (layer,) = head.encoder
    torch.testing.assert_close(layer(x, x, x, x), plain_layer(layer, 8)(x))


def test_a_logit_is_the_product_of_the_class_own_embedding_and_weight() -> None:
    head, features = made(), torch.randn(3, 8, 2, 2, dtype=torch.float64)
    embedded = head.embed(features)
    for c in range(5):
        torch.testing.assert_close(head(features)[:, c], embedded[:, c] @ head.weight[c] + head.bias[c])
    assert torch.equal(head(features), head.classify(embedded))


def test_without_a_width_there_is_no_projection_and_all_else_is_that_wide() -> None:
    assert isinstance(made().project, nn.Identity)
    assert made().queries.shape == (5, 8)
    assert made(width=12).queries.shape == (5, 12)
    assert made(width=8).state_dict().keys() == made().state_dict().keys()


def test_where_a_position_lies_counts() -> None:
    head, features = made(), torch.randn(2, 8, 2, 2, dtype=torch.float64)
    assert not torch.allclose(head(features), head(features.flip(3)))


def test_a_width_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match=r"width 8: expected a multiple of 4 and of head\.heads = 3"):
        made(heads=3)
    with pytest.raises(UsageError, match=r"width 6"):
        made(channels=6)
