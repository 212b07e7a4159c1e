"""Experiment trackers (TensorBoard and others) through Accelerate: what training says, epoch by epoch. Off by default.

They see losses, rates and validation values, never test values, and decide no number of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlbench.errors import UsageError, unknown

#: What each tracker is started with, of a run's key and the folder for logs; its name there is the key.
STARTS: Mapping[str, Callable[[str, Path], dict[str, Any]]] = {
    "tensorboard": lambda key, folder: {"run_name": key, "logging_dir": folder},
    "wandb": lambda key, folder: {"run_name": "mlbench", "name": key, "dir": str(folder)},
    "mlflow": lambda key, folder: {"experiment_name": "mlbench", "logging_dir": folder, "run_name": key},
    "comet_ml": lambda key, folder: {"run_name": "mlbench", "experiment_key": key[:50]},
}


def check_trackers(names: Sequence[str]) -> None:
    """UsageError for a tracker that is not known here, or not installed."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    installed = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    for name in names:
        if name not in STARTS:
            raise unknown("tracker", name, STARTS, "--log-to")
        if name not in installed:
            raise UsageError(f"--log-to {name}: its package is not installed here (pip install {name})")


class Trackers:
    """The trackers of one run; only the main process has any.

    Where one cannot be written to, that is said once and training goes on without it.
    """

    def __init__(self, names: Sequence[str], key: str, folder: Path, say: Callable[[str], None]) -> None:
        self._say, self._open = say, {name: _start(name, key, folder) for name in dict.fromkeys(names)}

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write `values` by name, those that are numbers, as of `step`."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        for name, tracker in list(self._open.items()):
            try:
                tracker.log(numbers, step=step)
            except Exception as error:  # whatever a tracker's own code or its server makes of it
                self._say(f"note: --log-to {name} stopped: {error}")
                del self._open[name]

    def finish(self) -> None:
        """The run is over."""
        for name, tracker in self._open.items():
            try:
                tracker.finish()
            except Exception as error:
                self._say(f"note: --log-to {name} did not end well: {error}")


def _start(name: str, key: str, folder: Path) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    try:
        tracker = LOGGER_TYPE_TO_CLASS[name](**STARTS[name](key, folder))
        tracker.start()
    except Exception as error:
        raise UsageError(f"--log-to {name}: cannot be started: {error}") from error
    return tracker


def epoch_values(row: Mapping[str, Any], rates: Mapping[str, float]) -> dict[str, float | None]:
    """What trackers are told of an epoch, by name, of its row in the record and the rates of its end by role."""
    phase = row["phase"]
    found = {f"{phase}/loss": row["loss"], f"{phase}/images per second": row["images_per_s"]}
    found |= {f"{phase}/{name}": value for name, value in row["log"].items()}
    found |= {f"{phase}/rate of {role}": rate for role, rate in rates.items()}
    return found | {f"{phase}/validation {name}": value for name, value in row["val"].items()}
