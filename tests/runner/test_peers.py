"""A run of several processes that loses one ends with an error for people, and goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlbench.errors import MethodError, UsageError
from mlbench.runner.world import World, peer_lost
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


def two_processes(folder: Path, *words: str) -> list[tuple[int, str]]:
    """Exit status and output of both, in rank order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("lose_a_peer.py")), str(folder), *words]
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            command,
            env=os.environ | told | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MLBENCH_PEER_SECONDS": "60"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def test_a_run_that_loses_a_process_ends_and_is_resumed(tmp_path: Path) -> None:
    (first, said), (second, _) = two_processes(tmp_path, "dies")
    assert second == -signal.SIGKILL
    assert first == 1, said
    assert "error: another process of this run is gone or does not answer: start all 2 again with --resume" in said
    assert find_records(tmp_path / "runs") == ([], [])
    assert [status for status, _ in two_processes(tmp_path, "lives")] == [0, 0]
    ((record,), _) = find_records(tmp_path / "runs")
    assert len(record["provenance"]["starts"]) == 2
    assert record["provenance"]["processes"] == 2
