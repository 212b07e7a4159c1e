"""Grid files: which methods, seeds, masks, data sets and variants make up a sweep."""

from __future__ import annotations

import functools
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mlbench.annotation import mask_matters
from mlbench.errors import MlbenchError, UsageError, unknown
from mlbench.protocol import load_protocol
from mlbench.registry import load_method
from mlbench.settings import build

#: Draws of a grid that says nothing of them.
DRAWS = 9
#: What ``[datasets.NAME]`` may set for one data set instead of the whole grid.
BY_DATASET = ("data_root", "track", "backbone", "weights", "pretraining", "head", "side", "set")


@dataclass(frozen=True)
class Grid:
    """A grid file, checked. Paths in it are taken from the file's own folder.

    Attributes
    ----------
    methods, draws : every method with `draws` draws, draw i being of seed i and mask i. Each has its own seed and mask,
        so that as many runs say more than a grid of both. With neither `draws` nor `seeds` and `masks`: `DRAWS`.
    seeds, masks : instead of draws, every pair of seed and mask, to tell their two variances apart; one that is left
        out is 0; with `paired` seed i with mask i alone. A method that sees no mask (protocol "full", supervision
        "full" or none) has one run a seed.
    protocol or protocols, dataset or datasets : one or several; ``[datasets.NAME]`` may hold the keys of `BY_DATASET`.
    vary : hyperparameters, ``train.KEY`` or ``annotation.KEY`` with lists of values: one run for each value, one key
        at a time. set : the same with one value, for all runs.
    side : files of side inputs by kind, for the methods that take them. pretraining : of the weights, if not ImageNet.
    retries : how often a run that failed is started again.
    checkpoint_seconds : what a kill may cost. processes : of one run, data-parallel. gpus : of one run.
    memory_gib : of one run, asked of a cluster. slurm : further parameters of submitit's Slurm executor.
    tune_seed, grid : what a plan's search on validation data uses; a sweep leaves them alone.
    """

    methods: tuple[str, ...]
    protocol: str = ""
    protocols: tuple[str, ...] = ()
    dataset: str = ""
    datasets: Mapping[str, Any] = field(default_factory=dict)
    data_root: str | None = None
    track: str | None = None
    backbone: str | None = None
    weights: str | None = None
    pretraining: str | None = None
    side: Mapping[str, str] = field(default_factory=dict)
    head: str | None = None
    draws: int = 0
    seeds: tuple[int, ...] = ()
    masks: tuple[int, ...] = ()
    paired: bool = False
    vary: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    retries: int = 1
    checkpoint_seconds: float = 30.0
    processes: int = 1
    gpus: int = 0
    memory_gib: float | None = None
    slurm: Mapping[str, Any] = field(default_factory=dict)
    tune_seed: int | None = None
    grid: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one, several in (("protocol", "protocols"), ("dataset", "datasets")):
            if bool(getattr(self, one)) == bool(getattr(self, several)):
                raise UsageError(f"expected either {one} or {several}")
        for name in ("methods", "seeds", "masks", "protocols"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UsageError(f"{name} = {list(values)}: one stands there twice")
        if not self.methods:
            raise UsageError("methods = []: expected at least one")
        self._check_pairs()
        for name, least in (("draws", 0), ("retries", 0), ("checkpoint_seconds", 0), ("processes", 1), ("gpus", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} = {getattr(self, name)}: expected at least {least}")
        for name, table in self.datasets.items():
            if not isinstance(table, Mapping):
                raise UsageError(f"datasets.{name} = {table!r}: expected a table")
            for key in table:
                if key not in BY_DATASET:
                    raise unknown("key", key, BY_DATASET, f"[datasets.{name}]")
        for key, values in self.vary.items():
            if not isinstance(values, list) or not values:
                raise UsageError(f"vary.{key} = {values!r}: expected a list of values")

    def _check_pairs(self) -> None:
        if self.draws and (self.seeds or self.masks):
            raise UsageError(f"draws = {self.draws} beside seeds or masks: expected either draws or a grid of both")
        if self.paired and (self.masks or not self.seeds):
            raise UsageError("paired: expected seeds, each to be paired with the mask of its number, and no masks")

    def variants(self) -> list[dict[str, Any]]:
        """The changes of each run beside seed and mask: one value of one key of `vary`, or none."""
        return [{key: value} for key, values in self.vary.items() for value in values] or [{}]

    def pairs(self) -> list[tuple[int, int]]:
        """(seed, mask) of the runs of a method that sees the mask."""
        if self.paired:
            return [(seed, seed) for seed in self.seeds]
        if self.seeds or self.masks:
            grid = itertools.product(self.seeds or (0,), self.masks or (0,))
            return sorted(grid, key=lambda pair: (pair[0] != pair[1], pair))
        return [(i, i) for i in range(self.draws or DRAWS)]

    def cells(self) -> Iterator[dict[str, Any]]:
        """Fields of the `Request` of each run; repetitions with seed = mask first, so that a table fills evenly."""
        pairs = self.pairs()
        lowest = min(mask for _, mask in pairs)
        blind = functools.cache(_sees_no_mask)
        done: set[str] = set()
        datasets = self.datasets or {self.dataset: {}}
        protocols = self.protocols or (self.protocol,)
        for (seed, mask_seed), protocol, (dataset, own), varied, method in itertools.product(
            pairs, protocols, datasets.items(), self.variants(), self.methods
        ):
            if blind(protocol, method):
                run = json.dumps([seed, protocol, dataset, varied, method], default=str)
                if run in done:
                    continue
                done.add(run)
                mask_seed = lowest
            general = {name: getattr(self, name) for name in BY_DATASET if name != "set"}
            yield {
                "protocol": protocol,
                "method": method,
                "dataset": dataset,
                **general,
                **{name: value for name, value in own.items() if name != "set"},
                "seed": seed,
                "mask_seed": mask_seed,
                "epochs": self.epochs,
                "precision": self.precision,
                "changes": {**self.set, **own.get("set", {}), **varied},
            }


def _sees_no_mask(protocol: str, method: str) -> bool:
    """Whether a run is the same whatever the mask; what cannot be looked up is told later, with its place."""
    try:
        shown, cls = load_protocol(protocol), load_method(method)
    except MlbenchError:
        return False
    hidden = shown.annotation
    return not mask_matters(hidden.process, hidden.params, cls.supervision, shown.selection, bool(cls.uses))


def load_grid(path: Path, changes: Mapping[str, Any] | None = None) -> Grid:
    """Read a grid file; `changes` replace its keys where they are not None (their paths are left as they are).

    Raises
    ------
    UsageError
        Naming the file, the key, and the nearest right name.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot read the grid: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested deep
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    if isinstance(table.get("datasets"), list):
        table["datasets"] = {str(name): {} for name in table["datasets"]}
    grid = build(Grid, table, str(path))
    folder = path.resolve().parent
    located = _located({f.name: getattr(grid, f.name) for f in fields(Grid)}, folder)
    located["protocols"] = tuple(_beside(name, folder) for name in grid.protocols)
    located["datasets"] = {_beside(n, folder): _located(dict(own), folder) for n, own in grid.datasets.items()}
    return Grid(**located | {name: value for name, value in (changes or {}).items() if value is not None})


def _located(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`table` with its paths taken from `folder`."""
    found = dict(table)
    for name in ("data_root", "weights"):
        if found.get(name):
            found[name] = str(folder / found[name])
    if found.get("side"):
        found["side"] = {kind: str(folder / file) for kind, file in found["side"].items()}
    for name in ("protocol", "dataset"):
        if found.get(name):
            found[name] = _beside(found[name], folder)
    return found


def _beside(name: str, folder: Path) -> str:
    """A file's path from `folder`; a plain name stays."""
    return str(folder / name) if name.endswith(".toml") else name
