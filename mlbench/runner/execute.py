"""`run`: train a method under a protocol, select, predict, score, and write one record."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import sys
import traceback
from typing import Any

import torch
from torch import nn

from mlbench.annotation import save_mask
from mlbench.errors import DataError, MethodError, MlbenchError
from mlbench.evaluation.class_groups import groups_for
from mlbench.evaluation.consistency import contradictions
from mlbench.evaluation.predictions import read_predictions, write_predictions
from mlbench.evaluation.scoring import score_predictions
from mlbench.files import atomic_write, sha256_file
from mlbench.inputs.on_the_fly import warning
from mlbench.locks import locked
from mlbench.methods import Method, Phase
from mlbench.progress import Reporter
from mlbench.provenance import start_of
from mlbench.runner.checkpoint import (
    CHECKPOINT_FILE,
    Kept,
    load_checkpoint,
    load_tensors,
    phase_file,
    save_tensors,
)
from mlbench.runner.crops import check_last_phase
from mlbench.runner.evaluate import predict_part
from mlbench.runner.feed import Feed, takes_maps
from mlbench.runner.forensics import rates_by_class
from mlbench.runner.hooks import calling, check_weights, code_of, network_of, phases_of, tensors_of
from mlbench.runner.options import Options
from mlbench.runner.plan import ALL_EMBEDDED, Request, resolve, used_requests
from mlbench.runner.recording import Outcome, compose_record, predictions_of
from mlbench.runner.rescored import rescore_alike
from mlbench.runner.task import RunTask
from mlbench.runner.training import Course, PhaseTrainer, best_file, epoch_file, keeps_all, rule_of, title_of
from mlbench.runner.world import World, peer_lost
from mlbench.store import RECORD_FILE, read_record, run_dir, write_record

__all__ = ["Options", "run"]

#: Where the traceback of a method that failed is.
ERROR_LOG = "error.log"


def run(request: Request, options: Options | None = None) -> dict[str, Any]:
    """Train and score `request`; returns the record, which is also in the store.

    A finished run is not trained again (unless ``options.again``); an unfinished one goes on from its checkpoint
    where ``options.resume`` says so.

    Raises
    ------
    UsageError, DataError : what is asked for does not go together, or the data are not what they should be.
    MlbenchError : training fails, or another process of this run is gone.
    """
    options = options or Options()
    world = World(options.device, request.precision)
    try:
        with Reporter(options.quiet or not world.main) as reporter:
            return Execution(request, options, world, reporter).execute()
    except (RuntimeError, MethodError) as error:
        if world.size == 1 or not peer_lost(error):
            raise
        reason = " ".join(str(error.__cause__ or error).split())
        raise MlbenchError(
            f"another process of this run is gone or does not answer: start all {world.size} again with --resume "
            f"({reason})"
        ) from error


class Execution:
    """The stages of one run, in order, with what they share."""

    course: Course
    feed: Feed

    def __init__(self, request: Request, options: Options, world: World, reporter: Reporter) -> None:
        self.options, self.world, self.reporter = options, world, reporter
        self.run = resolve(request)
        self.folder = run_dir(options.store, self.run.key)

    def run_used(self) -> dict[str, dict[str, Any]]:
        """Make sure that the runs this method builds on are in the store; they are trained once and found by key."""
        records = {}
        for name, wanted in used_requests(self.run).items():
            self.reporter.say(f"'{self.run.method.name}' uses '{wanted.method}' (same protocol, data and seeds)")
            options = dataclasses.replace(self.options, again=False, resume=True)
            records[name] = Execution(wanted, options, self.world, self.reporter).execute()
        return records

    def execute(self) -> dict[str, Any]:
        run = self.run
        record: Any = None if self.options.again else self.world.agree(self._finished())
        if record is not None:
            self.reporter.say(f"{title_of(run)}: already in the store ({self.folder})")
            return record
        used = self.run_used()
        record = None if self.options.again else self.world.agree(self._rescored(used))
        if record is not None:
            return record
        for note in run.notes:
            self.reporter.say(f"note: {note}")
        if run.weights is None and run.backbone not in ALL_EMBEDDED:
            self.reporter.say(f"note: {run.start.note}")
        for source in sorted({part.source for part in run.parts.values()}) if run.track == "full" else ():
            if told := warning(run.dataset.splits[source], run.train.image_size):
                self.reporter.say(f"note: {told}")
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
                self.reporter.say(f"{title_of(run)}: was finished meanwhile ({self.folder})")
                return record
            try:
                return self._train_and_score(used, held)
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
        busy = f"{title_of(self.run)} is being run by another process ({self.folder})"
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
        try:
            return read_record(path) if path.exists() else None
        except DataError as error:
            raise DataError(f"{error}. To make this run anew, give --again or delete the file") from None

    def _rescored(self, used: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
        """The record of this run where a finished one differs from it in metric definitions alone."""
        return rescore_alike(self.run, self.options.store, used, self.reporter.say) if self.world.main else None

    # -- training -----------------------------------------------------------------------------------------------

    def _train_and_score(self, used: dict[str, dict[str, Any]], held: contextlib.ExitStack) -> dict[str, Any]:
        run, started = self.run, datetime.datetime.now(datetime.UTC)
        self.code = code_of(run.method)  # once: the files may change while this process goes on with what it loaded
        checkpoint = self._checkpoint() if self.options.resume else None
        if checkpoint is not None:
            self.reporter.say(f"{title_of(run)}: going on after a stop in phase '{checkpoint['phase']}'")
        elif self.world.main and (self.folder / CHECKPOINT_FILE).exists():
            self.reporter.say(f"{title_of(run)}: starting anew; --resume would have gone on from the checkpoint")
        if self.world.main:
            save_mask(run.mask, self.folder / "mask.safetensors")
        counter = self.reporter.counter if self.world.main else None
        self.feed = Feed(run, self.world.device, counter, self.options.opened, self.options.probe)
        task = RunTask(run, self.world, self.feed)
        for name, record in used.items():
            task.artefacts[name] = self._weights_of(record)
        course = self.course = Course(
            self.folder,
            self.code,
            starts=[*(checkpoint["starts"] if checkpoint else []), start_of(self.world.size, started)],
            kept=Kept(self.folder, checkpoint["kept"] if checkpoint else None),
            epochs=list(checkpoint["epochs"]) if checkpoint else [],
            before=float(checkpoint["seconds"]) if checkpoint else 0.0,
        )
        trainer = PhaseTrainer(self.feed, self.options, self.world, self.reporter, course)
        held.callback(trainer.trackers.finish)
        method, network = self._new_method(task), None
        phases = phases_of(method, used)
        check_last_phase(run.protocol, run.method, phases)
        selected: dict[str, Any] = {"phase": "none", "epoch": 0, "rule": "last"}
        for number, phase in enumerate(phases):
            final = number == len(phases) - 1
            handed = phase_file(phase)
            if checkpoint is not None and number < checkpoint["phase_number"]:
                task.artefacts[phase.name] = course.kept.load(handed)
                continue
            resumed = checkpoint if checkpoint is not None and number == checkpoint["phase_number"] else None
            network, chosen = trainer.train(task, method, phase, number, final, resumed)
            selected = {"phase": phase.name, "epoch": chosen, "rule": rule_of(run, phase)}
            with calling(method, "handover", phase.name):
                found = tensors_of(method, "handover", method.handover(phase, network))
            handover = {name: tensor.detach().cpu() for name, tensor in found.items()}
            if self.world.main:
                course.kept.save(handed, handover, {"phase": phase.name, "key": run.key})
                course.kept.forget(best_file(phase, chosen))
            self.world.accelerator.wait_for_everyone()
            task.artefacts[phase.name] = handover
            if not final:  # what trained it holds itself by cycles, and may be large
                found, network = {}, None
                gc.collect()
        if network is None:
            network = network_of(method, Phase("evaluate")).to(self.world.device)
            names = [name for name in ("val", "test") if name in run.parts]
            self.feed.prepare(names, pooled=False, maps=takes_maps(network))
        results, per_class, files = self._score(method, network, bool(phases), selected["epoch"])
        written: dict[str, Any] | None = None
        if self.world.main:
            check_weights(run.method, network, "in the end")
            weights = self.folder / "weights.safetensors"
            save_tensors(weights, network.state_dict(), {"key": run.key, "method": run.method.name})
            outcome = Outcome(
                task.labels.observed,
                phases,
                course.epochs,
                selected,
                results,
                per_class,
                files,
                weights={"file": weights.name, "sha256": sha256_file(weights)},
                started=started,
                seconds=course.seconds,
                processes=self.world.size,
                argv=self.options.command or sys.argv,
                pixels_sha256=self.feed.pixels_sha256(),
                side_sha256=self.feed.side_sha256(),
                kept=course.kept.hashes,
                starts=course.starts,
                remark=self.options.remark,
            )
            written = self._record(outcome)
        return self.world.agree(written)  # type: ignore[return-value]

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
                f"the code that method '{self.run.method.name}' stands on was changed after the run was stopped: going "
                f"on would mix two codes in one record. Start it anew without --resume, or delete {path}"
            )
        return checkpoint

    def _new_method(self, task: RunTask) -> Method:
        with calling(self.run.method, "__init__"):
            method = self.run.method(task)
        task.bind(method)
        return method

    # -- the record ---------------------------------------------------------------------------------------------

    def _score(
        self, method: Method, network: nn.Module, trained: bool, epoch: int
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Numbers by part, numbers by class of the test part, and the files of predictions, of the selected `epoch`."""
        run, kept = self.run, self.course.kept
        results, per_class, files = {}, {}, {}
        for name in (name for name in ("val", "test") if name in run.parts):
            target = self.folder / f"{name}.safetensors"
            seen = None if trained else predict_part(network, method.predict, self.feed, name, self.world)
            if not self.world.main:
                continue
            if seen is None:
                digest = kept.copy(epoch_file(epoch, name), target)
            else:
                digest = write_predictions(target, predictions_of(run, seen, name, 0))
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
        findings = epoch_file(epoch, "forensics")
        if self.world.main and findings in kept.hashes:
            counts = {kind: found.numpy() for kind, found in kept.load(findings).items()}
            per_class |= rates_by_class(counts, run.dataset.classes)
        return results, per_class, files

    def _record(self, outcome: Outcome) -> dict[str, Any]:
        """Write the record of `outcome`, and let go of what only an unfinished run needs."""
        record = compose_record(self.run, outcome)
        if wrong := contradictions(record):
            raise DataError(f"{self.folder}: nothing is recorded: {wrong[0]}")
        write_record(self.options.store, record)
        (self.folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        kept = self.course.kept
        for name in list(kept.hashes):
            if name.startswith("best-") or (name.startswith("epochs/") and not keeps_all(self.run, self.options)):
                kept.forget(name)
        kept.checkpointed()
        self._tell(record)
        return record

    def _tell(self, record: dict[str, Any]) -> None:
        test = record["results"]["test"]
        shown = ", ".join(
            f"{name} {test[name]:.2f}" for name in ("mAP", "F1-C_mean", "F1-O") if test.get(name) is not None
        )
        self.reporter.say(f"{title_of(self.run)}: test {shown}; record {self.folder / 'record.json'}")
