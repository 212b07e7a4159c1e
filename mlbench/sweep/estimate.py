"""`mlbench plan`: what a grid will take, from a few real steps of each cell, before anything starts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mlbench.errors import UsageError
from mlbench.progress import Reporter
from mlbench.provenance import usable_cores
from mlbench.runner.processes import preloaded_context
from mlbench.sweep.drive import make_sweep
from mlbench.sweep.grid import load_grid
from mlbench.sweep.jobs import Job, Sweep, finished
from mlbench.sweep.pilot import Cost, measure_in

_GIB, _MIB = 2**30, 2**20


@dataclass(frozen=True)
class Cell:
    """Runs that differ in seed and mask only: how many there are, how many are to do, and what each takes.

    `cost` is None where all are done, or with the reason in `problem`.
    """

    name: str
    runs: int
    todo: int
    cost: Cost | None
    problem: str = ""


@dataclass(frozen=True)
class Plan:
    """The cells of a sweep, executed `workers` at a time on `gpus` devices each; `free` bytes are left on the disk.

    `start` is how many seconds pass before the first run is started.
    """

    sweep: Sweep
    cells: tuple[Cell, ...]
    workers: int
    gpus: int
    free: int
    start: float = 0.0

    def seconds(self, cell: Cell) -> float:
        """Wall time of one run of `cell`."""
        return cell.cost.seconds(self.sweep.settings["checkpoint_seconds"]) if cell.cost else 0.0

    @property
    def run_seconds(self) -> float:
        """Of all runs to do, one after another, without what fills the caches."""
        return sum(self.seconds(cell) * cell.todo for cell in self.cells)

    @property
    def caches(self) -> dict[str, tuple[float, int]]:
        """Caches that do not exist yet: seconds and bytes of each, counted once for all runs."""
        found: dict[str, tuple[float, int]] = {}
        for cell in self.cells:
            found |= cell.cost.caches if cell.cost else {}
        return found

    @property
    def pixels(self) -> dict[str, str]:
        """Where the images of each size and split come from: cached, or decoded on the fly."""
        found: dict[str, str] = {}
        for cell in self.cells:
            found |= cell.cost.pixels if cell.cost else {}
        return {what: how for what, how in found.items() if how != "there"}

    @property
    def hours(self) -> float:
        """Until the sweep is done: it starts, caches are filled once, then `workers` runs go on at a time."""
        longest = max((self.seconds(cell) for cell in self.cells if cell.todo), default=0.0)
        cached = sum(seconds for seconds, _ in self.caches.values())
        return (self.start + cached + max(self.run_seconds / self.workers, longest)) / 3600

    @property
    def gpu_hours(self) -> float:
        return self.run_seconds / 3600 * self.gpus

    @property
    def disk(self) -> int:
        """Bytes: what all runs to do leave, the new caches, and the checkpoints of those under way."""
        kept = sum(cell.cost.disk * cell.todo for cell in self.cells if cell.cost)
        passing = max((cell.cost.transient_disk for cell in self.cells if cell.cost), default=0)
        return kept + sum(size for _, size in self.caches.values()) + passing * self.workers

    @property
    def memory_mib(self) -> float:
        """Of the largest `workers` cells at a time, at most as many as there are runs."""
        each = [cell.cost.memory_mib or 0.0 for cell in self.cells if cell.cost for _ in range(cell.todo)]
        return sum(sorted(each, reverse=True)[: self.workers])

    def text(self) -> str:
        rows = []
        for cell in self.cells:
            row: list[Any] = [cell.name, cell.runs, cell.todo]
            if cell.cost is None:
                rows.append([*row, *[""] * 4, cell.problem or "done"])
                continue
            seconds, cost = self.seconds(cell), cell.cost
            steps = " + ".join(f"{p.epochs} x {p.steps} x {_milliseconds(p.step_seconds)} ms" for p in cost.phases)
            gpu_hours = seconds * cell.todo * self.gpus / 3600
            row += [_time(seconds), f"{gpu_hours:.2f}", f"{cost.disk / _MIB:.1f}", f"{cost.memory_mib or 0:.0f}"]
            rows.append([*row, (steps or "no training") + _device(cost)])
        head = ["cell", "runs", "to do", "a run", "GPU-hours", "MiB kept a run", "MiB memory", "epochs x steps x step"]
        table = tabulate(rows, head, tablefmt="github", disable_numparse=True)
        cached = sum(seconds for seconds, _ in self.caches.values())
        lines = [
            table,
            "",
            f"{sum(cell.todo for cell in self.cells)} runs to do, {self.workers} at a time: "
            f"{_time(self.hours * 3600)} ({self.hours:.2f} h), of which {_time(cached)} fill caches once; "
            f"{self.run_seconds / 3600:.2f} run-hours, {self.gpu_hours:.2f} GPU-hours",
            f"disk {self.disk / _GIB:.2f} GiB ({self.free / _GIB:.1f} GiB free), "
            f"memory {self.memory_mib / 1024:.1f} GiB",
        ]
        lines += [f"pixels, {what}: {how}" for what, how in sorted(self.pixels.items())]
        if self.disk > self.free:
            lines.append("NOT ENOUGH DISK for all of it")
        return "\n".join(lines)


def plan(
    path: Path,
    *,
    store: Path,
    workers: int | None = None,
    steps: int = 20,
    quiet: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Plan:
    """Time `steps` real steps of each cell of the grid at `path`; nothing is launched or recorded.

    `workers` cells are timed at a time, with the threads that each of so many local runs would have.
    """
    with Reporter(quiet) as reporter:
        begun = time.perf_counter()
        return plan_sweep(make_sweep(load_grid(path, changes), path, store), workers, steps, reporter, begun)


def plan_sweep(made: Sweep, workers: int | None, steps: int, reporter: Reporter, begun: float | None = None) -> Plan:
    """As `plan`, of frozen runs; `begun` is when their making began (`time.perf_counter`), which a sweep does too."""
    if steps < 1:
        raise UsageError(f"--steps {steps}: expected at least 1")
    begun = time.perf_counter() if begun is None else begun
    processes = made.settings["processes"]
    workers = workers or max(1, usable_cores() // processes)
    threads = max(1, usable_cores() // workers)
    _preload(threads)
    start = time.perf_counter() - begun
    by_cell: dict[str, list[Job]] = {}
    for job in made.jobs:
        by_cell.setdefault(job.cell, []).append(job)
    todo = {name: [job for job in jobs if not finished(made.store, job.key)] for name, jobs in by_cell.items()}
    found = _measure_all([jobs[0] for jobs in todo.values() if jobs], made, workers, steps, threads, reporter)
    cells = []
    for name, jobs in by_cell.items():
        cost = found.get(todo[name][0].key) if todo[name] else None
        problem = cost if isinstance(cost, str) else ""
        cells.append(Cell(name, len(jobs), len(todo[name]), None if isinstance(cost, str) else cost, problem))
    existing = next(folder for folder in (made.store, *made.store.parents) if folder.exists())
    gpus = max(made.settings["gpus"], processes if _on_gpu(cells) else 0)
    return Plan(made, tuple(cells), workers, gpus, shutil.disk_usage(existing).free, start)


def _measure_all(
    jobs: list[Job], made: Sweep, workers: int, steps: int, threads: int, reporter: Reporter
) -> dict[str, Cost | str]:
    """What each of `jobs` costs, by key, as many measured at a time as runs will be under way at a time."""
    found: dict[str, Cost | str] = {}

    def one(job: Job) -> tuple[Job, Cost | str]:
        return job, measure(job, made.settings["device"], steps, threads)

    beside = jobs * -(-workers // len(jobs)) if 0 < len(jobs) < workers else jobs  # too few: some twice
    with ThreadPoolExecutor(workers) as pool:
        for done in as_completed([pool.submit(one, job) for job in beside]):
            job, cost = done.result()
            found[job.key] = cost
            reporter.say(f"[{len(found)}/{len(jobs)}] {job.cell}")
    return found


def measure(job: Job, device: str, steps: int, threads: int) -> Cost | str:
    """Pilot `job` in a process of its own; what it costs, or why that cannot be told."""
    context = preloaded_context(threads, "mlbench.sweep.worker")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure_in, args=(theirs, dict(job.request), device, steps, threads))
    begun = time.perf_counter()
    process.start()
    theirs.close()
    found: Cost | str
    try:
        found, inside = ours.recv()
    except EOFError:
        process.join()
        return f"its pilot was lost (exit status {process.exitcode})"
    process.join()
    if isinstance(found, Cost):
        found.once_seconds += time.perf_counter() - begun - inside  # a run's process, too, has to start and to end
    return found


def _preload(threads: int) -> None:
    """Start, once, what the processes of the runs are forked from."""
    process = preloaded_context(threads, "mlbench.sweep.worker").Process(target=_nothing)
    process.start()
    process.join()


def _nothing() -> None:
    """A process that only starts and ends."""


def _on_gpu(cells: list[Cell]) -> bool:
    return any(cell.cost is not None and cell.cost.accelerator_mib is not None for cell in cells)


def _device(cost: Cost) -> str:
    return "" if cost.accelerator_mib is None else f"; {cost.accelerator_mib:.0f} MiB on the GPU"


def _milliseconds(seconds: float) -> str:
    """Three digits at least, and never as a power of ten."""
    return f"{1000 * seconds:.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:.{0 if seconds >= 10 else 1}f} s"
