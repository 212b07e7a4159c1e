"""What a run takes at a paper's own scale, on paper: images, disk, and hours on a GPU of a published speed.

Hours are images passed through the network times its published operations, over the published training speed of
ResNet-50 on that GPU, times what a method's step was measured to take beside a plain one
(`results/benchmarks/step.json`). No GPU was at hand: `mlbench plan` measures where one is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from mlbench.errors import UsageError, unknown
from mlbench.models.backbones import BACKBONES
from mlbench.models.weights import TORCHVISION
from mlbench.protocol import Protocol
from mlbench.settings import TrainSettings

#: A training step is three forward passes of arithmetic; inference is one.
_STEP, _PASS = 3.0, 1.0


@dataclass(frozen=True)
class Speed:
    """Published training speed of ResNet-50 at 224 px: images a second on one GPU, and on eight of one machine."""

    name: str
    one: float
    eight: float


#: NVIDIA, DeepLearningExamples, ResNet-50 v1.5 for PyTorch, README, "Training performance: NVIDIA DGX A100 (8x A100
#: 80GB)", container 21.03. fp32 of this harness is TF32 there, bf16 mixed precision.
A100: Mapping[str, Speed] = {
    "fp32": Speed("A100 80 GB, TF32", 938.0, 7248.0),
    "bf16": Speed("A100 80 GB, mixed precision", 2470.0, 16621.0),
}
#: Counts that a protocol does not expect, because they depend on what is fetched: those of the source.
SOURCE_COUNTS: Mapping[str, Mapping[str, int]] = {
    "openimages-v3": {"classes": 5000, "train": 9_011_219, "val": 41_620, "test": 125_436}
}


@dataclass(frozen=True)
class Counts:
    """Classes and images of a data set's parts under a protocol."""

    classes: int
    train: int
    val: int
    test: int

    @property
    def images(self) -> int:
        return self.train + self.val + self.test


@dataclass(frozen=True)
class Network:
    """A network as it was published: 10^9 multiply-adds of one image of 224 px, parameters with its classifier."""

    name: str
    gmacs: float
    parameters: int
    channels: int
    stride: int


@dataclass(frozen=True)
class Needs:
    """What one run takes. Bytes, but for `images` and seconds.

    decoded : of all its images, kept once for all runs. pooled, maps : features of the frozen network (track head),
    kept once too. predictions : of the selected epoch. weights : that stay. checkpoint : while it trains.
    seconds, eight : on one GPU, and on eight as one data-parallel run.
    """

    images: int
    decoded: int
    pooled: int
    maps: int
    predictions: int
    weights: int
    checkpoint: int
    seconds: float
    eight: float


def counts_of(protocol: Protocol, dataset: str) -> Counts | None:
    """What the protocol expects of a data set, or its source says; None where neither does."""
    rules = protocol.datasets.get(dataset)
    found = {**SOURCE_COUNTS.get(dataset, {}), **(rules.expect if rules else {})}
    if not {"classes", "train", "test"} <= found.keys():
        return None
    return Counts(found["classes"], found["train"], found.get("val", 0), found["test"])


@cache
def network_of(backbone: str) -> Network | None:
    """What torchvision publishes of a backbone; None for one that is not torchvision's."""
    architecture = TORCHVISION.get(backbone)
    if architecture is None:
        return None
    import torchvision

    meta = torchvision.models.get_model_weights(architecture)["IMAGENET1K_V1"].meta
    entry = BACKBONES[backbone]
    return Network(backbone, float(meta["_ops"]), int(meta["num_params"]), entry.out_channels, entry.stride)


@cache
def _measured() -> Mapping[str, float]:
    """By method and phase, its step beside the one of `an` that was taken right before it, on the same network."""
    path = files("mlbench.results") / "benchmarks" / "step.json"
    beside = json.loads(path.read_text(encoding="utf-8"))["figures"]["methods"]["scenes"]["to_an"]
    return {name: values["median"] for name, values in beside.items()} | {"an": 1.0}


def factor_of(method: str) -> float | None:
    """How many steps of `an` a step of `method` takes, the longest of its phases; None where none was measured.

    Of methods that look at regions it is a guess: it was measured on a tiny network, which makes their own work large.
    """
    found = [value for name, value in _measured().items() if name.partition(":")[0] == method]
    return max(1.0, *found) if found else None


def needs_of(
    counts: Counts,
    network: Network,
    train: TrainSettings,
    *,
    track: str = "full",
    factor: float = 1.0,
    precision: str = "fp32",
) -> Needs:
    """What a run of `train` settings takes on `network`; `factor` is that of its method (`factor_of`).

    Each epoch trains on all training images and predicts validation and test images. On track head each image passes
    the network once, for all runs; that is the time given, the rest is seconds.
    """
    if precision not in A100:
        raise unknown("precision", precision, A100)
    if track not in ("full", "head"):
        raise UsageError(f"track '{track}': expected full or head")
    size, speed = train.image_size, A100[precision]
    positions = (-(-size // network.stride)) ** 2
    passes = (
        train.epochs * (_STEP * counts.train * factor + _PASS * (counts.val + counts.test))
        if track == "full"
        else _PASS * counts.images
    )
    # In training steps of ResNet-50 at 224 px, which the published speed counts.
    steps = passes / _STEP * (network.gmacs / _reference().gmacs) * (size / 224) ** 2
    kept = 4 * network.parameters
    return Needs(
        images=counts.images,
        decoded=3 * size * size * counts.images,
        pooled=4 * network.channels * counts.images,
        maps=2 * network.channels * positions * counts.images,
        predictions=4 * counts.classes * (counts.val + counts.test),
        weights=kept,
        checkpoint=kept * (3 if train.optimizer in ("adam", "adamw") else 2),
        seconds=steps / speed.one,
        eight=steps / speed.eight,
    )


def _reference() -> Network:
    found = network_of("resnet50")
    assert found is not None
    return found


def gigabytes(size: float) -> str:
    """`size` bytes as people read them."""
    if size >= 1e12:
        return f"{size / 1e12:.1f} TB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def hours(seconds: float) -> str:
    """`seconds` as hours, days or minutes."""
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:.1f} days"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
