"""A paper's claims, written down before the runs: the files of ``results/cards``."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from mlbench.errors import unknown
from mlbench.settings import build

#: Draws of a claim that does not say how many, and the chance at which `Outcome.needed` finds the threshold.
DRAWS, POWER = 9, 0.8


@dataclass(frozen=True)
class Setting:
    """Where a claim is tested, and what was spent on choosing each method's settings.

    set : what all its runs set otherwise than protocol, method and head (`--set`, or a plan's ``[set]``), by name.
    head : what all its runs have (``--head``); empty: each method its own.
    """

    dataset: str
    track: str
    backbone: str
    budget: str
    set: Mapping[str, Any] = field(default_factory=dict)
    head: str = ""


@dataclass(frozen=True)
class Claim:
    """A method gains over another. `not_testable` gives, by setting, why it cannot show there.

    method : the method that gains; empty where the claim's name in the card is its key.
    against : the setting whose runs of `over` it is held against, the same in all: what another head adds, say. Empty:
    those of the setting itself.
    """

    over: str
    statement: str
    not_testable: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    against: str = ""


@dataclass(frozen=True)
class Card:
    """The claims of one paper's tables (a file of ``results/cards``).

    title : what the claims are about, where a paper has several such files. protocol : of our runs.
    printed_protocols : of the printed rows, where that is another. threshold : the smallest gain worth claiming, in
    points of `metric`. draws : runs of each method, draw i being of seed i and mask i. seeds, masks : instead, a run of
    each pair; with `draws` as well, all these runs count, and either makes a claim complete.
    """

    paper: str
    table: str
    protocol: str
    metric: str
    selection: str
    threshold: float
    confidence: float
    settings: Mapping[str, Setting]
    claims: Mapping[str, Claim]
    draws: int = 0
    seeds: tuple[int, ...] = ()
    masks: tuple[int, ...] = ()
    more_tables: tuple[str, ...] = ()
    printed_protocols: tuple[str, ...] = ()
    title: str = ""

    @property
    def plans(self) -> list[list[tuple[int, int]]]:
        """The (seed, mask) of each method's runs, by grid, by draws, or either."""
        grid = list(itertools.product(self.seeds, self.masks))
        draws = self.draws or (0 if grid else DRAWS)
        return [plan for plan in ([(i, i) for i in range(draws)], grid) if plan]

    @property
    def tables(self) -> tuple[str, ...]:
        return (self.table, *self.more_tables)

    @property
    def pairs(self) -> list[tuple[str, Claim]]:
        """Each claim with the method that gains."""
        return [(claim.method or name, claim) for name, claim in self.claims.items()]

    @property
    def methods(self) -> list[str]:
        """All methods that a claim names."""
        return list(dict.fromkeys(name for method, claim in self.pairs for name in (method, claim.over)))


def load_card(paper: str) -> Card:
    """The claims in the file `paper`; UsageError where there is none, DataError for a broken one."""
    folder = {f.name.removesuffix(".toml"): f for f in (files("mlbench.results") / "cards").iterdir()}
    known = sorted(name for name in folder if not name.startswith("_"))
    if paper not in known:
        raise unknown("paper", paper, known)
    where = f"results/cards/{paper}.toml"
    table = tomllib.loads(folder[paper].read_text(encoding="utf-8"))
    for key, cls in (("settings", Setting), ("claims", Claim)):
        entries = table.get(key, {})
        table[key] = {name: build(cls, entry, f"{where}: [{key}.{name}]") for name, entry in entries.items()}
    card: Card = build(Card, table, where)
    for name, claim in card.claims.items():
        for setting in (*claim.not_testable, claim.against):
            if setting and setting not in card.settings:
                raise unknown("setting", setting, card.settings, f"{where}: [claims.{name}]")
    return card
