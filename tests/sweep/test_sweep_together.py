"""Runs of a sweep on cached features, several in one process: grouping, failures, and the numbers of each alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.conformance.suite import read_scores
from mlbench.errors import UsageError
from mlbench.progress import Reporter
from mlbench.store import find_records
from mlbench.sweep import drive
from mlbench.sweep.drive import make_sweep, sweep
from mlbench.sweep.grid import load_grid
from mlbench.sweep.jobs import Job, Sweep


class Scripted:
    """Ends all jobs well but those in `failing`, once; remembers which were started in one process."""

    def __init__(self, slots: int, failing: str = "") -> None:
        self.slots, self.threads, self.failing = slots, 1, set(failing)
        self.started: list[str] = []
        self.under_way: list[str] = []
        self.done: set[str] = set()

    def start(self, job: Job, resume: bool, attempt: int) -> str:
        return self.start_together([job], resume, attempt)

    def start_together(self, jobs: list[Job], resume: bool, attempt: int) -> str:
        self.started.append("".join(job.title for job in jobs) + (f" attempt {attempt}" if attempt > 1 else ""))
        self.under_way.append("".join(job.title for job in jobs))
        assert len(self.under_way) <= self.slots
        return ""

    def find(self, job: Job, handle: str) -> bool:
        return False

    def ended(self, job: Job) -> int | None:
        self.under_way = [group.replace(job.title, "") for group in self.under_way if group != job.title]
        if job.title in self.failing:
            self.failing.remove(job.title)
            return 1
        self.done.add(job.key)
        return 0

    def stop(self) -> None: ...


@pytest.fixture
def drive_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., drive.Outcome]:
    """Return a function that drives jobs, given as name: (beside, seed); capitals need the same small letter."""

    def go(executor: Scripted, jobs: dict[str, tuple[str, int]], together: int) -> drive.Outcome:
        record = {"results": {"test": {"mAP": 50.0}}}
        monkeypatch.setattr(drive, "finished", lambda store, key: record if key in executor.done else None)
        monkeypatch.setattr(drive, "_PAUSE", 0.0)
        keys = {name: f"{ord(name):064x}"[::-1] for name in jobs}
        made = [
            Job(keys[n], n, n, {"seed": seed}, (keys[n.lower()],) if n.isupper() else (), True, beside)
            for n, (beside, seed) in jobs.items()
        ]
        frozen = Sweep(tmp_path, "s", tuple(made), {"retries": 1})
        frozen.folder.mkdir(parents=True, exist_ok=True)
        return drive._Driver(frozen, executor, False, Reporter(quiet=True), together).drive()

    return go


def test_runs_of_one_kind_share_a_process_those_of_a_seed_first(drive_jobs: Any) -> None:
    executor = Scripted(slots=1)
    jobs = {"a": ("x", 0), "b": ("x", 1), "c": ("y", 0), "d": ("x", 0), "e": ("x", 1), "f": ("", 0), "A": ("", 0)}
    outcome = drive_jobs(executor, jobs, together=3)
    assert executor.started == ["adb", "c", "e", "f", "A"]
    assert len(outcome.done) == 7


def test_groups_leave_no_slot_idle(drive_jobs: Any) -> None:
    executor = Scripted(slots=2)
    drive_jobs(executor, dict.fromkeys("abcdef", ("x", 0)), together=6)
    assert executor.started == ["abc", "def"]


def test_one_at_a_time_unless_asked(drive_jobs: Any) -> None:
    executor = Scripted(slots=2)
    drive_jobs(executor, dict.fromkeys("abc", ("x", 0)), together=1)
    assert executor.started == ["a", "b", "c"]


def test_what_fails_in_a_group_is_tried_again_by_itself(drive_jobs: Any) -> None:
    executor = Scripted(slots=1, failing="bc")
    outcome = drive_jobs(executor, dict.fromkeys("abc", ("x", 0)), together=3)
    assert executor.started == ["abc", "c attempt 2", "b attempt 2"]
    assert not outcome.failed


# --- real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def head_grid(write_grid: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a grid of runs on features of a small untrained network."""
    import torch

    from mlbench.models.backbones import build_backbone
    from mlbench.runner.checkpoint import save_tensors

    torch.manual_seed(0)
    weights = tmp_path / "small.safetensors"
    save_tensors(weights, build_backbone("scenes").state_dict(), {})

    def write(name: str = "heads", **given: Any) -> Path:
        return write_grid(name, track="head", weights=weights, **given)

    return write


def test_a_sweep_with_groups_gives_the_runs_of_one_without(head_grid: Any, tmp_path: Path) -> None:
    grid = head_grid(methods=["an", "llr", "an_boostlu_inference"], seeds=[0, 1], set=None)
    outcome = sweep(grid, store=tmp_path / "together", workers=1, together=4, quiet=True)
    assert len(outcome.done) == 6
    assert not outcome.failed
    alone = sweep(grid, store=tmp_path / "alone", workers=1, quiet=True)
    assert [job.key for job in outcome.sweep.jobs] == [job.key for job in alone.sweep.jobs]
    records, _ = find_records(tmp_path / "together")
    for record in records:
        found, expected = (read_scores(tmp_path / name, record) for name in ("together", "alone"))
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    logs = [outcome.sweep.log(job).read_text() for job in outcome.sweep.jobs if job.beside]
    assert sum("beside 3 other runs" in log for log in logs) == 1
    assert sum(": see " in log for log in logs) == 3


def test_a_killed_group_is_finished_by_the_next_sweep(
    head_grid: Any, start_sweep: Callable[..., Any], tmp_path: Path
) -> None:
    grid = head_grid(seeds=[0, 1, 2], epochs=100, checkpoint_seconds=0.1, set={"train.batch_size": 8})
    store = tmp_path / "runs"
    process = start_sweep(grid, "--store", store, "--workers", 1, "--together", 3)
    deadline = time.monotonic() + 120
    while len(list(store.glob("*/checkpoint.pt"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert find_records(store)[0] == []
    outcome = sweep(grid, store=store, workers=1, together=3, resume=True, quiet=True)
    assert len(outcome.done) == 3
    log = "".join(outcome.sweep.log(job).read_text() for job in outcome.sweep.jobs)
    assert log.count("going on after a stop") == 3


def test_groups_are_for_this_machine_and_one_process_a_run(head_grid: Any, tmp_path: Path) -> None:
    for given, keys in (({"together": 0}, {}), ({"executor": "slurm"}, {}), ({}, {"processes": 2})):
        with pytest.raises(UsageError, match="--together"):
            sweep(head_grid(**keys), store=tmp_path, quiet=True, **{"together": 2, **given})


def test_jobs_say_what_they_can_be_trained_beside(head_grid: Any, write_grid: Any, tmp_path: Path) -> None:
    def kinds(path: Path) -> list[str]:
        return [job.beside for job in make_sweep(load_grid(path), path, tmp_path).jobs]

    an, used, llr = kinds(head_grid(methods=["an", "an_boostlu_inference", "llr"]))
    assert an == llr
    assert an
    assert used == ""
    assert kinds(write_grid("full")) == [""]
