"""Grids over the small photographs, sweeps of them in a process of their own, and waiting for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def toml(value: Any) -> str:
    """`value` as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, Path) else value)


@pytest.fixture
def write_grid(tmp_path: Path, photos: Path) -> Callable[..., Path]:
    """Return a function that writes a grid of short runs on the photographs; arguments are keys of the file."""

    def write(name: str = "tiny", **given: Any) -> Path:
        table = {
            "protocol": "single_positive",
            "dataset": str(photos / "mine.toml"),
            "data_root": str(photos),
            "track": "full",
            "backbone": "scenes",
            "methods": ["an"],
            "draws": None if given.keys() & {"seeds", "masks"} else 1,
            "epochs": 2,
            "device": "cpu",
            "set": {"train.image_size": 32, "train.batch_size": 8, "train.lr": 0.01},
        }
        table = {key: value for key, value in {**table, **given}.items() if value is not None}
        path = tmp_path / f"{name}.toml"
        path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in table.items()))
        return path

    return write


@pytest.fixture
def long_run(write_grid: Callable[..., Path]) -> Path:
    """A grid of one run that takes some seconds and keeps a checkpoint each 0.1 s."""
    return write_grid(epochs=40, checkpoint_seconds=0.1)


@pytest.fixture
def start_sweep() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts `mlbench sweep` with the arguments given; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mlbench", "sweep", *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
            # Where the tests run in the background of a shell, Ctrl-C is ignored by all that they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """Return a function that waits until a condition holds, and gives what it found."""

    def wait(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
        until = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < until
            time.sleep(0.05)
        return found

    return wait
