"""`miml_fcn` and `miml_fcn_bb`: the privileged loss by hand, the best instance by loops, boxes in training alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loss_checks import saturated, uniform
from numpy_losses import NEGATIVE, POSITIVE, UNSPECIFIED, assumed_entries, batch, central_differences

from mlbench.baselines.bags import PrivilegedClassifier, Stream, privileged_bags, privileged_loss
from mlbench.baselines.losses import bce
from mlbench.baselines.wsddn import pool_regions
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError, UsageError
from mlbench.models.backbones import build_backbone
from mlbench.proposals import split_proposals
from mlbench.registry import load_method
from mlbench.runner.feed import Feed
from mlbench.runner.plan import resolve

# -- the loss ------------------------------------------------------------------------------------------------------


def loss_by_loops(logits, observed, slack, privileged, share) -> np.ndarray:
    entries = assumed_entries(logits, observed, 0.0)
    for b, c in np.ndindex(*entries.shape):
        if privileged[b] and observed[b, c] != UNSPECIFIED:
            entries[b, c] += share * abs(entries[b, c] - slack[b, c])
    return entries


def test_privileged_loss_by_hand() -> None:
    logits = torch.zeros(2, 2, dtype=torch.float64)  # every entry loses log 2 = 0.693
    observed = torch.tensor([[1, 0], [-1, 2]], dtype=torch.int8)
    slack = torch.tensor([[0.193147180559945309, 1.693147180559945309], [9.0, 9.0]], dtype=torch.float64)
    found = privileged_loss(logits, observed, slack, torch.tensor([True, False]), share=0.5, reduction="none")
    log2 = np.log(2)
    np.testing.assert_allclose(found.numpy(), [[log2 + 0.25, log2 + 0.5], [log2, 0]], rtol=1e-12)


@pytest.mark.parametrize(
    "given", [batch(16, 20, seed=0), batch(1, 1, seed=0), saturated(), uniform(POSITIVE), uniform(NEGATIVE)]
)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_privileged_loss_and_its_reductions_by_loops(given: Any, share: float) -> None:
    logits, observed = given
    slack = np.random.RandomState(1).randn(*logits.shape)
    privileged = np.arange(len(logits)) % 3 != 1
    wanted = loss_by_loops(logits, observed, slack, privileged, share)
    arguments = [torch.tensor(each) for each in (logits, observed, slack, privileged)]
    for reduction, value in (("none", wanted), ("sum", wanted.sum()), ("mean", wanted.sum() / len(wanted))):
        found = privileged_loss(*arguments, share=share, reduction=reduction)
        np.testing.assert_allclose(found.numpy(), value, rtol=1e-10, atol=1e-12)
    if share == 0:
        assert torch.equal(
            privileged_loss(*arguments, share=0, reduction="none"), bce(*arguments[:2], reduction="none")
        )


def test_whole_share_is_the_objective_of_an_svm_with_slack() -> None:
    logits, observed = batch(6, 5, seed=0)
    slack = torch.tensor(np.random.RandomState(2).randn(6, 5))
    losses = torch.tensor(assumed_entries(logits, observed, 0.0))
    counted = torch.tensor(observed != UNSPECIFIED)
    found = privileged_loss(
        torch.tensor(logits),
        torch.tensor(observed),
        slack,
        torch.ones(6, dtype=torch.bool),
        share=1.0,
        reduction="none",
    )
    torch.testing.assert_close(found[counted], (slack + 2 * (losses - slack).clamp(min=0))[counted])


def test_both_streams_have_numerical_gradients() -> None:
    logits, observed = batch(5, 4, seed=0)
    slack = np.random.RandomState(3).randn(5, 4)
    privileged, labels = torch.tensor([True, True, False, True, False]), torch.tensor(observed)
    given = [torch.tensor(each, requires_grad=True) for each in (logits, slack)]
    found = torch.autograd.grad(privileged_loss(given[0], labels, given[1], privileged, share=0.4), given)

    def moved(x: np.ndarray, s: np.ndarray) -> float:
        return float(privileged_loss(torch.tensor(x), labels, torch.tensor(s), privileged, share=0.4))

    np.testing.assert_allclose(found[0], central_differences(lambda x: moved(x, slack), logits), atol=1e-8)
    np.testing.assert_allclose(found[1], central_differences(lambda s: moved(logits, s), slack), atol=1e-8)
    assert not found[1][~privileged].any()
    assert not found[1][labels == UNSPECIFIED].any()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_loss_is_convex_in_logits_and_predictions_together(share: float) -> None:
    random = np.random.RandomState(4)
    labels = torch.tensor(random.choice([-1, 1], size=(500, 8)).astype(np.int8))
    seen = torch.ones(500, dtype=torch.bool)
    ends = [(4 * torch.tensor(random.randn(500, 8)), torch.tensor(random.randn(500, 8))) for _ in range(2)]

    def entries(logits: torch.Tensor, slack: torch.Tensor) -> torch.Tensor:
        return privileged_loss(logits, labels, slack, seen, share=share, reduction="none")

    middle = entries(*((first + second) / 2 for first, second in zip(*ends, strict=True)))
    assert (middle <= (entries(*ends[0]) + entries(*ends[1])) / 2 + 1e-12).all()


def test_wrong_arguments_of_the_loss_are_refused() -> None:
    logits, observed = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.int8)
    seen = torch.ones(2, dtype=torch.bool)
    for slack, privileged in ((logits[:, :2], seen), (logits, seen[:1]), (logits, observed == 1)):
        with pytest.raises(UsageError, match=r"expected \[B, C\] twice and \[B\]"):
            privileged_loss(logits, observed, slack, privileged)
    with pytest.raises(UsageError, match=r"share = 1\.5"):
        privileged_loss(logits, observed, logits, seen, share=1.5)
    with pytest.raises(UsageError, match="reduction"):
        privileged_loss(logits, observed, logits, seen, reduction="max")


# -- the bags ------------------------------------------------------------------------------------------------------


def stream() -> Stream:
    torch.manual_seed(0)
    return Stream(6, 3, cells=2, hidden=5, dropout=0.5, pooling="align").eval()


def some_regions(images: int = 2, count: int = 7) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    corners = torch.rand(images, count, 2, generator=random) / 2
    return torch.cat([corners, corners + 0.4, torch.rand(images, count, 1, generator=random)], dim=2)


def test_the_best_instance_of_each_class_by_loops_padding_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    network, maps, proposals = stream(), torch.randn(3, 6, 8, 8), some_regions(3)
    proposals[1, 3:] = 0
    proposals[2] = 0
    regions = split_proposals(proposals)
    with torch.no_grad():
        found = network(maps, regions)
        pooled = pool_regions(maps, regions.boxes, 2)
        for image, count in ((0, 7), (1, 3)):
            each = torch.stack([network.score(network.hidden(pooled[image, r].flatten())) for r in range(count)])
            torch.testing.assert_close(found[image], each.amax(dim=0))
        assert found[2].tolist() == [0, 0, 0]
        monkeypatch.setattr("mlbench.baselines.wsddn._AT_ONCE", 7)
        torch.testing.assert_close(network(maps, regions), found)


def test_boxes_become_bags_without_their_class_and_nothing_is_a_bag_too() -> None:
    boxes = [torch.tensor([[2, 0.1, 0.2, 0.5, 0.6], [0, 0, 0, 1, 1]]), torch.zeros(0, 5), torch.ones(1, 5)]
    bags = privileged_bags(boxes)
    torch.testing.assert_close(bags.boxes[0], torch.tensor([[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]]))
    assert bags.valid.tolist() == [[True, True], [False, False], [False, False]], "a box without area is none"
    assert not bags.scores.any()
    none = privileged_bags([torch.zeros(0, 5)] * 2)
    assert none.boxes.shape == (2, 1, 4)
    assert not none.valid.any()


def test_boxes_train_the_backbone_through_the_first_stream_only() -> None:
    torch.manual_seed(0)
    streams = [Stream(64, 3, cells=1, hidden=0, dropout=0.0, pooling="align") for _ in range(2)]
    network = PrivilegedClassifier(build_backbone("scenes"), *streams)
    logits, slack = network.both(torch.rand(2, 3, 64, 64), *[split_proposals(some_regions())] * 2)
    trunk = list(network.backbone.parameters())
    assert torch.autograd.grad(slack.sum(), trunk, allow_unused=True) == (None,) * len(trunk)
    assert all(gradient.any() for gradient in torch.autograd.grad(logits.sum(), trunk))


# -- runs ----------------------------------------------------------------------------------------------------------


def test_boxes_are_declared_recorded_and_take_part_in_training_alone(train: Any) -> None:
    assert load_method("miml_fcn").supervision == ("observed",)
    assert load_method("miml_fcn_bb").supervision == ("observed", "boxes")
    record = train("miml_fcn_bb", changes={"train.epochs": 1})
    assert record["identity"]["method"]["supervision"] == ["observed", "boxes"]
    data = tiny_dataset()
    moved = data.splits["train"].boxes.copy()
    moved[:, 3], moved[:, 5] = 64 - moved[:, 5], 64 - moved[:, 3]
    object.__setattr__(data.splits["train"], "boxes", moved)
    other = train("miml_fcn_bb", dataset=data, changes={"train.epochs": 1})
    assert other["epochs"][0]["loss"] != record["epochs"][0]["loss"]
    bare = tiny_dataset()
    for part in ("val", "test"):
        object.__setattr__(bare.splits[part], "boxes", None)
    same = train("miml_fcn_bb", dataset=bare, changes={"train.epochs": 1})
    assert same["results"] == record["results"]


def test_a_data_set_without_boxes_is_refused_before_training(tiny_request: Any) -> None:
    data = tiny_dataset()
    object.__setattr__(data.splits["train"], "boxes", None)
    with pytest.raises(DataError, match="'tiny' has no boxes, which method 'miml_fcn_bb' learns from"):
        Feed(resolve(tiny_request("miml_fcn_bb", dataset=data)), torch.device("cpu"))
    Feed(resolve(tiny_request("miml_fcn", dataset=data)), torch.device("cpu"))


@pytest.mark.parametrize("name", ["miml_fcn", "miml_fcn_bb"])
def test_boostlu_is_refused(name: str, train: Any) -> None:
    with pytest.raises(UsageError, match="no class activation maps"):
        train(name, changes={"head.alpha": 5.0})
