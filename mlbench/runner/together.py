"""Several runs on cached features in one process: data read once, heads multiplied together, records apart.

Each run is what it is alone (`execute.run`), in a thread of its own, of which one works at a time. Where a head meets
its features a run waits for the others: heads that were given the very same batch are one product, and gradients are
taken in one pass. Loss, labels, optimiser, evaluation and files stay each run's own, so that no method needs to know.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.errors import MlbenchError, UsageError
from mlbench.models.heads import PRODUCT, Head, logits_together
from mlbench.progress import Reporter
from mlbench.protocol import Protocol, load_protocol
from mlbench.runner.execute import Execution, Options
from mlbench.runner.plan import Request, Run, resolve, why_alone
from mlbench.runner.world import World

#: Numbers that one product may make; more heads are multiplied in turns. Larger arrays leave the
#: caches, and the allocator takes them from the system anew each time.
_LARGEST_PRODUCT = 2**22

Outcome = dict[str, Any] | Exception


def run_together(requests: Sequence[Request], options: Options | None = None) -> list[Outcome]:
    """Train and score `requests` in one process; for each its record, or the exception that ended this run.

    Every run has the identity, predictions, checkpoints and record that `execute.run` gives it; a note in the record
    says that others shared its time. Runs that share nothing (`why_alone`) come one by one after the rest, which is
    said. With ``options.resume`` each run goes on from its own checkpoint.

    Raises
    ------
    UsageError : in one of several processes.
    """
    options = dataclasses.replace(options or Options(), opened={})
    outcomes: dict[int, Outcome] = {}
    with Reporter(options.quiet) as reporter:
        runs = _resolve_all(requests, outcomes)
        beside, keys = [], set()
        for number, run in runs.items():
            reason = why_alone(run) or ("it is asked for twice" if run.key in keys else "")
            keys.add(run.key)
            if reason:
                reporter.say(f"note: {run.method.name} (seed {run.seed}) is trained by itself: {reason}")
            else:
                beside.append(number)
        beside.sort(key=lambda number: runs[number].seed)  # runs of one seed see the same batches
        for precision in sorted({runs[number].request.precision for number in beside}):
            members = [number for number in beside if runs[number].request.precision == precision]
            outcomes |= zip(members, _serve([runs[number] for number in members], options, reporter), strict=True)
        for number in runs.keys() - set(beside):
            request = runs[number].request
            try:
                world = World(options.device, request.precision)
                outcomes[number] = Execution(request, options, world, reporter).execute()
            except Exception as error:
                outcomes[number] = error
    return [outcomes[number] for number in range(len(requests))]


def _resolve_all(requests: Sequence[Request], outcomes: dict[int, Outcome]) -> dict[int, Run]:
    """The runs by their number, each data set and protocol read once; what cannot be run goes to `outcomes`."""
    datasets: dict[Any, Dataset] = {}
    protocols: dict[str, Protocol] = {}
    runs = {}
    for number, request in enumerate(requests):
        dataset, protocol, place = request.dataset, request.protocol, (request.dataset, request.data_root)
        try:
            if not isinstance(dataset, Dataset):
                dataset = datasets[place] if place in datasets else load_dataset(dataset, request.data_root)
                datasets[place] = dataset
            if not isinstance(protocol, Protocol):
                asked = protocol  # a path, or a name: not the name that the file gives itself
                protocol = protocols[asked] if asked in protocols else load_protocol(asked)
                protocols[asked] = protocol
            run = resolve(dataclasses.replace(request, dataset=dataset, protocol=protocol), uses={})
            runs[number] = dataclasses.replace(run, request=dataclasses.replace(run.request, mask=run.mask))
        except MlbenchError as error:
            outcomes[number] = error
    return runs


def _serve(runs: Sequence[Run], options: Options, reporter: Reporter) -> list[Outcome]:
    """Train `runs`, all of one precision, beside each other."""
    world = World(options.device, runs[0].request.precision)
    if world.size > 1:
        raise UsageError("runs are trained together in one process: start it without torchrun or accelerate launch")
    if len(runs) > 1:
        remark = f"trained beside {len(runs) - 1} other runs in one process; seconds and images/s are of all together"
        options = dataclasses.replace(options, remark=remark)
    seats = [_Seat(run.request, options, world, reporter) for run in runs]
    ready = seats
    try:
        while ready:
            for seat in ready:
                seat.go()
            products = [(seat, seat.asked) for seat in seats if isinstance(seat.asked, _Product)]
            if products:
                ready = [seat for seat, _ in products]
                _multiply(products)
            else:  # gradients last: then all that share a graph are there, and it is gone through once
                ready = [seat for seat in seats if seat.asked is not None]
                torch.autograd.backward([seat.asked for seat in ready if isinstance(seat.asked, Tensor)])
    finally:
        for seat in seats:
            seat.leave()
    return [seat.outcome for seat in seats]  # type: ignore[misc]  # all else was raised


@dataclass
class _Product:
    """What a run waits for: the logits of `head` on `features`."""

    head: Head
    features: Tensor
    graded: bool
    inference: bool


def _multiply(asked: Sequence[tuple[_Seat, _Product]]) -> None:
    """Answer those who ask for logits, heads on the same batch together."""
    groups: dict[Any, list[tuple[_Seat, _Product]]] = {}
    for seat, product in asked:
        kind = id(product.features), product.head.pools_first, product.graded, product.inference
        groups.setdefault(kind, []).append((seat, product))
    for members in groups.values():
        one = members[0][1]
        positions = len(one.features) * (1 if one.head.pools_first else one.features[0, 0].numel())
        at_once = max(1, _LARGEST_PRODUCT // (positions * len(one.head.weight)))
        for start in range(0, len(members), at_once):
            some = members[start : start + at_once]
            with torch.inference_mode(one.inference), torch.set_grad_enabled(one.graded):
                answers = logits_together([product.head for _, product in some], one.features)
            for (seat, _), answer in zip(some, answers, strict=True):
                seat.answer = answer


class _Left(BaseException):
    """Raised in a run whose process is about to end."""


class _Seat(threading.Thread):
    """One run. It works from `go` until it asks for a product or for the gradients of its loss, or ends."""

    def __init__(self, request: Request, options: Options, world: World, reporter: Reporter) -> None:
        super().__init__(daemon=True)
        self.request, self.options, self.reporter = request, options, reporter
        self.world = _SeatWorld(world, self)
        self.asked: _Product | Tensor | None = None
        self.answer: Tensor | None = None
        self.outcome: dict[str, Any] | BaseException = MlbenchError("the run was stopped")
        self._shares_graph = self._leaving = False
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)

    def go(self) -> None:
        """Let the run work until it asks or ends; what is to end the process is raised here too."""
        if self.ident is None:
            self.start()
        self.asked = None
        self._turn.release()
        self._back.acquire()
        if not isinstance(self.outcome, (dict, Exception)):
            raise self.outcome

    def leave(self) -> None:
        """End the run where it is, if it has not ended; its checkpoint is kept."""
        if self.is_alive():
            self._leaving = True
            self._turn.release()
            self.join()

    def run(self) -> None:
        self._turn.acquire()
        PRODUCT.set(self._logits)
        try:
            self.outcome = Execution(self.request, self.options, self.world, self.reporter).execute()
        except _Left:
            pass
        except BaseException as error:
            self.outcome = error
        self._back.release()

    def differentiate(self, loss: Tensor) -> None:
        """Gradients of `loss`: with those of the others where they share a graph."""
        if self._shares_graph and loss.requires_grad:
            self._shares_graph = False
            self._ask(loss)
        else:
            World.backward(self.world, loss)

    def _logits(self, head: Head, features: Tensor) -> Tensor:
        graded = torch.is_grad_enabled()
        self._shares_graph |= graded
        self._ask(_Product(head, features, graded, torch.is_inference_mode_enabled()))
        assert self.answer is not None
        return self.answer

    def _ask(self, question: _Product | Tensor) -> None:
        """Wait for the others and the answer; this run's random numbers go on as if it had been alone."""
        generators = self.world.rng_states()
        self.asked = question
        self._back.release()
        self._turn.acquire()
        if self._leaving:
            raise _Left
        self.world.set_rng_state(generators)


class _SeatWorld(World):
    """The process as a run beside others sees it."""

    def __init__(self, world: World, seat: _Seat) -> None:
        self.__dict__.update(vars(world))
        self._seat = seat

    def backward(self, loss: Tensor) -> None:
        self._seat.differentiate(loss)
