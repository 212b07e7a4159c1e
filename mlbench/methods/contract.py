"""The method contract: what a method declares, what it is given, and which steps it may replace.

A method that is only a loss overrides `Method.loss`. Everything else has a default that does the plain thing.
`docs/add-a-method.md` shows the axes one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mlbench.catalogue.declared import HEAD_HYPERPARAMETERS as HEAD_HYPERPARAMETERS
from mlbench.catalogue.declared import Declared
from mlbench.errors import UsageError, unknown
from mlbench.inputs.placement import Placement
from mlbench.inputs.views import View
from mlbench.methods.labels import Labels
from mlbench.models.heads import HeadSpec
from mlbench.settings import Hyper as Hyper

if TYPE_CHECKING:
    from mlbench.methods.task import Task
    from mlbench.settings import TrainSettings

#: What a method may be told beyond the observed labels (shown in record and table).
SUPERVISION = ("observed", "full", "oracle_negatives", "label_count", "boxes", "tags", "vl_scores")


@dataclass(frozen=True)
class Phase:
    """One stage of training.

    `train` changes the run's settings for this stage: keys of `TrainSettings` with values that win over protocol and
    command line, or a function of the run's settings that returns such changes. `roles` are the parameter roles
    trained (None: all); the rest is frozen. `source` "images" gives what the track has; "pooled" the pooled features
    of the untouched backbone, cached. `selection` says which epoch's weights count: "run" (the protocol's rule) or
    "last" (for a phase that validation mAP cannot judge).
    """

    name: str = "train"
    train: Mapping[str, Any] | Callable[[TrainSettings], Mapping[str, Any]] = field(default_factory=dict)
    roles: tuple[str, ...] | None = None
    source: str = "images"
    selection: str = "run"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}", self.name):
            raise UsageError(
                f"phase {self.name!r}: expected a name of letters, digits, spaces and ._+- (files and record carry it)"
            )
        for kind, value, known in (
            ("source", self.source, ("images", "pooled")),
            ("selection", self.selection, ("run", "last")),
        ):
            if value not in known:
                raise unknown(kind, value, known, f"phase '{self.name}'")


@dataclass(frozen=True)
class Uses:
    """Another method's trained weights that this one needs (a teacher, the model it evaluates).

    It is trained once under the same protocol, data, mask and repetition, and found again by its key. `backbone` names
    one that is not the run's own; it starts from the weights that are found for it.
    """

    method: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    backbone: str | None = None


@dataclass
class Batch:
    """One batch on the device.

    inputs : float [B, 3, H, W] images, or feature maps [B, D, h, w] on track `head`.
    index : int64 [B] rows of the part the batch is from. labels : training labels; None in inference.
    views : inputs by view name, where the method declares views (`inputs` is then the first view).
    placements : by view name, how the images lie in it: `align` and `valid` for heat maps of that view.
    side : further inputs by name, where the method declares `inputs` ("boxes", "proposals", "tags", "vl_scores"); on
        the device if they are tensors or lists of tensors. "boxes" are ground truth: empty in inference. Boxes and
        proposals are in shares of the image's width and height and follow it when it is mirrored; tags are bool [B, T];
        "vl_scores" float [B, C], as their file has them.
    part : name of the part that `index` counts in ("train", "val", "test"), in training and in inference.
    """

    inputs: Tensor
    index: Tensor
    labels: Labels | None = None
    views: Mapping[str, Tensor] = field(default_factory=dict)
    placements: Mapping[str, Placement] = field(default_factory=dict)
    side: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""


@dataclass
class Step:
    """Where training stands, and the way to the rest of the batch.

    epoch counts from 1 in each phase; batch_size is the real size of the whole batch, over all processes.
    """

    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int
    batch_size: int
    gather: Callable[[Tensor], Tensor]
    whole: Callable[[], Labels]


class Prediction(NamedTuple):
    """Scores [B, C] and, for methods that decide by a rule of their own, decisions [B, C]."""

    scores: Tensor
    decisions: Tensor | None = None


class Method(Declared):
    """Base of every method. The class docstring is its card, whose first line is the title; name the source there too.

    `mlbench show` and the site print its paragraphs. What a method from a paper has to tell, it best tells in some that
    begin with "Faithful:", "Substituted:", "Scores:" (what mAP ranks, where that is not the logits of a classifier),
    "Cost:" (of an image at inference) and "Source:".

    Class attributes
    ----------------
    version : raise it when the same settings give other numbers.
    tracks : "head" (frozen backbone, cached features) and/or "full" (end to end).
    supervision : what the method is given, from `SUPERVISION`.
    batch_global : the loss looks across the whole batch (a top-k, a batch mean inside a square): logits and labels
        of all processes are brought together first, and gradient accumulation is refused.
    reduction : how the loss grows with the batch, "mean" or "sum"; parts of a batch are weighted accordingly.
    unused_parameters : some trained parameters take no part in some steps (costs time with several processes).
    stochastic : draws in training differ between processes (dropout), so that one and two need not agree.
    scores : kind of the predictions, "logit", "probability" or "rank"; decision_rule names own decisions.
    level : how close to its paper: "A" faithful, "B" faithful mechanism with settings that were not published, "C" the
        closest mechanism on public parts; shown in the papers' tables, no part of a run's identity.
    hyperparameters : declared values; anything else given with ``--set`` is refused.
    settings_from : methods whose kept settings hold here, too: for each, how their names begin there, and here.
    preset : how the name ends where the rest names a method of the same module whose kept settings hold here, too.
    head : keyword arguments of the default head (alpha_train, alpha_infer).
    needs_head : what the method uses of the head that ``--head`` chooses: "logits" (any head will do), "maps",
        "embeddings" or "weight" as in `mlbench.models.heads.ClassificationHead`; "none" where its network is its own.
    default_head : the head it has where none is asked for.
    views, inputs, uses : see `View`, `Batch.side`, `Uses`.
    settings_file : the TOML file with the method's settings (`settings_for`), in its module's package; where it is
        declared and not installed, no run begins. Without one, ``<module>.toml`` is taken where it is there.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    tracks: ClassVar[tuple[str, ...]] = ("head", "full")
    supervision: ClassVar[tuple[str, ...]] = ("observed",)
    batch_global: ClassVar[bool] = False
    reduction: ClassVar[str] = "mean"
    unused_parameters: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    scores: ClassVar[str] = "logit"
    decision_rule: ClassVar[str] = ""
    level: ClassVar[str] = ""
    hyperparameters: ClassVar[Mapping[str, Hyper]] = {}
    head: ClassVar[Mapping[str, float]] = {}
    settings_from: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    preset: ClassVar[str] = ""
    needs_head: ClassVar[str] = "logits"
    default_head: ClassVar[str] = "linear"
    views: ClassVar[tuple[View, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[Mapping[str, Uses]] = {}
    settings_file: ClassVar[str] = ""

    @classmethod
    def registered_as(cls, name: str) -> type[Method]:
        """This class as the registry has it under `name`; UsageError for a supervision that there is not."""
        for level in cls.supervision:
            if level not in SUPERVISION:
                raise unknown("supervision", level, SUPERVISION)
        own = cls
        if vars(cls).get("name", name) != name:  # one class under two names: each name gets its own
            own = type(cls.__name__, (cls,), {"__doc__": cls.__doc__, "__module__": cls.__module__})
        own.name = name
        return own

    def __init__(self, task: Task) -> None:
        self.task = task
        self.hyper = task.hyper

    # -- the plan -----------------------------------------------------------------------------------------------

    def phases(self) -> Sequence[Phase]:
        """The stages of training, in order; none for a method that only evaluates."""
        return [Phase()]

    def network(self, phase: Phase) -> nn.Module:
        """The module trained in `phase`. A parameter's role is the first part of its name."""
        return self.task.classifier(self.head_spec())

    def head_spec(self) -> HeadSpec:
        """What BoostLU does in the head, by the hyperparameters."""
        alphas = self.hyper["head.alpha_train"], self.hyper["head.alpha_infer"]
        return HeadSpec("linear" if alphas == (1.0, 1.0) else "boostlu", *alphas)

    def refuse_boostlu(self) -> None:
        """UsageError where a head with BoostLU is asked for: for methods that have no such head."""
        if self.head_spec().kind != "linear":
            raise UsageError(f"method '{self.name}' has no class activation maps: head.alpha must stay 1")

    # -- training -----------------------------------------------------------------------------------------------

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        """The loss, float32 [], of logits float32 [B, C] (of the whole batch where `batch_global`).

        UsageError where a method defines neither this nor `training_step`.
        """
        raise UsageError(f"method '{self.name}' defines neither loss nor training_step")

    def training_step(self, network: nn.Module, batch: Batch, step: Step) -> Tensor | dict[str, Tensor]:
        """The loss of one batch, float32 []; a dict of named terms is summed, and each term is logged.

        Where `batch_global`, every tensor with a gradient must pass through `step.gather`, and `step.whole()` are
        the labels of the whole batch.
        """
        logits = network(batch.inputs).logits
        if self.batch_global:
            return self.loss(step.gather(logits), step.whole(), step)
        assert batch.labels is not None
        return self.loss(logits, batch.labels, step)

    def after_step(self, network: nn.Module, step: Step) -> None:
        """Called after each optimiser step."""

    def after_epoch(self, network: nn.Module, step: Step) -> None:
        """Called after each training epoch; may run `task.predict` over the training part and change labels."""

    def handover(self, phase: Phase, network: nn.Module) -> dict[str, Tensor]:
        """Tensors later phases find in ``task.artefacts[phase.name]``, the selected epoch's `network` being loaded.

        A method that uses this one is given the last phase's ``network.state_dict()`` instead.
        """
        return {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of any shape [...] that the method itself must find again after a kill, by name."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave, the same names and shapes [...]."""

    # -- inference ----------------------------------------------------------------------------------------------

    def predict(self, network: nn.Module, batch: Batch) -> Tensor | Prediction:
        """Scores [B, C] of a batch; `network` is in evaluation mode, gradients are off.

        Where `decision_rule` is declared, the last phase must give decisions; earlier phases may leave them out.
        """
        return self.log_odds(network(batch.inputs).logits)

    def log_odds(self, logits: Tensor) -> Tensor:
        """Log-odds of the probabilities that the network's logits [B, C] stand for; by default the logits themselves.

        To be given by a method whose loss is not minimal at the sigmoid of its logits: its link. Decisions at a
        threshold, probabilities and calibration then go by it.
        """
        return logits

    @classmethod
    def decide(cls, scores: Tensor, hyper: Mapping[str, Any]) -> Tensor:
        """Decisions bool [B, C] by `decision_rule` on scores [B, C] averaged over crops of the images.

        To be given by methods that decide on scores alone; the others are refused (UsageError) where a protocol asks
        for crops.
        """
        raise UsageError(f"method '{cls.name}' does not decide on scores alone")

    # -- declarations, resolved ---------------------------------------------------------------------------------

    @classmethod
    def views_for(cls, hyper: Mapping[str, Any]) -> tuple[View, ...]:
        """The views of a training batch under these hyperparameters, the plain one first; `views` by default."""
        return cls.views

    @classmethod
    def dense_bytes(cls, hyper: Mapping[str, Any]) -> int:
        """Bytes of memory for each training image and class that the method cannot do without; 0 by default.

        Where labels are sparse, it is refused before it is trained if there is not so much.
        """
        return 0

    @classmethod
    def uses_for(cls, hyper: Mapping[str, Any]) -> Mapping[str, Uses]:
        """The runs built on under these hyperparameters; `uses` by default."""
        return cls.uses


def private_generator(seed: int) -> torch.Generator:
    """A CPU generator for a method's own draws."""
    return torch.Generator().manual_seed(seed % 2**63)
