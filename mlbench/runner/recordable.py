"""What a record would refuse at the end of a run, refused before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from mlbench.errors import DataError, MethodError, UsageError, nearest
from mlbench.evaluation.predictions import KINDS
from mlbench.methods import SUPERVISION, Method
from mlbench.models.head_choice import HEADS, NEEDS
from mlbench.protocol import TRACKS
from mlbench.store import SUBMITTED
from mlbench.store.schema import check_identity as _check


def check_declarations(method: type[Method]) -> None:
    """MethodError for a class attribute of `method` that is not what the contract says."""
    name = method.name
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise MethodError(f"class {method.__qualname__}: name = {name!r}: expected a text that is not empty")
    where = f"method '{name}'"
    if name.startswith(SUBMITTED):
        raise MethodError(f"{where}: names that begin with '{SUBMITTED}' are those of submitted predictions")
    if type(method.version) is not int or method.version < 1:
        raise MethodError(f"{where}: version = {method.version!r}: expected a whole number from 1")
    for kind, values, known in (("supervision", method.supervision, SUPERVISION), ("tracks", method.tracks, TRACKS)):
        if isinstance(values, str) or not values:
            raise MethodError(f"{where}: {kind} = {values!r}: expected a tuple of at least one of {', '.join(known)}")
        for value in values:
            if value not in known:
                raise MethodError(
                    f"{where}: {kind} = {values!r}: unknown '{value}'.{nearest(value, known)} Known: {', '.join(known)}"
                )
        if len(set(values)) < len(values):
            raise MethodError(f"{where}: {kind} = {values!r}: a value stands twice")
    for kind, value, choices in (
        ("scores", method.scores, KINDS),
        ("reduction", method.reduction, ("mean", "sum")),
        ("needs_head", method.needs_head, NEEDS),
        ("default_head", method.default_head, HEADS),
    ):
        if value not in choices:
            raise MethodError(f"{where}: {kind} = {value!r}: expected one of {', '.join(choices)}")


def check_identity(identity: Mapping[str, Any], method: type[Method]) -> None:
    """UsageError, or MlbenchError where the method is to blame, unless a record may hold `identity`."""
    for name, value in identity["method"]["hyperparameters"].items():
        if isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()):
            raise UsageError(
                f"hyperparameter {name} = {value!r}: an absolute path is one of this machine, and cannot be part of a "
                "run's settings: give a name, or a path relative to a folder that is known otherwise"
            )
    try:
        _check(dict(identity))
    except DataError as error:
        raise UsageError(f"method '{method.name}': this run cannot be recorded: {error}") from None
