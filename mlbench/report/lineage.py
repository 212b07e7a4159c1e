"""Which method builds on which, of `lineage.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from mlbench.registry import METHODS

_BOOSTED = "_boostlu"


@dataclass(frozen=True)
class Step:
    """What a method builds on, and what it changes."""

    builds_on: tuple[str, ...]
    change: str


@cache
def lineage() -> Mapping[str, Step]:
    """The step to each method that builds on another one, by name; of those registered, and their BoostLU variants."""
    table = tomllib.loads((files("mlbench.report") / "lineage.toml").read_text(encoding="utf-8"))
    steps = {name: Step(tuple(entry["builds_on"]), entry["change"]) for name, entry in table.items()}
    boosted = {name: name.removesuffix(_BOOSTED) for name in METHODS if name.endswith(_BOOSTED)}
    return steps | {
        name: Step((plain,), "raises positive attributions (BoostLU)")
        for name, plain in boosted.items()
        if plain in METHODS
    }


def successors(method: str) -> dict[str, str]:
    """The methods that build on `method`, each with what it changes."""
    return {name: step.change for name, step in lineage().items() if method in step.builds_on}
