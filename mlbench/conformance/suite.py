"""`check-method`: the suite every method runs, ours and anybody's, on a tiny data set made from nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mlbench.catalogue.kept import settings_path
from mlbench.conformance.report import Report, Skipped
from mlbench.conformance.testing import (
    tiny_dataset,
    tiny_vl_scores,
    with_other_evaluation_labels,
    with_other_hidden_labels,
)
from mlbench.datasets.base import Dataset
from mlbench.errors import MlbenchError
from mlbench.evaluation.predictions import read_predictions
from mlbench.methods import Method
from mlbench.models.backbones import build_backbone
from mlbench.models.head_choice import HEADS
from mlbench.protocol import load_protocol
from mlbench.registry import load_method
from mlbench.runner.checkpoint import load_tensors, save_tensors
from mlbench.runner.evaluate import predict_part
from mlbench.runner.execute import Options, run
from mlbench.runner.feed import Feed
from mlbench.runner.loop import PhaseLoop
from mlbench.runner.plan import Request, resolve
from mlbench.runner.processes import in_several
from mlbench.runner.side import inputs_of
from mlbench.runner.task import RunTask
from mlbench.runner.trained import reload_network
from mlbench.runner.world import World, leave
from mlbench.store import RECORD_FILE, read_record, run_dir

PROTOCOL = "single_positive"


def check_method(name: str, processes: bool = True) -> Report:
    """Run every check on every track that method `name` declares (the one with two processes only if asked for)."""
    method = load_method(name)
    report = Report(name)
    attempt = report.attempt
    attempt("", "declarations are valid", lambda: _declarations(method))
    for track in method.tracks:
        with tempfile.TemporaryDirectory() as folder:
            bench = _Bench(method, track, Path(folder))
            attempt(track, "trains, predicts and writes a record", bench.trains)
            attempt(track, "same seed, same bits", bench.repeats)
            attempt(track, "stopped and resumed, same bits", bench.resumes)
            attempt(track, "sees no hidden label", bench.sees_nothing_hidden)
            attempt(track, "needs no validation or test label", bench.needs_no_evaluation_label)
            attempt(track, "every loss term moves a parameter", bench.terms_have_gradients)
            if processes:
                attempt(track, "one and two processes agree", bench.processes_agree)
                attempt(track, "two processes score by what is saved", bench.statistics_agree)
    return report


def _declarations(method: type[Method]) -> None:
    if not (method.__doc__ or "").strip():
        raise MlbenchError("the class has no docstring: say what it is and where it comes from")
    if not method.tracks or set(method.tracks) - {"head", "full"}:
        raise MlbenchError(f"tracks = {method.tracks!r}: expected 'head' and/or 'full'")
    if method.reduction not in ("mean", "sum"):
        raise MlbenchError(f"reduction = {method.reduction!r}: expected 'mean' or 'sum'")
    if method.scores not in ("logit", "probability", "rank"):
        raise MlbenchError(f"scores = {method.scores!r}: expected 'logit', 'probability' or 'rank'")
    if not isinstance(method.version, int) or method.version < 1:
        raise MlbenchError(f"version = {method.version!r}: expected a whole number from 1")
    for name, hyper in method.declared().items():
        hyper.check(name, hyper.default)
        if hyper.tiny is not None:
            hyper.check(name, hyper.tiny)
    method.resolve({})
    kept, found = settings_path(method), method.kept_settings()
    if found and kept is not None and not method.settings_file and not method.__module__.startswith("mlbench."):
        raise MlbenchError(
            f"settings are kept in {kept.name}, which a wheel may lack unseen: declare settings_file = '{kept.name}', "
            "and make it package data"
        )


class _Bench:
    """One method on one track, with a folder for its stores."""

    def __init__(self, method: type[Method], track: str, folder: Path) -> None:
        self.method, self.track, self.folder = method, track, folder
        self.dataset = tiny_dataset()
        self.checkpoints = 0

    def request(self, dataset: Dataset | None = None) -> Request:
        return make_request(self.method, self.track, self.folder, dataset or self.dataset)

    def trained(self, name: str, request: Request | None = None, **options: Any) -> dict[str, Any]:
        """Run into store `name`; the record."""
        chosen: dict[str, Any] = {"store": self.folder / name, "device": "cpu", "quiet": True, **options}
        return run(request or self.request(), Options(**chosen))

    def course(self, name: str, **options: Any) -> Course:
        """Run into store `name`; all its numbers."""
        return read_course(self.folder / name, self.trained(name, **options))

    def trains(self) -> None:
        record = self.trained("first")
        scores = read_scores(self.folder / "first", record)
        if scores.shape != (len(self.dataset.splits["test"]), len(self.dataset.classes)):
            raise MlbenchError(f"test scores have shape {scores.shape}")
        if record["results"]["test"]["mAP"] is None:
            raise MlbenchError("no mAP could be computed")

    def repeats(self) -> None:
        def count() -> None:
            self.checkpoints += 1

        second = self.course("second", checkpoint_seconds=0.0, on_checkpoint=count)
        compare(self.course("first"), second, 0.0)

    def resumes(self) -> None:
        """Stop about six times, spread over all phases and used methods, and go on each time."""
        if not self._phases():
            raise Skipped("nothing is trained")
        course, stops = run_with_stops(self.request(), self.folder / "stopped", max(1, self.checkpoints // 6))
        if not stops:
            raise MlbenchError("no checkpoint was written")
        compare(self.course("first"), course, 0.0)

    def sees_nothing_hidden(self) -> None:
        if not {*self.method.supervision} <= {"observed", "tags", "vl_scores"}:
            raise Skipped(f"declares supervision {', '.join(self.method.supervision)}")
        mask = resolve(self.request()).mask
        other = with_other_hidden_labels(self.dataset, mask.observed)
        request = dataclasses.replace(self.request(other), mask=mask)
        compare(self.course("first"), self.course("hidden", request=request), 0.0)

    def needs_no_evaluation_label(self) -> None:
        """Train with the validation and test labels of other images: every number stays as it was.

        No epoch is selected by validation, which is the one use of its labels that is allowed.
        """
        mask = None
        found: list[Course] = []
        for dataset in (self.dataset, with_other_evaluation_labels(self.dataset)):
            request = self.request(dataset)
            rules = load_protocol(PROTOCOL)
            split = dataclasses.replace(rules.split, validation="official")
            rules = dataclasses.replace(rules, selection="last", split=split)
            request = dataclasses.replace(request, protocol=rules, mask=mask)
            mask = resolve(request).mask
            record = self.trained(f"evaluation {len(found)}", request)
            found.append(read_course(self.folder / f"evaluation {len(found)}", record, decisions=True))
        compare(found[0], found[1], 0.0)

    def terms_have_gradients(self) -> None:
        resolved = resolve(self.request())
        phases = self._phases()
        if not phases:
            raise Skipped("nothing is trained")
        world = World("cpu")
        feed = Feed(resolved, world.device)
        task = RunTask(resolved, world, feed)
        for name, key in resolved.uses.items():
            task.artefacts[name] = load_tensors(run_dir(self.folder / "first", key) / "weights.safetensors")
        method = self.method(task)
        task.bind(method)
        for phase in phases:
            task.begin(phase)
            network = method.network(phase)
            loop = PhaseLoop(task, method, phase, network, world, feed)
            dead = loop.terms_without_gradient()
            if dead:
                raise MlbenchError(
                    f"phase '{phase.name}': {', '.join(dead)} has no gradient to any trained parameter on track "
                    f"'{self.track}'; leave the track out of `tracks` or the term out of the loss"
                )
            task.artefacts[phase.name] = method.handover(phase, network)

    def processes_agree(self) -> None:
        """With SGD: Adam divides by the gradient's size, and so hides a wrong size and blows up rounding.

        In `double_precision`, where what is left is that scores are stored in single precision.
        """
        if self.method.stochastic:
            raise Skipped("declares stochastic: every process draws its own numbers in training")
        store, request = self.folder / "two", with_sgd(self.request())
        with double_precision():
            one = self.course("one", request=request)
        in_several(_one_of_two, 2, self.method.name, self.track, self.folder, store)
        record = read_record(run_dir(store, resolve(request).key) / RECORD_FILE)
        compare(one, read_course(store, record), 1e-6)

    def statistics_agree(self) -> None:
        """With BatchNorm: what two processes predicted is what the weights that they saved predict in one."""
        if self.track != "full" or self.method.stochastic or not self._phases():
            raise Skipped("no network is trained, or no two processes trained one")
        request, store = with_batchnorm(self.request()), self.folder / "two"
        run_ = resolve(request)
        stored = read_scores(store, read_record(run_dir(store, run_.key) / RECORD_FILE))
        method, network, feed = reload_network(run_, store)
        again = predict_part(network, method.predict, feed, "test", World("cpu")).scores.numpy()
        compare({"test scores": stored}, {"test scores": again}, 1e-4)

    def _phases(self) -> list:
        resolved = resolve(self.request())
        world = World("cpu")
        return list(self.method(RunTask(resolved, world, Feed(resolved, world.device))).phases())


class _Stop(Exception):
    """Stands for a kill."""


def make_request(method: type[Method], track: str, folder: Path, dataset: Dataset) -> Request:
    """Two short epochs of `method` on `dataset`; the head track's backbone is random but fixed, from a file.

    Hyperparameters of the method and of its head are their `tiny` ones, where they have any.
    """
    weights = None
    if track == "head":
        weights = folder / "scenes.safetensors"
        if not weights.exists():
            torch.manual_seed(0)
            save_tensors(weights, build_backbone("scenes").state_dict(), {})
    changes = {"train.epochs": 2, "train.batch_size": 11, "train.image_size": 64, "train.lr": 1e-3}
    changes |= {name: hyper.tiny for name, hyper in method.declared().items() if hyper.tiny is not None}
    of_head = HEADS[method.default_head].hyperparameters
    changes |= {f"head.{name}": hyper.tiny for name, hyper in of_head.items() if hyper.tiny is not None}
    request = Request(
        load_protocol(PROTOCOL), method, dataset, backbone="scenes", weights=weights, track=track, changes=changes
    )
    if "vl_scores" not in inputs_of(method, method.resolve({})):
        return request
    scores = folder / "vl_scores.safetensors"
    if not scores.exists():
        tiny_vl_scores(scores)
    return dataclasses.replace(request, side={"vl_scores": scores})


def with_sgd(request: Request) -> Request:
    """`request` with plain SGD, where the method's phases do not fix another optimiser."""
    plain = {"train.optimizer": "sgd", "train.momentum": 0.0}
    return dataclasses.replace(request, changes={**request.changes, **plain})


def with_batchnorm(request: Request) -> Request:
    """`request` on a backbone whose running statistics each process updates from its own images."""
    return dataclasses.replace(request, backbone="resnet18")


class _FloatIsDouble(TorchFunctionMode):
    """``tensor.float()`` gives float64: what methods guard against half precision with."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (Tensor.double if func is Tensor.float else func)(*args, **(kwargs or {}))


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Networks, images and what is computed of them are float64 inside.

    Sums over a whole batch and over its pieces are rounded differently. In float32 that is enough to tip a ReLU, a
    maximum or a threshold that happens to be close, and from there two right trainings part by far more than rounding.
    In float64 nothing is that close, so that what differs is wrong and the tolerance can be small.
    """
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _FloatIsDouble():
            yield
    finally:
        torch.set_default_dtype(usual)


def read_scores(store: Path, record: dict[str, Any]) -> np.ndarray:
    """Test scores of a finished run."""
    return read_predictions(run_dir(store, record["key"]) / record["predictions"]["test"]["file"]).scores


#: All numbers of a run by what they are: the test scores, the losses, and the test scores after each epoch. The last
#: two matter where an early epoch was selected, which knows nothing of what came later.
Course = dict[str, np.ndarray]


def read_course(store: Path, record: dict[str, Any], decisions: bool = False) -> Course:
    """The course of a finished run; with `decisions` those of the method itself too, if it makes any."""
    course = {"test scores": read_scores(store, record)}
    if decisions:
        kept = read_predictions(run_dir(store, record["key"]) / record["predictions"]["test"]["file"]).decisions
        course |= {} if kept is None else {"test decisions": kept.astype(np.float64)}
    for row in record["epochs"]:
        course[f"loss of phase '{row['phase']}', epoch {row['epoch']}"] = np.array([row["loss"]])
    for path in sorted((run_dir(store, record["key"]) / "epochs").glob("*-test.safetensors")):
        course[f"test scores after epoch {int(path.name[:3])} of the last phase"] = read_predictions(path).scores
    return course


def compare(a: Course, b: Course, tolerance: float) -> None:
    """MlbenchError unless all numbers agree; `tolerance` is relative where they are larger than 1."""
    if a.keys() != b.keys():
        raise MlbenchError(f"one run has {', '.join(sorted(a.keys() ^ b.keys()))}, the other has not")
    for name, expected in a.items():
        if expected.shape != b[name].shape:
            raise MlbenchError(f"{name} of shape {expected.shape} and {b[name].shape}")
        difference = float(np.abs(expected - b[name]).max())
        if difference > tolerance * max(1.0, float(np.abs(expected).max())):
            raise MlbenchError(f"{name} differ by {difference:.3g} (allowed {tolerance:g})")


def run_with_stops(
    request: Request, store: Path, every: int, seen: Callable[[], None] = lambda: None
) -> tuple[Course, int]:
    """Run `request` into `store`, stopped at each `every`-th checkpoint and resumed; its course, how often stopped.

    A checkpoint is written after each step; `seen` is called before each stop.
    """
    stops = 0
    while True:
        left = every

        def interrupt() -> None:
            nonlocal left
            left -= 1
            if not left:
                seen()
                raise _Stop

        options = Options(
            store=store, device="cpu", quiet=True, resume=True, checkpoint_seconds=0.0, on_checkpoint=interrupt
        )
        try:
            return read_course(store, run(request, options)), stops
        except _Stop:
            stops += 1


def _one_of_two(rank: int, name: str, track: str, folder: Path, store: Path) -> None:
    request = with_sgd(make_request(load_method(name), track, folder, tiny_dataset()))
    options = Options(store=store, device="cpu", quiet=True)
    with double_precision():
        run(request, options)
    if track == "full":
        run(with_batchnorm(make_request(load_method(name), track, folder, tiny_dataset())), options)
    leave()
