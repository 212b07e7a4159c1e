"""A run killed again and again with SIGKILL, and resumed: run by test_resume.py in a process of its own.

Every attempt is a forked process, so that a kill is a real one and torch is imported only once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import torch._dynamo
import torch.distributed.tensor  # noqa: F401  (both would otherwise be imported by each attempt)

from mlbench.conformance.suite import make_request
from mlbench.conformance.testing import tiny_dataset
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request

CHANGES = {"train.epochs": 3, "train.schedule": "one_cycle"}


def request_of(folder: Path) -> Request:
    request = make_request(load_method("an"), "full", folder, tiny_dataset())
    return replace(request, changes={**request.changes, **CHANGES})


def attempt(folder: Path, store: Path, kill_at: int, delay: float) -> None:
    """Go on with the run; `delay` seconds after checkpoint number `kill_at` of this attempt the process is killed."""
    seen = 0

    def on_checkpoint() -> None:
        nonlocal seen
        seen += 1
        if seen == kill_at:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    options = Options(store, resume=True, device="cpu", quiet=True, checkpoint_seconds=0.0, on_checkpoint=on_checkpoint)
    run(request_of(folder), options)


def in_a_fork(folder: Path, store: Path, kill_at: int, delay: float) -> int:
    """The signal that ended the attempt, 0 if it ran to its end."""
    child = os.fork()
    if not child:
        try:
            attempt(folder, store, kill_at, delay)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("an attempt failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(folder: Path, seeds: int) -> None:
    """Print the signals that ended the attempts, a list a seed."""
    in_a_fork(folder, folder / "whole", 0, 0.0)
    found = []
    for seed in range(seeds):
        draw = random.Random(seed)
        signals: list[int] = []
        while not signals or signals[-1]:
            # The first checkpoint of an attempt is one step after the last of the attempt before: it always gets on.
            kill_at, delay = draw.choice((1, 1, 2, 3)), draw.uniform(0.0, 0.05)
            signals.append(in_a_fork(folder, folder / f"killed-{seed}", kill_at, delay))
        found.append(signals)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
