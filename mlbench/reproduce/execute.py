"""`mlbench reproduce`: say what will be run and what will be missing, measure, run, and write the report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlbench.errors import MlbenchError, UsageError
from mlbench.inputs.on_the_fly import LARGE
from mlbench.progress import Reporter
from mlbench.provenance import memory_bytes
from mlbench.report.render import Table
from mlbench.reproduce.frozen import Frozen, freeze_plans
from mlbench.reproduce.listing import listing
from mlbench.reproduce.report import tables_of, write_report
from mlbench.reproduce.runs import Asked
from mlbench.sweep.drive import How, Outcome, drive
from mlbench.sweep.estimate import Plan, plan_sweep
from mlbench.sweep.jobs import Sweep


@dataclass(frozen=True)
class Settings:
    """How runs are executed, as a grid file says it; see `mlbench.sweep.grid.Grid`."""

    device: str = "auto"
    retries: int = 1
    checkpoint_seconds: float = 30.0
    processes: int = 1
    gpus: int = 0
    memory_gib: float | None = None
    threads: int | None = None
    slurm: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Reproduced:
    """What came out: the sweep's outcome (None where nothing was to do), and the report's tables and files."""

    frozen: Frozen
    outcome: Outcome | None
    tables: list[Table]
    files: list[Path]


def reproduce(
    asked: Asked,
    *,
    store: Path,
    how: How,
    settings: Settings,
    steps: int,
    only_missing: bool = False,
    output: Path | None = None,
    quiet: bool = False,
    told: Callable[[str], None] = print,
) -> Reproduced:
    """Run what the plans of `asked` say and the store has not, and write the report into `output`.

    Parameters
    ----------
    steps : training steps that each kind of run is measured by before the first one starts; 0: nothing is measured.
    only_missing : only rows that have no run yet on a data set.
    output : of the report [STORE/reports/PAPER.TABLE].
    told : takes what is said before the start.

    Raises
    ------
    UsageError : nothing of it can be run. MlbenchError : there is not the room for it on the disk, or in memory.
    """
    frozen = freeze_plans(asked, store, only_missing)
    told(listing(frozen))
    if not any(frozen.keys):
        raise UsageError(f"nothing of this can be run: {next(filter(None, frozen.reasons), 'no row was asked for')}")
    outcome = None
    if frozen.to_do:
        made = Sweep(store.resolve(), name_of(asked), frozen.to_do, _as_sweep(settings))
        with Reporter(quiet) as reporter:
            if steps:
                check(plan_sweep(made, how.workers, steps, reporter), told)
            outcome = drive(made, how, reporter)
        why = {job.key: reason for job, reason in outcome.failed.items()}
        frozen = freeze_plans(asked, store).with_failures(why)
    tables = tables_of(frozen, list(_judged(frozen, store).values()))
    folder = output or store / "reports" / name_of(asked).removeprefix("reproduce-")
    return Reproduced(frozen, outcome, tables, write_report(tables, folder))


def name_of(asked: Asked) -> str:
    """Of the sweep and of the report."""
    papers = dict.fromkeys(plan.paper for plan in asked.plans)
    tables = f".{asked.plans[0].table}" if len(asked.plans) == 1 else ""
    return f"reproduce-{'-'.join(papers)}{tables}"


def check(measured: Plan, told: Callable[[str], None]) -> None:
    """Say what `mlbench plan` measured; MlbenchError where disk or memory do not suffice."""
    told(measured.text())
    cached = sum(size for _, size in measured.caches.values())
    if cached > LARGE:
        told(
            f"{cached / 1e9:.0f} GB of decoded images and features will be written to the cache, once for all runs: "
            "MLBENCH_PIXELS=decode decodes on the fly instead, the same pixels, without them"
        )
    if measured.disk > measured.free:
        raise MlbenchError(
            f"no room for these runs: they take {measured.disk / 1e9:.1f} GB and {measured.free / 1e9:.1f} GB are free "
            f"at {measured.sweep.store}. MLBENCH_PIXELS=decode keeps no decoded images; --rows and --budget do less"
        )
    memory = memory_bytes()
    if memory is not None and measured.memory_mib * 2**20 > memory:
        raise MlbenchError(
            f"no memory for {measured.workers} of these runs at a time: they take {measured.memory_mib / 1024:.1f} GiB "
            f"and there are {memory / 2**30:.1f}. Give --workers {max(1, measured.workers // 2)}"
        )


def _as_sweep(settings: Settings) -> dict[str, Any]:
    found = dict(settings.__dict__)
    return found | {"slurm": dict(settings.slurm or {})}


def _judged(frozen: Frozen, store: Path) -> dict[str, Mapping[str, Any]]:
    """All runs that claims may be judged by: the published ones, and those of the store."""
    from mlbench.paths import published_records
    from mlbench.store import find_records, is_submitted

    found: dict[str, Mapping[str, Any]] = {}
    for folder in (published_records(), store):
        with contextlib.suppress(FileNotFoundError):
            if folder is not None and folder.is_dir():
                found |= {r["key"]: r for r in find_records(folder)[0] if not is_submitted(r)}
    return found | dict(frozen.records)
