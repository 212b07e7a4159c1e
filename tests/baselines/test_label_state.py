"""Methods with state (`llcp`, `em_apl`, `role`): the same after kills, and from two processes as from one."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlbench.conformance.suite import compare, make_request, read_course, with_sgd
from mlbench.conformance.testing import tiny_dataset
from mlbench.registry import load_method
from mlbench.runner.checkpoint import load_checkpoint
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request, resolve
from mlbench.store import read_record, run_dir

#: Method and settings, so that state changes more than once and each change is felt.
METHODS: dict[str, dict[str, Any]] = {
    "llcp": {"train.epochs": 4, "delta": 5.0},
    "em_apl": {"train.epochs": 4, "beta": 1.0, "warmup": 1},
    "role": {"train.epochs": 2},
}


def request_of(name: str, folder: Path) -> Request:
    request = with_sgd(make_request(load_method(name), "full", folder, tiny_dataset()))
    return replace(request, changes={**request.changes, **METHODS[name]})


def course_of(name: str, store: Path) -> Any:
    key = resolve(request_of(name, store.parent)).key
    return read_course(store, read_record(run_dir(store, key) / "record.json"))


def labels_of(name: str, store: Path) -> dict[str, np.ndarray]:
    saved = load_checkpoint(run_dir(store, resolve(request_of(name, store.parent)).key) / "last.pt", None)
    return {key: tensor.numpy() for key, tensor in saved["loop"]["labels"].items()}


def run_whole(name: str, store: Path) -> None:
    """Run to the end, keeping the last checkpoint."""
    request = request_of(name, store.parent)
    folder = run_dir(store, resolve(request).key)

    def keep() -> None:
        if int(os.environ.get("RANK", "0")) == 0:
            (folder / "last.pt").write_bytes((folder / "checkpoint.pt").read_bytes())

    run(request, Options(store=store, device="cpu", quiet=True, checkpoint_seconds=0.0, on_checkpoint=keep))


def one_of_two(rank: int, port: int, folder: Path, cache: str) -> None:
    """Every method to its end."""
    from mlbench.runner.world import leave

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"OMP_NUM_THREADS": "1", "MLBENCH_CACHE": cache}
    torch.set_num_threads(1)
    for name in METHODS:
        run_whole(name, folder / "runs")
    leave()


def go_on(name: str, folder: Path, cache: str, told: Any) -> None:
    """Go on with the run, telling `told` of each checkpoint."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MLBENCH_CACHE": cache}
    torch.set_num_threads(1)
    options = {"device": "cpu", "quiet": True, "resume": True, "checkpoint_seconds": 0.0}
    run(request_of(name, folder), Options(folder / "runs", **options, on_checkpoint=lambda: told.send("checkpoint")))


@pytest.fixture(scope="module")
def processes() -> Any:
    """Where new processes come from: forked from a clean one, so that torch is imported once and not by each."""
    context = multiprocessing.get_context("forkserver")
    imports = ["torch._dynamo", "torch.distributed.tensor", "mlbench.conformance", "mlbench.runner.execute"]
    context.set_forkserver_preload([*imports, "mlbench.baselines.pseudo_labels"])
    return context


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store in which one process trained each method."""
    store = tmp_path_factory.mktemp("alone") / "runs"
    for name in METHODS:
        run_whole(name, store)
    return store


@pytest.fixture(scope="module")
def pair(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes did what `one_of_two` says."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (port, folder, os.environ["MLBENCH_CACHE"])
    workers = [processes.Process(target=one_of_two, args=(rank, *arguments)) for rank in range(2)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 300
    while any(worker.exitcode is None for worker in workers) and not any(worker.exitcode for worker in workers):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for worker in workers:
        if worker.exitcode is None:  # the other one failed, and this one would wait for it
            worker.kill()
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0], "a process failed; see its output"
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_what_one_process_trains(name: str, alone: Path, pair: Path) -> None:
    compare(course_of(name, alone), course_of(name, pair / "runs"), 1e-5)


@pytest.mark.parametrize("name", ["llcp", "em_apl"])
def test_two_processes_log_the_label_changes_that_one_process_logs(name: str, alone: Path, pair: Path) -> None:
    ours, theirs = labels_of(name, alone), labels_of(name, pair / "runs")
    assert len(ours["row"]) > 20
    assert len(set(ours["epoch"])) > 1
    for key, values in ours.items():
        np.testing.assert_allclose(theirs[key], values, rtol=0, atol=1e-6 if key == "value" else 0)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_killed_again_and_again_reaches_the_same_bits(
    name: str, processes: Any, alone: Path, tmp_path: Path
) -> None:
    kills, chance = 0, random.Random(name)
    while not list(tmp_path.glob("runs/*/record.json")):
        ours, theirs = processes.Pipe(duplex=False)
        worker = processes.Process(target=go_on, args=(name, tmp_path, os.environ["MLBENCH_CACHE"], theirs))
        worker.start()
        theirs.close()
        try:
            for _ in range(chance.randint(2, 6)):
                ours.recv()
            time.sleep(chance.uniform(0, 0.03))
            worker.kill()
        except EOFError:  # it came to its end before the kill
            pass
        worker.join()
        assert worker.exitcode in (0, -9)
        kills += worker.exitcode == -9
        assert kills < 50
    assert kills
    compare(course_of(name, alone), course_of(name, tmp_path / "runs"), 0.0)
