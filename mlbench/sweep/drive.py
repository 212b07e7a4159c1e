"""`sweep`: launch what is not finished, retry what failed, and tell how it goes."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlbench.errors import UsageError
from mlbench.locks import held, holder
from mlbench.progress import Reporter
from mlbench.store import run_dir
from mlbench.sweep.executors import Executor, make_executor
from mlbench.sweep.freeze import freeze
from mlbench.sweep.grid import Grid, load_grid
from mlbench.sweep.jobs import Job, Sweep, finished
from mlbench.sweep.states import Note, driving, forget, last_line, read_note, write_note
from mlbench.sweep.worker import ELSEWHERE

#: Exit status of a run that cannot be done as asked, so that trying again is of no use.
_HOPELESS = 2
_PAUSE = 0.1
#: Seconds between two looks at a run that another process is doing.
_LOOK_AGAIN = 2.0


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: jobs that were done before, done now, done meanwhile by other processes on the same store, and
    that failed, with the reason."""

    sweep: Sweep
    before: tuple[Job, ...]
    done: tuple[Job, ...]
    failed: Mapping[Job, str]
    elsewhere: tuple[Job, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """A run a row: its key, title, whether it was done "before", "now", "elsewhere" or "failed", and why."""
        ends = (("before", self.before), ("now", self.done), ("elsewhere", self.elsewhere), ("failed", self.failed))
        return [
            {"key": job.key, "run": job.title, "done": how, "why": self.failed.get(job, "")}
            for how, jobs in ends
            for job in jobs
        ]

    def text(self) -> str:
        beside = f"{len(self.elsewhere)} done elsewhere, " if self.elsewhere else ""
        lines = [
            f"{len(self.sweep.jobs)} runs: {len(self.before)} done before, {len(self.done)} done now, {beside}"
            f"{len(self.failed)} failed"
        ]
        lines += [f"  {job.title}: {why} ({self.sweep.log(job)})" for job, why in self.failed.items()]
        return "\n".join(lines)


def make_sweep(grid: Grid, path: Path, store: Path, name: str | None = None, threads: int | None = None) -> Sweep:
    """Freeze the runs of `grid`, read from `path`, for `store`."""
    name = name or path.stem
    if not name or set(name) & set("/\\") or name.startswith("."):
        raise UsageError(f"--name {name}: expected a plain name")
    return Sweep(store.resolve(), name, freeze(grid, str(path)), settings_of(grid, threads))


def settings_of(grid: Grid, threads: int | None = None) -> dict[str, Any]:
    """How the runs of a grid are to be executed, as a `Sweep` has it."""
    keys = ("device", "retries", "checkpoint_seconds", "processes", "gpus", "memory_gib")
    return {key: getattr(grid, key) for key in keys} | {"slurm": dict(grid.slurm), "threads": threads}


def sweep(
    path: Path,
    *,
    store: Path,
    executor: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    resume: bool = False,
    name: str | None = None,
    address: str | None = None,
    quiet: bool = False,
    changes: Mapping[str, Any] | None = None,
    together: int = 1,
    grid: Grid | None = None,
) -> Outcome:
    """Run the grid file at `path` into `store`; or `grid`, called `path` in what is said.

    Parameters
    ----------
    executor : "local", "ray" or "slurm". workers : how many runs at a time [as many as there are cores; on a cluster
        all]. threads : of each run on a cluster [1]. address : of the Ray cluster.
    resume : unfinished runs go on from their checkpoints instead of starting anew.
    name : of the sweep in the store [that of the file]. changes : keys of the grid that are replaced.
    together : at most so many runs on cached features in one process (`mlbench.runner.together`); here only. If the
        process is lost or a run fails, those that have no record are tried again one by one.

    Raises
    ------
    UsageError
        For a grid that cannot be run as it stands, before anything is launched.
    MlbenchError
        If the sweep has a driver already.
    """
    how = How(executor, workers, resume, address, together)
    with Reporter(quiet) as reporter:
        return drive(make_sweep(grid or load_grid(path, changes), path, store, name, threads), how, reporter)


@dataclass(frozen=True)
class How:
    """How a sweep is driven; see `sweep`."""

    executor: str = "local"
    workers: int | None = None
    resume: bool = False
    address: str | None = None
    together: int = 1

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers}: expected at least 1")
        if self.together < 1 or (self.together > 1 and self.executor != "local"):
            given = f"--together {self.together} --executor {self.executor}"
            raise UsageError(f"{given}: expected 1, or more with local")


def drive(made: Sweep, how: How, reporter: Reporter) -> Outcome:
    """Run the frozen runs of `made` that its store does not have."""
    with driving(made):
        if how.together > 1 and made.settings["processes"] > 1:
            raise UsageError(f"--together {how.together}: a run of several processes is trained by itself")
        made.save()
        launcher = make_executor(how.executor, made, how.workers, how.address)
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return _Driver(made, launcher, how.resume, reporter, how.together).drive()
        finally:
            launcher.stop()
            signal.signal(signal.SIGTERM, previous)


class _Driver:
    """Keeps the executor's slots filled until every job is done or has failed."""

    def __init__(self, made: Sweep, executor: Executor, resume: bool, reporter: Reporter, together: int = 1) -> None:
        self.sweep, self.executor, self.resume, self.reporter = made, executor, resume, reporter
        self.together = together
        self.leader: dict[Job, Job] = {}  # of jobs that share a process, the first
        self.attempt: dict[Job, int] = {}  # of jobs that failed and are tried again
        self.before = [job for job in made.jobs if finished(made.store, job.key)]
        self.done: list[Job] = []
        self.elsewhere: list[Job] = []
        self.later: dict[Job, float] = {}  # of jobs that another process is doing, when to look again
        self.failed: dict[Job, str] = {}
        self.waiting = [job for job in made.jobs if job not in self.before]
        self.flying: dict[Job, Note] = {}
        self.begun = time.monotonic()

    def drive(self) -> Outcome:
        self._begin()
        try:
            while self.waiting or self.flying:
                self._launch()
                self._collect()
                time.sleep(_PAUSE)
        except KeyboardInterrupt:
            self.reporter.say(f"stopping {len(self.flying)} runs")
            raise
        return Outcome(self.sweep, tuple(self.before), tuple(self.done), self.failed, tuple(self.elsewhere))

    def _begin(self) -> None:
        made = self.sweep
        self.reporter.say(
            f"sweep '{made.name}': {len(made.jobs)} runs, {len(self.before)} done before; "
            f"at most {self.executor.slots} at a time; logs in {made.folder}"
        )
        for job in self.before:
            forget(made, job)
        halves = [
            job
            for job in self.waiting
            if (run_dir(made.store, job.key) / "checkpoint.pt").exists() and not held(self._lock(job))
        ]
        if halves and not self.resume:
            self.reporter.say(f"{len(halves)} runs start anew; --resume would have gone on from their checkpoints")
        for job in list(self.waiting):
            note = read_note(made, job)
            handle = note.handle if note is not None and note.state == "launched" else ""
            if note is not None and handle and self.executor.find(job, handle):  # in a cluster's queue: not twice
                self.waiting.remove(job)
                self.flying[job] = note
                self.reporter.say(f"found again: {job.title} (job {handle})")
            else:
                forget(made, job)

    def _launch(self) -> None:
        awaited = {job.key for job in (*self.waiting, *self.flying)}  # what a run needs of another sweep is there
        broken = {job.key: job for job in self.failed}
        for job in list(self.waiting):
            lost = [broken[key] for key in job.needs if key in broken]
            if lost:
                self.waiting.remove(job)
                self._fail(job, 0, f"needs {lost[0].title}, which failed")
            elif job not in self.waiting or self._free() <= 0 or not awaited.isdisjoint(job.needs):
                continue
            elif not self._elsewhere(job):
                group = self._companions(job)
                self.waiting = [other for other in self.waiting if other not in group]
                if len(group) == 1:
                    attempt = self.attempt.get(job, 1)
                    # What another process left unfinished is gone on with, too.
                    self._start(job, attempt, resume=self.resume or attempt > 1 or job in self.later)
                else:
                    self._start_together(group)

    def _elsewhere(self, job: Job) -> bool:
        """Whether another process is doing `job`, which is looked at again later, or has done it by now."""
        if time.monotonic() < self.later.get(job, 0.0):
            return True
        lock = self._lock(job)
        if held(lock):
            self._leave(job, holder(lock))
            return True
        if job in self.later and finished(self.sweep.store, job.key) is not None:
            self.waiting.remove(job)
            self.elsewhere.append(job)
            forget(self.sweep, job)
            self._say("done elsewhere", job, "")
            return True
        return False

    def _leave(self, job: Job, who: str) -> None:
        """Leave `job` to the process that is doing it, for now."""
        if job not in self.later:
            write_note(self.sweep, job, Note("elsewhere", 0, time.time(), who))
            self._say("elsewhere", job, f"being run by {who}; waiting for it")
        self.later[job] = time.monotonic() + _LOOK_AGAIN

    def _lock(self, job: Job) -> Path:
        return run_dir(self.sweep.store, job.key) / "lock"

    def _free(self) -> int:
        """Slots without a process."""
        return self.executor.slots - len({self.leader.get(job, job) for job in self.flying})

    def _companions(self, job: Job) -> list[Job]:
        """The waiting jobs to start in one process with `job`, itself first; those of its seed share its batches."""
        if self.together == 1 or not job.beside or job in self.attempt:
            return [job]
        if job in self.later:  # resumed, which its companions may not be
            return [job]
        like = [
            other
            for other in self.waiting
            if other.beside == job.beside and not (other in self.attempt or other in self.later or other is job)
        ]
        like.sort(key=lambda other: (other.request["seed"] != job.request["seed"], other.request["seed"]))
        count = min(self.together, math.ceil((len(like) + 1) / self._free()))
        return [job, *like[: count - 1]]

    def _start_together(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.flying[job] = Note("launched", 1, time.time())
            self.leader[job] = jobs[0]
            write_note(self.sweep, job, self.flying[job])
        self.executor.start_together(jobs, self.resume, 1)  # type: ignore[attr-defined]  # `sweep` lets only the local one

    def _start(self, job: Job, attempt: int, resume: bool) -> None:
        self.leader.pop(job, None)
        note = Note("launched", attempt, time.time())
        write_note(self.sweep, job, note)
        note = replace(note, handle=self.executor.start(job, resume, attempt))
        write_note(self.sweep, job, note)
        self.flying[job] = note

    def _collect(self) -> None:
        for job, note in list(self.flying.items()):
            status = self.executor.ended(job)
            if status is None:
                continue
            del self.flying[job]
            record = finished(self.sweep.store, job.key)
            if record is not None:
                self.done.append(job)
                forget(self.sweep, job)
                value = record["results"]["test"].get("mAP")
                self._say("done", job, "" if value is None else f"test mAP {value:.2f}")
                continue
            if status == ELSEWHERE:
                self.waiting.append(job)
                self._leave(job, holder(self._lock(job)))
                continue
            why = _reason(status, last_line(self.sweep.log(job)))
            if status != _HOPELESS and note.attempt <= self.sweep.settings["retries"]:
                self._say("again", job, why)
                self.attempt[job] = note.attempt + 1
                self.waiting.insert(0, job)
            else:
                self._fail(job, note.attempt, why)

    def _fail(self, job: Job, attempt: int, why: str) -> None:
        self.failed[job] = why
        write_note(self.sweep, job, Note("failed", attempt, time.time(), why))
        self._say("FAILED", job, why)

    def _say(self, what: str, job: Job, remark: str) -> None:
        count = len(self.before) + len(self.done) + len(self.elsewhere)
        left = ""
        if self.done and (self.waiting or self.flying):
            rest = (time.monotonic() - self.begun) / len(self.done) * (len(self.waiting) + len(self.flying))
            left = f" (about {rest / 3600:.1f} h left)" if rest >= 360 else f" (about {rest:.0f} s left)"
        colon = ": " if remark else ""
        self.reporter.say(f"[{count}/{len(self.sweep.jobs)}] {what} {job.title}{colon}{remark}{left}")


def _reason(status: int, line: str) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"its process was lost ({name})"
    return line.removeprefix("error: ") if status and line else f"exit status {status} without a record"
