"""A run of several processes that loses one ends with an error for people, and goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlbench.conformance.suite import make_request
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import MethodError, MlbenchError, UsageError
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.runner.processes import one_of_several, preloaded_context, run_of
from mlbench.runner.world import World, leave, peer_lost
from mlbench.store import find_records

CLOSED = "[/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:41712"


def test_what_says_that_another_process_is_gone() -> None:
    assert peer_lost(RuntimeError(CLOSED))
    assert peer_lost(torch.distributed.DistNetworkError("the client socket has timed out"))
    caught = MethodError("an: training_step failed")
    caught.__cause__ = RuntimeError(CLOSED)
    assert peer_lost(caught)
    assert not peer_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not peer_lost(MethodError("an: training_step failed"))


@pytest.mark.parametrize("text", ["soon", "0", "-5", "1.5"])
def test_how_long_to_wait_is_a_whole_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_PEER_SECONDS", text)
    with pytest.raises(UsageError, match=r"MLBENCH_PEER_SECONDS=.*: expected a whole number of seconds"):
        World("cpu")


def one_of_two(rank: int, folder: Path, dies: bool) -> None:
    """Process `rank` of a run of two, what it says in ``folder/said-RANK``; if asked, rank 1 is killed on its way."""
    seen = 0

    def on_checkpoint() -> None:
        nonlocal seen
        seen += 1
        if dies and seen == 3 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    request = make_request(load_method("an"), "full", folder, tiny_dataset())
    request = replace(request, changes={**request.changes, "train.epochs": 3})
    options = Options(
        folder / "runs", True, device="cpu", quiet=True, checkpoint_seconds=0, on_checkpoint=on_checkpoint
    )
    try:
        run(request, options)
        leave()
    except MlbenchError as error:
        (folder / f"said-{rank}").write_text(str(error))
        os._exit(error.exit_code)  # nobody is left to take leave of


def two_processes(folder: Path, dies: bool) -> list[int]:
    """Exit status of both, in rank order."""
    context = preloaded_context(1)
    told = {**os.environ, **run_of(2), "ACCELERATE_USE_CPU": "true", "MLBENCH_PEER_SECONDS": "60"}
    started = [context.Process(target=one_of_several, args=(rank, told, one_of_two, folder, dies)) for rank in range(2)]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join(240)
    finally:
        for process in started:
            process.kill()
    return [process.exitcode for process in started]


def test_a_run_that_loses_a_process_ends_and_is_resumed(tmp_path: Path) -> None:
    assert two_processes(tmp_path, dies=True) == [1, -signal.SIGKILL]
    said = (tmp_path / "said-0").read_text()
    assert "another process of this run is gone or does not answer: start all 2 again with --resume" in said
    assert find_records(tmp_path / "runs") == ([], [])
    assert two_processes(tmp_path, dies=False) == [0, 0]
    ((record,), _) = find_records(tmp_path / "runs")
    assert len(record["provenance"]["starts"]) == 2
    assert record["provenance"]["processes"] == 2
