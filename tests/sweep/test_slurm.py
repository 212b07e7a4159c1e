"""The Slurm executor: submitit's local one, and its batch scripts under a stand-in for sbatch that runs them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.store import find_records
from mlbench.sweep import on_slurm
from mlbench.sweep.drive import _Driver, make_sweep
from mlbench.sweep.drive import sweep as run_sweep
from mlbench.sweep.grid import load_grid
from mlbench.sweep.jobs import Sweep, finished
from mlbench.sweep.states import read_note

pytest.importorskip("submitit", reason="submitit is not installed (extra 'cluster')")

#: Stand-ins for Slurm's commands: sbatch runs the script at once, as the node would.
SBATCH = """#!/bin/sh
for script in "$@"; do :; done
cp "$script" "{folder}/script"
number=$(($(ls "{folder}" | grep -c pid) + 1))
export SLURM_JOB_ID=$number SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_LOCALID=0 SLURM_PROCID=0
export SLURM_JOB_NODELIST=localhost
setsid sh "{folder}/script" > "{folder}/$number.out" 2>&1 &
echo $! > "{folder}/$number.pid"
echo "Submitted batch job $number"
"""
SRUN = """#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
        --output|--error) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
exec "$@"
"""
SQUEUE = """#!/bin/sh
for file in "{folder}"/*.pid; do
    if kill -0 $(cat "$file") 2> /dev/null; then basename "$file" .pid; fi
done
exit 0
"""
SCANCEL = """#!/usr/bin/env bash
kill -9 -- -$(cat "{folder}/$1.pid")
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for Slurm's commands, first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (folder / name).write_text(text.replace("{folder}", str(folder)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(on_slurm, "_LOOK", 0.5)
    monkeypatch.setattr(on_slurm, "_GRACE", 1.0)
    return folder


def test_without_slurm_it_says_so(
    write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlbench.errors import MlbenchError

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MlbenchError, match="Slurm cannot be used here"):
        run_sweep(write_grid(), store=tmp_path / "runs", executor="slurm", quiet=True)


def test_batch_scripts_ask_for_what_the_grid_says_and_do_the_run(
    slurm: Path, write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    grid = write_grid(
        methods=["prior"], memory_gib=3, gpus=2, slurm={"partition": "long", "timeout_min": 90, "job_name": "mine"}
    )
    outcome = run_sweep(grid, store=tmp_path / "runs", executor="slurm", threads=4, quiet=True)
    assert not outcome.failed
    assert len(find_records(tmp_path / "runs")[0]) == 1
    lines = set((slurm / "script").read_text().splitlines())
    for asked in ("cpus-per-task=4", "mem=3GB", "gpus-per-node=2", "partition=long", "time=90", "job-name=mine"):
        assert f"#SBATCH --{asked}" in lines


def made_and_driver(grid: Path, store: Path, cluster: str) -> tuple[Sweep, _Driver]:
    """A sweep, and a driver over submitit's executor called `cluster`."""
    from mlbench.progress import Reporter
    from mlbench.sweep.on_slurm import SlurmExecutor

    made = make_sweep(load_grid(grid), grid, store)
    made.save()
    return made, _Driver(made, SlurmExecutor(made, None, cluster), False, Reporter(quiet=True))


def test_submitits_local_executor_does_the_runs(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    made, driver = made_and_driver(write_grid(methods=["prior", "random"]), tmp_path / "runs", "local")
    outcome = driver.drive()
    assert not outcome.failed
    assert all(finished(made.store, job.key) for job in made.jobs)


def test_what_a_job_raises_outside_of_its_run_is_in_the_log(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    made, driver = made_and_driver(write_grid(methods=["prior"], retries=0), tmp_path / "runs", "local")
    (made.folder / "sweep.json").unlink()
    ((job, why),) = driver.drive().failed.items()
    assert "failed outside of the run" in why
    assert "Traceback" in made.log(job).read_text()


def test_a_queue_that_does_not_answer_says_nothing_of_the_jobs(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm / "squeue").write_text("#!/bin/sh\nprintf '3\\n12\\n'\n")
    assert on_slurm.queued() == {"3", "12"}
    (slurm / "squeue").write_text("#!/bin/sh\nprintf '3\\n12\\n'\nexit 1\n")
    assert on_slurm.queued() is None
    monkeypatch.setenv("PATH", str(tmp_path))  # without any squeue
    assert on_slurm.queued() is None


def test_jobs_outlive_their_driver_and_a_killed_one_goes_on(
    slurm: Path, long_run: Path, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    made, first = made_and_driver(long_run, tmp_path / "runs", "slurm")
    (job,) = made.jobs
    first._begin()
    first._launch()
    note = read_note(made, job)
    assert note is not None
    assert note.handle == "1"
    wait_for((made.store / job.name / "checkpoint.pt").exists)
    _, second = made_and_driver(long_run, tmp_path / "runs", "slurm")
    second._begin()
    assert list(second.flying.values()) == [note]  # found again, not launched again
    subprocess.run(["scancel", note.handle], check=True)
    while second.flying or second.waiting:
        second._launch()
        second._collect()
        time.sleep(0.1)
    assert not second.failed
    assert finished(made.store, job.key)
    log = made.log(job).read_text()
    assert log.count("== attempt") == 2
    assert "going on after a stop" in log
