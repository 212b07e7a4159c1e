"""One process of a run of two on this machine, for test_peers.py; if asked, rank 1 kills itself after a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from mlbench.conformance.suite import make_request
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import MlbenchError
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.runner.world import leave


def main(folder: Path, dies: bool) -> None:
    seen = 0

    def on_checkpoint() -> None:
        nonlocal seen
        seen += 1
        if dies and seen == 3 and os.environ["RANK"] == "1":
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
        print(f"error: {error}", flush=True)
        os._exit(error.exit_code)  # nobody is left to take leave of


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "dies")
