"""New processes on this machine that need not load torch: forked from one that has, where the system can fork."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

#: What a run loads; torch loads the second when an optimiser is first made: seconds of every run.
PRELOADED = ("mlbench.runner.execute", "torch._dynamo")


def preloaded_context(threads: int, *modules: str) -> Any:
    """The `multiprocessing` context whose processes have torch and `modules` loaded and `threads` each.

    Its processes have the environment that the first of them was started in, not that of now.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when the process to fork from loads torch
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, *modules])
    return context


def in_several(function: Callable[..., object], count: int, *arguments: Any) -> None:
    """Call ``function(rank, *arguments)`` in `count` processes of one run, on the CPU and with one thread each.

    They have this process's environment, and find each other as those of `torchrun` do. `function` has to be one that
    can be imported, and ends with `mlbench.runner.world.leave`.

    Raises
    ------
    torch.multiprocessing.ProcessRaisedException, ProcessExitedException : one of them failed; the others are ended.
    """
    import torch

    method = preloaded_context(1, "torch.distributed.tensor").get_start_method()
    told = {**os.environ, **run_of(count), "ACCELERATE_USE_CPU": "true"}
    torch.multiprocessing.start_processes(
        one_of_several, (told, function, *arguments), nprocs=count, start_method=method
    )


def run_of(count: int) -> dict[str, str]:
    """Environment variables by which `count` processes of this machine find each other; each adds its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {
        **{"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
    }


def one_of_several(rank: int, environment: Mapping[str, str], function: Callable[..., object], *arguments: Any) -> None:
    """``function(rank, *arguments)`` in this process, which becomes process `rank` of those in `environment`."""
    import torch

    os.environ.clear()
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    function(rank, *arguments)
