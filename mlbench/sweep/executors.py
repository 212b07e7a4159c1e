"""Where the jobs of a sweep run: processes on this machine, tasks of a Ray cluster, or jobs of Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from mlbench.errors import UsageError
from mlbench.provenance import usable_cores
from mlbench.runner.processes import preloaded_context
from mlbench.sweep.jobs import Job, Sweep


class Executor(Protocol):
    """Starts jobs and tells how they ended. `slots` is how many may be under way; `threads` of each."""

    slots: int
    threads: int

    def start(self, job: Job, resume: bool, attempt: int) -> str:
        """Launch `job`; returns the cluster's number for it ("" where it does not outlive the driver)."""
        ...

    def find(self, job: Job, handle: str) -> bool:
        """Take up `job`, launched under `handle` by a driver that is gone; False if that cannot be."""
        ...

    def ended(self, job: Job) -> int | None:
        """The exit status of `job`, negative for a signal; None while it runs or waits."""
        ...

    def stop(self) -> None:
        """End all jobs under way, and wait until they are gone."""
        ...


class LocalExecutor:
    """Processes on this machine, one for each run, the cores shared out among them.

    The processes are forked from one that has loaded torch already, where the system can fork.
    """

    def __init__(self, sweep: Sweep, workers: int | None) -> None:
        processes = sweep.settings["processes"]
        self.sweep = sweep
        self.slots = workers or max(1, usable_cores() // processes)
        self.threads = max(1, usable_cores() // (self.slots * processes))
        self._context = preloaded_context(self.threads, "mlbench.sweep.worker")
        self._flying: dict[str, tuple[Any, Connection, int]] = {}

    def start(self, job: Job, resume: bool, attempt: int) -> str:
        return self.start_together([job], resume, attempt)

    def start_together(self, jobs: Sequence[Job], resume: bool, attempt: int) -> str:
        """Launch `jobs` in one process, which has one slot."""
        from mlbench.sweep.worker import serve

        sweep, keys = self.sweep, [job.key for job in jobs]
        slot = min(set(range(self.slots)) - {taken for _, _, taken in self._flying.values()})
        theirs, ours = self._context.Pipe(duplex=False)
        arguments = (theirs, devices_of(slot, sweep), sweep.store, sweep.name, keys, resume, attempt, self.threads)
        process = self._context.Process(target=serve, args=arguments)
        process.start()
        theirs.close()
        self._flying |= dict.fromkeys(keys, (process, ours, slot))
        return ""

    def find(self, job: Job, handle: str) -> bool:
        return False

    def ended(self, job: Job) -> int | None:
        process, ours, _ = self._flying[job.key]
        if process.exitcode is None:
            return None
        ours.close()
        del self._flying[job.key]
        return int(process.exitcode)

    def stop(self) -> None:
        for process, ours, _ in self._flying.values():
            ours.close()
            process.join(10)
            if process.exitcode is None:
                process.kill()
                process.join()
        self._flying.clear()


def devices_of(slot: int, sweep: Sweep) -> str | None:
    """The GPUs of a local slot, for ``CUDA_VISIBLE_DEVICES``: `gpus` of those there are, in turn; None for all."""
    wanted = sweep.settings["gpus"]
    if not wanted:
        return None
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = [name for name in given.split(",") if name] if given is not None else _gpus()
    if wanted > len(there):
        raise UsageError(f"gpus = {wanted}: this machine has {len(there)}")
    return ",".join(there[(slot * wanted + offset) % len(there)] for offset in range(wanted))


def _gpus() -> list[str]:
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def run_elsewhere(store: str, name: str, key: str, resume: bool, attempt: int, threads: int) -> int:
    """A job in a process of its own that leaves when the caller is gone: what a node of a cluster does."""
    command = [sys.executable, "-m", "mlbench.sweep.worker", store, name, key, str(attempt), str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        [*command, *(["--resume"] if resume else [])], stdin=subprocess.PIPE, env=environment
    ) as process:
        return process.wait()


def make_executor(kind: str, sweep: Sweep, workers: int | None, address: str | None = None) -> Executor:
    """The executor called `kind`: local, ray or slurm; UsageError where its package is missing."""
    if kind == "local":
        return LocalExecutor(sweep, workers)
    try:
        if kind == "ray":
            from mlbench.sweep.on_ray import RayExecutor

            return RayExecutor(sweep, workers, address)
        from mlbench.sweep.on_slurm import SlurmExecutor

        return SlurmExecutor(sweep, workers)
    except ImportError as error:
        raise UsageError(
            f"--executor {kind} needs packages that are not installed ({error.name}): "
            "pip install 'mlbench-multilabel[cluster]'"
        ) from None
