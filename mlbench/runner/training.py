"""The phases of a run: each trained, scored after every epoch, stopped and gone on with, its best epoch selected."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlbench.evaluation.scoring import ap_by_class, observed_map
from mlbench.evaluation.selection import select
from mlbench.methods import Method, Phase, Prediction
from mlbench.metrics import mean_average_precision, scores_of_kind
from mlbench.progress import Reporter
from mlbench.runner.checkpoint import CHECKPOINT_FILE, Kept, save_checkpoint
from mlbench.runner.evaluate import predict_part
from mlbench.runner.feed import Feed, takes_maps
from mlbench.runner.hooks import network_of
from mlbench.runner.loop import PhaseLoop
from mlbench.runner.options import Options
from mlbench.runner.plan import Run
from mlbench.runner.recording import predictions_of
from mlbench.runner.scratch import as_array
from mlbench.runner.task import RunTask
from mlbench.runner.world import World
from mlbench.seeds import derive

#: Bytes of predictions that a run keeps of its epochs without being asked.
KEPT_UNASKED = 2**28


@dataclasses.dataclass
class Course:
    """What a run has behind it, for its checkpoints and its record.

    folder : the run's. code : hash of the method's code. starts : all starts so far. kept : its files. epochs : rows of
    the record. before : seconds of earlier starts; clock : when this one began.
    """

    folder: Path
    code: str
    starts: list[dict[str, Any]]
    kept: Kept
    epochs: list[dict[str, Any]]
    before: float
    clock: float = dataclasses.field(default_factory=lambda: time.perf_counter())

    @property
    def seconds(self) -> float:
        """Wall time of all starts, until now."""
        return self.before + time.perf_counter() - self.clock


class PhaseTrainer:
    """Trains the phases of one run, one after another."""

    def __init__(self, feed: Feed, options: Options, world: World, reporter: Reporter, course: Course) -> None:
        self.run, self.feed = feed.run, feed
        self.options, self.world, self.reporter, self.course = options, world, reporter, course

    def train(
        self,
        task: RunTask,
        method: Method,
        phase: Phase,
        number: int,
        final: bool,
        resumed: dict[str, Any] | None,
    ) -> tuple[nn.Module, int]:
        """Train `phase`; returns its network with the selected epoch's weights, and that epoch's number."""
        run, feed, world, course = self.run, self.feed, self.world, self.course
        kept, epochs = course.kept, course.epochs
        task.begin(phase)
        names = ["train", *(["val"] if "val" in run.parts else []), *(["test"] if final else [])]
        network = self._network(method, phase, names)
        roles = {name.partition(".")[0] for name, _ in network.named_parameters()}
        for role in sorted(task.train.lr_multipliers.keys() - roles):
            found = f"the network of phase '{phase.name}' has {', '.join(sorted(roles))}"
            self.reporter.say(f"note: lr_multipliers.{role} has no effect: {found}")
        loop = self.options.probe.phase_loop(PhaseLoop)(task, method, phase, network, world, feed)
        if resumed is not None:
            loop.load_state_dict(resumed["loop"])
            world.set_rng_state(resumed["rng"])
        rule = rule_of(run, phase)
        mine = [row for row in epochs if row["phase"] == phase.name]
        last_saved = time.perf_counter()

        def due() -> bool:
            if self.options.checkpoint_seconds <= 0:
                return True
            if world.size > 1 and loop.position.batch % 16:  # asking the other processes costs a message
                return False
            late = world.agree(time.perf_counter() - last_saved >= self.options.checkpoint_seconds)
            return bool(late)

        def save() -> None:
            nonlocal last_saved
            rng = world.rng_states()
            if world.main:
                state = {"key": run.key, "phase": phase.name, "phase_number": number, "epochs": list(epochs)}
                state |= {"kept": kept.hashes, "starts": course.starts, "code": course.code}
                state |= {"loop": loop.state_dict(), "rng": rng, "seconds": course.seconds}
                save_checkpoint(course.folder / CHECKPOINT_FILE, state)
                kept.checkpointed()
            last_saved = time.perf_counter()
            if self.options.on_checkpoint is not None:
                self.options.on_checkpoint()

        while not loop.done:
            note = _val_map(mine[-1]) if mine else ""
            title = f"{title_of(run)} {phase.name} {loop.position.epoch}/{loop.settings.epochs}"
            bar = self.reporter.bar(title, len(run.parts["train"]), loop.position.images, note)
            row = loop.run_epoch(due, save, bar)
            here = loop.position.epoch
            scores, seen = self._epoch_scores(method, network, phase, final)
            row |= scores
            before_it = _selected_epoch(mine, rule)
            epochs.append(row)
            mine.append(row)
            if world.main:
                better = _selected_epoch(mine, rule) == here
                if better:
                    about = {"epoch": str(here), "key": run.key}
                    kept.save(best_file(phase, here), network.state_dict(), about)
                    kept.forget(best_file(phase, before_it))
                if final:
                    self._keep_epoch(here, before_it, better, seen, loop.findings)
            shown = f", {_val_map(row)}" if _val_map(row) else ""
            left = row["seconds"] * (loop.settings.epochs - loop.position.epoch)
            self.reporter.say(
                f"{title}: loss {row['loss']:.4f}, {row['images_per_s']:,.0f} images/s{shown}, {left:.0f} s left"
            )
            loop.next_epoch()
            if not (loop.done and final) and due():
                save()
        world.accelerator.wait_for_everyone()
        chosen = _selected_epoch(mine, rule)
        kept.hashes = world.agree(kept.hashes)  # type: ignore[assignment]
        network.load_state_dict(kept.load(best_file(phase, chosen)))
        world.accelerator.wait_for_everyone()  # the main process deletes the file once it needs it no more
        network.to(world.device)
        loop.end()
        return network, chosen

    def _network(self, method: Method, phase: Phase, names: Sequence[str]) -> nn.Module:
        """The network of `phase`, with what it needs of the parts `names` loaded."""
        run = self.run
        torch.manual_seed(derive("train", run.method.name, run.dataset.id, run.seed, phase.name, self.world.rank))
        network = network_of(method, phase)
        with torch.random.fork_rng():  # loading draws nothing that training would have drawn
            self.feed.prepare(names, pooled=phase.source == "pooled", maps=takes_maps(network))
        return network

    def _epoch_scores(
        self, method: Method, network: nn.Module, phase: Phase, final: bool
    ) -> tuple[dict[str, Any], dict[str, Prediction]]:
        """Validation numbers of this epoch, and what was predicted; test numbers are kept too, apart, where no
        selection reads them."""
        run = self.run
        found: dict[str, dict[str, float | None]] = {"val": {}, "test_sealed": {}}
        predicted = {}
        for name, kept in (("val", "val"), ("test", "test_sealed")):
            if name not in run.parts or (name == "test" and not final):
                continue
            seen = predict_part(network, method.predict, self.feed, name, self.world, None, phase.source)
            predicted[name] = seen
            found[kept] = self._quick_scores(as_array(seen.scores), name)
        return self.world.agree(found), predicted  # type: ignore[return-value]

    def _keep_epoch(
        self, epoch: int, best: int, better: bool, seen: dict[str, Prediction], findings: dict[str, np.ndarray]
    ) -> None:
        """Write down what was predicted in `epoch` of the last phase; is it `better` than `best`, selected so far?"""
        if not (better or keeps_all(self.run, self.options)):
            return
        for name, prediction in seen.items():
            found = predictions_of(self.run, prediction, name, epoch)
            self.course.kept.save_predictions(epoch_file(epoch, name), found)
        if findings:
            counts = {kind: torch.from_numpy(found) for kind, found in findings.items()}
            self.course.kept.save(epoch_file(epoch, "forensics"), counts, {"key": self.run.key})
        if not keeps_all(self.run, self.options):
            for name in (*seen, "forensics"):
                self.course.kept.forget(epoch_file(best, name))

    def _quick_scores(self, scores: np.ndarray, name: str) -> dict[str, float | None]:
        run, part = self.run, self.run.parts[name]
        rules = run.protocol.metrics
        rule = run.protocol.unspecified_for(run.dataset.id).ap
        ap, known = ap_by_class(scores_of_kind(run.method.scores, scores), part.labels, rule, rules.ap)
        found = {"mAP": 100.0 * mean_average_precision(ap, rules.empty_class, known)}
        if name == "val":
            found["mAP_observed"] = observed_map(scores, run.method.scores, part.observed, rules.empty_class)
        return {key: None if math.isnan(value) else value for key, value in found.items()}


def rule_of(run: Run, phase: Phase) -> str:
    """The rule by which an epoch of `phase` is selected."""
    return run.selection if phase.selection == "run" else phase.selection


def keeps_all(run: Run, options: Options) -> bool:
    """Whether the predictions of all epochs stay, and not only those of the selected one."""
    rows = sum(len(part) for name, part in run.parts.items() if name != "train")
    size = 4 * rows * len(run.dataset.classes) * run.train.epochs
    return options.keep == "epochs" or (options.keep == "auto" and size <= KEPT_UNASKED)


def epoch_file(epoch: int, name: str) -> str:
    return f"epochs/{epoch:03d}-{name}.safetensors"


def best_file(phase: Phase, epoch: int) -> str:
    """One file an epoch: a run that goes on must find the one that its checkpoint means, whatever came after."""
    return f"best-{phase.name}-{epoch:03d}.safetensors"


def _selected_epoch(rows: list[dict[str, Any]], rule: str) -> int:
    """The epoch that `rule` selects among `rows`; 0 if there are none."""
    return int(rows[select([row["val"] for row in rows], rule)]["epoch"]) if rows else 0


def _val_map(row: dict[str, Any]) -> str:
    """An epoch's validation mAP for the screen, or nothing where there is none."""
    value = row["val"].get("mAP")
    return "" if value is None else f"val mAP {value:.2f}"


def title_of(run: Run) -> str:
    return f"{run.method.name} on {run.dataset.id} ({run.protocol.name}, {run.track}, seed {run.seed})"
