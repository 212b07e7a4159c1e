"""Training of one phase: batches, steps, validation after each epoch, checkpoints at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.annotation.sparse import map_labels
from mlbench.errors import MlbenchError, UsageError, unknown
from mlbench.methods import Batch, Method, Phase, Step
from mlbench.methods.labels import Change, Labels, Note
from mlbench.models.stages import stage_of, stages
from mlbench.runner.average import WeightAverage
from mlbench.runner.feed import Feed, takes_maps
from mlbench.runner.forensics import Forensics, summary
from mlbench.runner.hooks import PSEUDO_LABELS, calling, check_weights, tensors_of, terms_of
from mlbench.runner.task import RunTask
from mlbench.runner.world import World
from mlbench.seeds import derive, id_hashes, keyed_bits
from mlbench.settings import TrainSettings


class StepModule(nn.Module):
    """One training step as a module, so that everything with a gradient happens inside the wrapped forward."""

    def __init__(self, network: nn.Module, method: Method) -> None:
        super().__init__()
        self.network = network
        self._method = (method,)

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        method = self._method[0]
        with calling(method, "training_step", step.phase):
            loss = method.training_step(self.network, batch, step)
        return terms_of(method, loss)


@dataclass
class Position:
    """Where a phase stands: the epoch (from 1), the next batch in it, and what the epoch has summed up so far."""

    epoch: int = 1
    batch: int = 0
    images: int = 0
    seconds: float = 0.0
    terms: dict[str, Tensor] = field(default_factory=dict)


def epoch_order(hashes: np.ndarray, names: tuple[str | int, ...]) -> np.ndarray:
    """Row order of one epoch: sorted by a draw keyed by (names, sample id), so no library's shuffle is involved.

    `hashes` are those of the sample ids (`mlbench.seeds.id_hashes`).
    """
    return np.argsort(keyed_bits(hashes, derive("order", *names)), kind="stable")


def make_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """One parameter group a role, its learning rate multiplied by the role's factor.

    Where the recipe asks for it, a group is split: by the backbone's stages (`layer_rate`), and into what has weight
    decay and what has none (`decayed`).
    """
    depth = stages(network.get_submodule("backbone")) if settings.layer_rate != 1 and _has_backbone(network) else []
    groups: dict[tuple[str, int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        role, _, rest = name.partition(".")
        below = len(depth) - stage_of(rest, depth) if role == "backbone" and depth else 0
        bare = settings.decayed == "weights" and parameter.ndim <= 1
        lr = settings.lr * settings.lr_multipliers.get(role, 1.0) * settings.layer_rate**below
        group = groups.setdefault((role, -below, bare), {"params": [], "lr": lr, "role": role})
        group["params"].append(parameter)
        if bare:
            group["weight_decay"] = 0.0
    if not groups:
        raise UsageError("this phase has no trainable parameter")
    ordered = [group for _, group in sorted(groups.items(), key=lambda item: item[0])]
    decay = settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam(ordered, weight_decay=decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(ordered, weight_decay=decay)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(ordered, momentum=settings.momentum, weight_decay=decay)
    return torch.optim.RMSprop(ordered, momentum=settings.momentum, weight_decay=decay)


def _has_backbone(network: nn.Module) -> bool:
    return any(name == "backbone" for name, _ in network.named_children())


def make_scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate after each of ``epochs * steps`` optimiser steps.

    "one_cycle" is PyTorch's, which also moves the momentum (Adam's first beta) from 0.95 to 0.85 and back, so that
    `momentum` has no effect. UsageError if its share of steps to warm up is no whole step. Others may begin with
    `warmup_steps`: the k-th step has a share k / `warmup_steps` of the schedule's rate, until it is the whole.
    """
    total = settings.epochs * steps
    if settings.warmup_steps:
        every, rise = settings.step_every * steps, settings.warmup_steps
        shape: dict[str, Callable[[int], float]] = {
            "constant": lambda done: 1.0,
            "cosine": lambda done: (1 + math.cos(math.pi * done / total)) / 2,
            "step": lambda done: settings.step_factor ** (done // every),
        }
        whole = shape[settings.schedule]
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / rise) * whole(done))
    if settings.schedule == "one_cycle":
        if settings.warmup * total <= 1:
            raise UsageError(f"train.warmup = {settings.warmup} of {total} steps leaves one_cycle nothing to rise over")
        peaks = [group["lr"] for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=total, pct_start=settings.warmup)
    if settings.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    if settings.schedule == "step":
        every, factor = settings.step_every * steps, settings.step_factor
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: factor ** (done // every))
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1.0)


def freeze_stages(network: nn.Module, count: int) -> list[nn.Parameter]:
    """Freeze the first `count` stages of the backbone and return their parameters; UsageError if there are fewer."""
    if not count or not _has_backbone(network):
        return []
    of = stages(network.backbone)  # type: ignore[arg-type]
    if count > len(of):
        raise UsageError(f"train.frozen_stages = {count}: the backbone has {len(of)} stages")
    named = network.backbone.named_parameters()  # type: ignore[union-attr,operator]
    frozen = [value for name, value in named if stage_of(name, of) < count and value.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def freeze_other_roles(network: nn.Module, roles: tuple[str, ...] | None) -> list[nn.Parameter]:
    """Freeze the parameters of all roles but `roles` (None: of none) and return them; UsageError for a role the network
    has not. What the method itself froze stays so."""
    parameters = {name: name.partition(".")[0] for name, _ in network.named_parameters()}
    known = {*parameters.values(), *dict(network.named_children())}
    for role in roles or ():
        if role not in known:
            raise unknown("role", role, known, "this phase")
    frozen = [
        parameter
        for name, parameter in network.named_parameters()
        if roles is not None and parameters[name] not in roles and parameter.requires_grad
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def set_training_mode(network: nn.Module, roles: tuple[str, ...] | None, frozen_stages: int = 0) -> None:
    """Training mode, but frozen roles and the backbone's first `frozen_stages` keep their running statistics."""
    network.train()
    for role, module in network.named_children():
        if roles is not None and role not in roles:
            module.eval()
    if frozen_stages and _has_backbone(network):
        for names in stages(network.backbone)[:frozen_stages]:  # type: ignore[arg-type]
            for name in names:
                network.backbone.get_submodule(name).eval()  # type: ignore[union-attr,operator]


class PhaseLoop:
    """Trains one phase from its `position`; `save` is called whenever a checkpoint is due."""

    def __init__(
        self, task: RunTask, method: Method, phase: Phase, network: nn.Module, world: World, feed: Feed
    ) -> None:
        self.task, self.method, self.phase, self.network = task, method, phase, network
        self.world, self.feed = world, feed
        self.settings = task.train
        self.part = feed.run.parts["train"]
        self.steps = math.ceil(len(self.part) / self.settings.batch_size)
        self._frozen = freeze_other_roles(network, phase.roles) + freeze_stages(network, self.settings.frozen_stages)
        network.to(world.device)
        self.hashes = id_hashes(self.part.split.ids)
        self.module = world.prepare(StepModule(network, method), method.unused_parameters)
        self.optimizer = make_optimizer(network, self.settings)
        self.scheduler = make_scheduler(self.optimizer, self.settings, self.steps)
        self.average = WeightAverage(network, self.settings.ema) if self.settings.ema else None
        self.position = Position()
        rule = feed.run.protocol.unspecified_for(feed.run.dataset.id).train
        self.forensics = Forensics(map_labels(self.part.labels, rule), task.labels.observed)
        self.findings: dict[str, np.ndarray] = {}

    def run_epoch(self, due: Callable[[], bool], save: Callable[[], None], advance: Callable[[int], None]) -> dict:
        """Finish the present epoch; returns its training record. The caller moves on to the next."""
        here, started = self.position, time.perf_counter()
        before = here.seconds
        names = (self.feed.run.dataset.id, self.feed.run.seed, here.epoch)
        order = epoch_order(self.hashes, names)
        size = self.settings.batch_size
        set_training_mode(self.network, self.phase.roles, self.settings.frozen_stages)
        self.feed.expect("train", self._own_rows(order[here.batch * size :]))
        while here.batch < self.steps:
            rows, rest = np.split(order[here.batch * size :], [size])
            self._step(rows, rest[:size])
            here.batch += 1
            if self.world.device.type == "cpu" or here.batch % 32 == 0:  # elsewhere to look is to wait for the device
                self._check_terms()
            here.images += len(rows)
            here.seconds = before + time.perf_counter() - started
            advance(len(rows))
            if due():
                save()
        self._check_terms()
        with calling(self.method, "after_epoch", self.phase.name):
            self.method.after_epoch(self.network, self._context(len(order), [], order))
        check_weights(type(self.method), self.network, f"after epoch {here.epoch} of phase '{self.phase.name}'")
        self._apply(self.task.take_changes(), replicated=True)
        self.findings = self.forensics.by_class(self.task.labels)
        self.forensics.clear()
        terms = {name: (total / here.images).item() for name, total in sorted(here.terms.items())}
        seconds = before + time.perf_counter() - started
        return {
            "phase": self.phase.name,
            "epoch": here.epoch,
            "loss": sum(terms.values()),
            "seconds": seconds,
            "images_per_s": here.images / seconds,
            "log": terms | {PSEUDO_LABELS: self.task.labels.pseudo_count},
            "forensics": summary(self.findings),
        }

    def _check_terms(self) -> None:
        """MlbenchError if a term of the loss was not finite: it stays so in the epoch's sum."""
        here = self.position
        bad = [name for name, total in sorted(here.terms.items()) if not math.isfinite(total.item())]
        if bad:
            raise MlbenchError(
                f"{', '.join(bad)} of method '{self.method.name}' is not finite in epoch {here.epoch} of phase "
                f"'{self.phase.name}', step {here.batch} of {self.steps} (lr {self.settings.lr:g}): nothing is recorded"
            )

    def end(self) -> None:
        """The phase is over: give its network back as the method made it, and let go of what trained it."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self.world.release()

    def rates(self) -> dict[str, float]:
        """The present learning rate by role, the highest where a role has several."""
        found: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            found[group["role"]] = max(found.get(group["role"], 0.0), group["lr"])
        return found

    def next_epoch(self) -> None:
        self.position = Position(epoch=self.position.epoch + 1)

    @property
    def done(self) -> bool:
        return self.position.epoch > self.settings.epochs

    def terms_without_gradient(self, epochs: int = 3) -> list[str]:
        """Names of loss terms that have gradient zero to every trainable parameter on the first rows, in each of the
        first `epochs` epochs; no step is taken."""
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        index = np.arange(min(len(self.part), self.settings.batch_size))
        alive: set[str] = set()
        names: set[str] = set()
        set_training_mode(self.network, self.phase.roles, self.settings.frozen_stages)
        for epoch in range(1, min(epochs, max(self.settings.epochs, 2)) + 1):
            self.position = Position(epoch=epoch)
            pooled = not takes_maps(self.network)
            batch = self.feed.batch("train", index, epoch, pooled, self.phase.source)
            batch = self.feed.with_labels(batch, index, self.task.labels)
            for name, term in self.module(batch, self._context(len(index), [len(index)], index)).items():
                names.add(name)
                gradients = torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True)
                if any(g is not None and bool(g.abs().max() > 0) for g in gradients):
                    alive.add(name)
        self.position = Position()
        return sorted(names - alive)

    def _pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows of a batch, cut for gradient accumulation."""
        return [piece for piece in np.array_split(rows, self.settings.accumulate) if len(piece)]

    def _own_rows(self, order: np.ndarray) -> np.ndarray:
        """Of the batches that `order` is cut into, what this process loads, in turn."""
        size = self.settings.batch_size
        if self.world.size == 1 or not len(order):  # none are left after a stop behind the last step
            return order
        batches = (order[start : start + size] for start in range(0, len(order), size))
        return np.concatenate([self.world.share(piece)[0] for batch in batches for piece in self._pieces(batch)])

    def _own_index(self, piece: np.ndarray) -> np.ndarray:
        """The rows of `piece` that this process loads; one without rows takes part with weight zero."""
        local, _ = self.world.share(piece)
        return local if len(local) else piece[:1]

    def _step(self, rows: np.ndarray, following: np.ndarray) -> None:
        """Train on `rows`; those of the step after it, `following`, are loaded meanwhile."""
        run = self.feed.run
        pieces = self._pieces(rows)
        coming = [*pieces[1:], *self._pieces(following)[:1]]
        changes: list[Change] = []
        notes: list[Note] = []
        for number, piece in enumerate(pieces):
            local, sizes = self.world.share(piece)
            dummy, index = not len(local), self._own_index(piece)
            pooled = not takes_maps(self.network)
            batch = self.feed.batch("train", index, self.position.epoch, pooled, self.phase.source)
            if number < len(coming):
                after = self._own_index(coming[number])
                self.feed.begin("train", after, self.position.epoch, pooled, self.phase.source)
            batch = self.feed.with_labels(batch, index, self.task.labels)
            whole: list[Labels] = []
            step = self._context(len(rows), sizes, piece, whole)
            if number == len(pieces) - 1:
                terms = self.module(batch, step)
                self._backward(terms, len(index), dummy, len(rows))
            else:
                with self.world.accelerator.no_sync(self.module):
                    terms = self.module(batch, step)
                    self._backward(terms, len(index), dummy, len(rows))
            own = [] if batch.labels is None or dummy else [batch.labels]
            touched = whole if run.method.batch_global else own
            changes += [change for labels in touched for change in labels.pending]
            notes += [note for labels in touched for note in labels.notes]
        if self.settings.clip_norm:
            trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.settings.clip_norm)
        try:
            self.optimizer.step()
        except RuntimeError as error:  # a step that no float can hold
            reason = " ".join(str(error).split())
            raise MlbenchError(
                f"{self.settings.optimizer} cannot take a step of lr {self.settings.lr:g}: {reason}"
            ) from error
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        self._apply(changes, replicated=run.method.batch_global)
        self.forensics.add(self.world.gather_items(notes, replicated=run.method.batch_global))
        with calling(self.method, "after_step", self.phase.name):
            self.method.after_step(self.network, step)

    def _backward(self, terms: dict[str, Tensor], local: int, dummy: bool, total: int) -> None:
        """Scale so that the mean over processes, summed over pieces, is the gradient of the whole batch's loss.

        A batch-global loss is the whole batch's on every process, with gradient through its own rows only.
        """
        if self.method.batch_global:
            share = float(self.world.size)
        elif self.method.reduction == "sum":
            share = 0.0 if dummy else float(self.world.size)
        else:
            share = 0.0 if dummy else self.world.size * local / total
        self.world.backward(sum(terms.values()) * share)  # type: ignore[arg-type]  # there is a term
        for name, term in terms.items():
            part = term.detach()
            if not self.method.batch_global:
                part = self.world.accelerator.reduce(part * (share / self.world.size), "sum")
            kept = self.position.terms.get(name)
            weighted = part.double() * total
            self.position.terms[name] = weighted if kept is None else kept + weighted

    def _context(self, total: int, sizes: list[int], piece: np.ndarray, whole: list[Labels] | None = None) -> Step:
        def whole_labels() -> Labels:
            labels = self.task.labels.rows(piece, self.world.device)
            if whole is not None:
                whole.append(labels)
            return labels

        here = self.position
        return Step(
            phase=self.phase.name,
            epoch=here.epoch,
            epochs=self.settings.epochs,
            step=(here.epoch - 1) * self.steps + here.batch,
            steps=self.settings.epochs * self.steps,
            batch_size=total,
            gather=lambda tensor: self.world.gather(tensor, sizes),
            whole=whole_labels,
        )

    def _apply(self, changes: list[Change], replicated: bool) -> None:
        for change in self.world.gather_items(changes, replicated):
            self.task.labels.apply(change, self.position.epoch)

    # -- what a checkpoint holds --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        here = self.position
        with calling(self.method, "state_dict", self.phase.name):
            own = tensors_of(self.method, "state_dict", self.method.state_dict())
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "labels": self.task.labels.state_dict(),
            "method": own,
            "position": vars(here) | {"terms": dict(here.terms)},
            "forensics": self.forensics.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.task.labels.load_state_dict(saved["labels"])
        with calling(self.method, "load_state_dict", self.phase.name):
            self.method.load_state_dict(saved["method"])
        terms = {name: total.to(self.world.device) for name, total in saved["position"]["terms"].items()}
        self.position = Position(**(saved["position"] | {"terms": terms}))
        self.forensics.load_state_dict(saved["forensics"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
