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
_NOT_NEGATIVE = ("momentum", "weight_decay", "step_factor")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How a phase is trained. All of it is part of a run's identity.

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


@dataclasses.dataclass(frozen=True)
class Hyper:
    """A declared hyperparameter: default, meaning, and the values allowed.

    `search` is the space tuned over on validation data: ("log", low, high), ("linear", low, high) or
    ("choice", a, b, ...).
    """

    default: float | int | str | bool
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    search: tuple[Any, ...] = ()

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
            raise UsageError(f"hyperparameter {name} = {value!r}: expected {self.low} to {self.high} ({self.help})")
        return value


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
    except tomllib.TOMLDecodeError:
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
