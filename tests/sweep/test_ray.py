"""The Ray executor on a real cluster of two nodes on this machine."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.store import find_records
from mlbench.sweep.drive import sweep

pytest.importorskip("ray", reason="Ray is not installed (extra 'cluster')")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head node without processors and two nodes of one each."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.nodes = [made.add_node(num_cpus=1), made.add_node(num_cpus=1)]
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_node_is_lost_and_no_run_is_lost_or_done_twice(
    cluster: Any, write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    grid = write_grid(methods=["an", "llr"], epochs=30, checkpoint_seconds=0.1)
    store = tmp_path / "runs"

    def lose_a_node() -> None:
        while len(list(store.glob("*/checkpoint.pt"))) < 2:  # both nodes are at work
            time.sleep(0.05)
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)

    loss = threading.Thread(target=lose_a_node, daemon=True)
    loss.start()
    outcome = sweep(grid, store=store, executor="ray", quiet=True)
    loss.join(1)
    assert not outcome.failed
    records, problems = find_records(store)
    assert not problems
    assert sorted(record["identity"]["method"]["name"] for record in records) == ["an", "llr"]
    logs = {job: outcome.sweep.log(job).read_text() for job in outcome.sweep.jobs}
    attempts = [len(re.findall("^== attempt", log, re.MULTILINE)) for log in logs.values()]
    assert sorted(attempts) == [1, 2]
    (again,) = (log for log in logs.values() if "== attempt 2" in log)
    assert "going on after a stop in phase 'train'" in again
    for job, log in logs.items():
        assert len(re.findall("test mAP", log)) == 1, job.title
