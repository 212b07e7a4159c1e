"""Experiment trackers are told of losses, rates and validation by epoch, never of the test set, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlbench.errors import UsageError
from mlbench.runner import trackers
from mlbench.runner.trackers import Trackers, check_trackers


def test_tensorboard_has_each_epoch_under_the_records_key(train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = train("llr", store=tmp_path / "plain")
    record = train("llr", log_to=["tensorboard"])
    for part in ("key", "predictions", "weights", "results"):
        assert record[part] == plain[part]
    events = EventAccumulator(str(tmp_path / "runs" / "logs" / record["key"]))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"train/loss", "train/validation mAP", "train/rate of backbone", "train/rate of head"} <= names
    assert not any("test" in name for name in names)
    for name, values in (("loss", lambda row: row["loss"]), ("validation mAP", lambda row: row["val"]["mAP"])):
        found = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert found == [(i, pytest.approx(values(row))) for i, row in enumerate(record["epochs"], 1)]
    assert events.Scalars("train/rate of head")[0].value == pytest.approx(1e-2)  # ten times that of the backbone


def test_no_tracker_writes_unasked(train, tmp_path: Path) -> None:
    train("an")
    assert not (tmp_path / "runs" / "logs").exists()


def test_a_tracker_unknown_or_not_installed_is_refused_before_training(train, monkeypatch) -> None:
    with pytest.raises(UsageError, match="tensorboard, wandb"):
        train("an", log_to=["tensorbord"])
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(UsageError, match="not installed"):
        train("an", log_to=["wandb"])
    check_trackers(())


class Broken:
    """A tracker whose server is gone."""

    def log(self, values: Any, step: int) -> None:
        raise OSError("gone")

    def finish(self) -> None:
        raise OSError("gone")


def test_a_tracker_that_fails_is_left_out_and_training_goes_on(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trackers, "_start", lambda name, key, folder: Broken())
    said: list[str] = []
    made = Trackers(["wandb", "mlflow"], "key", tmp_path, said.append)
    made.log(1, {"loss": 1.0, "validation mAP": None})
    made.log(2, {"loss": 1.0})
    made.finish()
    assert len(said) == 2
    assert all("gone" in line for line in said)
