"""One run on two nodes, data-parallel over gloo: a node is lost, the run ends with an error, and is resumed.

The nodes are network namespaces of this machine with a cable between them (root and `ip` are needed), each with one
process of the run. They share the store, as nodes of a cluster do. Three things happen to the same run: nothing; a
node's process is killed; the cable is cut, so that nobody tells the other node. Of the last two the time is taken until
the other node has ended, its exit status, and whether the resumed run has the same predictions.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from timing import OUTPUT, about, markdown, write

from mlbench.errors import MlbenchError
from mlbench.miniature import make
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request
from mlbench.runner.world import leave
from mlbench.store import find_records

NODES, ADDRESSES, PORT = ("mlbench-a", "mlbench-b"), ("10.77.31.1", "10.77.31.2"), 29531
#: Seconds after which a node that has not noticed is called hanging.
PATIENCE = 300
#: What a collective operation may take ($MLBENCH_PEER_SECONDS).
TIMEOUT = 20


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def cabled() -> Iterator[None]:
    """Two namespaces with a virtual cable between them; both are gone afterwards."""
    try:
        for node in NODES:
            ip("netns", "add", node)
            ip("-n", node, "link", "set", "lo", "up")
        ip("link", "add", "wire", "netns", NODES[0], "type", "veth", "peer", "name", "wire", "netns", NODES[1])
        for node, address in zip(NODES, ADDRESSES, strict=True):
            ip("-n", node, "addr", "add", f"{address}/24", "dev", "wire")
            ip("-n", node, "link", "set", "wire", "up")
        yield
    finally:
        for node in NODES:
            subprocess.run(["ip", "netns", "del", node], capture_output=True)


def start(rank: int, store: Path, data: Path, port: int, resume: bool) -> subprocess.Popen[str]:
    """The run's process on node `rank`, in a process group of its own, told what `accelerate launch` tells its own.

    A launcher that is left waits up to five minutes for the other one before it ends: of it nothing is measured.
    """
    script = [sys.executable, __file__, "--node", str(store), "--data", str(data), *(["--resume"] if resume else [])]
    told = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}
    told |= {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    told |= {"GLOO_SOCKET_IFNAME": "wire", "MLBENCH_PEER_SECONDS": TIMEOUT}
    settings = {name: str(value) for name, value in told.items()}
    return subprocess.Popen(
        ["ip", "netns", "exec", NODES[rank], *script],
        env=os.environ | settings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(nodes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit status and last words of each node."""
    found = []
    for node in nodes:
        try:
            words, _ = node.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
            node.communicate()
            found.append((-1, "hangs"))
            continue
        lines = [line for line in words.splitlines() if line.startswith("error: ")]
        found.append((node.returncode, (lines or words.splitlines() or [""])[-1][:200]))
    return found


def lose(how: str, nodes: list[subprocess.Popen[str]], store: Path) -> float:
    """Wait for a checkpoint, then lose the second node; returns when that was."""
    begun = time.monotonic()
    while not list(store.glob("*/checkpoint*")):
        if time.monotonic() - begun > PATIENCE or nodes[0].poll() is not None:
            raise click.ClickException(f"no checkpoint in {store}: {finish(nodes)}")
        time.sleep(0.2)
    time.sleep(1.0)
    if how == "killed":
        os.killpg(nodes[1].pid, signal.SIGKILL)
    else:
        ip("-n", NODES[1], "link", "set", "wire", "down")
    return time.monotonic()


def measure(how: str, scratch: Path, data: Path, port: int) -> dict[str, Any]:
    store = scratch / how
    nodes = [start(rank, store, data, port, False) for rank in range(2)]
    lost = lose(how, nodes, store) if how != "undisturbed" else time.monotonic()
    ((status, words),) = finish(nodes[:1])
    found: dict[str, Any] = {"status": status, "said": words, "seconds_until_the_other_ended": time.monotonic() - lost}
    finish(nodes[1:])
    if how == "cut":
        ip("-n", NODES[1], "link", "set", "wire", "up")
    if how != "undisturbed":
        found["records_before_resume"] = len(find_records(store)[0])
        found["resumed_status"] = [
            code for code, _ in finish([start(r, store, data, port + 1, True) for r in range(2)])
        ]
    ((record,), _) = find_records(store)
    return found | {
        "predictions": record["predictions"]["test"]["sha256"],
        "processes": record["provenance"]["processes"],
    }


def work(store: Path, data: Path, resume: bool) -> None:
    """What each node does: as `mlbench run`, with a checkpoint after each step."""
    changes = {"train.epochs": 2, "train.image_size": 48, "train.batch_size": 8}
    given = {"data_root": data, "backbone": "scenes", "track": "full", "changes": changes}
    options = Options(store, resume=resume, device="cpu", quiet=True, checkpoint_seconds=0.0)
    try:
        run(Request("single_positive", "an", "voc2012", **given), options)
        leave()
    except MlbenchError as error:
        click.echo(f"error: {error}", err=True)
        sys.stderr.flush()
        os._exit(error.exit_code)


@click.command(help=__doc__)
@OUTPUT
@click.option("--node", type=click.Path(path_type=Path), hidden=True)
@click.option("--data", type=click.Path(path_type=Path), hidden=True)
@click.option("--resume", is_flag=True, hidden=True)
def main(output: Path, node: Path | None, data: Path | None, resume: bool) -> None:
    if node is not None and data is not None:
        work(node, data, resume)
        return
    measure_all(output)


def measure_all(output: Path) -> None:
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place, cabled():
        scratch = Path(place)
        os.environ["MLBENCH_CACHE"] = str(scratch / "cache")
        data = make("voc2012", scratch / "voc", images=60)
        for number, how in enumerate(("undisturbed", "killed", "cut")):
            found[how] = measure(how, scratch, data, PORT + 2 * number)
            click.echo(f"{how}: {found[how]}", err=True)
    rows = []
    for how, one in found.items():
        same = one["predictions"] == found["undisturbed"]["predictions"]
        ended = "" if how == "undisturbed" else f"{one['seconds_until_the_other_ended']:.0f}"
        rows.append((how, one["status"], ended, one["said"], one.get("resumed_status", ""), "yes" if same else "NO"))
    heads = [
        "the second node is",
        "exit status of the first",
        "s until it ended",
        "it said",
        "resumed",
        "same predictions",
    ]
    write(output, "two_nodes", about(timeout_s=TIMEOUT), found, markdown(rows, heads))


if __name__ == "__main__":
    main()
