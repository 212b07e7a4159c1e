"""Spatial regularisation (SRN): attention maps of the labels, and what they say together; and its plain control."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlbench.errors import UsageError
from mlbench.inputs.views import View
from mlbench.methods import Hyper, Method, Phase, Step
from mlbench.methods.labels import Labels
from mlbench.models.heads import Classifier, Output
from mlbench.settings import TrainSettings

from .crops import CROPPING, Crops
from .distillation import stage_maps, stages_of
from .distillation_losses import label_loss

#: The stages of training in order, with the roles trained in each (None: all).
STAGES_OF_TRAINING: Mapping[str, tuple[str, ...] | None] = {
    "main": ("backbone", "head"),
    "attention": ("attention", "confidence"),
    "regularisation": ("regularisation",),
    "joint": None,
}


def spatial_attention(scores: Tensor) -> Tensor:
    """Softmax over the positions of each map of [N, C, h, w]: what each position counts for each label.

    Source: Zhu et al., CVPR 2017 (SRN), equation of the attention maps.
    """
    if scores.ndim != 4:
        raise UsageError(f"spatial attention: scores {list(scores.shape)}: expected [N, C, h, w]")
    return scores.flatten(2).softmax(dim=2).view_as(scores)


def attended_logits(confidence: Tensor, attention: Tensor) -> Tensor:
    """Logits [N, C]: confidence maps [N, C, h, w] averaged under attention maps of the same shape (y_att of SRN)."""
    return (confidence * attention).sum(dim=(2, 3))


def map_shapes(trunk: Any, names: Sequence[str], image_size: int) -> list[torch.Size]:
    """Shapes [1, D, h, w] of the maps that the modules `names` give for an image of `image_size` pixels a side."""
    was_training = trunk.training
    trunk.eval()
    with torch.no_grad():
        _, maps = stage_maps(trunk, names, lambda: trunk(torch.zeros(1, 3, image_size, image_size)))
    trunk.train(was_training)
    return [each.shape for each in maps]


def convolution(channels: int, out_channels: int, kernel: int = 1, padding: int = 0) -> list[nn.Module]:
    """A convolution with group normalisation and ReLU.

    Group, not batch normalisation, whose statistics depend on how a batch is cut into processes.
    """
    norm = nn.GroupNorm(math.gcd(8, out_channels), out_channels)
    return [nn.Conv2d(channels, out_channels, kernel, padding=padding, bias=False), norm, nn.ReLU(inplace=True)]


def attention_layers(channels: int, classes: int, width: int) -> nn.Sequential:
    """Scores for attention [N, C, h, w] of maps [N, D, h, w]: 1x1 and 3x3 convolutions of `width`, and a 1x1 one."""
    hidden = convolution(channels, width) + convolution(width, width, kernel=3, padding=1)
    return nn.Sequential(*hidden, nn.Conv2d(width, classes, 1))


class RegularisedClassifier(Classifier):
    """A classifier with the regularisation network on the maps [N, D, s, s] before the trunk's last stage.

    Parameters
    ----------
    layer : the trunk's module that gives these maps; shape : theirs. width : of the hidden convolutions.
    stage : of `STAGES_OF_TRAINING`; says which logits there are: y_cls, y_att, y_sr, or the mean of y_cls and y_sr.
    """

    def __init__(self, plain: Classifier, layer: str, shape: torch.Size, width: int, stage: str) -> None:
        super().__init__(plain.backbone, plain.head)
        classes, (channels, side) = len(plain.head.weight), shape[1:3]  # type: ignore[arg-type]
        self.layer, self.side, self.stage = layer, side, stage
        self.attention = attention_layers(channels, classes, width)
        self.confidence = nn.Conv2d(channels, classes, 1)
        self.regularisation = nn.Sequential(
            *convolution(classes, width),
            *convolution(width, width),
            nn.Conv2d(width, 4 * width, side, groups=width),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(4 * width, classes),
        )

    def forward(self, images: Tensor) -> Output:
        """Logits [N, C] of the stage and the trunk's last maps, of images [N, 3, H, W]."""
        features, (maps,) = stage_maps(self.backbone, [self.layer], lambda: self.backbone(images))
        if self.stage == "main":
            return Output(self.head(features), features)
        if maps.shape[-1] != self.side or maps.shape[-2] != self.side:
            raise UsageError(f"srn: maps of {list(maps.shape[-2:])} cells: it was built for {self.side} along a side")
        attention, confidence = spatial_attention(self.attention(maps)), self.confidence(maps)
        if self.stage == "attention":
            return Output(attended_logits(confidence, attention).float(), features)
        regularised = self.regularisation(torch.sigmoid(confidence) * attention).float()
        if self.stage == "regularisation":
            return Output(regularised, features)
        return Output(0.5 * self.head(features) + 0.5 * regularised, features)


class HeavilyAugmented(Method):
    """The plain network trained on crops of many shapes (ResNet101*).

    Faithful: crops at the corners and the centre, widths and heights drawn apart, cut from a larger image and resized;
    cross-entropy summed over labels; one plain view in inference. Mirroring is `train.augment`. The five sizes and the
    recipe are recalled (unverified).

    Source: Zhu et al., CVPR 2017 (SRN), row ResNet-101.
    """

    level = "A"
    tracks = ("full",)  # a frozen trunk sees no crops
    hyperparameters = CROPPING

    @classmethod
    def views_for(cls, hyper: Mapping[str, Any]) -> tuple[View, ...]:
        return (Crops("crop", cells=hyper["crop_cells"]),)

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return label_loss(logits, labels.state)


class SpatialRegularisation(HeavilyAugmented):
    """Labels are regularised by where in the image each of them is attended to (SRN).

    Faithful: attention from the maps before the last stage, softmax over positions; confidences weighted by it; two
    1x1 convolutions and one over the whole map, each channel apart (4 filters a channel), and a linear layer; the mean
    of both logits; four stages: the plain network, attention by its own logits, regularisation, everything; crops as
    in `resnet_aug`. Substituted: group normalisation for the batch normalisation of the hidden convolutions (recalled,
    unverified), epochs and rate of each stage, and that regularisation learns from its own logits (unverified).

    Source: Zhu et al., CVPR 2017 (SRN).
    """

    needs_head = "weight"
    level = "A"
    hyperparameters = {
        **CROPPING,
        "width": Hyper(64, "channels of the hidden convolutions (published: 512)", low=8, high=4096),
        "stage.epochs": Hyper(0, "epochs of each of the first three stages, 0: those of the run", low=0, high=10000),
        "joint.lr": Hyper(
            0.1, "factor to the learning rate when everything is trained (unverified)", low=1e-6, high=1e6
        ),
    }

    def phases(self) -> Sequence[Phase]:
        def early(train: TrainSettings) -> dict[str, Any]:
            return {"epochs": self.hyper["stage.epochs"] or train.epochs}

        def joint(train: TrainSettings) -> dict[str, Any]:
            return {"lr": train.lr * self.hyper["joint.lr"]}

        return [
            Phase(name, joint if name == "joint" else early, roles, selection="run" if name == "joint" else "last")
            for name, roles in STAGES_OF_TRAINING.items()
        ]

    def network(self, phase: Phase) -> nn.Module:
        plain = self.task.classifier(self.head_spec())
        trunk: Any = plain.backbone
        layer = stages_of(trunk)[-2]
        (shape,) = map_shapes(trunk, [layer], self.task.train.image_size)
        network = RegularisedClassifier(plain, layer, shape, self.hyper["width"], phase.name)
        names = list(STAGES_OF_TRAINING)
        before = names[: names.index(phase.name)]
        if before:
            network.load_state_dict(self.task.artefacts[before[-1]])
        return network
