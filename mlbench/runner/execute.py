"""`run`: train a method under a protocol, select, predict, score, and write one record."""

from __future__ import annotations

import dataclasses
import datetime
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlbench.annotation import save_mask
from mlbench.class_groups import groups_for
from mlbench.errors import DataError, MlbenchError
from mlbench.locks import locked
from mlbench.methods import Method, Phase
from mlbench.paths import store_dir
from mlbench.predictions import read_predictions, write_predictions
from mlbench.progress import Reporter
from mlbench.runner.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors
from mlbench.runner.crops import check_last_phase
from mlbench.runner.evaluate import predict_part
from mlbench.runner.feed import Feed, OpenedFeatures
from mlbench.runner.forensics import rates
from mlbench.runner.loop import PhaseLoop
from mlbench.runner.plan import Request, Run, resolve, used_requests
from mlbench.runner.recording import compose_record, predictions_of
from mlbench.runner.scratch import as_array
from mlbench.runner.task import Task
from mlbench.runner.world import World
from mlbench.scoring import ap_by_class, observed_map, score_predictions
from mlbench.seeds import derive
from mlbench.selection import select
from mlbench.store import RECORD_FILE, atomic_write, file_blocks, read_record, run_dir, sha256_file, write_record


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is executed; none of it may change its numbers.

    `on_checkpoint` is called after each checkpoint. `opened` holds features that several runs share. `remark` is added
    to the record's notes.
    """

    store: Path = dataclasses.field(default_factory=store_dir)
    resume: bool = False
    again: bool = False
    device: str = "auto"
    checkpoint_seconds: float = 30.0
    quiet: bool = False
    command: Sequence[str] = ()
    on_checkpoint: Callable[[], None] | None = None
    opened: OpenedFeatures | None = None
    remark: str = ""


def run(request: Request, options: Options | None = None) -> dict[str, Any]:
    """Train and score `request`; returns the record, which is also in the store.

    A finished run is not trained again (unless ``options.again``); an unfinished one goes on from its checkpoint
    where ``options.resume`` says so.
    """
    options = options or Options()
    world = World(options.device, request.precision)
    with Reporter(options.quiet or not world.main) as reporter:
        return _Executor(request, options, world, reporter).execute()


class _Executor:
    """The stages of one run, in order, with what they share."""

    def __init__(self, request: Request, options: Options, world: World, reporter: Reporter) -> None:
        self.options, self.world, self.reporter = options, world, reporter
        self.run = resolve(request)
        self.folder = run_dir(options.store, self.run.key)

    def _run_used(self) -> dict[str, dict[str, Any]]:
        """Make sure that the runs this method builds on are in the store; they are trained once and found by key."""
        records = {}
        for name, wanted in used_requests(self.run).items():
            self.reporter.say(f"'{self.run.method.name}' uses '{wanted.method}' (same protocol, data and seeds)")
            options = dataclasses.replace(self.options, again=False, resume=True)
            records[name] = _Executor(wanted, options, self.world, self.reporter).execute()
        return records

    def execute(self) -> dict[str, Any]:
        run = self.run
        record: Any = None if self.options.again else self.world.agree(self._finished())
        if record is not None:
            self.reporter.say(f"{_title(run)}: already in the store ({self.folder})")
            return record
        used = self._run_used()
        for note in run.notes:
            self.reporter.say(f"note: {note}")
        if run.weights is None and run.backbone != "scenes":
            self.reporter.say(f"note: {run.start.note}")
        self.world.accelerator.wait_for_everyone()
        if not self.world.main:
            return self._train_and_score(used)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self.folder / "lock"
            lock.touch()
        except OSError as error:
            raise MlbenchError(f"cannot write in {self.options.store}: {error.strerror}") from None
        with locked(lock, wait=False, busy=f"{_title(run)} is being run by another process ({self.folder})"):
            (self.folder / RECORD_FILE).unlink(missing_ok=True)  # with --again, the files below are about to change
            for half in self.folder.rglob(".*.tmp"):  # what a process wrote that was killed
                half.unlink()
            return self._train_and_score(used)

    def _finished(self) -> dict[str, Any] | None:
        path = self.folder / RECORD_FILE
        return read_record(path) if path.exists() else None

    # -- training -----------------------------------------------------------------------------------------------

    def _train_and_score(self, used: dict[str, dict[str, Any]]) -> dict[str, Any]:
        run, started = self.run, datetime.datetime.now(datetime.UTC)
        clock = time.perf_counter()
        checkpoint = load_checkpoint(self.folder / "checkpoint.pt", run.key) if self.options.resume else None
        if checkpoint is not None:
            self.reporter.say(f"{_title(run)}: going on after a stop in phase '{checkpoint['phase']}'")
        elif self.world.main and (self.folder / "checkpoint.pt").exists():
            self.reporter.say(f"{_title(run)}: starting anew; --resume would have gone on from the checkpoint")
        if self.world.main:
            save_mask(run.mask, self.folder / "mask.safetensors")
        counter = self.reporter.counter if self.world.main else None
        feed = Feed(run, self.world.device, counter, self.options.opened)
        task = Task(run, self.world, feed)
        for name, record in used.items():
            task.artefacts[name] = self._weights_of(record)
        epochs: list[dict[str, Any]] = list(checkpoint["epochs"]) if checkpoint else []
        seconds = float(checkpoint["seconds"]) if checkpoint else 0.0
        method, network = self._new_method(task), None
        phases = list(method.phases())
        check_last_phase(run.protocol, run.method, phases)
        if len({phase.name for phase in phases} | used.keys()) != len(phases) + len(used):
            raise MlbenchError(f"method '{run.method.name}' has two phases, or a phase and a used method, of one name")
        selected: dict[str, Any] = {"phase": "none", "epoch": 0, "rule": "last"}
        for number, phase in enumerate(phases):
            final = number == len(phases) - 1
            handed = self.folder / f"phase-{phase.name}.safetensors"
            if checkpoint is not None and number < checkpoint["phase_number"]:
                task.artefacts[phase.name] = load_tensors(handed)
                continue
            resumed = checkpoint if checkpoint is not None and number == checkpoint["phase_number"] else None
            network, chosen = self._train_phase(task, method, phase, number, final, resumed, epochs, clock, seconds)
            rule = run.selection if phase.selection == "run" else phase.selection
            selected = {"phase": phase.name, "epoch": chosen, "rule": rule}
            handover = {name: tensor.detach().cpu() for name, tensor in method.handover(phase, network).items()}
            if self.world.main:
                save_tensors(handed, handover, {"phase": phase.name, "key": run.key})
            self.world.accelerator.wait_for_everyone()
            task.artefacts[phase.name] = handover
        if network is None:
            network = method.network(Phase("evaluate")).to(self.world.device)
            feed.prepare([name for name in ("val", "test") if name in run.parts], pooled=False)
        record = self._record(task, method, network, phases, epochs, selected, started, seconds, clock)
        return record

    def _weights_of(self, record: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Weights of a finished run that this one uses, unchanged since its record was written."""
        weights = run_dir(self.options.store, record["key"]) / "weights.safetensors"
        kept = record["weights"]
        if kept is None or not weights.exists() or sha256_file(weights) != kept["sha256"]:
            state = "changed since its record was written" if kept is not None and weights.exists() else "not there"
            raise DataError(
                f"{weights}: the weights of '{record['identity']['method']['name']}' (run {record['key'][:16]}), which "
                f"'{self.run.method.name}' uses, are {state}; `mlbench run` of that method with --again makes them anew"
            )
        return load_tensors(weights)

    def _new_method(self, task: Task) -> Method:
        method = self.run.method(task)
        task.bind(method)
        return method

    def _train_phase(
        self,
        task: Task,
        method: Method,
        phase: Phase,
        number: int,
        final: bool,
        resumed: dict[str, Any] | None,
        epochs: list[dict[str, Any]],
        clock: float,
        before: float,
    ) -> tuple[nn.Module, int]:
        """Train `phase`; returns its network with the selected epoch's weights, and that epoch's number."""
        run, world = self.run, self.world
        task.begin(phase)
        feed = task._feed
        names = ["train", *(["val"] if "val" in run.parts else []), *(["test"] if final else [])]
        feed.prepare(names, pooled=phase.source == "pooled")
        torch.manual_seed(derive("train", run.method.name, run.dataset.id, run.seed, phase.name, world.rank))
        network = method.network(phase)
        roles = {name.partition(".")[0] for name, _ in network.named_parameters()}
        for role in sorted(task.train.lr_multipliers.keys() - roles):
            found = f"the network of phase '{phase.name}' has {', '.join(sorted(roles))}"
            self.reporter.say(f"note: lr_multipliers.{role} has no effect: {found}")
        loop = PhaseLoop(task, method, phase, network, world, feed)
        if resumed is not None:
            loop.load_state_dict(resumed["loop"])
            world.set_rng_state(resumed["rng"])
        rule = run.selection if phase.selection == "run" else phase.selection
        best = self.folder / f"best-{phase.name}.safetensors"
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
                spent = before + time.perf_counter() - clock
                state = {"key": run.key, "phase": phase.name, "phase_number": number, "epochs": list(epochs)}
                save_checkpoint(
                    self.folder / "checkpoint.pt", state | {"loop": loop.state_dict(), "rng": rng, "seconds": spent}
                )
            last_saved = time.perf_counter()
            if self.options.on_checkpoint is not None:
                self.options.on_checkpoint()

        while not loop.done:
            note = _val_map(mine[-1]) if mine else ""
            title = f"{_title(run)} {phase.name} {loop.position.epoch}/{loop.settings.epochs}"
            bar = self.reporter.bar(title, len(run.parts["train"]), loop.position.images, note)
            row = loop.run_epoch(due, save, bar)
            row |= self._epoch_scores(method, network, phase, loop.position.epoch, final)
            if final and loop.findings and world.main:
                counts = {kind: torch.from_numpy(found) for kind, found in loop.findings.items()}
                save_tensors(self._epoch_file(loop.position.epoch, "forensics"), counts, {"key": run.key})
            epochs.append(row)
            mine.append(row)
            position = select([r["val"] for r in mine], rule)
            if position == len(mine) - 1 and world.main:
                save_tensors(best, network.state_dict(), {"epoch": str(loop.position.epoch), "key": run.key})
            shown = f", {_val_map(row)}" if _val_map(row) else ""
            left = row["seconds"] * (loop.settings.epochs - loop.position.epoch)
            self.reporter.say(
                f"{title}: loss {row['loss']:.4f}, {row['images_per_s']:,.0f} images/s{shown}, {left:.0f} s left"
            )
            loop.next_epoch()
            if not (loop.done and final) and due():
                save()
        world.accelerator.wait_for_everyone()
        network.load_state_dict(load_tensors(best))
        network.to(world.device)
        return network, int(mine[select([r["val"] for r in mine], rule)]["epoch"])

    def _epoch_scores(
        self, method: Method, network: nn.Module, phase: Phase, epoch: int, final: bool
    ) -> dict[str, Any]:
        """Validation numbers of this epoch; test numbers are kept too, apart, where no selection reads them."""
        run = self.run
        found: dict[str, dict[str, float | None]] = {"val": {}, "test_sealed": {}}
        for name, kept in (("val", "val"), ("test", "test_sealed")):
            if name not in run.parts or (name == "test" and not final):
                continue
            seen = predict_part(network, method.predict, self._feed_of(method), name, self.world, None, phase.source)
            if final and self.world.main:
                write_predictions(self._epoch_file(epoch, name), predictions_of(run, seen, name, epoch))
            found[kept] = self._quick_scores(as_array(seen.scores), name)
        return self.world.agree(found)  # type: ignore[return-value]

    def _feed_of(self, method: Method) -> Feed:
        return method.task._feed

    def _quick_scores(self, scores: np.ndarray, name: str) -> dict[str, float | None]:
        from mlbench.metrics import mean_average_precision, scores_of_kind

        run, part = self.run, self.run.parts[name]
        rules = run.protocol.metrics
        rule = run.protocol.unspecified_for(run.dataset.id).ap
        ap, known = ap_by_class(scores_of_kind(run.method.scores, scores), part.labels, rule, rules.ap)
        found = {"mAP": 100.0 * mean_average_precision(ap, rules.empty_class, known)}
        if name == "val":
            found["mAP_observed"] = observed_map(scores, run.method.scores, part.observed, rules.empty_class)
        return {key: None if math.isnan(value) else value for key, value in found.items()}

    def _epoch_file(self, epoch: int, name: str) -> Path:
        return self.folder / "epochs" / f"{epoch:03d}-{name}.safetensors"

    # -- the record ---------------------------------------------------------------------------------------------

    def _record(
        self,
        task: Task,
        method: Method,
        network: nn.Module,
        phases: list[Phase],
        epochs: list[dict[str, Any]],
        selected: dict[str, Any],
        started: datetime.datetime,
        before: float,
        clock: float,
    ) -> dict[str, Any]:
        run, world = self.run, self.world
        names = [name for name in ("val", "test") if name in run.parts]
        results, per_class, files = {}, {}, {}
        for name in names:
            target = self.folder / f"{name}.safetensors"
            if phases:
                if world.main:
                    atomic_write(target, file_blocks(self._epoch_file(selected["epoch"], name)))
            else:
                seen = predict_part(network, method.predict, task._feed, name, world)
                if world.main:
                    write_predictions(target, predictions_of(run, seen, name, 0))
            if world.main:
                part = run.parts[name]
                digest = sha256_file(target)
                results[name], classes = score_predictions(
                    read_predictions(target, digest),
                    part.labels,
                    part.split.ids,
                    run.dataset.classes,
                    run.protocol.metrics,
                    run.protocol.unspecified_for(run.dataset.id),
                    groups_for(run.protocol.metrics, run.dataset.splits["train"].labels, run.dataset.classes),
                )
                if name == "test":
                    per_class = classes
                files[name] = {"file": target.name, "sha256": digest, "kind": run.method.scores}
        record: dict[str, Any] | None = None
        if world.main:
            per_class |= self._findings(selected["epoch"])
            weights = self.folder / "weights.safetensors"
            save_tensors(weights, network.state_dict(), {"key": run.key, "method": run.method.name})
            record = compose_record(
                run,
                task.labels.observed,
                phases,
                epochs,
                selected,
                results=results,
                per_class=per_class,
                files=files,
                weights={"file": weights.name, "sha256": sha256_file(weights)},
                started=started,
                seconds=before + time.perf_counter() - clock,
                processes=world.size,
                argv=self.options.command or sys.argv,
                pixels_sha256=task._feed.pixels_sha256(),
                side_sha256=task._feed.side_sha256(),
                remark=self.options.remark,
            )
            write_record(self.options.store, record)
            (self.folder / "checkpoint.pt").unlink(missing_ok=True)
            for phase in phases:
                (self.folder / f"best-{phase.name}.safetensors").unlink(missing_ok=True)
            self._tell(record)
        return world.agree(record)  # type: ignore[return-value]

    def _findings(self, epoch: int) -> dict[str, Any]:
        """Per class, what the method did to unknown labels in the selected epoch (see `Forensics`)."""
        path = self._epoch_file(epoch, "forensics")
        found: dict[str, Any] = {}
        for kind, counts in load_tensors(path).items() if path.exists() else ():
            by_class = [rates(column) for column in counts.numpy().T]
            for name in ("precision", "recall"):
                values = zip(self.run.dataset.classes, by_class, strict=True)
                found[f"{kind}_{name}"] = {c: value[name] for c, value in values}
        return found

    def _tell(self, record: dict[str, Any]) -> None:
        test = record["results"]["test"]
        shown = ", ".join(
            f"{name} {test[name]:.2f}" for name in ("mAP", "F1-C_mean", "F1-O") if test.get(name) is not None
        )
        self.reporter.say(f"{_title(self.run)}: test {shown}; record {self.folder / 'record.json'}")


def _val_map(row: dict[str, Any]) -> str:
    """An epoch's validation mAP for the screen, or nothing where there is none."""
    value = row["val"].get("mAP")
    return "" if value is None else f"val mAP {value:.2f}"


def _title(run: Run) -> str:
    return f"{run.method.name} on {run.dataset.id} ({run.protocol.name}, {run.track}, seed {run.seed})"
