"""Which head a run has: heads by name, their hyperparameters resolved, and whether a method can take them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mlbench.errors import MlbenchError, UsageError, nearest, unknown
from mlbench.models.heads import GIVES, ClassificationHead, HeadSpec, build_head
from mlbench.registry import Registry

LINEAR = "linear"

#: What a method may need of its head (`Method.needs_head`), in words.
NEEDS = {
    "logits": "logits",
    "maps": "class activation maps",
    "embeddings": "an embedding for each class",
    "weight": "the one linear layer",
    "none": "no head: its network is its own",
}


def _head(name: str, found: object) -> type[ClassificationHead]:
    if not (isinstance(found, type) and issubclass(found, ClassificationHead)):
        raise MlbenchError("is not a subclass of mlbench.models.heads.ClassificationHead")
    for given in found.gives:
        if given not in GIVES:
            raise unknown("gives", given, GIVES)
    return found


#: Heads by name, ours and those that other packages register.
HEADS: Registry[type[ClassificationHead]] = Registry("mlbench.heads", "head", _head)


@dataclass(frozen=True)
class HeadChoice:
    """A head by name, with its hyperparameters; the linear one, which needs none, by default."""

    name: str = LINEAR
    hyper: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's identity says of the head; nothing of the linear one."""
        if self.name == LINEAR:
            return {}
        return {"name": self.name, "version": HEADS[self.name].version, "hyperparameters": dict(self.hyper)}

    def build(self, spec: HeadSpec, channels: int, classes: int) -> ClassificationHead:
        """A new head of `channels` channels and `classes` classes; `spec` says what BoostLU does."""
        if self.name == LINEAR:
            return build_head(spec, channels, classes)
        make: Any = HEADS[self.name]
        head: ClassificationHead = make(channels, classes, **self.hyper)
        head.spec = spec
        return head


def choose_head(name: str, changes: Mapping[str, Any]) -> HeadChoice:
    """Head `name` with its defaults, and with `changes` (by hyperparameter, without ``head.``) applied and checked.

    Raises
    ------
    UsageError : no such head, no such hyperparameter, or a value that it does not take.
    """
    name = HEADS.canonical(name)
    declared = HEADS[name].hyperparameters
    values = {key: hyper.default for key, hyper in declared.items()}
    for key, value in changes.items():
        if key not in declared:
            known = [*(f"head.{name}" for name in declared), "head.alpha", "head.alpha_train", "head.alpha_infer"]
            raise UsageError(
                f"head '{name}' has no hyperparameter 'head.{key}'.{nearest(f'head.{key}', known)} "
                f"Declared: {', '.join(known)}"
            )
        values[key] = declared[key].check(f"head.{key}", value)
    return HeadChoice(name, values)


def takes_head(needs: str, name: str) -> bool:
    """Whether head `name` has what a method `needs` of its head."""
    if needs == "none":
        return name == LINEAR
    return needs == "logits" or needs in HEADS[name].gives


def check_head(method: str, needs: str, name: str, spec: HeadSpec) -> None:
    """UsageError unless head `name` gives what `method` needs of a head, and what `spec` needs for BoostLU."""
    gives = HEADS[name].gives
    if needs == "none" and name != LINEAR:
        raise UsageError(f"method '{method}' has a network of its own: --head {name} has no place in it")
    if not takes_head(needs, name):
        raise UsageError(
            f"method '{method}' needs {NEEDS[needs]}, which head '{name}' does not have: use --head {_with(needs)}"
        )
    if (spec.alpha_train, spec.alpha_infer) != (1.0, 1.0) and "maps" not in gives:
        raise UsageError(
            f"BoostLU (head.alpha) works on {NEEDS['maps']}, which head '{name}' does not have: leave head.alpha at 1, "
            f"or use --head {_with('maps')}"
        )


def _with(needs: str) -> str:
    """Heads that have what is needed; those that do not load have nothing."""
    found = []
    for name in HEADS:
        with suppress(MlbenchError):
            found += [name] if needs in HEADS[name].gives else []
    return " or ".join(found)
