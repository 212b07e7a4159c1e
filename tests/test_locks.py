"""Locks between processes: held by one, waited for or refused, and free again when the holder is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlbench.errors import MlbenchError
from mlbench.locks import locked

HOLDER = """
import sys, time
from pathlib import Path
from mlbench.locks import locked

with locked(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path: Path, seconds: float) -> subprocess.Popen:
    """A process that holds the lock for `seconds`."""
    command = [sys.executable, "-c", HOLDER, str(path), str(seconds)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_held_lock_is_refused_and_free_after_a_kill(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock", 60)
    with (
        pytest.raises(MlbenchError, match="somebody else"),
        locked(tmp_path / "lock", wait=False, busy="somebody else"),
    ):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path / "lock", wait=False):
        pass


def test_a_waiting_process_gets_the_lock_when_the_holder_ends(tmp_path: Path) -> None:
    holder, begun = hold(tmp_path / "lock", 0.3), time.monotonic()
    with locked(tmp_path / "lock", wait=True):
        waited = time.monotonic() - begun
    holder.communicate()
    assert 0.2 < waited < 30


def test_a_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "lock", wait=True):
        raise RuntimeError
    with locked(tmp_path / "lock", wait=False):
        pass


def test_processes_that_lock_with_flock_are_respected(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with open(tmp_path / "lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(MlbenchError, match="busy"), locked(tmp_path / "lock", wait=False, busy="busy"):
            pass
