"""Side inputs: proposals follow their images, are made when asked for, and are part of a run's identity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.methods import Method
from mlbench.proposals.grid import window_grid
from mlbench.runner.feed import Feed
from mlbench.runner.plan import resolve
from mlbench.runner.side import PROPOSAL_HYPERPARAMETERS, LazySide, mirror_boxes, mirror_proposals


class Looks(Method):
    """Takes proposals."""

    name = "looks"
    tracks = ("full",)
    inputs = ("proposals",)
    hyperparameters = PROPOSAL_HYPERPARAMETERS


GRID = {"proposals.source": "grid", "proposals.count": 6}


def test_mirrored_boxes_lie_over_the_same_pixels_of_the_mirrored_image() -> None:
    given = torch.tensor([[[0.1, 0.2, 0.4, 0.9, 0.7], [0, 0, 0, 0, 0]]] * 2, dtype=torch.float64)
    mirrored = mirror_proposals(given, torch.tensor([True, False]))
    torch.testing.assert_close(mirrored[0, 0], torch.tensor([0.6, 0.2, 0.9, 0.9, 0.7], dtype=torch.float64))
    assert not mirrored[0, 1].any()
    torch.testing.assert_close(mirrored[1], given[1])


def test_proposals_are_mirrored_with_their_images(tiny_request: Any) -> None:
    run = resolve(tiny_request(Looks, changes={**GRID, "train.augment": ["flip"]}))
    feed, index = Feed(run, torch.device("cpu")), np.arange(20)
    plain, augmented = feed.batch("train", index, None), feed.batch("train", index, 2)
    flipped = torch.tensor([not torch.equal(a, b) for a, b in zip(plain.inputs, augmented.inputs, strict=True)])
    assert 0 < flipped.sum() < 20
    wanted = mirror_proposals(plain.side["proposals"], flipped)
    torch.testing.assert_close(augmented.side["proposals"], wanted, rtol=0, atol=0)
    np.testing.assert_array_equal(plain.side["proposals"][3].numpy(), window_grid(np.zeros((1, 1, 3)))[:6])


class Told(Looks):
    """Takes proposals and ground-truth boxes."""

    inputs = ("boxes",)
    supervision = ("observed", "boxes")


def test_ground_truth_boxes_are_shares_and_are_mirrored_with_their_images(tiny_request: Any) -> None:
    run = resolve(tiny_request(Told, changes={"train.augment": ["flip"], "train.image_size": 32}))
    feed, index = Feed(run, torch.device("cpu")), np.arange(20)
    plain, augmented = feed.batch("train", index, None), feed.batch("train", index, 2)
    flipped = torch.tensor([not torch.equal(a, b) for a, b in zip(plain.inputs, augmented.inputs, strict=True)])
    assert 0 < flipped.sum() < 20
    decoded = tiny_dataset().splits["train"].boxes
    assert decoded is not None
    for row in index:
        own = torch.from_numpy(decoded[decoded[:, 0] == row, 1:])
        own[:, 1:] /= 64
        torch.testing.assert_close(plain.side["boxes"][row], own)
        if flipped[row]:
            own[:, [1, 3]] = 1 - own[:, [3, 1]]
        torch.testing.assert_close(augmented.side["boxes"][row], own)
    assert mirror_boxes([torch.zeros(0, 5)], torch.tensor([True]))[0].shape == (0, 5)


def test_nothing_is_made_that_is_not_read(tiny_request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = resolve(tiny_request(Looks, changes=GRID))
    feed = Feed(run, torch.device("cpu"))
    batch = feed.batch("test", np.arange(2), None)
    assert not feed._side
    assert list(batch.side) == ["proposals"]
    assert batch.side["proposals"] is batch.side["proposals"]
    with pytest.raises(KeyError):
        batch.side["boxes"]
    assert len(LazySide((), lambda kind: kind)) == 0


def test_identity_names_the_proposals_of_methods_that_take_them_only(tiny_request: Any) -> None:
    assert "inputs" not in resolve(tiny_request("an")).identity
    run, other = (resolve(tiny_request(Looks, changes={**GRID, "proposals.count": count})) for count in (6, 7))
    assert run.identity["inputs"]["proposals"]["source"] == "grid"
    assert run.key != other.key


def test_a_method_has_to_declare_what_proposals_it_takes(tiny_request: Any) -> None:
    undeclared = type("Undeclared", (Looks,), {"__doc__": "x", "hyperparameters": {}})
    with pytest.raises(UsageError, match=r"has to declare the hyperparameters proposals\."):
        resolve(tiny_request(undeclared))
