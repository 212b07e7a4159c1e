"""Frozen jobs: the runs of a sweep with their keys, kept in the store."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlbench.errors import DataError
from mlbench.files import atomic_write
from mlbench.store import RECORD_FILE, read_record, run_dir


@dataclass(frozen=True, eq=False)
class Job:
    """One run, frozen: `request` as plain values, and the `key` it resolves to. `needs` are keys of runs it uses.

    `cell` names what runs of other seeds and masks share. `asked` is False for a run only others build on. Runs of one
    `beside` can be trained in one process ("": by itself only).
    """

    key: str
    title: str
    cell: str
    request: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    asked: bool = True
    beside: str = ""

    @property
    def name(self) -> str:
        """Of its folder in the store, and of its files in the sweep's."""
        return self.key[:16]


@dataclass(frozen=True)
class Sweep:
    """The jobs of a grid, those that others need first, and how they are to be executed (`settings`)."""

    store: Path
    name: str
    jobs: tuple[Job, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where states and logs are."""
        return self.store / "sweeps" / self.name

    def log(self, job: Job) -> Path:
        return self.folder / f"{job.name}.log"

    def job(self, key: str) -> Job:
        return next(job for job in self.jobs if job.key == key)

    def save(self) -> None:
        """Write ``sweep.json``, from which workers read what to do."""
        table = {"settings": dict(self.settings), "jobs": [dataclasses.asdict(job) for job in self.jobs]}
        atomic_write(self.folder / "sweep.json", (json.dumps(table, indent=1) + "\n").encode())


def load_sweep(store: Path, name: str) -> Sweep:
    """The sweep `name` of a store, as it was frozen last."""
    path = store / "sweeps" / name / "sweep.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        jobs = tuple(Job(**{**job, "needs": tuple(job["needs"])}) for job in table["jobs"])
        return Sweep(store, name, jobs, table["settings"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: cannot read the sweep: {error}") from None


def finished(store: Path, key: str) -> dict[str, Any] | None:
    """The record of run `key`; None where there is none, or a broken one, which is never taken as done."""
    path = run_dir(store, key) / RECORD_FILE
    try:
        record = read_record(path) if path.exists() else None
    except DataError:
        return None
    return record if record is not None and record["key"] == key else None
