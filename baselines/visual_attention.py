"""Deep imbalanced attribute classification (VAA): attention at several layers, rare and wavering labels weighed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.annotation.sparse import count_states
from mlbench.errors import UsageError, unknown
from mlbench.inputs.views import View
from mlbench.methods import Batch, Hyper, Method, Phase, Step
from mlbench.models.heads import Classifier

from .crops import CROPPING, Crops
from .distillation import stage_maps, stages_of
from .focusing import focal
from .losses import REDUCTIONS, bce, check_inputs, reduce
from .spatial_regularisation import attention_layers, convolution, map_shapes, spatial_attention

if TYPE_CHECKING:
    from mlbench.methods import Task

#: Where attention branches are in ResNets: two depths of one stage and the end of the last. The released network has
#: blocks 19 and 22 (from 0) of the 23 of ResNet-101's third stage; elsewhere the first is as many before its end.
LAYERS: Mapping[str, tuple[str, str, str]] = {
    "resnet18": ("layer3.0", "layer3", "layer4"),
    "resnet34": ("layer3.2", "layer3", "layer4"),
    "resnet50": ("layer3.2", "layer3", "layer4"),
    "resnet50-keras": ("layer3.2", "layer3", "layer4"),
    "resnet101": ("layer3.19", "layer3", "layer4"),
}


def layers_of(trunk: Any) -> tuple[str, ...]:
    """Where attention branches are: `LAYERS`, or for other networks the ends of three stages."""
    return LAYERS.get(trunk.name) or stages_of(trunk)


def weighted_focal(
    logits: Tensor, observed: Tensor, positive_share: Tensor, *, gamma: float = 2.0, reduction: str = "mean"
) -> Tensor:
    """Focal loss with the rare side of each label weighing more: ``e^(1-r)`` if positive, ``e^r`` if not.

    r is the odds p / (1 - p) where p is at most 0.5, else 1. Unknown labels count as negative.

    Parameters
    ----------
    logits : float [B, C]. observed : int8 [B, C] of `State` codes. gamma : from 0.
    positive_share : float [C], p: the part of the training samples that have the label, from 0 to 1.
    reduction : "mean" over B*C, "sum" or "none".

    Raises
    ------
    UsageError : shapes that do not fit, an unknown reduction.

    Source: Sarafianos et al., ECCV 2018 (VAA); released code, wider_training.py lines 17-44.
    """
    check_inputs(logits, observed)
    if positive_share.shape != logits.shape[1:]:
        raise UsageError(f"weighted_focal: positive_share {list(positive_share.shape)}: expected [{logits.shape[1]}]")
    share = positive_share.to(logits)
    odds = torch.where(share <= 0.5, share / (1 - share).clamp(min=0.5), 1.0)
    weights = torch.exp(torch.where(observed == State.POSITIVE, 1 - odds, odds))
    return reduce(weights * focal(logits, observed, gamma=gamma, reduction="none"), reduction)


def history_weights(history: Tensor) -> Tensor:
    """Weights [N, C] of samples and labels by how predictions have wavered: ``1 + sqrt(v + v^2 / (k - 1))``.

    Parameters
    ----------
    history : float [k, N, C], probabilities after k epochs, at least 2; v is their variance, divided by k.

    Raises
    ------
    UsageError : fewer than two epochs.

    Source: Sarafianos et al., ECCV 2018 (VAA); released code, wider_training.py line 58.
    """
    if history.ndim != 3 or len(history) < 2:
        raise UsageError(f"history weights: history {list(history.shape)}: expected [k, N, C] of at least 2 epochs")
    variance = history.var(dim=0, correction=0)
    return 1 + (variance + variance.square() / (len(history) - 1)).sqrt()


def wavering_bce(logits: Tensor, observed: Tensor, weights: Tensor | None = None, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy with unknown labels negative, times the weights [B, C] of `history_weights` (None: 1).

    Source: Sarafianos et al., ECCV 2018 (VAA); released code, wider_training.py lines 46-63.
    """
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    entries = bce(logits, observed, reduction="none")
    return reduce(entries if weights is None else entries * weights.to(entries), reduction)


class Outputs(NamedTuple):
    """Logits [N, C] for inference, the trunk's last maps [N, D, h, w], and the logits of classifier and branches."""

    logits: Tensor
    features: Tensor
    main: Tensor
    branches: list[Tensor]


class Branch(nn.Module):
    """Logits [N, C] of maps of `shape` [1, D, s, s]: sigmoid class maps under attention, three convolutions on them."""

    def __init__(self, shape: torch.Size, classes: int, width: int) -> None:
        super().__init__()
        channels, side = shape[1:3]
        self.scores = attention_layers(channels, classes, width)
        self.classes = nn.Conv2d(channels, classes, 1)
        self.layers = nn.Sequential(
            *convolution(classes, width // 2),
            *convolution(width // 2, width),
            *convolution(width, 2 * width, kernel=side),
            nn.Flatten(),
            nn.Linear(2 * width, classes),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(spatial_attention(self.scores(maps)) * torch.sigmoid(self.classes(maps))).float()


class AttentiveClassifier(Classifier):
    """A classifier with a `Branch` at each of the trunk's modules `names`; logits are the mean of all four."""

    def __init__(self, plain: Classifier, names: Sequence[str], image_size: int, width: int) -> None:
        super().__init__(plain.backbone, plain.head)
        self.names = names
        classes = len(plain.head.weight)  # type: ignore[arg-type]
        shapes = map_shapes(self.backbone, names, image_size)
        self.branches = nn.ModuleList(Branch(shape, classes, width) for shape in shapes)

    def forward(self, images: Tensor) -> Outputs:  # type: ignore[override]
        features, maps = stage_maps(self.backbone, self.names, lambda: self.backbone(images))
        main = self.head(features)
        branches = [branch(each) for branch, each in zip(self.branches, maps, strict=True)]
        return Outputs(torch.stack([main, *branches]).mean(dim=0), features, main, branches)


class VisualAttention(Method):
    """Attention at three layers; focal loss weighted by label frequency, branches by how predictions waver (VAA).

    Faithful: branches and their places, the mean of four logits in inference, both weights, all losses added. The
    released losses are asked for in a form that skips every weight and leaves plain cross-entropy, which `released`
    gives. Substituted: group for batch normalisation; crops as in `resnet_aug` (released: squares of 128 to 224 of 256
    px, anywhere); predictions that are looked back at are made after each epoch on plain images (released: during it,
    on crops, from its third epoch on, 0 for epochs before); the protocol's schedule of the learning rate (released:
    divided by 10 when validation does not improve), one training from the start (released: from trained parts).

    Source: Sarafianos et al., ECCV 2018 (VAA); released code, models.py and wider_training.py.
    """

    needs_head = "weight"
    level = "A"
    tracks = ("full",)
    hyperparameters = {
        **CROPPING,
        "width": Hyper(64, "channels of the attention's convolutions (released code: 512)", low=8, high=4096),
        "gamma": Hyper(2.0, "power of the focal weight", low=0.0, high=100.0),
        "history": Hyper(5, "epochs looked back at; no weights before", low=2, high=100),
        "released": Hyper(False, "plain cross-entropy everywhere, as the released code in effect has it"),
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._history = torch.zeros(0, task.num_train, task.num_classes)  # oldest first

    @classmethod
    def dense_bytes(cls, hyper: Mapping[str, Any]) -> int:
        return 0 if hyper["released"] else 4 * (2 * hyper["history"] + 3)  # probabilities of past epochs

    @classmethod
    def views_for(cls, hyper: Mapping[str, Any]) -> tuple[View, ...]:
        return (Crops("crop", cells=hyper["crop_cells"]),)

    @cached_property
    def positive_share(self) -> Tensor:
        """Float [C]: observed positives by all training samples."""
        observed = self.task.labels.observed
        share = count_states(observed, State.POSITIVE) / len(observed)
        return torch.from_numpy(share.astype(np.float32)).to(self.task.device)

    def network(self, phase: Phase) -> nn.Module:
        plain = self.task.classifier(self.head_spec())
        trunk: Any = plain.backbone
        return AttentiveClassifier(plain, layers_of(trunk), self.task.train.image_size, self.hyper["width"])

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert batch.labels is not None
        output, observed = network(batch.inputs), batch.labels.state
        weights = None
        if len(self._history) == self.hyper["history"]:
            weights = history_weights(self._history[:, batch.index.cpu()])
        if self.hyper["released"]:
            main = bce(output.main, observed)
        else:
            main = weighted_focal(output.main, observed, self.positive_share, gamma=self.hyper["gamma"])
        attention = torch.stack([wavering_bce(each, observed, weights) for each in output.branches]).sum()
        return {"main": main, "attention": attention}

    def after_epoch(self, network: nn.Module, step: Step) -> None:
        if self.hyper["released"] or step.epoch == step.epochs:
            return
        seen = self.task.predict(network).cpu().float().sigmoid()
        self._history = torch.cat([self._history, seen[None]])[-self.hyper["history"] :]

    def state_dict(self) -> dict[str, Tensor]:
        return {"history": self._history}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        self._history = saved["history"]
