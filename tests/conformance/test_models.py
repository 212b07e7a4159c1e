"""`mlbench check backbone` and `head`: ours conform, and each way to break a contract is told."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlbench.conformance.models import check_backbone, check_head
from mlbench.methods import Hyper
from mlbench.models.backbones import Backbone
from mlbench.models.heads import ClassificationHead


def failures(report: Any) -> dict[str, str]:
    return {check: why for _, check, outcome, why in report.rows if outcome == "FAILED"}


def told(found: dict[str, str], check: str) -> str:
    return next((why for name, why in found.items() if name.startswith(check)), f"not among {found}")


@pytest.mark.parametrize("name", ["linear", "csra", "ml_decoder", "q2l"])
def test_our_heads_conform(name: str) -> None:
    report = check_head(name)
    assert report.passed, report.text()


@pytest.mark.parametrize("name", ["scenes", "resnet18", "mobilenet_v2", "timm:test_vit"])
def test_our_backbones_conform(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    report = check_backbone(name)
    assert report.passed, report.text()


class Noisy(nn.Module):
    """Draws in evaluation, too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class OfTheBatch(nn.Module):
    """Looks at the other images."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0, keepdim=True)


class Drawn(nn.Module):
    """Draws its numbers from a generator of its own."""

    started = torch.Generator().manual_seed(0)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1, generator=Drawn.started))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Idle(nn.Module):
    """Has a parameter that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x


def net(*more: type[nn.Module]) -> Backbone:
    def make() -> OrderedDict[str, nn.Module]:
        convolution = nn.Conv2d(3, 4, 8, 8)
        return OrderedDict(first=convolution, **{f"more{i}": cls() for i, cls in enumerate(more)})

    return Backbone(make, out_channels=4, stride=8)


RIGHT = net()


@pytest.mark.parametrize(
    ("entry", "check", "why"),
    [
        (replace(RIGHT, out_channels=5), "maps have", r"[2, 4, 8, 8], expected torch.float32 [2, 5, 8, 8]"),
        (replace(RIGHT, stride=16), "maps have", "expected torch.float32 [2, 4, 4, 4]"),
        (replace(RIGHT, std=(1.0, 1.0, 0.0)), "statistics", "expected three numbers each, std above 0"),
        (net(Noisy), "each image", "another result the second time"),
        (net(OfTheBatch), "each image", "an image alone differs"),
        (net(Drawn), "built twice", "more0.scale differs"),
        (net(Idle), "every parameter", "more0.unused: no gradient reaches it"),
        (replace(RIGHT, stages=("first.none",)), "its stages", "stage 'first.none' is no module in it"),
    ],
)
def test_what_a_backbone_breaks_is_told(plug_in, monkeypatch, entry: Backbone, check: str, why: str) -> None:
    monkeypatch.setattr(f"{__name__}.RIGHT", entry)
    plug_in("backbones", "mine", f"{__name__}:RIGHT")
    assert why in told(failures(check_backbone("mine")), check)


class Mean(ClassificationHead):
    """The mean, and a layer."""

    hyperparameters = {"scale": Hyper(1.0, "times this")}

    def __init__(self, channels: int, classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(channels, classes), scale

    def forward(self, features: Tensor) -> Tensor:
        return (self.layer(features.mean(dim=(2, 3))) * self.scale).float()


class Half(Mean):
    """Stays in half precision."""

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features.mean(dim=(2, 3)))


class Promising(Mean):
    """Says that it has maps."""

    gives = ("maps",)


class Hidden(Mean):
    """Keeps a number outside its state."""

    def __init__(self, channels: int, classes: int, scale: float = 1.0) -> None:
        super().__init__(channels, classes, scale)
        self.secret = torch.rand(1)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * self.secret


class Flat(Mean):
    """Gives one number an image."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features)[:, 0]


class Unsaid(Mean):
    __doc__ = ""
    version = 0


@pytest.mark.parametrize(
    ("cls", "check", "why"),
    [
        (Half, "logits float32", "logits are torch.bfloat16 under autocast"),
        (Flat, "logits float32", "gives torch.float32 [3], expected torch.float32 [3, 5]"),
        (Promising, "it has what it says", "AttributeError: 'Promising' object has no attribute 'maps'"),
        (Hidden, "its state", "part of it is in no state_dict"),
        (Unsaid, "declarations", "the class has no docstring"),
    ],
)
def test_what_a_head_breaks_is_told(plug_in, cls: type, check: str, why: str) -> None:
    plug_in("heads", "mine", f"{__name__}:{cls.__name__}")
    assert why in told(failures(check_head("mine")), check)


def test_a_head_of_ones_own_conforms(plug_in, mlbench) -> None:
    plug_in("heads", "mine", f"{__name__}:Mean")
    code, out, _ = mlbench("check", "head", "mine")
    assert code == 0, out
    code, _, err = mlbench("check", "backbone", "resnet5")
    assert code == 2
    assert "unknown backbone 'resnet5'. Did you mean 'resnet50'" in err
