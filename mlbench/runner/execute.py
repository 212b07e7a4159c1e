"""`run`: train a method under a protocol, select, predict, score, and write one record."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlbench.annotation import save_mask
from mlbench.class_groups import groups_for
from mlbench.errors import DataError, MethodError, MlbenchError, UsageError, unknown
from mlbench.locks import locked
from mlbench.methods import Method, Phase, Prediction
from mlbench.paths import store_dir
from mlbench.predictions import read_predictions, write_predictions
from mlbench.progress import Reporter
from mlbench.provenance import start_of
from mlbench.runner.checkpoint import (
    CHECKPOINT_FILE,
    Kept,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from mlbench.runner.crops import check_last_phase
from mlbench.runner.evaluate import predict_part
from mlbench.runner.feed import Feed, OpenedFeatures
from mlbench.runner.forensics import rates_by_class
from mlbench.runner.hooks import calling, check_weights, code_of, network_of, phases_of, tensors_of
from mlbench.runner.loop import PhaseLoop
from mlbench.runner.plan import Request, Run, resolve, used_requests
from mlbench.runner.recording import compose_record, predictions_of
from mlbench.runner.task import Task
from mlbench.runner.world import World
from mlbench.scoring import ap_by_class, observed_map, score_predictions
from mlbench.seeds import derive
from mlbench.selection import epochs_that_disagree, select
from mlbench.store import RECORD_FILE, atomic_write, read_record, run_dir, sha256_file, write_record

#: Where the traceback of a method that failed is.
ERROR_LOG = "error.log"


#: Bytes of predictions that a run keeps of its epochs without being asked.
KEPT_UNASKED = 2**28
KEEP = ("auto", "epochs", "selected")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is executed; none of it may change its numbers.

    `keep` says of which epochs the predictions stay: "epochs" (all), "selected", or "auto", all where together they are
    small. `on_checkpoint` is called after each checkpoint. `opened` holds features that several runs share. `remark` is
    added to the record's notes.
    """

    store: Path = dataclasses.field(default_factory=store_dir)
    resume: bool = False
    again: bool = False
    keep: str = "auto"
    device: str = "auto"
    checkpoint_seconds: float = 30.0
    quiet: bool = False
    command: Sequence[str] = ()
    on_checkpoint: Callable[[], None] | None = None
    opened: OpenedFeatures | None = None
    remark: str = ""

    def __post_init__(self) -> None:
        if self.keep not in KEEP:
            raise unknown("choice", self.keep, KEEP, "--keep")
        try:
            str(self.store).encode()
        except UnicodeEncodeError:  # libraries that write into it take no other names
            raise UsageError(f"{str(self.store)!r}: the name of the run store is not valid UTF-8") from None


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
        self.kept = Kept(self.folder)

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
        with contextlib.ExitStack() as held:
            held.callback(self.world.release)
            problem: Any = None
            if self.world.main:
                try:
                    record = self._begin(held)
                except MlbenchError as error:
                    problem = error
            problem, record = self.world.agree((problem, record))  # type: ignore[misc]
            if problem is not None:
                raise problem
            if record is not None:
                self.reporter.say(f"{_title(run)}: was finished meanwhile ({self.folder})")
                return record
            try:
                return self._train_and_score(used)
            except MethodError as error:
                raise self._with_log(error) from error.__cause__

    def _begin(self, held: contextlib.ExitStack) -> dict[str, Any] | None:
        """Take the run's lock until `held` is left, and look again: the record, if another process has finished it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self.folder / "lock"
            lock.touch()
        except OSError as error:
            raise MlbenchError(f"cannot write in {self.options.store}: {error.strerror}") from None
        busy = f"{_title(self.run)} is being run by another process ({self.folder})"
        held.enter_context(locked(lock, wait=False, busy=busy))
        record = None if self.options.again else self._finished()
        if record is None:
            (self.folder / RECORD_FILE).unlink(missing_ok=True)  # with --again, the files below are about to change
            (self.folder / ERROR_LOG).unlink(missing_ok=True)
            for half in self.folder.rglob(".*.tmp"):  # what a process wrote that was killed
                half.unlink()
        return record

    def _with_log(self, error: MethodError) -> MethodError:
        """`error`, its traceback written into the run's folder."""
        log, text = self.folder / ERROR_LOG, "".join(traceback.format_exception(error))
        try:
            atomic_write(log, text.encode("utf-8", "backslashreplace"))
        except MlbenchError:  # a full disk must not hide what went wrong first
            return error
        return MethodError(f"{error} (traceback: {log})")

    def _finished(self) -> dict[str, Any] | None:
        path = self.folder / RECORD_FILE
        return read_record(path) if path.exists() else None

    # -- training -----------------------------------------------------------------------------------------------

    def _train_and_score(self, used: dict[str, dict[str, Any]]) -> dict[str, Any]:
        run, started = self.run, datetime.datetime.now(datetime.UTC)
        clock = time.perf_counter()
        self.code = code_of(run.method)  # once: the files may change while this process goes on with what it loaded
        checkpoint = self._checkpoint() if self.options.resume else None
        if checkpoint is not None:
            self.reporter.say(f"{_title(run)}: going on after a stop in phase '{checkpoint['phase']}'")
        elif self.world.main and (self.folder / CHECKPOINT_FILE).exists():
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
        self.kept = Kept(self.folder, checkpoint["kept"] if checkpoint else None)
        self.starts = [*(checkpoint["starts"] if checkpoint else []), start_of(self.world.size, started)]
        method, network = self._new_method(task), None
        phases = phases_of(method, used)
        check_last_phase(run.protocol, run.method, phases)
        selected: dict[str, Any] = {"phase": "none", "epoch": 0, "rule": "last"}
        for number, phase in enumerate(phases):
            final = number == len(phases) - 1
            handed = f"phase-{phase.name}.safetensors"
            if checkpoint is not None and number < checkpoint["phase_number"]:
                task.artefacts[phase.name] = self.kept.load(handed)
                continue
            resumed = checkpoint if checkpoint is not None and number == checkpoint["phase_number"] else None
            network, chosen = self._train_phase(task, method, phase, number, final, resumed, epochs, clock, seconds)
            rule = run.selection if phase.selection == "run" else phase.selection
            selected = {"phase": phase.name, "epoch": chosen, "rule": rule}
            with calling(method, "handover", phase.name):
                found = tensors_of(method, "handover", method.handover(phase, network))
            handover = {name: tensor.detach().cpu() for name, tensor in found.items()}
            if self.world.main:
                self.kept.save(handed, handover, {"phase": phase.name, "key": run.key})
                self.kept.forget(_best_file(phase, chosen))
            self.world.accelerator.wait_for_everyone()
            task.artefacts[phase.name] = handover
            if not final:  # what trained it holds itself by cycles, and may be large
                found, network = {}, None
                gc.collect()
        if network is None:
            network = network_of(method, Phase("evaluate")).to(self.world.device)
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

    def _checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint to go on from; MlbenchError if it was made by other code of the method."""
        path = self.folder / CHECKPOINT_FILE
        checkpoint = load_checkpoint(path, self.run.key)
        if checkpoint is not None and checkpoint["code"] != self.code:
            raise MlbenchError(
                f"the code of method '{self.run.method.name}' was changed after the run was stopped: going on would "
                f"mix two codes in one record. Start it anew without --resume, or delete {path}"
            )
        return checkpoint

    def _new_method(self, task: Task) -> Method:
        with calling(self.run.method, "__init__"):
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
        network = network_of(method, phase)
        roles = {name.partition(".")[0] for name, _ in network.named_parameters()}
        for role in sorted(task.train.lr_multipliers.keys() - roles):
            found = f"the network of phase '{phase.name}' has {', '.join(sorted(roles))}"
            self.reporter.say(f"note: lr_multipliers.{role} has no effect: {found}")
        loop = PhaseLoop(task, method, phase, network, world, feed)
        if resumed is not None:
            loop.load_state_dict(resumed["loop"])
            world.set_rng_state(resumed["rng"])
        rule = run.selection if phase.selection == "run" else phase.selection
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
                state |= {"kept": self.kept.hashes, "starts": self.starts, "code": self.code}
                save_checkpoint(
                    self.folder / CHECKPOINT_FILE, state | {"loop": loop.state_dict(), "rng": rng, "seconds": spent}
                )
                self.kept.checkpointed()
            last_saved = time.perf_counter()
            if self.options.on_checkpoint is not None:
                self.options.on_checkpoint()

        while not loop.done:
            note = _val_map(mine[-1]) if mine else ""
            title = f"{_title(run)} {phase.name} {loop.position.epoch}/{loop.settings.epochs}"
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
                    self.kept.save(_best_file(phase, here), network.state_dict(), about)
                    self.kept.forget(_best_file(phase, before_it))
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
        self.kept.hashes = world.agree(self.kept.hashes)  # type: ignore[assignment]
        network.load_state_dict(self.kept.load(_best_file(phase, chosen)))
        network.to(world.device)
        loop.end()
        return network, chosen

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
            seen = predict_part(network, method.predict, self._feed_of(method), name, self.world, None, phase.source)
            predicted[name] = seen
            found[kept] = self._quick_scores(seen.scores.numpy(), name)
        return self.world.agree(found), predicted  # type: ignore[return-value]

    def _keep_epoch(
        self, epoch: int, best: int, better: bool, seen: dict[str, Prediction], findings: dict[str, np.ndarray]
    ) -> None:
        """Write down what was predicted in `epoch` of the last phase; is it `better` than `best`, selected so far?"""
        if not (better or self._keeps_all):
            return
        for name, prediction in seen.items():
            found = predictions_of(self.run, prediction, name, epoch)
            self.kept.save_predictions(_epoch_file(epoch, name), found)
        if findings:
            counts = {kind: torch.from_numpy(found) for kind, found in findings.items()}
            self.kept.save(_epoch_file(epoch, "forensics"), counts, {"key": self.run.key})
        if not self._keeps_all:
            for name in (*seen, "forensics"):
                self.kept.forget(_epoch_file(best, name))

    @property
    def _keeps_all(self) -> bool:
        """Whether the predictions of all epochs stay, and not only those of the selected one."""
        run = self.run
        rows = sum(len(part) for name, part in run.parts.items() if name != "train")
        size = 4 * rows * len(run.dataset.classes) * run.train.epochs
        return self.options.keep == "epochs" or (self.options.keep == "auto" and size <= KEPT_UNASKED)

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
                    digest = self.kept.copy(_epoch_file(selected["epoch"], name), target)
            else:
                seen = predict_part(network, method.predict, task._feed, name, world)
                if world.main:
                    digest = write_predictions(target, predictions_of(run, seen, name, 0))
            if world.main:
                part = run.parts[name]
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
            check_weights(run.method, network, "in the end")
            findings = _epoch_file(selected["epoch"], "forensics")
            if findings in self.kept.hashes:
                counts = {kind: found.numpy() for kind, found in self.kept.load(findings).items()}
                per_class |= rates_by_class(counts, run.dataset.classes)
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
                starts=self.starts,
                remark=self.options.remark,
            )
            contradictions = epochs_that_disagree(record)
            if contradictions:
                raise DataError(f"{self.folder}: nothing is recorded: {contradictions[0]}")
            write_record(self.options.store, record)
            (self.folder / CHECKPOINT_FILE).unlink(missing_ok=True)
            for name in list(self.kept.hashes):
                if name.startswith("best-") or (name.startswith("epochs/") and not self._keeps_all):
                    self.kept.forget(name)
            self.kept.checkpointed()
            self._tell(record)
        return world.agree(record)  # type: ignore[return-value]

    def _tell(self, record: dict[str, Any]) -> None:
        test = record["results"]["test"]
        shown = ", ".join(
            f"{name} {test[name]:.2f}" for name in ("mAP", "F1-C_mean", "F1-O") if test.get(name) is not None
        )
        self.reporter.say(f"{_title(self.run)}: test {shown}; record {self.folder / 'record.json'}")


def _epoch_file(epoch: int, name: str) -> str:
    return f"epochs/{epoch:03d}-{name}.safetensors"


def _best_file(phase: Phase, epoch: int) -> str:
    """One file an epoch: a run that goes on must find the one that its checkpoint means, whatever came after."""
    return f"best-{phase.name}-{epoch:03d}.safetensors"


def _selected_epoch(rows: list[dict[str, Any]], rule: str) -> int:
    """The epoch that `rule` selects among `rows`; 0 if there are none."""
    return int(rows[select([row["val"] for row in rows], rule)]["epoch"]) if rows else 0


def _val_map(row: dict[str, Any]) -> str:
    """An epoch's validation mAP for the screen, or nothing where there is none."""
    value = row["val"].get("mAP")
    return "" if value is None else f"val mAP {value:.2f}"


def _title(run: Run) -> str:
    return f"{run.method.name} on {run.dataset.id} ({run.protocol.name}, {run.track}, seed {run.seed})"
