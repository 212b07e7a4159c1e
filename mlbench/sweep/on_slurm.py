"""Jobs of Slurm, through submitit; the store must be a folder all nodes share."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from mlbench.errors import MlbenchError
from mlbench.sweep.jobs import Job, Sweep
from mlbench.sweep.worker import work_logged

_LOST = -9

#: Seconds between two looks at the queue.
_LOOK = 5.0

#: For so many seconds a job that has left the queue may still leave its result: shared folders lag behind.
_GRACE = 30.0


class SlurmExecutor:
    """One batch job for each run. They outlive the driver: the next one finds them again by their number.

    `cluster` "local" runs the same scripts' command on this machine, for trying out.
    """

    def __init__(self, sweep: Sweep, workers: int | None, cluster: str = "slurm") -> None:
        import submitit

        self._submitit = submitit
        settings = sweep.settings
        self.sweep, self.threads, self.slots = sweep, settings["threads"] or 1, workers or 10_000
        self._folder = sweep.folder / "slurm"
        try:
            self._submit = submitit.AutoExecutor(self._folder, cluster=cluster)
        except RuntimeError as error:
            raise MlbenchError(f"Slurm cannot be used here: {error}") from None
        self._cluster = cluster
        self._submit.update_parameters(**parameters(settings, self.threads, cluster))
        self._flying: dict[str, Any] = {}
        self._queue: set[str] | None = None
        self._looked = -_LOOK
        self._missed: dict[str, float] = {}

    def start(self, job: Job, resume: bool, attempt: int) -> str:
        sweep = self.sweep
        flying = self._submit.submit(work_logged, sweep.store, sweep.name, [job.key], resume, attempt, self.threads)
        self._flying[job.key] = flying
        return str(flying.job_id)

    def find(self, job: Job, handle: str) -> bool:
        if self._cluster != "slurm":  # a process, which nobody but its parent can ask
            return False
        self._flying[job.key] = self._submitit.SlurmJob(self._folder, handle)
        return True

    def ended(self, job: Job) -> int | None:
        flying = self._flying[job.key]
        if flying.paths.result_pickle.exists():
            status = self._result(job, flying)
        elif self._gone(flying):
            status = _LOST  # killed, out of time, or its node failed
        else:
            return None
        del self._flying[job.key]
        self._missed.pop(flying.job_id, None)
        return status

    def _result(self, job: Job, flying: Any) -> int:
        """What the job returned; 1 where it raised, with the traceback in the run's log."""
        try:
            return int(flying.result())
        except self._submitit.core.utils.FailedJobError as error:
            with self.sweep.log(job).open("a", encoding="utf-8") as log:
                print(f"{error}\nerror: the batch job {flying.job_id} failed outside of the run: see above", file=log)
            return 1
        except Exception:  # a result that cannot be read
            return _LOST

    def _gone(self, flying: Any) -> bool:
        """Whether the job without result is no longer in the queue, and has not been for a while."""
        if self._cluster != "slurm":
            return bool(flying.done())
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked, self._queue = now, queued()
            self._missed = (
                {}
                if self._queue is None
                else {
                    number: self._missed.get(number, now)
                    for number in (each.job_id for each in self._flying.values())
                    if number not in self._queue
                }
            )
        return now - self._missed.get(flying.job_id, now) >= _GRACE

    def stop(self) -> None:
        for flying in self._flying.values():
            flying.cancel(check=False)
        self._flying.clear()


def queued() -> set[str] | None:
    """Numbers of our jobs that wait or run; None where Slurm does not answer, which says nothing of them.

    The queue is asked and not the accounting (as submitit does): many clusters keep none.
    """
    command = ["squeue", "--me", "--noheader", "--format=%A"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(done.stdout.split()) if done.returncode == 0 else None


def parameters(settings: Any, threads: int, cluster: str) -> dict[str, Any]:
    """What submitit is asked for: resources of the grid, and its ``[slurm]`` table as it stands."""
    asked: dict[str, Any] = {
        "cpus_per_task": threads * settings["processes"],
        "timeout_min": 24 * 60,
        **({"mem_gb": settings["memory_gib"]} if settings["memory_gib"] else {}),
        **({"gpus_per_node": settings["gpus"]} if settings["gpus"] else {}),
    }
    own = dict(settings["slurm"])
    if cluster == "slurm":
        asked["slurm_job_name"] = own.pop("job_name", "mlbench")
    renamed = {name if name in ("timeout_min", "name") else f"slurm_{name}": value for name, value in own.items()}
    return asked | renamed
