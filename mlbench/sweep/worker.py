"""A worker: one process that does one frozen job and leaves when whoever started it is gone."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from mlbench.errors import MlbenchError, visible
from mlbench.locks import Busy, held, locked
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import resolve
from mlbench.runner.together import Outcome, run_together
from mlbench.runner.world import leave
from mlbench.store import run_dir
from mlbench.sweep.freeze import request_of, resolve_each
from mlbench.sweep.jobs import Job, Sweep, load_sweep

#: Exit status of a worker that left because its driver was gone.
DRIVER_GONE = 75
#: Exit status of a worker whose run another process is doing.
ELSEWHERE = 69
#: Seconds to wait for the process that had this run before, which may be on its way out.
_PATIENCE = 5.0


def work(store: Path, name: str, key: str, resume: bool) -> int:
    """Do job `key` of sweep `name`; returns the exit status.

    0 : done. 1 : failed. 2 : cannot be done as asked. `ELSEWHERE` : another process is doing it.
    """
    sweep = load_sweep(store, name)
    job = sweep.job(key)
    try:
        if sweep.settings.get("processes", 1) > 1 and "LOCAL_RANK" not in os.environ:
            return _in_several_processes(sweep, job, resume)
        if "LOCAL_RANK" not in os.environ:
            _wait_for_predecessor(run_dir(store, key))
        request = request_of(job.request)
        _refuse_change(job, resolve(request).key)
        run(request, _options(sweep, resume))
        leave()
    except Busy as error:
        print(f"waiting: {visible(' '.join(str(error).split()))}", file=sys.stderr, flush=True)
        return ELSEWHERE
    except MlbenchError as error:
        print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def work_together(store: Path, name: str, keys: Sequence[str], resume: bool) -> int:
    """Do the jobs `keys` of sweep `name` beside each other; what ends one of them goes to its own log."""
    sweep = load_sweep(store, name)
    jobs = [sweep.job(key) for key in keys]
    try:
        for job in jobs:
            _wait_for_predecessor(run_dir(store, job.key))
        found = resolve_each(job.request for job in jobs)
        for job, here in zip(jobs, found, strict=True):
            _refuse_change(job, here.key)
        outcomes: list[Outcome] = run_together([here.request for here in found], _options(sweep, resume))
    except MlbenchError as error:
        outcomes = [error] * len(jobs)
    failed = {job: outcome for job, outcome in zip(jobs, outcomes, strict=True) if isinstance(outcome, Exception)}
    for job, why in failed.items():
        with sweep.log(job).open("a", encoding="utf-8") as log:
            if not isinstance(why, MlbenchError) or why.__cause__ is not None:
                traceback.print_exception(why, file=log)
            print(f"error: {visible(' '.join(str(why).split()))}", file=log)
    if failed and all(isinstance(why, Busy) for why in failed.values()):
        return ELSEWHERE
    return 1 if failed else 0


def _options(sweep: Sweep, resume: bool) -> Options:
    return Options(
        sweep.store,
        resume=resume,
        device=sweep.settings["device"],
        checkpoint_seconds=sweep.settings["checkpoint_seconds"],
        command=["mlbench", "sweep", sweep.name],
    )


def _refuse_change(job: Job, here: str) -> None:
    if here != job.key:
        raise MlbenchError(
            f"this run was frozen as {job.name} and resolves to {here[:16]} here: data, protocol or code changed; "
            "start the sweep again"
        )


def work_logged(store: Path, name: str, keys: Sequence[str], resume: bool, attempt: int, threads: int) -> int:
    """`work` or `work_together` in this process, all that it prints going to the (first) job's log."""
    sweep = load_sweep(store, name)
    first, *others = (sweep.job(key) for key in keys)
    log = os.open(sweep.log(first), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1, closefd=False), os.fdopen(2, "w", 1, closefd=False)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = f"== attempt {attempt}, {now}, {platform.node()}, process {os.getpid()}, {threads} threads"
    print(f"{about}, beside {len(others)} other runs" if others else about, flush=True)
    for job in others:
        with sweep.log(job).open("a", encoding="utf-8") as beside:
            print(f"{about}, beside {first.title}: see {sweep.log(first).name}", file=beside)
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    return work_together(store, name, keys, resume) if others else work(store, name, first.key, resume)


def serve(
    alive: Connection,
    devices: str | None,
    store: Path,
    name: str,
    keys: Sequence[str],
    resume: bool,
    attempt: int,
    threads: int,
) -> None:
    """Entry point of the local executor's processes; `alive` breaks when the driver is gone."""
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    leave_with(lambda: alive.poll(None))
    sys.exit(work_logged(store, name, keys, resume, attempt, threads))


def leave_with(wait: Callable[[], object]) -> None:
    """End this process, and those it started, as soon as `wait` returns or fails."""

    def watch() -> None:
        with suppress(OSError):
            wait()
        os._exit(DRIVER_GONE)

    threading.Thread(target=watch, daemon=True).start()


def _wait_for_predecessor(folder: Path) -> None:
    """Wait a while for another process to let go of the run; `run` says so where it does not."""
    if folder.exists():
        with suppress(Busy), locked(folder / "lock", wait=_PATIENCE):
            pass


def _in_several_processes(sweep: Sweep, job: Job, resume: bool) -> int:
    """The same job by torchrun, data-parallel on this machine."""
    _wait_for_predecessor(run_dir(sweep.store, job.key))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(sweep.settings["processes"]), "-m", "mlbench.sweep.worker"),
        *(str(sweep.store), sweep.name, job.key, *(["--resume"] if resume else [])),
    ]
    # The read end of a pipe whose write end is ours: the processes of the run leave with this one.
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        if process.wait() == 0:
            return 0
    return ELSEWHERE if held(run_dir(sweep.store, job.key) / "lock") else 1


def main() -> None:
    """``python -m mlbench.sweep.worker STORE NAME KEY [--resume] [ATTEMPT THREADS]``: a job, until stdin closes."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    resume = "--resume" in sys.argv
    store, name, key, *logged = arguments
    leave_with(lambda: os.read(0, 1))
    if logged:
        sys.exit(work_logged(Path(store), name, [key], resume, *map(int, logged)))
    sys.exit(work(Path(store), name, key, resume))


if __name__ == "__main__":
    main()
