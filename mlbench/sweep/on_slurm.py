"""Jobs of Slurm, through submitit; the store must be a folder all nodes share."""

from __future__ import annotations

from typing import Any

from mlbench.errors import MlbenchError
from mlbench.sweep.jobs import Job, Sweep
from mlbench.sweep.worker import work_logged

_LOST = -9


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

    def start(self, job: Job, resume: bool, attempt: int) -> str:
        sweep = self.sweep
        flying = self._submit.submit(work_logged, sweep.store, sweep.name, job.key, resume, attempt, self.threads)
        self._flying[job.key] = flying
        return str(flying.job_id)

    def find(self, job: Job, handle: str) -> bool:
        if self._cluster != "slurm":  # a process, which nobody but its parent can ask
            return False
        self._flying[job.key] = self._submitit.SlurmJob(self._folder, handle)
        return True

    def ended(self, job: Job) -> int | None:
        flying = self._flying[job.key]
        if not flying.done():
            return None
        del self._flying[job.key]
        try:
            return int(flying.result())
        except Exception:  # the job left no result: killed, timed out, or its node failed
            return _LOST

    def stop(self) -> None:
        for flying in self._flying.values():
            flying.cancel(check=False)
        self._flying.clear()


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
