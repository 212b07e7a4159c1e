"""Resolve the runs of a grid, and the runs they build on, before anything is launched."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlbench.annotation import Mask
from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.errors import MlbenchError
from mlbench.protocol import Protocol, load_protocol
from mlbench.registry import load_method
from mlbench.runner.plan import Request, Run, resolve, used_requests, why_alone
from mlbench.runner.side import SIDE_INPUTS, inputs_of
from mlbench.sweep.grid import Grid
from mlbench.sweep.jobs import Job

_PATHS = ("data_root", "weights")


def request_of(plain: Mapping[str, Any]) -> Request:
    """The `Request` with these fields, paths being text; of the side inputs, those that its method takes."""
    paths: dict[str, Any] = {name: Path(plain[name]) for name in _PATHS if plain[name]}
    if plain.get("side"):
        method = load_method(plain["method"])
        others = SIDE_INPUTS.keys() - inputs_of(method, method.resolve({}))
        paths["side"] = {kind: Path(file) for kind, file in plain["side"].items() if kind not in others}
    return Request(**{**plain, **paths})


def freeze(grid: Grid, where: str) -> tuple[Job, ...]:
    """Resolve every run of `grid`, and the runs they use; `where` begins every error."""
    freezer = _Freezer(grid.set)
    for cell in grid.cells():
        try:
            freezer.add(cell, asked=True)
        except MlbenchError as error:
            about = f"{cell['method']} on {cell['dataset']} ({cell['protocol']}, seed {cell['seed']})"
            raise type(error)(f"{where}: {about}: {error}") from None
    return tuple(freezer.jobs.values())


def freeze_each(
    cells: Iterable[Mapping[str, Any]], common: Mapping[str, Any]
) -> tuple[tuple[Job, ...], list[str | MlbenchError]]:
    """As `freeze` of a grid's cells, but what cannot be resolved stops nothing.

    Returns the jobs, and for each cell the key of its run or the reason why there is none. `common` are the changes
    that all cells share, which their titles leave out.
    """
    freezer = _Freezer(common)
    found: list[str | MlbenchError] = []
    for cell in cells:
        try:
            found.append(freezer.add(cell, asked=True))
        except MlbenchError as error:
            found.append(error)
    needed = {key for job in freezer.jobs.values() for key in job.needs}
    return tuple(job for job in freezer.jobs.values() if job.asked or job.key in needed), found


def resolve_each(requests: Iterable[Mapping[str, Any]]) -> list[Run]:
    """The runs of plain requests that build on no others, reading each data set and drawing each mask once."""
    freezer = _Freezer({})
    return [freezer.resolve(plain) for plain in requests]


class _Freezer:
    """Resolves requests, reading each data set and drawing each mask once."""

    def __init__(self, common: Mapping[str, Any]) -> None:
        self.common = common
        self.jobs: dict[str, Job] = {}
        self._datasets: dict[tuple[str, Any], Dataset] = {}
        self._protocols: dict[str, Protocol] = {}
        self._masks: dict[str, Mask] = {}

    def add(self, plain: Mapping[str, Any], asked: bool) -> str:
        """Freeze one request and what it uses; returns its key."""
        run = self.resolve(plain)
        uses = {}
        for name, used in used_requests(run).items():
            changes = {"method": used.method, "track": used.track, "changes": dict(used.changes), "epochs": None}
            uses[name] = self.add({**plain, **changes}, asked=False)
        run = dataclasses.replace(run, uses=uses)
        before = self.jobs.get(run.key)
        if before is None:
            self.jobs[run.key] = Job(
                run.key, *self._titles(run), dict(plain), tuple(uses.values()), asked, self._beside(run)
            )
        elif asked and not before.asked:
            self.jobs[run.key] = dataclasses.replace(before, asked=True)
        return run.key

    def resolve(self, plain: Mapping[str, Any]) -> Run:
        place = (plain["dataset"], plain["data_root"])
        if place not in self._datasets:
            self._datasets[place] = load_dataset(plain["dataset"], Path(place[1]) if place[1] else None)
        if plain["protocol"] not in self._protocols:
            self._protocols[plain["protocol"]] = load_protocol(plain["protocol"])
        hidden = {key: value for key, value in plain["changes"].items() if key.startswith("annotation.")}
        draw = json.dumps([*place, plain["protocol"], plain["mask_seed"], hidden], sort_keys=True)
        request = dataclasses.replace(
            request_of(plain),
            protocol=self._protocols[plain["protocol"]],
            dataset=self._datasets[place],
            mask=self._masks.get(draw),
        )
        run = resolve(request, uses={})
        self._masks[draw] = run.mask
        return dataclasses.replace(run, request=dataclasses.replace(request, mask=run.mask))

    def _beside(self, run: Run) -> str:
        """What the runs that can be trained in one process have in common."""
        if why_alone(run):
            return ""
        return f"{run.dataset.fingerprint[:16]} {run.backbone} {run.train.image_size} {run.request.precision}"

    def _titles(self, run: Run) -> tuple[str, str]:
        """What the run is called on the screen, and the cell of the grid it belongs to."""
        changes = run.request.changes.items()
        varied = "".join(f" {key}={value}" for key, value in changes if self.common.get(key) != value)
        place = f"{run.method.name} on {run.dataset.id} ({run.protocol.name}, {run.track}, "
        return (
            f"{place}seed {run.seed}, mask {run.request.mask_seed}){varied}",
            f"{place}{run.backbone}){varied}",
        )
