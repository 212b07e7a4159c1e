"""The Slurm executor on a real slurmctld and slurmd on this machine."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.store import find_records

pytest.importorskip("submitit", reason="submitit is not installed (extra 'cluster')")

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason="no Slurm here (Debian: slurmctld, slurmd, slurm-client)"
)

#: One node, two processors, no munge and no accounting.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., Any]) -> Iterator[None]:
    """A cluster of one node, which the commands of Slurm find."""
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    configuration = folder / "slurm.conf"
    places = {"host": platform.node(), "user": getpass.getuser(), "folder": folder}
    configuration.write_text(CONFIGURATION.format(controller=free_port(), daemon=free_port(), **places))
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    with (folder / "log").open("w") as log:
        daemons = [
            subprocess.Popen([name, "-D"], stdout=log, stderr=subprocess.STDOUT) for name in ("slurmctld", "slurmd")
        ]
        try:
            wait_for(lambda: said("sinfo", "--noheader", "--format=%T") == "idle", 60)
            yield
        finally:
            subprocess.run(["scancel", "--user", getpass.getuser()], check=False, timeout=60)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(30)


def test_a_job_and_the_driver_are_killed_and_no_run_is_lost_or_done_twice(
    cluster: None,
    write_grid: Callable[..., Path],
    start_sweep: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    wait_for: Callable[..., Any],
) -> None:
    grid = write_grid(methods=["an", "llr"], epochs=300, checkpoint_seconds=0.1, slurm={"timeout_min": 10})
    store, sweep = tmp_path / "runs", tmp_path / "runs" / "sweeps" / "tiny"
    first = start_sweep(grid, "--executor", "slurm", "--store", store)
    wait_for(lambda: len(list(store.glob("*/checkpoint.pt"))) == 2)  # both are at work
    first.send_signal(signal.SIGKILL)
    first.wait()
    notes = {path.stem: json.loads(path.read_text()) for path in sweep.glob("*.json") if path.name != "sweep.json"}
    assert set(said("squeue", "--noheader", "--format=%A").split()) == {note["handle"] for note in notes.values()}
    lost = min(notes)
    process = re.search(r"process (\d+)", (sweep / f"{lost}.log").read_text())
    assert process is not None
    os.kill(int(process[1]), signal.SIGKILL)
    second = start_sweep(grid, "--executor", "slurm", "--store", store, "--resume")
    printed, _ = second.communicate(timeout=300)
    assert second.returncode == 0, printed
    assert printed.count("found again") == 2
    assert "its process was lost (SIGKILL)" in printed
    assert "sacct" not in printed
    records, problems = find_records(store)
    assert not problems
    assert sorted(record["identity"]["method"]["name"] for record in records) == ["an", "llr"]
    logs = {path.stem: path.read_text() for path in sweep.glob("*.log")}
    attempts = {name: len(re.findall("^== attempt", text, re.MULTILINE)) for name, text in logs.items()}
    assert attempts == {name: 1 + (name == lost) for name in notes}
    assert "going on after a stop in phase 'train'" in logs[lost]
    assert all(len(re.findall("test mAP", text)) == 1 for text in logs.values())


def test_a_run_of_two_processes_is_one_job(
    cluster: None,
    write_grid: Callable[..., Path],
    start_sweep: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    grid = write_grid(processes=2)
    done = start_sweep(grid, "--executor", "slurm", "--store", tmp_path / "runs")
    printed, _ = done.communicate(timeout=300)
    assert done.returncode == 0, printed
    ((record,), problems) = find_records(tmp_path / "runs")
    assert not problems
    assert record["provenance"]["processes"] == 2
    (script,) = (tmp_path / "runs" / "sweeps" / "tiny" / "slurm").glob("*_submission.sh")
    assert "#SBATCH --cpus-per-task=2" in script.read_text().splitlines()
