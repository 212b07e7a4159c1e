"""The driver: what is launched, retried, kept and told; with a scripted executor, and with real processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.errors import MlbenchError, UsageError
from mlbench.locks import locked
from mlbench.progress import Reporter
from mlbench.store import find_records, run_dir
from mlbench.sweep import drive, states
from mlbench.sweep.executors import devices_of
from mlbench.sweep.freeze import freeze
from mlbench.sweep.grid import load_grid
from mlbench.sweep.jobs import Job, Sweep
from mlbench.sweep.states import Note, driving, read_note, rows_of, write_note
from mlbench.sweep.status import counts

Start = Callable[..., "subprocess.Popen[str]"]


class Scripted:
    """Ends each job with the next status of its script (0 where it has none), and remembers what was started."""

    def __init__(self, slots: int = 1, **scripts: list[int]) -> None:
        self.slots, self.threads, self.scripts = slots, 1, scripts
        self.started: list[tuple[str, int, bool]] = []
        self.flying: list[str] = []
        self.most = 0

    def start(self, job: Job, resume: bool, attempt: int) -> str:
        self.started.append((job.title, attempt, resume))
        self.flying.append(job.title)
        self.most = max(self.most, len(self.flying))
        return ""

    def find(self, job: Job, handle: str) -> bool:
        return False

    def ended(self, job: Job) -> int | None:
        self.flying.remove(job.title)
        script = self.scripts.get(job.title, [])
        status = script.pop(0) if script else 0
        if status == 0:
            DONE.add(job.key)
        return status

    def stop(self) -> None: ...


DONE: set[str] = set()


@pytest.fixture
def drive_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., drive.Outcome]:
    """Return a function that drives jobs, given as name: names needed, over a scripted executor."""
    DONE.clear()
    record = {"results": {"test": {"mAP": 50.0}}, "provenance": {"seconds": 1.0}}
    for module in (drive, states):
        monkeypatch.setattr(module, "finished", lambda store, key: record if key in DONE else None)
    monkeypatch.setattr(drive, "_PAUSE", 0.0)

    def go(executor: Scripted, jobs: dict[str, str], retries: int = 1, done: str = "", resume: bool = False) -> Any:
        keys = {name: f"{ord(name):064x}"[::-1] for name in jobs}
        DONE.update(keys[name] for name in done)
        made = tuple(Job(keys[n], n, n, {}, tuple(keys.get(m, m) for m in needs)) for n, needs in jobs.items())
        sweep = Sweep(tmp_path, "s", made, {"retries": retries})
        sweep.folder.mkdir(parents=True, exist_ok=True)
        return drive._Driver(sweep, executor, resume, Reporter(quiet=True)).drive()

    return go


def test_finished_runs_are_not_launched(drive_jobs: Any) -> None:
    executor = Scripted()
    outcome = drive_jobs(executor, {"a": "", "b": "", "c": ""}, done="ac")
    assert executor.started == [("b", 1, False)]
    assert ([job.title for job in outcome.before], [job.title for job in outcome.done]) == (["a", "c"], ["b"])


def test_no_more_than_the_slots_are_under_way(drive_jobs: Any) -> None:
    executor = Scripted(slots=2)
    drive_jobs(executor, dict.fromkeys("abcdef", ""))
    assert executor.most == 2
    assert len(executor.started) == 6


def test_a_run_waits_for_those_it_builds_on(drive_jobs: Any) -> None:
    executor = Scripted(slots=9)
    drive_jobs(executor, {"c": "ab", "a": "", "b": "a"})
    assert [title for title, *_ in executor.started] == ["a", "b", "c"]


def test_what_an_earlier_sweep_made_is_not_waited_for(drive_jobs: Any) -> None:
    """A run may build on one of the store that is none of its sweep: `reproduce` asks only for what is missing."""
    executor = Scripted()
    drive_jobs(executor, {"b": "x", "c": "bx"})
    assert [title for title, *_ in executor.started] == ["b", "c"]


def test_a_failure_is_retried_from_its_checkpoint_as_often_as_the_rule_says(drive_jobs: Any) -> None:
    executor = Scripted(a=[1, -9, 0])
    assert not drive_jobs(executor, {"a": ""}, retries=2).failed
    assert executor.started == [("a", 1, False), ("a", 2, True), ("a", 3, True)]


def test_what_fails_too_often_is_kept_as_failed_and_tried_again_by_the_next_sweep(drive_jobs: Any) -> None:
    executor = Scripted(a=[1, -9])
    outcome = drive_jobs(executor, {"a": "", "b": ""})
    ((job, why),) = outcome.failed.items()
    assert (job.title, why) == ("a", "its process was lost (SIGKILL)")
    assert read_note(outcome.sweep, job).state == "failed"  # type: ignore[union-attr]
    assert counts(rows_of(outcome.sweep)) == "1 done, 1 failed"
    assert "1 failed" in outcome.text()
    again = Scripted()
    outcome = drive_jobs(again, {"a": "", "b": ""}, resume=True)
    assert again.started == [("a", 1, True)]
    assert not outcome.failed


def test_what_cannot_be_done_as_asked_is_not_tried_again(drive_jobs: Any) -> None:
    executor = Scripted(a=[2, 0])
    assert drive_jobs(executor, {"a": ""}, retries=5).failed
    assert executor.started == [("a", 1, False)]


def test_a_run_that_ends_well_without_a_record_has_failed(drive_jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "finished", lambda store, key: None)
    outcome = drive_jobs(Scripted(), {"a": ""}, retries=0)
    assert list(outcome.failed.values()) == ["exit status 0 without a record"]


def test_runs_that_need_a_failed_one_fail_without_being_launched(drive_jobs: Any) -> None:
    executor = Scripted(a=[1])
    outcome = drive_jobs(executor, {"a": "", "b": "a", "c": "b", "d": ""}, retries=0)
    assert [title for title, *_ in executor.started] == ["a", "d"]
    assert {job.title: why for job, why in outcome.failed.items()} == {
        "a": "exit status 1 without a record",
        "b": "needs a, which failed",
        "c": "needs b, which failed",
    }


def test_a_run_that_another_process_does_is_waited_for_behind_the_others(
    drive_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends there: its record is taken, and what builds on it starts."""
    monkeypatch.setattr(drive, "_LOOK_AGAIN", 0.05)
    executor, key = Scripted(a=[drive.ELSEWHERE], b=[1, 0]), f"{ord('a'):064x}"[::-1]
    ended = executor.ended

    def end(job: Job) -> int | None:
        status = ended(job)
        if job.title == "c":  # the other process is done with its run by then
            DONE.add(key)
        return status

    executor.ended = end  # type: ignore[method-assign]
    outcome = drive_jobs(executor, {"a": "", "b": "", "c": "", "d": "a"}, retries=1)
    assert [title for title, *_ in executor.started] == ["a", "b", "b", "c", "d"]
    assert ([job.title for job in outcome.elsewhere], [job.title for job in outcome.done]) == (["a"], ["b", "c", "d"])
    assert outcome.text() == "4 runs: 0 done before, 3 done now, 1 done elsewhere, 0 failed"


def test_a_run_whose_other_process_died_is_gone_on_with_and_no_attempt_is_lost(
    drive_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "_LOOK_AGAIN", 0.0)
    executor = Scripted(a=[drive.ELSEWHERE, drive.ELSEWHERE, 1, 0])
    outcome = drive_jobs(executor, {"a": ""}, retries=1)
    assert not outcome.failed
    assert [started[1:] for started in executor.started] == [(1, False), (1, True), (1, True), (2, True)]


def test_a_locked_run_is_not_launched(drive_jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "_LOOK_AGAIN", 0.0)
    folder = run_dir(tmp_path, f"{ord('a'):064x}"[::-1])
    folder.mkdir()
    with contextlib.ExitStack() as lock:
        lock.enter_context(locked(folder / "lock", wait=False))
        executor = Scripted()
        ended = executor.ended

        def end(job: Job) -> int | None:
            (row,) = [row for row in rows_of(drive_sweep) if row.job.title == "a"]
            seen.append((row.state, f"process {os.getpid()} on" in row.remark))
            lock.close()
            return ended(job)

        seen: list[tuple[str, bool]] = []
        executor.ended = end  # type: ignore[method-assign]
        monkeypatch.setattr(states, "driven", lambda sweep: True)
        drive_sweep = Sweep(tmp_path, "s", (Job(f"{ord('a'):064x}"[::-1], "a", "a", {}),), {})
        outcome = drive_jobs(executor, {"a": "", "b": ""})
    assert [title for title, *_ in executor.started] == ["b", "a"]
    assert seen[0] == ("elsewhere", True)
    assert not outcome.failed


def test_states_of_runs_whose_driver_is_gone(tmp_path: Path) -> None:
    jobs = tuple(Job(f"{n:064x}"[::-1], f"run {n}", "", {}) for n in range(4))
    sweep = Sweep(tmp_path, "s", jobs, {})
    sweep.folder.mkdir(parents=True)
    write_note(sweep, jobs[1], Note("launched", 1, time.time() - 5))
    write_note(sweep, jobs[2], Note("launched", 2, time.time() - 5))
    write_note(sweep, jobs[3], Note("failed", 2, time.time(), "why"))
    sweep.log(jobs[1]).write_text("== attempt 1\nepoch 3\n\n")
    assert [row.state for row in rows_of(sweep)] == ["waiting", "stopped", "stopped", "failed"]
    with driving(sweep):
        rows = rows_of(sweep)
        assert [row.state for row in rows] == ["waiting", "running", "queued", "failed"]
        assert [row.remark for row in rows] == ["", "epoch 3", "", "why"]


def test_a_sweep_has_one_driver(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "s", (), {})
    with driving(sweep), pytest.raises(MlbenchError, match="driven by another process"), driving(sweep):
        pass


def test_gpus_are_shared_out_among_the_slots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    two = Sweep(tmp_path, "s", (), {"gpus": 2})
    assert [devices_of(slot, two) for slot in range(3)] == ["4,5", "6,7", "4,5"]
    assert devices_of(1, Sweep(tmp_path, "s", (), {"gpus": 0})) is None
    with pytest.raises(UsageError, match="gpus = 5: this machine has 4"):
        devices_of(0, Sweep(tmp_path, "s", (), {"gpus": 5}))


# --- real processes ---------------------------------------------------------------------------------------------------


def attempts(store: Path) -> list[int]:
    """Process numbers of the workers so far, from the log of the only run."""
    logs = "".join(path.read_text() for path in store.glob("sweeps/*/*.log"))
    return [int(number) for number in re.findall(r"^== attempt .* process (\d+),", logs, re.MULTILINE)]


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_kills_of_worker_and_driver_cost_no_run(
    long_run: Path, write_grid: Callable[..., Path], start_sweep: Start, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    store = tmp_path / "runs"
    driver = start_sweep(long_run, "--store", store, "--workers", 2)
    wait_for(lambda: list(store.glob("*/checkpoint.pt")))
    os.kill(attempts(store)[0], signal.SIGKILL)  # the worker: retried
    second = wait_for(lambda: attempts(store)[1:])[0]
    driver.kill()  # the driver: its worker leaves
    driver.wait()
    wait_for(lambda: not alive(second))
    assert list(store.glob("*/checkpoint.pt"))
    third = start_sweep(long_run, "--store", store, "--workers", 2, "--resume")
    out, _ = third.communicate(timeout=120)
    assert third.returncode == 0, out
    assert "1 runs: 0 done before, 1 done now, 0 failed" in out
    (log,) = store.glob("sweeps/*/*.log")
    assert log.read_text().count("going on after a stop") >= 1
    ((record,), problems) = find_records(store)
    assert not problems
    whole = drive.sweep(long_run, store=tmp_path / "whole", workers=2, quiet=True)  # the same threads
    assert not whole.failed
    ((other,), _) = find_records(tmp_path / "whole")
    assert record["predictions"] == other["predictions"]  # the same bits as without a kill


def test_an_interrupt_stops_cleanly(
    write_grid: Callable[..., Path], start_sweep: Start, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    store = tmp_path / "runs"
    driver = start_sweep(write_grid(epochs=2000, checkpoint_seconds=0.1), "--store", store)  # never to be finished
    wait_for(lambda: list(store.glob("*/checkpoint.pt")))
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert "stopping 1 runs" in out
    assert re.search(rf"go on with: mlbench sweep .*--store {store} --resume", " ".join(out.split()))
    assert "Traceback" not in out
    assert not any(alive(process) for process in attempts(store))


def test_two_sweeps_on_one_store_share_the_work(
    write_grid: Callable[..., Path], start_sweep: Start, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    """Each run is trained once, by one of them, and neither calls a run failed that the other is doing."""
    store, methods = tmp_path / "runs", ["an", "iun"]
    drivers = [
        start_sweep(write_grid(name, methods=methods), "--store", store, "--workers", 1) for name in ("first", "second")
    ]
    told = [driver.communicate(timeout=240)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], told
    assert all("0 failed" in out for out in told)
    assert len(find_records(store)[0]) == 2
    logs = [path.read_text() for path in store.glob("sweeps/*/*.log")]
    assert sum(log.count("2/2: loss") for log in logs) == 2


def test_a_run_is_trained_once_the_process_that_had_it_is_gone(
    write_grid: Callable[..., Path], start_sweep: Start, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    store, grid = tmp_path / "runs", write_grid(methods=["an", "prior"])
    (key,) = [job.key for job in freeze(load_grid(grid), "") if job.request["method"] == "an"]
    run_dir(store, key).mkdir(parents=True)
    with locked(run_dir(store, key) / "lock", wait=False):
        driver = start_sweep(grid, "--store", store, "--workers", 1)
        wait_for(lambda: find_records(store)[0])  # the other one
        assert driver.poll() is None
    out, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, out
    assert f"being run by process {os.getpid()}" in out
    assert "2 runs: 0 done before, 2 done now, 0 failed" in out


def test_a_failing_run_is_logged_retried_and_never_cached(
    mlbench: Callable[..., Any], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    store = tmp_path / "runs"
    grid = write_grid(methods=["an", "prior"], set={"train.image_size": 32, "train.batch_size": 8, "train.lr": 1e30})
    code, out, err = mlbench("sweep", grid, "--store", store, "--workers", 2)
    assert code == 1
    assert "2 runs: 0 done before, 1 done now, 1 failed" in out
    assert "is not finite in epoch" in out
    assert err.endswith("error: 1 of 2 runs failed\n")
    assert len(find_records(store)[0]) == 1
    assert len(attempts(store)) == 3  # the failing one twice, by the rule
    code, out, _ = mlbench("sweep", "status", "--store", store)
    assert code == 0
    assert "1 done, 1 failed of 2 runs" in out
    code, out, err = mlbench("sweep", grid, "--store", store, "--quiet", "--methods", "prior")
    assert (code, out) == (0, "1 runs: 1 done before, 0 done now, 0 failed\n")


def test_a_run_data_parallel_in_two_processes(
    mlbench: Callable[..., Any], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    code, out, err = mlbench("sweep", write_grid(processes=2), "--store", tmp_path / "runs")
    assert code == 0, out + err
    ((record,), _) = find_records(tmp_path / "runs")
    assert record["provenance"]["processes"] == 2


def test_status_without_a_sweep(mlbench: Callable[..., Any], tmp_path: Path) -> None:
    code, _, err = mlbench("sweep", "status", "--store", tmp_path)
    assert code == 2
    assert "no sweep in" in err
