"""Classification heads: what any head gives, and the linear one: pooled, as class activation maps, or with BoostLU."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlbench.errors import UsageError, unknown
from mlbench.settings import Hyper

KINDS = ("linear", "cam", "boostlu")


def boostlu(maps: Tensor, alpha: float) -> Tensor:
    """BoostLU, element by element: ``alpha * x`` where x > 0, else x; the same as max(x, alpha * x).

    At x = 0 the gradient is 1. With alpha 1 the input itself is returned.

    Parameters
    ----------
    maps : float tensor of any shape; in the paper, class activation maps [B, C, H, W] with the bias included.
    alpha : finite and at least 1 (the paper's value is 5).

    Raises
    ------
    UsageError : alpha is below 1, infinite or not a number.

    Source: Kim et al., CVPR 2023 (BoostLU); released code, models.py lines 31-45.
    """
    if _check_alpha("alpha", alpha) == 1:
        return maps
    return torch.where(maps > 0, alpha * maps, maps)


def class_activation_maps(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution: features [B, D, H, W], weight [C, D] and bias [C] to maps [B, C, H, W].

    On GPUs written as a product over D, because PyTorch lets float32 convolutions (but not products) drop to TF32
    there, and then maps and pooled logits of the same weights would differ in the third digit. On a CPU the
    convolution is exact and takes half the product's time.
    """
    if features.device.type == "cpu":
        maps = functional.conv2d(features, weight[:, :, None, None])
    else:
        maps = torch.einsum("cd,bdhw->bchw", weight, features)
    return maps if bias is None else maps + bias[:, None, None]


@dataclass(frozen=True)
class HeadSpec:
    """Which head: part of a run's identity.

    Parameters
    ----------
    kind : "linear" pools the features, then applies the linear layer. "cam" applies the same layer at each position
        and averages the maps: the same logits up to rounding. "boostlu" puts BoostLU between layer and average.
    alpha_train, alpha_infer : BoostLU's alpha in training and in inference mode, at least 1; kinds without BoostLU
        require 1. Trained with 1 and used with 5, it is the paper's inference-only variant.

    Raises
    ------
    UsageError : unknown kind, an alpha that is not a finite number from 1, or an alpha for a kind without BoostLU.
    """

    kind: str = "linear"
    alpha_train: float = 1.0
    alpha_infer: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("head kind", self.kind, KINDS)
        for name in ("alpha_train", "alpha_infer"):
            # Stored as float, so that 5 and 5.0 give the same run identity.
            object.__setattr__(self, name, _check_alpha(name, getattr(self, name)))
        if self.kind != "boostlu" and (self.alpha_train, self.alpha_infer) != (1.0, 1.0):
            raise UsageError(
                f"head kind '{self.kind}' has no BoostLU: expected alpha_train = alpha_infer = 1, got "
                f"{self.alpha_train:g} and {self.alpha_infer:g}. Use kind 'boostlu'"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a record; ``HeadSpec(**d)`` reads them back."""
        return asdict(self)


#: What a head may give beside logits; `ClassificationHead` says what each means.
GIVES = ("maps", "embeddings", "weight")


class ClassificationHead(nn.Module):
    """Base of every head: feature maps float [B, D, h, w] to logits float32 [B, C].

    A head draws its initial numbers from the global generator and is made by ``cls(channels, classes, **hyper)``.
    Besides `forward` it defines what it says that it `gives`:

    * "maps": ``maps(features, boosted=False)``, class activation maps [B, C, h, w] that the logits are pooled from.
      With `boosted`, BoostLU with the `alpha` in force has been applied, as it is in `forward`, to the maps before they
      are pooled. ``heat_maps(features)`` are they without bias, their weights taken as data: no gradient reaches these.
    * "embeddings": ``embed(features)``, one embedding for each class [B, C, E], and ``classify(embeddings)``, the
      logits [B, C] of them; ``forward(x)`` is ``classify(embed(x))``. UsageError where its hyperparameters leave
      classes without an embedding of their own.
    * "weight": the one linear layer, ``weight`` [C, D] and ``bias`` [C].

    Class attributes
    ----------------
    version : raise it when the same settings give other numbers. Part of a run's identity, as are
    hyperparameters : declared values; set as ``head.KEY``.
    gives : of `GIVES`.

    Attributes
    ----------
    spec : what BoostLU does; set by who builds the head, and 1 for heads without maps.
    """

    version: ClassVar[int] = 1
    hyperparameters: ClassVar[Mapping[str, Hyper]] = {}
    gives: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.spec = HeadSpec()

    @property
    def alpha(self) -> float:
        """BoostLU's alpha in force: `alpha_train` in training mode, else `alpha_infer`."""
        return self.spec.alpha_train if self.training else self.spec.alpha_infer

    @property
    def needs_maps(self) -> bool:
        """Whether, in the present mode, logits depend on more than the mean of the features.

        Where False, pooled features [B, D, 1, 1] give the logits of the maps they were pooled from, up to rounding.
        """
        return True


def check_features(features: Tensor, channels: int) -> None:
    """UsageError unless `features` are [B, channels, h, w] with at least one position."""
    if features.ndim != 4 or features.shape[1] != channels or 0 in features.shape[2:]:
        raise UsageError(
            f"the head expects features [images, {channels}, height, width] (pooled ones: [images, {channels}, "
            f"1, 1]), got {list(features.shape)}"
        )


class Head(ClassificationHead):
    """Feature maps [B, D, H, W] to logits [B, C], with ``weight`` [C, D] and ``bias`` [C].

    The kinds of `HeadSpec` have the same parameters under the same names, so they load into each other's state, and
    the same initial numbers for a given seed (those of `torch.nn.Linear`). A BoostLU head whose alpha in force is 1
    computes as the linear head does, bit for bit.

    Logits have the weights' type (float32), also under autocast: half-precision logits tie, and ties change AP.

    Parameters
    ----------
    channels, classes : D and C, at least 1.
    alpha_train, alpha_infer, kind : see `HeadSpec`.
    """

    gives = ("maps", "weight")

    def __init__(
        self,
        channels: int,
        classes: int,
        alpha_train: float = 1.0,
        alpha_infer: float = 1.0,
        kind: str = "boostlu",
    ) -> None:
        super().__init__()
        if channels < 1 or classes < 1:
            raise UsageError(f"a head needs at least one channel and one class, got {channels} and {classes}")
        self.spec = HeadSpec(kind, alpha_train, alpha_infer)
        linear = nn.Linear(channels, classes)
        self.weight = linear.weight
        self.bias = linear.bias

    @property
    def needs_maps(self) -> bool:
        """Whether alpha is not 1 in the present mode."""
        return self.alpha != 1

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] of feature maps [B, D, H, W]."""
        return PRODUCT.get()(self, self._checked(features))

    @property
    def pools_first(self) -> bool:
        """Whether the features are averaged before the layer is applied, and not the maps after it."""
        return self.spec.kind != "cam" and not self.needs_maps

    def maps(self, features: Tensor, boosted: bool = False) -> Tensor:
        """Class activation maps [B, C, H, W] of feature maps [B, D, H, W].

        The bias is included, so that the spatial mean of the boosted maps is the logit. With `boosted`, BoostLU with
        the alpha in force has been applied.
        """
        features = self._checked(features)
        with without_autocast(features.device):
            maps = class_activation_maps(features, self.weight, self.bias)
            return boostlu(maps, self.alpha) if boosted else maps

    def extra_repr(self) -> str:
        classes, channels = self.weight.shape
        return f"{channels}, {classes}, {self.spec}"

    def heat_maps(self, features: Tensor) -> Tensor:
        """Maps [B, C, H, W] without the bias; the weights are data, so that gradients reach the features alone."""
        weight = self.weight.detach()
        with without_autocast(features.device):
            return class_activation_maps(features.to(weight.dtype), weight)

    def _checked(self, features: Tensor) -> Tensor:
        check_features(features, self.weight.shape[1])
        return features.to(self.weight.dtype)


def logits_together(heads: Sequence[Head], features: Tensor) -> list[Tensor]:
    """Logits [B, C] of each of `heads` on the same features [B, D, H, W], by one product with all their weights.

    The heads must agree in `pools_first`; number of classes, BoostLU and its alpha are each head's own.
    """
    with without_autocast(features.device):
        weight, sizes = _joined([head.weight for head in heads]), [len(head.weight) for head in heads]
        if not heads[0].pools_first:
            maps = _parts(class_activation_maps(features, weight), sizes)
            biased = [part + head.bias[:, None, None] for head, part in zip(heads, maps, strict=True)]
            return [boostlu(part, head.alpha).mean(dim=(2, 3)) for head, part in zip(heads, biased, strict=True)]
        pooled = features.mean(dim=(2, 3))
        if len(heads) == 1:
            return [functional.linear(pooled, weight, heads[0].bias)]
        logits = functional.linear(pooled, weight, _joined([head.bias.detach() for head in heads]))
        # What is added is 0: each bias sums its gradient by itself, in the order in which a head alone does.
        parts = zip(heads, _parts(logits, sizes), strict=True)
        return [part + (head.bias - head.bias.detach()) for head, part in parts]


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _parts(whole: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    return whole.split(sizes, dim=1) if len(sizes) > 1 else [whole]


#: How a head comes to its logits: alone, or with the heads of other runs (`mlbench.runner.together`).
PRODUCT: ContextVar[Callable[[Head, Tensor], Tensor]] = ContextVar(
    "PRODUCT", default=lambda head, features: logits_together([head], features)[0]
)


def build_head(spec: HeadSpec, channels: int, classes: int) -> Head:
    """A new head for features of `channels` channels, drawn from the global generator alike for every kind."""
    return Head(channels, classes, spec.alpha_train, spec.alpha_infer, spec.kind)


def convert_head(head: Head, spec: HeadSpec) -> Head:
    """A copy of `head` (weights, device, mode) that computes as `spec` says. Draws no random numbers."""
    converted = copy.deepcopy(head)
    converted.spec = spec
    return converted


class Output(NamedTuple):
    """What a `Classifier` returns: logits [B, C] and the feature maps [B, D, H, W] they came from."""

    logits: Tensor
    features: Tensor


class Classifier(nn.Module):
    """A backbone and a head; the names of the two submodules are the roles of their parameters.

    On cached features the backbone is `torch.nn.Identity`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Output:
        """Images float [B, 3, H, W] (or features [B, D, h, w]) to logits and feature maps."""
        features = self.backbone(images)
        return Output(self.head(features), features)


def _check_alpha(name: str, alpha: float) -> float:
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not number or not math.isfinite(alpha) or alpha < 1:
        raise UsageError(f"BoostLU's {name} = {alpha!r}: expected a finite number from 1")
    return float(alpha)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
