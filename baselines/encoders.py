"""A backbone that `bce` trained first, for methods that are laid out for features of a trained network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlbench.errors import UsageError
from mlbench.methods import Hyper, Task, Uses

ENCODER = {
    "encoder": Hyper("start", "the backbone: as the run starts it, or as 'bce' trained it", choices=("start", "bce")),
    "encoder.epochs": Hyper(0, "epochs of that training, 0: those of the run", low=0, high=10000),
}


def uses_encoder(hyper: Mapping[str, Any]) -> Mapping[str, Uses]:
    """The run that trains the backbone, where `hyper` asks for one."""
    epochs = {"train.epochs": hyper["encoder.epochs"]} if hyper["encoder.epochs"] else {}
    return {} if hyper["encoder"] == "start" else {"encoder": Uses("bce", epochs)}


def make_encoder(task: Task) -> Any:
    """The backbone that the hyperparameters of `ENCODER` ask for; UsageError where features are fixed already."""
    if task.hyper["encoder"] != "start" and task.track == "head":
        raise UsageError("encoder = 'bce' has no effect on track 'head', where features are fixed")
    trunk: Any = task.backbone()
    trained, prefix = task.artefacts.get("encoder", {}), "backbone."
    if trained:
        trunk.load_state_dict({k.removeprefix(prefix): v for k, v in trained.items() if k.startswith(prefix)})
    return trunk
