"""What a method is (`contract`), the labels it sees (`labels`), and that its code was checked (`badge`)."""

from mlbench.methods.contract import (
    SUPERVISION,
    Batch,
    Hyper,
    Method,
    Phase,
    Prediction,
    Step,
    Uses,
    private_generator,
)
from mlbench.methods.task import Task, Used

__all__ = [
    "SUPERVISION",
    "Batch",
    "Hyper",
    "Method",
    "Phase",
    "Prediction",
    "Step",
    "Task",
    "Used",
    "Uses",
    "private_generator",
]
