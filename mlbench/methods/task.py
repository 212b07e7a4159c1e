"""What a method is given, as the contract states it; the runner fulfils it (`mlbench.runner.task`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.settings import TrainSettings

if TYPE_CHECKING:
    from mlbench.methods.contract import Batch
    from mlbench.methods.labels import LabelStore
    from mlbench.models.heads import Classifier, HeadSpec


class Used(NamedTuple):
    """Hyperparameters and training settings of a run that another one builds on."""

    hyper: Mapping[str, Any]
    train: TrainSettings


class Task(Protocol):
    """A method's view of its run.

    Attributes
    ----------
    classes : class names. num_train : training rows. track : "head" or "full". device : where tensors go.
    processes : how many processes train together.
    hyper : hyperparameters by name. train : training settings of the present phase.
    labels : the label store. artefacts : what earlier phases and used methods handed over, by name.
    inputs : what is known of the side inputs, by kind (of "vl_scores", what their file says of itself).
    chosen_head : name of the run's head, empty for the linear one. has_head : whether the method has built it yet.
    """

    classes: tuple[str, ...]
    num_classes: int
    num_train: int
    track: str
    device: torch.device
    processes: int
    hyper: Mapping[str, Any]
    train: TrainSettings
    labels: LabelStore
    artefacts: dict[str, dict[str, Tensor]]
    inputs: Mapping[str, Any]
    chosen_head: str
    has_head: bool

    @property
    def label_count(self) -> float:
        """Mean number of true positives of a training image: for methods that declare supervision "label_count"."""

    @property
    def class_counts(self) -> np.ndarray:
        """int64 [C], true positives of each class in training: for methods that declare supervision "label_count"."""

    def used(self, name: str) -> Used:
        """How the run whose weights are in ``artefacts[name]`` was made."""

    def used_classifier(self, name: str) -> Classifier:
        """Backbone and head of a used run, with the weights in ``artefacts[name]``, to be looked at and not trained.

        UsageError where its inputs would not be the run's.
        """

    def backbone(self) -> nn.Module:
        """The run's backbone at its start; on track `head`, whose inputs are features already, only their width."""

    def feature_width(self) -> nn.Module:
        """In place of the backbone in a phase fed from cached pooled features."""

    def classifier(self, spec: HeadSpec, backbone: nn.Module | None = None) -> Classifier:
        """Backbone and head, started from numbers that all methods share."""

    def predict(self, network: nn.Module, augment: bool = False, epoch: int = 0) -> Tensor:
        """Scores [N, C] of the whole training part by ``method.predict``, on every process, in row order.

        With `augment`, images are augmented as in training epoch `epoch`.
        """

    def total(self, network: nn.Module, compute: Callable[[Batch], int]) -> int:
        """Sum of ``compute(batch)`` over the training part, on every process; `network` says what batches hold.

        For what must not hold the scores of all images at once. Images are not augmented, there is no gradient.
        """

    def plain_batch(self, rows: Tensor, network: nn.Module) -> Batch:
        """The training rows `rows` [n] as `predict` would see them: without augmentation, for `network`."""

    def look(self, network: nn.Module, rows: np.ndarray, compute: Callable[[nn.Module, Batch], Tensor]) -> Tensor:
        """``compute(network, batch)`` [n, ...] of the training rows `rows` [n], in their order, on every process.

        Images are not augmented; `network` is in evaluation mode; there is no gradient. All processes must call it.
        """

    def change_labels(self, rows: Tensor, classes: Tensor, state: State, values: Tensor) -> None:
        """Ask for label changes outside a step (`after_epoch`); every process must ask for the same.

        Rows of the training part and classes int64 [K], the state that these entries get, and soft labels float32 [K].
        """

    def generator(self, name: str) -> torch.Generator:
        """A generator for the method's own draws, different for each `name`, the same on every process."""
