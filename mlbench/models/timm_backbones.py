"""Backbones of the library timm, as ``timm:NAME``: any of its architectures that makes feature maps of images."""

from __future__ import annotations

import difflib
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlbench.errors import UsageError
from mlbench.models.backbones import Backbone, Trunk

#: Names of classifiers in files of other packages for networks that timm has too.
_FOREIGN_CLASSIFIERS = ("_fc.", "fc.", "classifier.")


class Layout(NamedTuple):
    """What is known of a timm model without its weights.

    side : pixels of the image it is made for. fixed : whether it takes others only after it was set to them.
    channels, stride : of its maps. prefix : tokens before those of positions. last : whether channels come last.
    unused : parameters that the maps do not depend on. stages : modules that give maps [B, D, h, w] inside it.
    """

    side: int
    fixed: bool
    channels: int
    stride: int
    prefix: int
    last: bool
    unused: tuple[str, ...]
    stages: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classifiers: tuple[str, ...]


def library() -> Any:
    """The module timm; UsageError where it is not installed."""
    try:
        import timm
    except ImportError:
        raise UsageError(
            "backbones 'timm:NAME' need the library timm: pip install 'mlbench-multilabel[timm]'"
        ) from None
    return timm


class TimmTrunk(Trunk):
    """A timm model without its classifier: images [B, 3, H, W] to maps [B, D, h, w], behind its last norm.

    Tokens of a transformer become the map of their positions; class and register tokens are left out.
    """

    model: Any

    def __init__(self, model: nn.Module, name: str, layout: Layout) -> None:
        super().__init__(OrderedDict(model=model))
        self.layout, self.side = layout, layout.side
        self._name = name

    def forward(self, images: Tensor) -> Tensor:
        if self.layout.fixed and images.shape[-1] != self.side:
            raise UsageError(
                f"backbone 'timm:{self._name}' is set to images of {self.side} px and was given {images.shape[-1]} px: "
                "it takes one size in a run, so no views or phases of another"
            )
        return as_maps(self.model.forward_features(images), self.layout)

    def set_input_size(self, side: int) -> None:
        """Take square images of `side` px: where a model is made for one size, its position code is interpolated."""
        if side == self.side or not self.layout.fixed:
            return
        if not hasattr(self.model, "set_input_size"):
            raise UsageError(
                f"backbone 'timm:{self._name}' takes images of {self.side} px alone: give --set train.image_size="
                f"{self.side}"
            )
        try:
            self.model.set_input_size(img_size=side)
        except Exception as error:  # each architecture has its own reasons
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"backbone 'timm:{self._name}' cannot take images of {side} px (it is made for {self.layout.side}): "
                f"{reason}"
            ) from None
        self.side = side

    def adapt_weights(self, state: Mapping[str, Tensor], ordered: bool) -> tuple[dict[str, Tensor], str]:
        """`state`, the tensors of a file, under this module's keys and without a classifier; and what was done.

        A file for the same network in another package, with none of timm's names, is renamed by position where it is
        `ordered` and every shape agrees, in order.
        """
        own, done = self.model.state_dict(), []
        if all(key.startswith("model.") for key in state):  # of this module
            state = {key.removeprefix("model."): tensor for key, tensor in state.items()}
        classifiers = self.layout.classifiers + (() if own.keys() & state.keys() else _FOREIGN_CLASSIFIERS)
        kept = {key: value for key, value in state.items() if key in own or not key.startswith(classifiers)}
        if len(kept) < len(state):
            done.append(f"{len(state) - len(kept)} classifier tensors left out")
        if "norm.weight" in own and "fc_norm.weight" in kept and "fc_norm.weight" not in own:
            kept = {f"norm.{k.removeprefix('fc_norm.')}" if k.startswith("fc_norm.") else k: v for k, v in kept.items()}
            done.append("the norm of the mean token is that of each token")
        shapes = [tensor.shape for tensor in own.values()]
        if ordered and not own.keys() & kept.keys() and [tensor.shape for tensor in kept.values()] == shapes:
            kept = dict(zip(own, kept.values(), strict=True))
            done.append("renamed by position")
        return {f"model.{key}": value for key, value in kept.items()}, "; ".join(done)


def as_maps(found: Any, layout: Layout) -> Tensor:
    """What a timm model's ``forward_features`` gave as maps [B, D, h, w]; UsageError where it is none."""
    if isinstance(found, Tensor) and found.ndim == 4:
        return found.permute(0, 3, 1, 2) if layout.last else found
    if isinstance(found, Tensor) and found.ndim == 3:
        tokens = found[:, layout.prefix :]
        side = math.isqrt(tokens.shape[1])
        if side > 1 and side**2 == tokens.shape[1]:
            return tokens.transpose(1, 2).unflatten(2, (side, side))
    shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise UsageError(f"its features ({shape}) are no map of the image")


class Timm:
    """All architectures of timm, the entry ``timm`` of the backbones: ``timm:NAME``, or ``timm:NAME.TAG``."""

    def members(self) -> Iterable[str]:
        names: list[str] = library().list_models()
        return names

    def member(self, name: str) -> Backbone:
        """The backbone ``timm:NAME``. Nothing is downloaded; a tag chooses the statistics and the cached weights."""
        timm = library()
        base, _, tag = name.partition(".")
        if not timm.is_model(base):
            near = difflib.get_close_matches(base, timm.list_models(), n=1, cutoff=0.5)
            hint = f" Did you mean 'timm:{near[0]}'?" if near else ""
            raise UsageError(f"timm {timm.__version__} has no model '{base}'.{hint} timm.list_models() lists them")
        if tag and f"{base}.{tag}" not in timm.list_pretrained(f"{base}.*"):
            tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
            raise UsageError(f"timm {timm.__version__} has no '{name}'; tags of '{base}': {', '.join(tags) or 'none'}")
        try:
            layout = layout_of(name)
        except UsageError as error:
            raise UsageError(f"backbone 'timm:{name}' cannot be used: {error}") from None
        return Backbone(
            make=partial(_make, name, layout),
            out_channels=layout.channels,
            stride=layout.stride,
            mean=layout.mean,
            std=layout.std,
            stages=layout.stages,
            library=f"timm {timm.__version__}",
            cached=partial(_cached, name),
        )


TIMM = Timm()


def layout_of(name: str) -> Layout:
    """What model `name` gives, found by running it on no data; UsageError for one that gives no maps."""
    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device):
                return _layout(_create(name), device)
        except UsageError:
            raise
        except Exception as error:  # not every architecture can be built or run without storage
            reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UsageError(f"timm cannot run it: {reason}")


def _layout(model: Any, device: str) -> Layout:
    side = int(model.pretrained_cfg["input_size"][-1])
    config = library().data.resolve_model_data_config(model)
    inside: dict[str, Tensor] = {}
    for row in getattr(model, "feature_info", None) or ():
        module = model.get_submodule(row["module"]) if row.get("module") else None
        if module is not None:
            module.register_forward_hook(lambda _, given, output, key=row["module"]: inside.__setitem__(key, output))
    found = model.train().forward_features(torch.zeros(2, 3, side, side, device=device))
    last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    names = model.pretrained_cfg.get("classifier") or ()
    layout = Layout(
        side=side,
        fixed=bool(model.pretrained_cfg.get("fixed_input_size")),
        channels=0,
        stride=0,
        prefix=int(getattr(model, "num_prefix_tokens", 0) or 0),
        last=last,
        unused=(),
        stages=(),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        classifiers=tuple(f"{one}." for one in ([names] if isinstance(names, str) else names)),
    )
    maps = as_maps(found, layout)
    if len(layout.mean) != 3 or min(maps.shape[2:]) < 1:
        raise UsageError(f"it takes images of {len(layout.mean)} channels, not 3")
    maps.sum().backward()
    sides = {key: output.shape[-1] for key, output in inside.items() if isinstance(output, Tensor) and output.ndim == 4}
    return layout._replace(
        channels=maps.shape[1],
        stride=round(side / maps.shape[-1]),
        unused=tuple(key for key, parameter in model.named_parameters() if parameter.grad is None),
        stages=() if last else tuple(f"model.{key}" for key in list(sides)[-3:]),
    )


def _make(name: str, layout: Layout) -> TimmTrunk:
    model = _create(name)
    for key in layout.unused:  # of a head, or behind the maps: training must not wait for their gradients
        model.get_parameter(key).requires_grad_(False)
    return TimmTrunk(model, name, layout)


def _create(name: str) -> Any:
    """The model without classifier, and without a norm that comes behind pooling where it can be before it."""
    timm = library()
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    except (AssertionError, TypeError, ValueError):  # some must pool; what is before that is the same
        return timm.create_model(name, pretrained=False, num_classes=0)


def _cached(name: str) -> Path | None:
    """The weights file that timm would load `name` from, where it lies in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    config = library().models.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    found = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    return Path(found) if isinstance(found, str) else None
