"""A classifier learns from a weakly supervised detector (MLIC-KD-WSD), and the methods it is compared with.

All of them have the same teacher, `wsddn`, trained once and found by its key. The student is the plain classifier; it
alone is used in inference. Losses are means over images of sums over classes, as in the released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mlbench.errors import UsageError
from mlbench.inputs.views import View
from mlbench.methods import Batch, Hyper, Method, Phase, Step, Uses
from mlbench.methods.labels import Labels
from mlbench.proposals import Regions, split_proposals
from mlbench.runner.side import PROPOSAL_HYPERPARAMETERS
from mlbench.settings import TrainSettings

from .distillation_losses import (
    attention_loss,
    hint_loss,
    kd_loss,
    keep_regions,
    label_loss,
    prediction_loss,
    region_loss,
    soft_label_loss,
)
from .wsddn import Detector, hidden_layers, make_detector, pool_regions


def stages_of(trunk: Any) -> tuple[str, ...]:
    """Modules of `trunk` whose outputs are the maps at the ends of three stages; UsageError where it names none."""
    if len(trunk.stages) < 3:
        raise UsageError(f"backbone '{trunk.name}' names no maps between image and features, which this method needs")
    names: tuple[str, ...] = trunk.stages
    return names


def stage_maps(trunk: nn.Module, names: Sequence[str], run: Any) -> tuple[Any, list[Tensor]]:
    """What ``run()`` returns, and the maps that the modules `names` of `trunk` gave meanwhile."""
    maps: list[Tensor] = []
    hooks = [
        trunk.get_submodule(name).register_forward_hook(lambda module, given, output: maps.append(output))
        for name in names
    ]
    try:
        return run(), maps
    finally:
        for hook in hooks:
            hook.remove()


class WithoutDistillation(Method):
    """The student on labels alone: cross-entropy summed over classes (Ours-S-Cls w/o).

    Source: Liu et al., ACM MM 2018 (MLIC-KD-WSD). Substituted: one linear layer on the pooled features of the trunk.
    """

    level = "A"

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return label_loss(logits, labels.state)


_TEACHER = {
    **PROPOSAL_HYPERPARAMETERS,
    "teacher.image_size": Hyper(0, "side of the teacher's images in pixels, 0: that of the student", low=0, high=2048),
    "teacher.epochs": Hyper(0, "epochs of the teacher's training, 0: those of the run", low=0, high=10000),
}


class _Distilled(WithoutDistillation):
    """A student with `wsddn` for a teacher; the teacher is never trained further.

    Beside what the student fixes (`_TEACHER`), the teacher is as ``wsddn.toml`` has it for the data set.
    """

    tracks = ("full",)
    inputs = ("proposals",)
    stochastic = True  # so is the teacher's training
    hyperparameters: Mapping[str, Hyper] = _TEACHER
    # Proposals and the teacher's image size are those set for it.
    settings_from = {"wsddn": {"proposals.": "proposals.", "train.image_size": "teacher.image_size"}}

    @classmethod
    def views_for(cls, hyper: Mapping[str, Any]) -> tuple[View, ...]:
        return View("student"), View("teacher", size=hyper["teacher.image_size"] or None)

    @classmethod
    def uses_for(cls, hyper: Mapping[str, Any]) -> Mapping[str, Uses]:
        fixed = {key: hyper[key] for key in PROPOSAL_HYPERPARAMETERS}
        fixed |= {
            f"train.{key}": hyper[f"teacher.{key}"] for key in ("image_size", "epochs") if hyper[f"teacher.{key}"]
        }
        return {"teacher": Uses("wsddn", fixed)}

    @cached_property
    def teacher(self) -> Detector:
        made = self.task.used("teacher")
        size = self.hyper["teacher.image_size"] or self.task.train.image_size
        if made.train.image_size != size:
            raise UsageError(
                f"the teacher was trained at {made.train.image_size} px and '{self.name}' would show it {size} px: "
                "set teacher.image_size"
            )
        with torch.random.fork_rng(devices=[]):  # its start is thrown away: no draw of the student's may depend on it
            teacher = make_detector(self.task.backbone(), self.task.num_classes, made.hyper)
        teacher.load_state_dict(self.task.artefacts["teacher"])
        return teacher.to(self.task.device).eval().requires_grad_(False)

    def taught(self, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor, Regions]:
        """The teacher's region scores [B, R, C], its maps [B, D, h, w] and the regions."""
        regions = split_proposals(batch.side["proposals"])
        with torch.no_grad():
            scores, features = self.teacher(batch.views["teacher"], regions, temperature)
        return scores, features, regions

    def soft_labels(self, batch: Batch, temperature: float) -> Tensor:
        """The teacher's image scores [B, C] from logits divided by `temperature`."""
        return self.taught(batch, temperature)[0].sum(dim=1).clamp(0, 1)

    def predictions(self, network: Any, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss of student logits [B, C]: labels and teacher."""
        raise NotImplementedError

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        return self.predictions(network, network(batch.views["student"]).logits, batch)


_SHARPEN = {
    "teacher_temperature": Hyper(
        0.5, "divides the logits of the teacher's streams (released code: 0.5; paper: not given)", low=0.01, high=100.0
    )
}


class Distillation(_Distilled):
    """The teacher's probabilities as soft labels (Hinton's distillation, a binary term a class).

    Source: Hinton et al., 2015, as compared in Liu et al., ACM MM 2018. Substituted: the multi-label form and its
    weights are ours (temperature and share as in the original's usual settings).
    """

    level = "A"
    hyperparameters = {
        **_TEACHER,
        **_SHARPEN,
        "temperature": Hyper(4.0, "divides the student's logits", low=0.01, high=100.0),
        "share": Hyper(0.9, "weight of the soft labels; the labels have the rest", low=0.0, high=1.0),
    }

    def predictions(self, network: Any, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None
        soft, share = self.soft_labels(batch, self.hyper["teacher_temperature"]), self.hyper["share"]
        return {
            "labels": (1 - share) * label_loss(logits, batch.labels.state),
            "imitation": share * kd_loss(logits, soft, temperature=self.hyper["temperature"]),
        }


class AttentionTransfer(_Distilled):
    """The student's attention maps at the ends of three stages are to be the teacher's, beside the labels.

    Source: Zagoruyko and Komodakis, ICLR 2017, as compared in Liu et al., ACM MM 2018. Substituted: binary
    cross-entropy on the labels.
    """

    level = "A"
    inputs = ()
    hyperparameters = {
        **_TEACHER,
        "beta": Hyper(1000.0, "weight of the attention term (as in the original's released code)", low=0.0, high=1e9),
    }

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert batch.labels is not None
        trunk: Any = network.backbone
        names = stages_of(trunk)
        with torch.no_grad():
            _, theirs = stage_maps(self.teacher.backbone, names, lambda: self.teacher.backbone(batch.views["teacher"]))
        output, own = stage_maps(trunk, names, lambda: network(batch.views["student"]))
        return {
            "labels": label_loss(output.logits, batch.labels.state),
            "attention": self.hyper["beta"] * attention_loss(theirs, own),
        }


class _Staged(_Distilled):
    """Features first, with nothing but them; then predictions, with all parameters."""

    #: What is trained beside the trunk in the first stage.
    extra: str = "adaptation"

    def phases(self) -> Sequence[Phase]:
        def first(train: TrainSettings) -> dict[str, Any]:
            return {"epochs": self.hyper["first.epochs"] or train.epochs, "lr": train.lr * self.hyper["first.lr"]}

        features = Phase("features", train=first, roles=("backbone", self.extra), selection="last")
        predictions = Phase("predictions", train=self.second)
        return [predictions] if self.hyper["stages"] == "predictions" else [features, predictions]

    def second(self, train: TrainSettings) -> dict[str, Any]:
        """Settings of the second stage that differ from the run's."""
        return {}

    def network(self, phase: Phase) -> nn.Module:
        network = self.task.classifier(self.head_spec())
        if phase.name == "features":
            network.add_module(self.extra, self.extra_layers(network.backbone))
        elif "features" in self.task.artefacts:
            handed = self.task.artefacts["features"].items()
            trunk = {name.removeprefix("backbone."): value for name, value in handed if name.startswith("backbone.")}
            network.backbone.load_state_dict(trunk)
        return network

    def extra_layers(self, trunk: Any) -> nn.Module:
        """Psi: a 1x1 convolution to the teacher's channels, which changes nothing at the start."""
        layer = nn.Conv2d(trunk.out_channels, trunk.out_channels, 1, bias=False)
        nn.init.dirac_(layer.weight)
        return layer

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        if step.phase == "features":
            return {"features": self.features(network, batch)}
        logits = network(batch.views["student"]).logits
        if self.hyper["stages"] == "features":
            assert batch.labels is not None
            return {"labels": label_loss(logits, batch.labels.state)}
        return self.predictions(network, logits, batch)

    def features(self, network: Any, batch: Batch) -> Tensor:
        """The loss of the first stage."""
        raise NotImplementedError


_FIRST = {
    "stages": Hyper("both", "which stages learn from the teacher", choices=("both", "features", "predictions")),
    "first.epochs": Hyper(
        0, "epochs of the first stage, 0: those of the run (published: not given)", low=0, high=10000
    ),
    "first.lr": Hyper(
        1.0,
        "factor to the learning rate in the first stage, whose loss is a large sum (published: not given)",
        low=1e-9,
        high=1e9,
    ),
}


class FitNets(_Staged, Distillation):
    """Hints: the student's last maps are to be the teacher's, whole; then distillation as in `kd`.

    Source: Romero et al., ICLR 2015, as compared in Liu et al., ACM MM 2018. Substituted: the hint is the trunk's last
    layer, the regressor a 1x1 convolution, the second stage the multi-label form of `kd`.
    """

    level = "A"
    hyperparameters = {**Distillation.hyperparameters, **_FIRST}

    def features(self, network: Any, batch: Batch) -> Tensor:
        with torch.no_grad():
            hint = self.teacher.backbone(batch.views["teacher"])
        return hint_loss(hint, network.adaptation(network.backbone(batch.views["student"])))


class DetectionDistillation(_Staged):
    """Features of the teacher's best regions, then its probabilities (MLIC-KD-WSD, Ours-S-Cls w/).

    Faithful: both losses, roles of each stage. Substituted, as the paper leaves them open and the released code does
    otherwise: the regions kept (`keep_regions`), Psi, both stages' epochs and rates; temperatures are the code's.

    Source: Liu et al., ACM MM 2018, the paper's losses.
    """

    level = "A"
    hyperparameters = {
        **_TEACHER,
        **_FIRST,
        **_SHARPEN,
        "temperature": Hyper(5.0, "divides the student's logits (released code at its start: 5)", low=0.01, high=100.0),
        "regions": Hyper(10, "regions of an image whose features are transferred (unverified)", low=1, high=10000),
        "iou": Hyper(0.4, "a region overlapping a better one by more is left out (unverified)", low=0.0, high=1.0),
        "region_score": Hyper("max", "over classes, for a region's weight (unverified)", choices=("max", "sum")),
    }

    def features(self, network: Any, batch: Batch) -> Tensor:
        scores, maps, regions = self.taught(batch)
        index, weights, kept = keep_regions(
            scores, regions, count=self.hyper["regions"], iou=self.hyper["iou"], over=self.hyper["region_score"]
        )
        boxes = regions.boxes.take_along_dim(index[..., None], dim=1)
        own = network.adaptation(network.backbone(batch.views["student"]))
        cells, pooling = self.teacher.cells, self.teacher.pooling
        theirs, ours = (pool_regions(each, boxes, cells, pooling) for each in (maps, own))
        return region_loss(theirs, ours, weights, kept)

    def predictions(self, network: Any, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None
        soft = self.soft_labels(batch, self.hyper["teacher_temperature"])
        return {
            "labels": label_loss(logits, batch.labels.state),
            "imitation": prediction_loss(logits, soft, temperature=self.hyper["temperature"]),
        }


class ReleasedDistillation(_Staged):
    """MLIC-KD-WSD as its code was released: features of all regions after fc7, soft cross-entropy with a learned scale.

    Faithful: no suppression and no choice of regions, features weighted as the teacher weights its own, dropout on both
    sides in the first stage, a scale a class learned at 10 times the rate. Substituted: fc6 and fc7 exist in the first
    stage only, started from the teacher's, and where the teacher has no such layers pooled features are compared (no
    dropout then); the student is the plain classifier, so that it costs what `bce` costs; regions count by image, which
    is the same where all images have as many, as they have in the code.

    Source: released code of Liu et al., ACM MM 2018, kd/train_stage1.prototxt and kd/train_stage2.prototxt.
    """

    version = 2  # 1 took the mean over all regions of a process's share of the batch
    extra = "hidden"
    hyperparameters = {
        **_TEACHER,
        **_FIRST,
        **_SHARPEN,
        "start_scale": Hyper(0.2, "the student's logits are multiplied by it at first", low=0.001, high=100.0),
        "scale_rate": Hyper(10.0, "factor to the learning rate of that scale", low=0.0, high=1000.0),
    }

    def second(self, train: TrainSettings) -> dict[str, Any]:
        learned = self.hyper["stages"] != "features"
        return {"lr_multipliers": {**train.lr_multipliers, "scale": self.hyper["scale_rate"]}} if learned else {}

    def network(self, phase: Phase) -> nn.Module:
        network = super().network(phase)
        if phase.name == "predictions" and self.hyper["stages"] != "features":
            network.scale = nn.Parameter(torch.full((self.task.num_classes,), self.hyper["start_scale"]))
        return network

    def extra_layers(self, trunk: Any) -> nn.Module:
        made = self.task.used("teacher").hyper
        layers = hidden_layers(trunk.out_channels * made["cells"] ** 2, made["hidden"], made["dropout"])
        layers.load_state_dict(self.teacher.hidden.state_dict())
        return layers

    def features(self, network: Any, batch: Batch) -> Tensor:
        regions, teacher = split_proposals(batch.side["proposals"]), self.teacher
        with torch.no_grad():
            maps = teacher.backbone(batch.views["teacher"])
            theirs = teacher.hidden.train()(teacher.weighted(maps, regions.boxes, regions.scores).flatten(2))
        maps = network.backbone(batch.views["student"])
        ours = network.hidden(teacher.weighted(maps, regions.boxes, regions.scores).flatten(2))
        teacher.eval()
        return region_loss(theirs, ours, torch.ones_like(regions.scores), regions.valid)

    def predictions(self, network: Any, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None
        soft = self.soft_labels(batch, self.hyper["teacher_temperature"])
        return {
            "labels": label_loss(logits, batch.labels.state),
            "imitation": soft_label_loss(logits, soft, network.scale),
        }
