"""Tables of settings read from TOML or the command line, checked against a dataclass.

Every error names the file, the key and the nearest right name.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from mlbench.errors import UsageError, nearest, unknown

T = TypeVar("T")
#: Settings of images and of a backbone that is trained: on cached features none of them has a meaning.
OF_IMAGES = (
    *("augment", "crop", "randaugment", "randaugment_magnitude", "jitter", "jitter_chance", "cutout"),
    *("frozen_stages", "layer_rate"),
)
_NOT_NEGATIVE = ("momentum", "weight_decay", "step_factor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What training may have beyond batch, rate and schedule; all off by default.

    Part of a run's identity only where it is not the default (`named_settings`), so that runs without it are what they
    were before it could be had.

    Parameters
    ----------
    ema : decay of a moving average of the weights, taken after each step; 0: none. ema_scored : "average": that is what
        is evaluated, selected and kept; "better": the average or the weights themselves, whichever validation prefers
        after the epoch (the average, where no validation number selects).
    clip_norm : largest norm of the gradient of all parameters together; 0: any.
    warmup_steps : steps over which the rate rises evenly to that of the schedule.
    decayed : what `weight_decay` takes hold of; "weights" spares parameters of one dimension, norms and biases.
    frozen_stages : stages of the backbone that are not trained, from the image on (`mlbench.models.stages`).
    layer_rate : factor to the rate from each stage of the backbone to the one below it; the last one has it once.
    crop : least and most of an image's area that a random crop keeps, which is resized; (): the whole image.
    randaugment : operations of RandAugment an image, 0: none. randaugment_magnitude : of them, up to 30.
    jitter : strength of brightness, contrast, saturation and hue, (): none. jitter_chance : of an image to be changed.
    cutout : side of the square that is painted over, as a share of the image's; 0: none.
    """

    ema: float = 0.0
    ema_scored: Literal["average", "better"] = "average"
    clip_norm: float = 0.0
    warmup_steps: int = 0
    decayed: Literal["all", "weights"] = "all"
    frozen_stages: int = 0
    layer_rate: float = 1.0
    crop: tuple[float, ...] = ()
    randaugment: int = 0
    randaugment_magnitude: int = 9
    jitter: tuple[float, ...] = ()
    jitter_chance: float = 0.8
    cutout: float = 0.0

    def _check_recipe(self) -> None:
        """UsageError for a value that means nothing; what has no effect is set to its default."""
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema = {self.ema}: expected a decay from 0 (none) to below 1, such as 0.9997")
        if not 0 <= self.clip_norm < math.inf:
            raise UsageError(f"clip_norm = {self.clip_norm}: expected 0 (none) or more")
        for key in ("warmup_steps", "frozen_stages", "randaugment"):
            if getattr(self, key) < 0:
                raise UsageError(f"{key} = {getattr(self, key)}: expected 0 or more")
        if not 0 < self.layer_rate <= 1:
            raise UsageError(f"layer_rate = {self.layer_rate}: expected more than 0, at most 1")
        if not 0 <= self.randaugment_magnitude <= 30:
            raise UsageError(f"randaugment_magnitude = {self.randaugment_magnitude}: expected 0 to 30")
        for key in ("cutout", "jitter_chance"):
            if not 0 <= getattr(self, key) <= 1:
                raise UsageError(f"{key} = {getattr(self, key)}: expected a share from 0 to 1")
        if self.crop and not (len(self.crop) == 2 and 0 < self.crop[0] <= self.crop[1] <= 1):
            raise UsageError(f"crop = {list(self.crop)}: expected least and most of the area, such as [0.08, 1.0]")
        strengths = zip(self.jitter, (1.0, 1.0, 1.0, 0.5), strict=False)
        if self.jitter and not (len(self.jitter) == 4 and all(0 <= value <= most for value, most in strengths)):
            raise UsageError(
                f"jitter = {list(self.jitter)}: expected brightness, contrast and saturation from 0 to 1 and hue to 0.5"
            )
        idle = {"ema_scored": not self.ema, "randaugment_magnitude": not self.randaugment}
        idle |= {"jitter_chance": not any(self.jitter), "jitter": not any(self.jitter)}
        for field in dataclasses.fields(Recipe):
            if idle.get(field.name):
                object.__setattr__(self, field.name, field.default)


@dataclasses.dataclass(frozen=True)
class TrainSettings(Recipe):
    """How a phase is trained. All of it is part of a run's identity; see `Recipe` for what is off by default.

    `batch_size` is the global batch, over all processes and accumulated steps. `lr_multipliers` go by role, the
    first part of a parameter's name ("backbone", "head", "state", ...). `step_every` counts epochs.
    """

    epochs: int
    batch_size: int
    lr: float
    image_size: int
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "one_cycle", "step", "cosine"] = "constant"
    step_every: int = 3
    step_factor: float = 0.1
    warmup: float = 0.3
    lr_multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    augment: tuple[Literal["flip"], ...] = ()
    accumulate: int = 1

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "image_size", "accumulate", "step_every"):
            if getattr(self, key) < 1:
                raise UsageError(f"{key} = {getattr(self, key)}: expected at least 1")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr = {self.lr}: expected more than 0")
        if not 0 < self.warmup < 1:
            raise UsageError(f"warmup = {self.warmup}: expected a share between 0 and 1")
        multipliers = {f"lr_multipliers.{role}": factor for role, factor in self.lr_multipliers.items()}
        for key, value in {**{k: getattr(self, k) for k in _NOT_NEGATIVE}, **multipliers}.items():
            if not 0 <= value < math.inf:
                raise UsageError(f"{key} = {value}: expected 0 or more")
        # A factor of 1 is none: a run's identity must not tell the two ways to write it apart.
        kept = {role: factor for role, factor in self.lr_multipliers.items() if factor != 1}
        object.__setattr__(self, "lr_multipliers", kept)
        self._check_recipe()
        if self.warmup_steps and self.schedule == "one_cycle":
            raise UsageError(f"warmup_steps = {self.warmup_steps}: one_cycle has a rise of its own (warmup, a share)")


@dataclasses.dataclass(frozen=True)
class Hyper:
    """A declared hyperparameter: default, meaning, and the values allowed.

    `search` is the space tuned over on validation data: ("log", low, high), ("linear", low, high) or
    ("choice", a, b, ...). `tiny` is what `check-method` takes instead of the default, where that makes a network too
    wide for a check on a few small images.
    """

    default: float | int | str | bool
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    search: tuple[Any, ...] = ()
    tiny: Any = None

    def check(self, name: str, value: Any) -> Any:
        """Return `value` in this hyperparameter's type, or raise UsageError."""
        kind = type(self.default)
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = as_float(value, f"hyperparameter {name}")
        elif kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not kind:
            raise UsageError(f"hyperparameter {name} = {value!r}: expected {kind.__name__} ({self.help})")
        if self.choices and value not in self.choices:
            listed = ", ".join(map(str, self.choices))
            raise UsageError(f"hyperparameter {name} = {value!r}: expected one of {listed}")
        number: Any = value  # bounds are given for numbers only
        too_low = self.low is not None and number < self.low
        if too_low or (self.high is not None and number > self.high):
            raise UsageError(f"hyperparameter {name} = {value!r}: expected {self._bounds()} ({self.help})")
        return value

    def _bounds(self) -> str:
        if self.high is None:
            return f"at least {self.low}"
        return f"at most {self.high}" if self.low is None else f"{self.low} to {self.high}"


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make dataclass `cls` of `table`; `where` ("file: [section]") begins every error."""
    hints = _hints(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise unknown("key", key, fields, where)
    values = {key: coerce(value, hints[key], f"{where} {key}") for key, value in table.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"{where}: missing key '{name}'")
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def coerce(value: Any, kind: Any, where: str) -> Any:
    """Check `value` against type hint `kind`; whole floats become ints and ints floats where that is exact."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        return coerce(value, next(a for a in get_args(kind) if a is not type(None)), where)
    if origin is Literal:
        choices = get_args(kind)
        for choice in choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice  # not `value`: 1.0 is the choice 1, and has its text
        listed = ", ".join(map(str, choices))
        raise UsageError(f"{where} = {value!r}: expected one of {listed}.{nearest(str(value), map(str, choices))}")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where} = {value!r}: expected a list")
        return tuple(coerce(item, get_args(kind)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} = {value!r}: expected a table")
        return {str(k): coerce(v, get_args(kind)[1], f"{where}.{k}") for k, v in value.items()}
    if kind is bool or isinstance(value, bool):
        if not (kind is bool and isinstance(value, bool)) and kind is not Any:
            raise UsageError(f"{where} = {value!r}: expected {_named(kind)}")
        return value
    if kind is float and isinstance(value, (int, float)):
        return as_float(value, where)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is Any or isinstance(value, kind):
        return value
    raise UsageError(f"{where} = {value!r}: expected {_named(kind)}")


def as_float(value: float, where: str) -> float:
    """`value` as the one float there is for it: -0.0 is 0.0. UsageError for a whole number beyond all floats."""
    try:
        return float(value) + 0.0
    except OverflowError:
        raise UsageError(f"{where} = {value!r}: expected a number of at most {sys.float_info.max:g}") from None


def _named(kind: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(kind, str(kind))


def parse_value(text: str) -> Any:
    """Read the value of ``--set key=value``: a number, true/false, a list in brackets, or text."""
    import tomllib

    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # a number of thousands of digits, or nested deep, is one of these
        return text
    return found["value"] if len(found) == 1 else text  # a line break could begin another key


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Any]:
    """Read ``("delta=0.5", "train.lr=1e-4")``; the same key twice is an error."""
    found: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"--set {text}: expected key=value")
        if key in found:
            raise UsageError(f"--set {key}: given twice")
        found[key] = parse_value(value.strip())
    return found


def to_plain(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as plain JSON values."""
    return {
        key: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
        for key, value in dataclasses.asdict(settings).items()
    }


def without_defaults(settings: Any) -> dict[str, Any]:
    """What of a dataclass of settings is not its default, as plain JSON values; all of its fields have one."""
    plain, usual = to_plain(settings), to_plain(type(settings)())
    return {key: value for key, value in plain.items() if value != usual[key]}


#: What of the training settings is named only where it is not the default, with the default as plain JSON.
RECIPE_DEFAULTS: Mapping[str, Any] = to_plain(Recipe())


def named_settings(settings: TrainSettings) -> dict[str, Any]:
    """`settings` as a run's identity has them: all of them, but of the recipe what is not its default."""
    plain = to_plain(settings)
    return {key: value for key, value in plain.items() if value != RECIPE_DEFAULTS.get(key, object())}
