"""Jobs as tasks of a Ray cluster; the store must be a folder all its nodes share."""

from __future__ import annotations

from typing import Any

from mlbench.sweep.executors import run_elsewhere
from mlbench.sweep.jobs import Job, Sweep

#: Exit status told for a task whose node or worker process was lost (that of a process killed by a signal).
LOST = -9


class RayExecutor:
    """One task for each job, queued by Ray; a job whose node is lost counts as one that failed, and is retried.

    Ray ends the tasks of a driver that is gone, and with them the processes of the runs.
    """

    def __init__(self, sweep: Sweep, workers: int | None, address: str | None) -> None:
        import ray

        self._ray = ray
        settings = sweep.settings
        self.sweep, self.threads = sweep, settings["threads"] or 1
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(address=address or None, log_to_driver=False, configure_logging=False)
        self.slots = workers or 10_000
        memory = settings["memory_gib"]
        self._task = ray.remote(run_elsewhere).options(
            num_cpus=self.threads * settings["processes"],
            num_gpus=settings["gpus"],
            memory=None if memory is None else int(memory * 2**30),
            max_retries=0,  # the driver retries, so that attempts are counted and resumed
        )
        self._flying: dict[str, Any] = {}

    def start(self, job: Job, resume: bool, attempt: int) -> str:
        sweep = self.sweep
        self._flying[job.key] = self._task.remote(str(sweep.store), sweep.name, job.key, resume, attempt, self.threads)
        return ""

    def find(self, job: Job, handle: str) -> bool:
        return False

    def ended(self, job: Job) -> int | None:
        task = self._flying[job.key]
        ready, _ = self._ray.wait([task], timeout=0)
        if not ready:
            return None
        del self._flying[job.key]
        try:
            return int(self._ray.get(task))
        except self._ray.exceptions.RayError:
            return LOST

    def stop(self) -> None:
        for task in self._flying.values():
            self._ray.cancel(task, force=True)
        self._flying.clear()
        if self._ours:
            self._ray.shutdown()
