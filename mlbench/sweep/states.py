"""What is known of each job of a sweep: its record in the store, else the driver's note and the job's log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mlbench.files import atomic_write
from mlbench.locks import held, locked
from mlbench.store import run_dir
from mlbench.sweep.jobs import Job, Sweep, finished


@dataclass(frozen=True)
class Note:
    """What the driver last knew of a job: `state`, why, and the cluster's number for it.

    `state` is "launched", "failed", or "elsewhere": another process is doing it.
    """

    state: str
    attempt: int = 1
    since: float = 0.0
    reason: str = ""
    handle: str = ""


def read_note(sweep: Sweep, job: Job) -> Note | None:
    """The driver's note on `job`; None where there is none (yet)."""
    try:
        return Note(**json.loads(_note_file(sweep, job).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_note(sweep: Sweep, job: Job, note: Note) -> None:
    atomic_write(_note_file(sweep, job), json.dumps(asdict(note)).encode())


def forget(sweep: Sweep, job: Job) -> None:
    """Take the note on `job` away: its record says all there is to say."""
    _note_file(sweep, job).unlink(missing_ok=True)


def _note_file(sweep: Sweep, job: Job) -> Path:
    return sweep.folder / f"{job.name}.json"


def last_line(path: Path) -> str:
    """The last line of a log that is not empty."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def driving(sweep: Sweep) -> Iterator[None]:
    """Be the one driver of `sweep`; `Busy` if it has one."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    busy = f"sweep '{sweep.name}' is being driven by another process ({sweep.folder})"
    with locked(sweep.folder / "lock", wait=2.0, busy=busy):  # `sweep status` looks for a moment
        yield


def driven(sweep: Sweep) -> bool:
    """Whether a driver is at work."""
    return held(sweep.folder / "lock")


@dataclass(frozen=True)
class Row:
    """A line of `sweep status`: state is done, running, queued, elsewhere, waiting, stopped or failed."""

    job: Job
    state: str
    attempt: int
    seconds: float | None
    remark: str


def rows_of(sweep: Sweep) -> list[Row]:
    """The state of every job now."""
    at_work, rows = driven(sweep), []
    for job in sweep.jobs:
        record, note = finished(sweep.store, job.key), read_note(sweep, job)
        if record is not None:
            value = record["results"]["test"].get("mAP")
            shown = "" if value is None else f"test mAP {value:.2f}"
            rows.append(Row(job, "done", 0, record["provenance"]["seconds"], shown))
        elif note is None:
            rows.append(Row(job, "waiting", 0, None, ""))
        elif note.state == "elsewhere":  # as long as somebody waits for it
            waits = at_work and held(run_dir(sweep.store, job.key) / "lock")
            rows.append(Row(job, "elsewhere" if waits else "waiting", 0, None, note.reason if waits else ""))
        elif note.state == "failed":
            rows.append(Row(job, "failed", note.attempt, None, note.reason))
        else:
            log = sweep.log(job)
            begun = log.exists() and log.stat().st_mtime >= note.since - 1.0
            state = ("running" if begun else "queued") if at_work or note.handle else "stopped"
            rows.append(Row(job, state, note.attempt, time.time() - note.since, last_line(log) if begun else ""))
    return rows
