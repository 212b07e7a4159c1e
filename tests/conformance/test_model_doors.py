"""`mlbench check backbone` and `head`: ours conform, and each way to break a contract is told by its check."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlbench.conformance.models import check_backbone, check_head
from mlbench.models.backbones import Backbone
from mlbench.models.heads import ClassificationHead
from mlbench.settings import Hyper


def failures(report: Any) -> dict[str, str]:
    return {check: why for _, check, outcome, why in report.rows if outcome == "FAILED"}


class Mine(ClassificationHead):
    """The largest score of each class over positions."""

    gives: tuple[str, ...] = ()

    def __init__(self, channels: int, classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(channels, classes), scale

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.scale * self.linear(features.float().flatten(2).transpose(1, 2)).amax(dim=1)


class NoDocstring(Mine):
    __doc__ = ""


class OddDefault(Mine):
    """x"""

    hyperparameters = {"scale": Hyper(1.0, "factor", low=2.0)}


class Promises(Mine):
    """x"""

    gives = ("maps",)


class OneClassMore(Mine):
    """x"""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([super().forward(features)] * 2, dim=1)


class Unseeded(Mine):
    """x"""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(torch.seed() % 1000))


class LooksAround(Mine):
    """x"""

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits - logits.mean(dim=0)


class Idle(Mine):
    """x"""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.idle = nn.Parameter(torch.zeros(3))


class Forgets(Mine):
    """x"""

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.scale = float(features.std()) + 1.0
        return super().forward(features)


class Rounds(Mine):
    """x"""

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.mean(dim=(2, 3)))


class MapsThatTrain(Mine):
    """x"""

    gives = ("maps",)

    def maps(self, features: Tensor, boosted: bool = False) -> Tensor:
        return torch.einsum("cd,bdhw->bchw", self.linear.weight, features)

    heat_maps = maps


class OtherEmbeddings(Mine):
    """x"""

    gives = ("embeddings",)

    def embed(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))[:, None].expand(-1, len(self.linear.weight), -1)

    def classify(self, embeddings: Tensor) -> Tensor:
        return (embeddings * self.linear.weight).sum(dim=2)


BAD_HEADS = {
    NoDocstring: ("says what it is", "no docstring"),
    OddDefault: ("says what it is", "head.scale"),
    Promises: ("says what it is", "does not define maps and heat_maps"),
    OneClassMore: ("logits of maps", "expected float32"),
    Unseeded: ("same seed", "draw them from torch's global generator"),
    LooksAround: ("the same twice", "depends on the rest of the batch"),
    Idle: ("a gradient", "idle"),
    Forgets: ("its state", "with the state of another"),
    Rounds: ("logits are float32", "bfloat16"),
    MapsThatTrain: ("class activation maps", "data there"),
    OtherEmbeddings: ("an embedding", "of the embeddings"),
}


@pytest.mark.parametrize("head", BAD_HEADS, ids=lambda head: head.__name__)
def test_what_a_head_breaks_is_told(plug_in: Any, monkeypatch: pytest.MonkeyPatch, head: type[Mine]) -> None:
    monkeypatch.setattr("mlbench.conformance.models._trains", lambda **given: None)
    plug_in("heads", "mine", f"{__name__}:{head.__name__}")
    found = failures(check_head("mine"))
    check, why = BAD_HEADS[head]
    assert any(name.startswith(check) and why in text for name, text in found.items()), found


def test_a_head_of_ones_own_conforms_and_trains(plug_in: Any, mlbench: Any) -> None:
    plug_in("heads", "mine", f"{__name__}:Mine")
    code, out, _ = mlbench("check", "head", "mine")
    assert code == 0, out
    assert out.startswith("mine: conforms\n")


@pytest.mark.parametrize("name", ["linear", "csra", "ml_decoder", "q2l"])
def test_our_heads_conform(name: str) -> None:
    report = check_head(name)
    assert report.passed, report.text()


# --- backbones --------------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """Maps of a position for 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 4, stride=4)
        self.second = nn.Conv2d(4, 6, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images).relu())


class Pooled(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).mean(dim=(2, 3))


class Normed(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        maps = super().forward(images)
        return maps - maps.mean(dim=0)


class IdleTrunk(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)


class OddFile(Tiny):
    def adapt_weights(self, state: dict[str, Tensor], ordered: bool) -> tuple[dict[str, Tensor], str]:
        return {key: 2 * tensor for key, tensor in state.items()}, "doubled"


OWN = Backbone(Tiny, 6, 8)
POOLED, NORMED, IDLE, ODD_FILE = (Backbone(kind, 6, 8) for kind in (Pooled, Normed, IdleTrunk, OddFile))
NARROW, COARSE = Backbone(Tiny, 5, 8), Backbone(Tiny, 6, 16)
NO_SPREAD = Backbone(Tiny, 6, 8, std=(0.1, 0.0, 0.1))
ONE_STAGE = Backbone(Tiny, 6, 8, stages=("first",))
BAD_BACKBONES = {
    "NO_SPREAD": ("says what it gives", "expected numbers above 0"),
    "POOLED": ("maps are", "expected maps [B, D, h, w]"),
    "NARROW": ("maps are", "expected [1, 5, 4, 4]"),
    "COARSE": ("maps are", "expected [1, 6, 4, 4]"),
    "NORMED": ("the same twice", "depends on the rest of the batch"),
    "IDLE": ("a gradient", "idle.weight"),
    "ODD_FILE": ("weights come", "from a file"),
    "ONE_STAGE": ("stages", "expected three maps"),
}


@pytest.mark.parametrize("name", BAD_BACKBONES)
def test_what_a_backbone_breaks_is_told(plug_in: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("mlbench.conformance.models._trains", lambda **given: None)
    plug_in("backbones", "mine", f"{__name__}:{name}")
    found = failures(check_backbone("mine"))
    check, why = BAD_BACKBONES[name]
    assert any(text.startswith(check) and why in told for text, told in found.items()), found


def test_a_backbone_of_ones_own_conforms_and_its_package_is_in_the_identity(plug_in: Any, mlbench: Any) -> None:
    plug_in("backbones", "mine", f"{__name__}:OWN")
    code, out, _ = mlbench("check", "backbone", "mine")
    assert code == 0, out
    from mlbench.models.backbones import library_of

    assert library_of("mine")
    assert library_of("scenes") == ""


@pytest.mark.parametrize("name", ["scenes", "timm:test_vit"])  # one that takes any size, one that is set to one
def test_our_backbones_conform(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    report = check_backbone(name)
    assert report.passed, report.text()
