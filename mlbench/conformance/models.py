"""Does a backbone, or a head, keep its contract? Shapes, gradients, determinism, state, and a run with it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlbench.conformance.report import Report, Skipped
from mlbench.conformance.suite import compare, read_course, run_with_stops
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import MlbenchError, UsageError
from mlbench.models.backbones import BACKBONES, Backbone, build_backbone
from mlbench.models.head_choice import HEADS, HeadChoice, choose_head
from mlbench.models.heads import ClassificationHead, HeadSpec
from mlbench.runner.checkpoint import save_tensors
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request

#: Channels of the maps that heads are checked on, and their sizes.
_CHANNELS, _SHAPES = 48, ((1, 1), (4, 4), (3, 5))
_CLASSES = (1, 5, 199)
#: Rounding of float32 that a batch cut otherwise may bring.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
#: What a head that gives something must define.
_DEFINES = {"maps": ("maps", "heat_maps"), "embeddings": ("embed", "classify"), "weight": ("weight", "bias")}


def check_backbone(name: str) -> Report:
    """Every check on the registered backbone `name`, from a random start."""
    entry, report = BACKBONES[name], Report(name)
    if not report.attempt("", "says what it gives and takes", lambda: _entry(entry)):
        return report
    sizes: list[int] = []
    if not report.attempt("", "maps are of the stated channels and stride", lambda: _sizes(name, entry, sizes)):
        return report
    side = sizes[0]
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))

    def build() -> Any:
        torch.manual_seed(0)
        return build_backbone(name, image_size=side)

    report.attempt("", "same seed, same start", lambda: _same_state(build(), build()))
    report.attempt("", "the same twice, and each image by itself", lambda: _repeats(build().eval(), images))
    report.attempt("", "a gradient for all that is trained", lambda: _gradients(build(), images))
    other = build_backbone(name, image_size=side)
    report.attempt("", "its state brings it back", lambda: _round_trip(build(), other, images))
    report.attempt("", "weights come from a file", lambda: _from_file(name, build(), images))
    report.attempt("", "stages give maps", lambda: _stages(build().eval(), images))
    changes = {"train.image_size": side}
    report.attempt("", "trains, and goes on after a stop", lambda: _trains(backbone=name, changes=changes))
    return report


def check_head(name: str) -> Report:
    """Every check on the registered head `name`, with its default hyperparameters."""
    cls, report = HEADS[name], Report(name)
    if not report.attempt("", "says what it is", lambda: _declared(cls)):
        return report
    choice = choose_head(name, {})

    def build(classes: int = 5) -> ClassificationHead:
        torch.manual_seed(0)
        return choice.build(HeadSpec(), _CHANNELS, classes)

    if not report.attempt("", "logits of maps of any size", lambda: _logits(choice)):
        return report
    features = torch.randn(2, _CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    report.attempt("", "same seed, same start", lambda: _same_state(build(), build()))
    report.attempt("", "the same twice, and each image by itself", lambda: _repeats(build().eval(), features))
    report.attempt("", "a gradient for all that is trained", lambda: _gradients(build(), features))
    report.attempt("", "its state brings it back", lambda: _round_trip(build(), _other(choice), features))
    report.attempt("", "logits are float32 under autocast", lambda: _autocast(build().eval(), features))
    report.attempt("", "class activation maps, boosted too", lambda: _maps(build().eval(), features))
    report.attempt("", "an embedding for each class", lambda: _embeddings(build().eval(), features))
    report.attempt("", "trains, and goes on after a stop", lambda: _trains(head=name))
    return report


# -- backbones --------------------------------------------------------------------------------------------------------


def _entry(entry: Backbone) -> str:
    for key in ("out_channels", "stride"):
        value = getattr(entry, key)
        if type(value) is not int or value < 1:
            raise MlbenchError(f"{key} = {value!r}: expected a whole number from 1")
    for key in ("mean", "std"):
        values = getattr(entry, key)
        if len(values) != 3 or not all(math.isfinite(value) for value in values):
            raise MlbenchError(f"{key} = {values!r}: expected three finite numbers, of red, green and blue from 0 to 1")
    if min(entry.std) <= 0:
        raise MlbenchError(f"std = {entry.std!r}: expected numbers above 0")
    return f"{entry.out_channels} channels, a position for {entry.stride} pixels; {entry.library or 'no library named'}"


def _sizes(name: str, entry: Backbone, found: list[int]) -> str:
    """Into `found` the sides of images that it takes, of some; UsageError is how it says that it does not."""
    refused = ""
    for side in dict.fromkeys((entry.stride * 4, entry.stride * 6, entry.stride * 7, 224, 256)):
        try:
            trunk = build_backbone(name, image_size=side).eval()
            with torch.inference_mode():
                maps = trunk(torch.zeros(1, 3, side, side))
        except UsageError as error:
            refused = str(error)
            continue
        places = range(side // entry.stride, -(-side // entry.stride) + 1)
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            raise MlbenchError(f"images of {side} px give {_what(maps)}, expected maps [B, D, h, w]")
        if maps.shape[:2] != (1, entry.out_channels) or not all(length in places for length in maps.shape[2:]):
            expected = [1, entry.out_channels, places[-1], places[-1]]
            raise MlbenchError(f"an image of {side} px gives maps {list(maps.shape)}, expected {expected}")
        if maps.dtype != torch.float32:
            raise MlbenchError(f"maps are {maps.dtype}, expected float32")
        found.append(side)
        if len(found) == 2:
            break
    if not found:
        raise MlbenchError(f"takes none of the image sizes tried: {refused}")
    return f"at {' and '.join(map(str, found))} px"


def _from_file(name: str, trunk: Any, images: Tensor) -> None:
    """`trunk` is of seed 0, as are the weights, which are of the size that the backbone is made for."""
    torch.manual_seed(0)
    state = build_backbone(name).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        save_tensors(file, state, {})
        other = build_backbone(name, file, image_size=images.shape[-1])
    with torch.inference_mode():
        _equal(trunk.eval()(images), other.eval()(images), "maps", "from a file")


def _stages(trunk: Any, images: Tensor) -> str:
    if not trunk.stages:
        raise Skipped("names none: methods that take hints from stages refuse it")
    seen: list[Tensor] = []
    hooks = [
        trunk.get_submodule(stage).register_forward_hook(lambda _, given, output: seen.append(output))
        for stage in trunk.stages
    ]
    with torch.inference_mode():
        trunk(images)
    for hook in hooks:
        hook.remove()
    if len(trunk.stages) != 3 or len(seen) != 3 or any(_what(maps).count(",") != 3 for maps in seen):
        raise MlbenchError(f"{', '.join(trunk.stages)} give {', '.join(map(_what, seen))}; expected three maps")
    return ", ".join(_what(maps) for maps in seen)


# -- heads ------------------------------------------------------------------------------------------------------------


def _declared(cls: type[ClassificationHead]) -> str:
    if not (cls.__doc__ or "").strip():
        raise MlbenchError("the class has no docstring: say what it is and where it comes from")
    if type(cls.version) is not int or cls.version < 1:
        raise MlbenchError(f"version = {cls.version!r}: expected a whole number from 1")
    for key, hyper in cls.hyperparameters.items():
        hyper.check(f"head.{key}", hyper.default)
    for given in cls.gives:
        missing = [key for key in _DEFINES[given] if given != "weight" and not callable(getattr(cls, key, None))]
        if missing:
            raise MlbenchError(f"gives {given}, and does not define {' and '.join(missing)}")
    return f"beside logits: {', '.join(cls.gives) or 'nothing'}"


def _logits(choice: HeadChoice) -> None:
    for classes in _CLASSES:
        head = choice.build(HeadSpec(), _CHANNELS, classes).eval()
        for shape in _SHAPES:
            with torch.inference_mode():
                logits = head(torch.randn(2, _CHANNELS, *shape))
            if not isinstance(logits, Tensor) or logits.shape != (2, classes) or logits.dtype != torch.float32:
                maps = [2, _CHANNELS, *shape]
                raise MlbenchError(f"maps {maps} give {_what(logits)}, expected float32 [2, {classes}]")
            if not bool(torch.isfinite(logits).all()):
                raise MlbenchError("logits are not finite")
        if "weight" in head.gives:
            found = [list(getattr(head, key).shape) for key in _DEFINES["weight"]]
            if found != [[classes, _CHANNELS], [classes]]:
                raise MlbenchError(f"weight and bias are {found}, expected [[{classes}, {_CHANNELS}], [{classes}]]")


def _autocast(head: ClassificationHead, features: Tensor) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = head(features)
    if logits.dtype != torch.float32:
        raise MlbenchError(f"logits are {logits.dtype}: rounded ones tie, and ties change average precision")


def _maps(head: ClassificationHead, features: Tensor) -> str | None:
    if "maps" not in head.gives:
        raise Skipped("has none: BoostLU, attention consistency and `explain cam` refuse it")
    given: Any = head
    plain, heat = given.maps(features), given.heat_maps(features.requires_grad_())
    for what, maps in (("maps", plain), ("heat_maps", heat)):
        if maps.shape != (len(features), 5, *features.shape[2:]):
            raise MlbenchError(f"{what} are {_what(maps)}, expected [{len(features)}, 5, h, w]")
    if torch.autograd.grad(heat.square().sum(), [features])[0].abs().max() == 0:
        raise MlbenchError("no gradient passes from heat_maps to the features")
    if any(tensor is not None for tensor in _grads(given.heat_maps(features), head)):
        raise MlbenchError("a gradient passes from heat_maps to the head's weights, which are data there")
    features.requires_grad_(False)
    before = head(features)
    head.spec = HeadSpec("boostlu", 1.0, 5.0)
    if not bool((given.maps(features, boosted=True) >= plain - 1e-6).all()) or torch.equal(head(features), before):
        raise MlbenchError("a head.alpha of 5 in inference does not boost maps and logits")
    if not torch.equal(given.maps(features), plain):
        raise MlbenchError("maps that are not asked to be boosted are")
    return None


def _embeddings(head: ClassificationHead, features: Tensor) -> str:
    if "embeddings" not in head.gives:
        raise Skipped("has none: methods that need them refuse it")
    given: Any = head
    with torch.inference_mode():
        embedded = given.embed(features)
        if embedded.ndim != 3 or embedded.shape[:2] != (len(features), 5):
            raise MlbenchError(f"embed gives {_what(embedded)}, expected [{len(features)}, 5, E]")
        _equal(given.classify(embedded), head(features), "logits", "of the embeddings")
    return f"of {embedded.shape[2]} numbers"


def _other(choice: HeadChoice) -> ClassificationHead:
    torch.manual_seed(1)
    return choice.build(HeadSpec(), _CHANNELS, 5)


# -- both -------------------------------------------------------------------------------------------------------------


def _same_state(one: nn.Module, other: nn.Module) -> None:
    for key, tensor in one.state_dict().items():
        if not torch.equal(tensor, other.state_dict()[key]):
            raise MlbenchError(f"{key} starts from other numbers: draw them from torch's global generator")


def _repeats(module: nn.Module, given: Tensor) -> None:
    before = given.clone()
    with torch.inference_mode():
        whole = module(given)
        _equal(module(given), whole, "what it gives", "the second time")
        each = torch.cat([module(given[row : row + 1]) for row in range(len(given))])
    if not torch.equal(given, before):
        raise MlbenchError("it writes into what it is given")
    if not torch.allclose(whole, each, _RELATIVE, _ABSOLUTE):
        raise MlbenchError(
            f"in evaluation an image's own result depends on the rest of the batch, by {(whole - each).abs().max():.3g}"
        )


def _gradients(module: nn.Module, given: Tensor) -> str:
    module.train()
    trained = {key: value for key, value in module.named_parameters() if value.requires_grad}
    if not trained:
        raise MlbenchError("has no parameter to train")
    gradients = _grads(module(given), module)
    without = [key for key, gradient in zip(trained, gradients, strict=True) if gradient is None]
    if without:
        raise MlbenchError(
            f"no gradient reaches {', '.join(without[:3])} ({len(without)} in all): what is unused must not require one"
        )
    return f"{sum(value.numel() for value in trained.values()):,} numbers"


def _grads(output: Tensor, module: nn.Module) -> Sequence[Tensor | None]:
    trained = [value for value in module.parameters() if value.requires_grad]
    return torch.autograd.grad(output.square().sum(), trained, allow_unused=True)


def _round_trip(one: nn.Module, other: nn.Module, given: Tensor) -> None:
    one.train()(given)  # moves running statistics
    other.load_state_dict(one.state_dict())
    with torch.inference_mode():
        _equal(other.eval()(given), one.eval()(given), "what it gives", "with the state of another")


def _trains(**chosen: Any) -> None:
    changes = {"train.epochs": 1, "train.batch_size": 16, "train.image_size": 64, **chosen.pop("changes", {})}
    chosen = {"backbone": "scenes", "track": "full", "dataset": tiny_dataset(test=3), **chosen}
    request = Request("single_positive", "an", changes=changes, **chosen)
    with tempfile.TemporaryDirectory() as folder:
        whole, stopped = Path(folder) / "whole", Path(folder) / "stopped"
        course = read_course(whole, run(request, Options(store=whole, device="cpu", quiet=True)))
        compare(course, run_with_stops(request, stopped, 1)[0], 0.0)


def _equal(found: Tensor, expected: Tensor, what: str, when: str) -> None:
    if not torch.equal(found, expected):
        raise MlbenchError(f"{what} differs {when}, by {(found - expected).abs().max():.3g}")


def _what(found: Any) -> str:
    if not isinstance(found, Tensor):
        return type(found).__name__
    return f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
