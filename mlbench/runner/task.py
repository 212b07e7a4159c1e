"""What a method is given: its settings, the training labels it may see, and the means to build and to look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.annotation.sparse import count_states, map_labels
from mlbench.errors import MlbenchError
from mlbench.methods import Batch, Phase, private_generator
from mlbench.methods.labels import Change, LabelStore
from mlbench.methods.task import Used
from mlbench.models.backbones import BACKBONES
from mlbench.models.heads import Classifier, HeadSpec
from mlbench.runner.data import training_labels
from mlbench.runner.evaluate import evaluating, evaluation_batch, predict_part, total_over
from mlbench.runner.feed import Feed, start_backbone, takes_maps
from mlbench.runner.plan import Run, phase_settings, resolve, used_requests
from mlbench.runner.world import World
from mlbench.seeds import derive
from mlbench.settings import TrainSettings


class RunTask:
    """A method's view of its run (`mlbench.methods.task.Task`), and what the runner tells it.

    Attributes
    ----------
    classes : class names. num_train : training rows. track : "head" or "full". device : where tensors go.
    processes : how many processes train together.
    hyper : hyperparameters by name. train : training settings of the present phase.
    chosen_head : name of the run's head, empty for the linear one. has_head : whether the method has built it yet.
    labels : the label store. artefacts : what earlier phases and used methods handed over, by name.
    inputs : what is known of the side inputs, by kind (of "vl_scores", what their file says of itself).
    """

    def __init__(self, run: Run, world: World, feed: Feed) -> None:
        part = run.parts["train"]
        rule = run.protocol.unspecified_for(run.dataset.id).train
        self._run, self._world, self._feed = run, world, feed
        self.classes = run.dataset.classes
        self.num_classes = len(self.classes)
        self.num_train = len(part)
        self.track = run.track
        self.device = world.device
        self.processes = world.size
        self.hyper: Mapping[str, Any] = run.hyper
        self.train: TrainSettings = run.train
        self.inputs: Mapping[str, Any] = run.inputs
        self.labels = LabelStore(training_labels(part, run.method.supervision, rule))
        self.chosen_head = run.head.name if run.head.identity else ""
        self.has_head = False
        self.artefacts: dict[str, dict[str, Tensor]] = {}
        self._changes: list[Change] = []
        self._source = "images"
        self._true_positives = count_states(map_labels(part.labels, rule), State.POSITIVE)

    @property
    def label_count(self) -> float:
        """Mean number of true positives of a training image: for methods that declare supervision "label_count"."""
        return float(self._counts_for("label_count").sum() / self.num_train)

    @property
    def class_counts(self) -> np.ndarray:
        """int64 [C], true positives of each class in training: for methods that declare supervision "label_count"."""
        return self._counts_for("class_counts").copy()

    def _counts_for(self, what: str) -> np.ndarray:
        if "label_count" not in self._run.method.supervision:
            raise MlbenchError(
                f"method '{self._run.method.name}' reads {what}, which is computed from full labels, "
                "without declaring 'label_count' in `supervision`"
            )
        return self._true_positives

    def used(self, name: str) -> Used:
        """How the run whose weights are in ``artefacts[name]`` was made."""
        run = resolve(used_requests(self._run)[name])
        return Used(run.hyper, run.train)

    def backbone(self) -> nn.Module:
        """The run's backbone at its start; on track `head`, whose inputs are features already, only their width."""
        return start_backbone(self._run) if self.track == "full" else self.feature_width()

    def feature_width(self) -> nn.Module:
        """In place of the backbone in a phase fed from cached pooled features."""
        return FeatureWidth(BACKBONES[self._run.backbone].out_channels)

    def classifier(self, spec: HeadSpec, backbone: nn.Module | None = None) -> Classifier:
        """Backbone and the run's head, started from numbers that all methods share; `spec` says what BoostLU does."""
        trunk: Any = self.backbone() if backbone is None else backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("init head", self._run.dataset.id, self._run.seed))
            head = self._run.head.build(spec, trunk.out_channels, self.num_classes)
        self.has_head = True
        return Classifier(trunk, head)

    def predict(self, network: nn.Module, augment: bool = False, epoch: int = 0) -> Tensor:
        """Scores [N, C] of the whole training part by ``method.predict``, on every process, in row order.

        With `augment`, images are augmented as in training epoch `epoch`.
        """
        seen = predict_part(
            network, self._method.predict, self._feed, "train", self._world, epoch if augment else None, self._source
        )
        return seen.scores

    def total(self, network: nn.Module, compute: Callable[[Batch], int]) -> int:
        """Sum of ``compute(batch)`` over the training part, on every process; `network` says what batches hold.

        For what must not hold the scores of all images at once. Images are not augmented, there is no gradient.
        """
        return total_over(network, compute, self._feed, "train", self._world, self._source)

    def plain_batch(self, rows: Tensor, network: nn.Module) -> Batch:
        """The training rows `rows` [n] as `predict` would see them: without augmentation, for `network`."""
        return self._feed.batch("train", rows.cpu().numpy(), None, not takes_maps(network), self._source)

    def look(self, network: nn.Module, rows: np.ndarray, compute: Callable[[nn.Module, Batch], Tensor]) -> Tensor:
        """``compute(network, batch)`` [n, ...] of the training rows `rows` [n], in their order, on every process.

        Images are not augmented; `network` is in evaluation mode; there is no gradient. All processes must call it.
        """
        local, sizes = self._world.share(rows)
        local = local if len(local) else rows[:1]  # a process without rows takes part in joining them
        size = evaluation_batch(self.train.image_size if self.track == "full" else 64)
        pieces = [local[start : start + size] for start in range(0, len(local), size)]
        with evaluating(network, self._world), torch.no_grad(), self._world.accelerator.autocast():
            pooled = not takes_maps(network)
            found = [
                compute(network, self._feed.batch("train", piece, None, pooled, self._source)).float()
                for piece in pieces
            ]
        return self._world.gather(torch.cat(found), sizes)

    def change_labels(self, rows: Tensor, classes: Tensor, state: State, values: Tensor) -> None:
        """Ask for label changes outside a step (`after_epoch`); every process must ask for the same."""
        states = np.full(len(rows), int(state), dtype=np.int8)
        self._changes.append(Change(rows.cpu().numpy(), classes.cpu().numpy(), states, values.float().cpu().numpy()))

    def generator(self, name: str) -> torch.Generator:
        """A generator for the method's own draws, different for each `name`, the same on every process."""
        return private_generator(derive("method", self._run.method.name, self._run.dataset.id, self._run.seed, name))

    def take_changes(self) -> list[Change]:
        """The changes asked for since the last call (for the runner)."""
        taken, self._changes = self._changes, []
        return taken

    def begin(self, phase: Phase) -> None:
        """Take on the settings and the source of `phase` (for the runner)."""
        self.train, self._source = phase_settings(self._run, phase), phase.source
        self._feed.settings = self.train

    def bind(self, method: Any) -> None:
        """Tell the task whose predictions `predict` means (for the runner)."""
        self._method = method


class FeatureWidth(nn.Identity):
    """Passes features through, and knows how wide they are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
