"""A run that was stopped goes on to the same bits; a checkpoint that cannot be used is a clear error."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mlbench.errors import DataError
from mlbench.runner.checkpoint import load_checkpoint, save_checkpoint
from mlbench.runner.plan import resolve
from mlbench.store import find_records

KEPT = ("phase", "epoch", "loss", "val", "test_sealed", "log")


class Stopped(Exception):
    """Stands for a kill."""


def stop_at(number: int) -> Any:
    """A callback that stops the run at its checkpoint `number` (from 1)."""
    left = [number]

    def on_checkpoint() -> None:
        left[0] -= 1
        if not left[0]:
            raise Stopped

    return on_checkpoint


def history(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The epochs of a record without their times."""
    return [{name: row.get(name) for name in KEPT} for row in record["epochs"]]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two records hold the same predictions, weights and history, to the last bit."""
    parts = ("key", "predictions", "weights", "results", "per_class", "selected")
    return all(a[name] == b[name] for name in parts) and history(a) == history(b)


def test_a_run_killed_at_random_steps_ends_with_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("kill_and_resume.py")), str(tmp_path), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (whole,), _ = find_records(tmp_path / "whole")
    files = {path.name for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    for seed, signals in enumerate(json.loads(done.stdout)):
        assert signals == [signal.SIGKILL] * (len(signals) - 1) + [0]
        assert len(signals) >= 3
        (killed,), _ = find_records(tmp_path / f"killed-{seed}")
        assert same(killed, whole)
        assert {path.name for path in (tmp_path / f"killed-{seed}").rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_run_stopped_at_any_checkpoint_ends_with_the_same_bits(train, tmp_path: Path, stop: int) -> None:
    method = "llr" if stop % 2 else "an"
    changes = {"train.schedule": "cosine", "train.optimizer": "sgd"}
    whole = train(method, changes=changes)
    given = {"changes": changes, "store": tmp_path / "stopped", "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        train(method, **given, on_checkpoint=stop_at(stop))
    assert find_records(tmp_path / "stopped") == ([], [])
    assert same(train(method, **given, resume=True), whole)


def stop(train: Any, number: int = 2) -> None:
    with pytest.raises(Stopped):
        train(checkpoint_seconds=0.0, on_checkpoint=stop_at(number))


def test_without_resume_a_stopped_run_starts_anew_and_says_so(train, tmp_path: Path, capsys) -> None:
    stop(train)
    started_anew = train(quiet=False)
    assert "starting anew; --resume would have gone on from the checkpoint" in capsys.readouterr().err
    assert same(started_anew, train(store=tmp_path / "other"))


def test_resuming_says_where_it_goes_on(train, capsys) -> None:
    stop(train)
    train(resume=True, quiet=False)
    assert "going on after a stop in phase 'train'" in capsys.readouterr().err


def test_resuming_what_was_never_started_is_an_ordinary_run(train, tmp_path: Path) -> None:
    assert same(train(resume=True), train(store=tmp_path / "other"))


def checkpoint(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "runs").glob("*/checkpoint.pt")
    return path


@pytest.mark.parametrize("damage", ["cut short", "empty", "no archive", "another thing"])
def test_a_broken_checkpoint_is_named_and_nothing_is_trained(train, tmp_path: Path, damage: str) -> None:
    stop(train)
    path = checkpoint(tmp_path)
    if damage == "another thing":
        torch.save([1, 2], path)
    else:
        content = path.read_bytes()
        path.write_bytes({"cut short": content[: len(content) // 2], "empty": b"", "no archive": b"x" * 99}[damage])
    with pytest.raises(
        DataError, match=r"checkpoint .*checkpoint\.pt (is damaged|belongs).*: delete it to start again"
    ):
        train(resume=True)
    assert not list((tmp_path / "runs").rglob("record.json"))
    path.unlink()
    train(resume=True)


def test_a_checkpoint_of_another_run_is_refused(train, tiny_request, tmp_path: Path) -> None:
    stop(train)
    path = checkpoint(tmp_path)
    held = load_checkpoint(path, resolve(tiny_request()).key)
    assert held is not None
    save_checkpoint(path, {**held, "key": "0" * 64})
    with pytest.raises(DataError, match="belongs to another run: delete it"):
        train(resume=True)


def test_code_in_a_checkpoint_is_never_run(train, tmp_path: Path) -> None:
    stop(train)

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    save_checkpoint(checkpoint(tmp_path), {"key": Evil()})
    with pytest.raises(DataError, match="is damaged or no checkpoint"):
        train(resume=True)
    assert not (tmp_path / "harm").exists()
