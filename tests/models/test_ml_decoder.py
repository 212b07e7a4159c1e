"""ML-Decoder, held against torch's decoder layer without its self-attention, and its classes against a loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlbench.errors import UsageError
from mlbench.models.ml_decoder import MLDecoder

SMALL = {"width": 16, "heads": 2, "feedforward": 24}


def restated(head: MLDecoder, features: Tensor) -> Tensor:
    """Embeddings [B, G, width] in evaluation, by `torch.nn.functional.multi_head_attention_forward` and its kin."""
    state = head.state_dict()

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, number: int) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"norms.{number}.weight"], state[f"norms.{number}.bias"])

    memory = linear(features.flatten(2).permute(2, 0, 1), "memory").relu()  # [P, B, width]
    query = norm(2 * state["queries"], 0)[:, None].expand(-1, len(features), -1)
    seen, _ = functional.multi_head_attention_forward(
        *(query, memory, memory, query.shape[-1], head.attention.num_heads),
        *(state["attention.in_proj_weight"], state["attention.in_proj_bias"], None, None, False, 0.0),
        *(state["attention.out_proj.weight"], state["attention.out_proj.bias"]),
        training=False,
    )
    query = norm(query + seen, 1)
    return norm(query + linear(linear(query, "grow").relu(), "shrink"), 2).transpose(0, 1)


def made(classes: int, **changes: int) -> MLDecoder:
    torch.manual_seed(classes)
    head = MLDecoder(6, classes, **{**SMALL, **changes}).double().eval()
    nn.init.normal_(head.bias)
    return head


@pytest.mark.parametrize("shape", [(1, 1), (2, 5)])
def test_embeddings_are_those_of_the_plain_restatement(shape: tuple[int, int]) -> None:
    head, features = made(7), torch.randn(3, 6, *shape, dtype=torch.float64)
    torch.testing.assert_close(head.embed(features), restated(head, features))


@pytest.mark.parametrize(
    ("classes", "queries", "outputs", "used"), [(7, 0, 1, 7), (199, 0, 2, 100), (312, 0, 4, 78), (7, 3, 3, 3)]
)
def test_class_c_is_output_c_of_the_queries_one_after_the_other(
    classes: int, queries: int, outputs: int, used: int
) -> None:
    head, features = made(classes, queries=queries), torch.randn(2, 6, 2, 2, dtype=torch.float64)
    groups = restated(head, features)
    assert head.weight.shape == (min(100, queries or classes), 16, outputs)
    logits = head(features)
    assert logits.shape == (2, classes)
    for c in range(classes):
        expected = groups[:, c // outputs] @ head.weight[c // outputs, :, c % outputs] + head.bias[c]
        torch.testing.assert_close(logits[:, c], expected)
    logits.sum().backward()
    grad = head.weight.grad
    assert grad is not None
    assert int((grad.abs().sum(dim=(1, 2)) > 0).sum()) == used  # of 312 classes, 22 of 100 queries reach no output


def test_queries_are_kept_with_the_weights_and_never_trained() -> None:
    head = made(7)
    assert "queries" in head.state_dict()
    assert "queries" not in dict(head.named_parameters())
    assert head.queries.std().item() == pytest.approx(1.0, abs=0.3)  # type: ignore[operator]


def test_logits_are_those_of_the_embeddings_where_each_class_has_one() -> None:
    head, features = made(7), torch.randn(2, 6, 3, 3, dtype=torch.float64)
    assert torch.equal(head.classify(head.embed(features)), head(features))
    with pytest.raises(UsageError, match=r"3 queries for 7 classes.*--set head\.queries=7"):
        made(7, queries=3).embed(features)


def test_dropout_is_at_work_in_training_alone() -> None:
    head, features = made(7), torch.randn(2, 6, 3, 3, dtype=torch.float64)
    assert torch.equal(head(features), head(features))
    head.train()
    assert not torch.equal(head(features), head(features))


def test_the_order_of_positions_does_not_count() -> None:
    head, features = made(7), torch.randn(2, 6, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(head(features), head(features.flatten(2).flip(2).reshape(2, 6, 3, 2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 8}, r"head\.queries = 8: expected at most"),
        ({"heads": 3}, r"head\.width = 16: expected a multiple"),
    ],
)
def test_what_does_not_divide_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(7, **changes)
