"""A backbone that `bce` trained first: which run it is, and that its weights arrive."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mlbench.baselines.encoders import make_encoder, uses_encoder
from mlbench.errors import UsageError
from mlbench.registry import load_method


def test_another_run_is_asked_for_only_where_its_backbone_is() -> None:
    assert not uses_encoder({"encoder": "start", "encoder.epochs": 3})
    assert uses_encoder({"encoder": "bce", "encoder.epochs": 0})["encoder"].hyperparameters == {}
    used = uses_encoder({"encoder": "bce", "encoder.epochs": 3})["encoder"]
    assert (used.method, used.hyperparameters) == ("bce", {"train.epochs": 3})
    for name in ("rmam", "rarlf", "kcca"):
        method = load_method(name)
        assert not method.uses_for(method.resolve({}))
        assert method.uses_for(method.resolve({"encoder": "bce"}))["encoder"].method == "bce"


def test_the_weights_are_those_of_that_run() -> None:
    trained = nn.Linear(3, 2)
    handed = {f"backbone.{name}": tensor for name, tensor in trained.state_dict().items()}
    handed["head.bias"] = torch.ones(1)
    task = SimpleNamespace(
        hyper={"encoder": "bce"}, track="full", artefacts={"encoder": handed}, backbone=lambda: nn.Linear(3, 2)
    )
    assert torch.equal(make_encoder(task).weight, trained.weight)
    task.artefacts = {}
    assert not torch.equal(make_encoder(task).weight, trained.weight)
    task.track = "head"
    with pytest.raises(UsageError, match="has no effect on track 'head'"):
        make_encoder(task)
