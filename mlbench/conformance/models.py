"""Do a backbone and a head keep the contract? Shapes as they say, each image by itself, nothing drawn in evaluation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mlbench.conformance.report import Report, Skipped
from mlbench.errors import MlbenchError, UsageError
from mlbench.models.backbones import BACKBONES, Backbone, Trunk, build_backbone
from mlbench.models.head_choice import HEADS, HeadChoice, choose_head
from mlbench.models.heads import ClassificationHead, HeadSpec
from mlbench.runner.checkpoint import save_tensors

#: Pixels along a side, at least, of the images that backbones are checked on.
_SIDE = 64
#: How far an image alone and in a batch may differ, relative to the largest number: kernels round otherwise.
_SAME = 1e-4
_CHANNELS, _CLASSES = 24, 5


def check_backbone(name: str) -> Report:
    """Every check on backbone `name`, with random weights; UsageError for an unknown name."""
    entry = BACKBONES[name]
    report = Report(name)
    report.attempt("", "statistics are those of three colours", lambda: _statistics(entry))
    side = _side(name, entry)

    def build() -> Trunk:
        torch.manual_seed(0)
        return build_backbone(name, image_size=side)

    if not report.attempt("", "built twice from one seed, the same", lambda: _same_start(build)):
        return report
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) - 0.5
    shape = (entry.out_channels, side // entry.stride, side // entry.stride)
    if not report.attempt("", "maps have the channels and stride it says", lambda: _maps(build(), images, shape)):
        return report
    report.attempt("", "each image by itself, nothing is drawn", lambda: _alone(build(), images))
    report.attempt("", "every parameter takes part", lambda: _all_take_part(build(), images))
    report.attempt("", "its stages give maps", lambda: _stages(build(), images, entry.stages))
    report.attempt("", "weights go through a file", lambda: _through_a_file(name, side, build(), images))
    return report


def check_head(name: str) -> Report:
    """Every check on head `name` with its default hyperparameters; UsageError for an unknown name."""
    cls = HEADS[name]
    report = Report(name)
    report.attempt("", "declarations are valid", lambda: _declarations(cls))
    choice = choose_head(name, {})

    def build(seed: int = 0) -> ClassificationHead:
        torch.manual_seed(seed)
        return choice.build(HeadSpec(), _CHANNELS, _CLASSES)

    if not report.attempt("", "built twice from one seed, the same", lambda: _same_start(build)):
        return report
    maps = torch.randn(3, _CHANNELS, 3, 4, generator=torch.Generator().manual_seed(1))
    if not report.attempt("", "logits float32 of each image and class", lambda: _logits(choice, build(), maps)):
        return report
    report.attempt("", "each image by itself, nothing is drawn", lambda: _alone(build(), maps))
    report.attempt("", "every parameter takes part", lambda: _all_take_part(build(), maps))
    report.attempt("", "it has what it says that it gives", lambda: _gives(build().eval(), maps))
    report.attempt("", "its state is loaded into another", lambda: _another(build, maps))
    return report


def _side(name: str, entry: Backbone) -> int:
    """Pixels of images that the backbone takes: a whole number of strides, or the only size that it is made for."""
    side = entry.stride * -(-_SIDE // entry.stride)
    try:
        build_backbone(name, image_size=side)
    except UsageError:
        return int(getattr(build_backbone(name), "side", side))
    return side


def _statistics(entry: Backbone) -> None:
    if len(entry.mean) != 3 or len(entry.std) != 3 or min(entry.std) <= 0:
        raise MlbenchError(f"mean = {entry.mean}, std = {entry.std}: expected three numbers each, std above 0")
    if entry.out_channels < 1 or entry.stride < 1:
        raise MlbenchError(f"out_channels = {entry.out_channels}, stride = {entry.stride}: expected at least 1")


def _declarations(cls: type[ClassificationHead]) -> None:
    if not (cls.__doc__ or "").strip():
        raise MlbenchError("the class has no docstring: say what it is and where it comes from")
    if not isinstance(cls.version, int) or cls.version < 1:
        raise MlbenchError(f"version = {cls.version!r}: expected a whole number from 1")
    for key, hyper in cls.hyperparameters.items():
        hyper.check(f"head.{key}", hyper.default)


def _same_start(build: Callable[[], nn.Module]) -> str:
    first, second = build().state_dict(), build().state_dict()
    for key, value in first.items():
        if not torch.equal(value, second[key]):
            raise MlbenchError(f"{key} differs: it is drawn from something else than torch's global generator")
    return f"{sum(value.numel() for value in first.values()):,} numbers"


def _maps(trunk: nn.Module, images: Tensor, shape: tuple[int, int, int]) -> str:
    with torch.no_grad():
        found = trunk.eval()(images)
    _is_tensor(found, (len(images), *shape))
    return f"{list(found.shape)} of images of {images.shape[-1]} px"


def _logits(choice: HeadChoice, head: ClassificationHead, maps: Tensor) -> None:
    with torch.no_grad():
        _is_tensor(head.eval()(maps), (len(maps), _CLASSES))
        _is_tensor(head(maps.mean(dim=(2, 3), keepdim=True)), (len(maps), _CLASSES))
        one = choice.build(HeadSpec(), _CHANNELS, 1).eval()
        _is_tensor(one(maps), (len(maps), 1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = head(maps.bfloat16())
    if found.dtype != torch.float32:
        raise MlbenchError(f"logits are {found.dtype} under autocast: expected float32, as half precision makes ties")


def _is_tensor(found: object, shape: tuple[int, ...]) -> None:
    if not isinstance(found, Tensor):
        raise MlbenchError(f"gives a {type(found).__name__}, expected a tensor")
    if tuple(found.shape) != shape or found.dtype != torch.float32:
        raise MlbenchError(f"gives {found.dtype} {list(found.shape)}, expected torch.float32 {list(shape)}")
    if not torch.isfinite(found).all():
        raise MlbenchError("gives numbers that are not finite")


def _alone(module: nn.Module, inputs: Tensor) -> None:
    """In evaluation an image has the same result whatever stands beside it, and each time."""
    module.eval()
    with torch.no_grad():
        together, again = module(inputs), module(inputs)
        alone = torch.cat([module(one[None]) for one in inputs])
    if not torch.equal(together, again):
        raise MlbenchError("another result the second time: something is drawn, or kept, in evaluation")
    apart = float((together - alone).abs().max())
    if apart > _SAME * max(1.0, float(together.abs().max())):
        raise MlbenchError(f"an image alone differs by {apart:.2g} from the same in a batch, in evaluation")


def _all_take_part(module: nn.Module, inputs: Tensor) -> None:
    module.train()
    inputs = inputs.clone().requires_grad_(True)
    module(inputs).square().sum().backward()
    idle = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise MlbenchError(f"{', '.join(idle[:3])}: no gradient reaches {'it' if len(idle) == 1 else 'them'}")
    if inputs.grad is None:
        raise MlbenchError("no gradient reaches what is below")


def _stages(trunk: nn.Module, images: Tensor, stages: tuple[str, ...]) -> str:
    if not stages:
        raise Skipped("none are named: methods that need them refuse it")
    seen: dict[str, object] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda module, given, found: seen.__setitem__(name, found)

    for name in stages:
        try:
            trunk.get_submodule(name).register_forward_hook(keep(name))
        except AttributeError:
            raise MlbenchError(f"stage '{name}' is no module in it") from None
    with torch.no_grad():
        trunk.eval()(images)
    for name in stages:
        found = seen.get(name)
        if not isinstance(found, Tensor) or found.ndim != 4 or len(found) != len(images):
            raise MlbenchError(f"stage '{name}' gives no maps [B, D, h, w]")
    return ", ".join(stages)


def _through_a_file(name: str, side: int, trunk: nn.Module, images: Tensor) -> None:
    if hasattr(trunk, "adapt_weights"):
        raise Skipped("its files have keys of their own")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_tensors(path, trunk.state_dict(), {})
        torch.manual_seed(7)
        other = build_backbone(name, weights=path, image_size=side)
    with torch.no_grad():
        if not torch.equal(trunk.eval()(images), other.eval()(images)):
            raise MlbenchError("loaded from the file of its own weights, it gives other maps")


def _gives(head: ClassificationHead, maps: Tensor) -> str:
    if not head.gives:
        raise Skipped("logits alone")
    shape = (len(maps), _CLASSES, *maps.shape[2:])
    with torch.no_grad():
        logits = head(maps)
        if "maps" in head.gives:
            _is_tensor(head.maps(maps), shape)  # type: ignore[operator]
            _is_tensor(head.heat_maps(maps), shape)  # type: ignore[operator]
        if "embeddings" in head.gives:
            embedded = head.embed(maps)  # type: ignore[operator]
            _is_tensor(embedded, (len(maps), _CLASSES, *embedded.shape[2:]))
            if not torch.equal(head.classify(embedded), logits):  # type: ignore[operator]
                raise MlbenchError("classify(embed(x)) is not what forward gives")
        if "weight" in head.gives:
            _is_tensor(head.weight.detach(), (_CLASSES, _CHANNELS))  # type: ignore[operator]
            _is_tensor(head.bias.detach(), (_CLASSES,))  # type: ignore[operator]
    return ", ".join(head.gives)


def _another(build: Callable[[int], ClassificationHead], maps: Tensor) -> None:
    first, second = build(0), build(1)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        if not torch.equal(first.eval()(maps), second.eval()(maps)):
            raise MlbenchError("with the state of another it gives other logits: part of it is in no state_dict")
