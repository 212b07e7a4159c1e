"""A pilot: a few real steps of one run through the real runner, measured; nothing of it reaches the store.

Every phase is trained for at most `steps` steps of its last two epochs, where methods do all that they do. What grows
with the number of images (inference, decoding, features) is done on a few batches, and the rest of its time is added
up as `missing`; scores of the other images are repetitions. The clock runs from the start of the pilot's process to its
end, as a run's does, and what only a pilot does is taken off.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlbench.errors import MlbenchError
from mlbench.inputs import features as feature_files
from mlbench.inputs import on_the_fly
from mlbench.inputs import pixels as pixel_files
from mlbench.inputs.tensors import normalise
from mlbench.methods import Prediction
from mlbench.progress import Reporter
from mlbench.provenance import peak_memory_mib
from mlbench.runner import evaluate, execute
from mlbench.runner.data import Part
from mlbench.runner.feed import Feed
from mlbench.runner.plan import Request, resolve, used_requests
from mlbench.runner.probe import Probe
from mlbench.runner.scratch import as_tensor, new_matrix
from mlbench.runner.world import World
from mlbench.sweep.freeze import request_of

#: Batches of inference, and images to decode or to take features of, that are timed.
_BATCHES, _IMAGES = 2, 32
#: Steps left out of a mean: they load libraries and fill caches.
_WARM_UP = 2


@dataclass
class PhaseCost:
    """A phase of the full run: `epochs` of `steps` steps of `step_seconds`, and `epoch_seconds` beside the steps."""

    name: str
    epochs: int
    steps: int
    step_seconds: float = 0.0
    epoch_seconds: float = 0.0


@dataclass
class Cost:
    """What one run takes. Seconds; bytes on disk; memory in MiB (of the process, and of the accelerator); where
    the pixels come from (`mlbench.inputs.on_the_fly.storage`)."""

    phases: list[PhaseCost]
    once_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    disk: int = 0
    transient_disk: int = 0
    memory_mib: float | None = None
    accelerator_mib: float | None = None
    caches: dict[str, tuple[float, int]] = field(default_factory=dict)
    pixels: dict[str, str] = field(default_factory=dict)

    def seconds(self, checkpoint_interval: float) -> float:
        """Expected wall time of the run: what is done once, the phases, and a checkpoint each interval."""
        trained = sum(p.epochs * (p.steps * p.step_seconds + p.epoch_seconds) for p in self.phases)
        return self.once_seconds + trained * (1.0 + self.checkpoint_seconds / max(checkpoint_interval, 1e-3))


def pilot(request: Request, device: str = "auto", steps: int = 20) -> Cost:
    """Measure what the run of `request` will take, in a process of its own: the clock runs from its start."""
    with tempfile.TemporaryDirectory() as folder, Reporter(quiet=True) as reporter:
        started = time.perf_counter()
        measured = _Measured(steps)
        resolve(request)  # as the worker does to compare the key, before the runner resolves again
        options = execute.Options(
            Path(folder),
            device=device,
            quiet=True,
            checkpoint_seconds=float("inf"),
            on_checkpoint=measured.saved,
            probe=measured,
        )
        world = World(device, request.precision)
        _Pilot(measured, request, options, world, reporter).execute()
        cost = measured.cost(time.perf_counter() - started)
        if world.device.type == "cuda":
            cost.accelerator_mib = torch.cuda.max_memory_allocated() / 2**20
        cost.memory_mib = peak_memory_mib()
        return cost


class _Pilot(execute.Execution):
    """The runner, with pilots of the runs this one uses instead of these themselves."""

    def __init__(self, measured: _Measured, *given: Any) -> None:
        self.measured = measured
        super().__init__(*given)

    def run_used(self) -> dict[str, dict[str, Any]]:
        records = {}
        for name, wanted in used_requests(self.run).items():
            used = _Pilot(self.measured, wanted, self.options, self.world, self.reporter)
            started, before = time.perf_counter(), self.measured.apart
            records[name] = used.execute()
            self.measured.apart = before + time.perf_counter() - started
        self.measured.begin(self.folder)
        return records


@dataclass(frozen=True)
class _Few(Part):
    """The first `count` rows of a part; inputs made of it serve for all rows."""

    count: int = 0

    def __len__(self) -> int:
        return self.count


class _Measured(Probe):
    """Clocks inside the runner."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.apart = 0.0  # seconds of what is no part of the run: runs it uses, samples of what fills caches
        self.caches: dict[str, tuple[float, int]] = {}
        self.pixels: dict[str, str] = {}
        self.begin(Path())

    def begin(self, folder: Path) -> None:
        """Forget what was measured before the run itself began."""
        self.folder = folder
        self.loops: list[Any] = []
        self.missing = 0.0
        self.checkpoints: list[float] = []
        self.checkpoint_bytes = 0

    def saved(self) -> None:
        path = self.folder / "checkpoint.pt"
        self.checkpoint_bytes = max(self.checkpoint_bytes, path.stat().st_size if path.exists() else 0)

    def phase_loop(self, loop: type[Any]) -> type[Any]:
        """`loop` with few steps of its last two epochs, its parts timed."""
        measured = self

        class Loop(loop):  # type: ignore[misc, valid-type]
            steps: int

            def __init__(self, *given: Any) -> None:
                super().__init__(*given)
                self.full_steps, self.steps = self.steps, min(self.steps, measured.steps)
                self.position.epoch = max(1, self.settings.epochs - 1)
                self.step_times: list[float] = []
                self.rests: list[float] = []
                measured.loops.append(self)

            def _step(self, rows: np.ndarray, following: np.ndarray) -> None:
                started = time.perf_counter()
                super()._step(rows, following)
                if self.world.device.type == "cuda":
                    torch.cuda.synchronize()
                self.step_times.append(time.perf_counter() - started)

            def run_epoch(self, due: Any, save: Any, advance: Any) -> dict:
                self.begun = time.perf_counter() + measured.missing
                row = super().run_epoch(lambda: False, save, advance)
                if self.position.epoch == self.settings.epochs:
                    started = time.perf_counter()
                    save()
                    measured.checkpoints.append(time.perf_counter() - started)
                    self.begun += measured.checkpoints[-1]
                return row

            def next_epoch(self) -> None:  # called when all that belongs to an epoch is done
                super().next_epoch()
                spent = time.perf_counter() + measured.missing - self.begun
                self.rests.append(spent - sum(self.step_times[len(self.rests) * self.steps :]))

        return Loop

    def cost(self, spent: float) -> Cost:
        """What was measured, for the whole run; `spent` is the wall time of the pilot itself."""
        phases, once = [], spent - self.apart + self.missing - sum(self.checkpoints)
        for one in self.loops:
            phase = PhaseCost(one.phase.name, one.settings.epochs, one.full_steps)
            phase.step_seconds = statistics.fmean(one.step_times[min(_WARM_UP, len(one.step_times) - 1) :])
            phase.epoch_seconds = max(0.0, one.rests[-1])  # the first epoch loads libraries: that is done once
            phases.append(phase)
            once -= len(one.step_times) * phase.step_seconds + len(one.rests) * phase.epoch_seconds
        cost = Cost(phases, max(0.0, once), caches=self.caches, pixels=self.pixels)
        cost.checkpoint_seconds = max(self.checkpoints, default=0.0)
        by_epoch = [path.stat().st_size for path in self.folder.rglob("epochs/*")]
        kept = [path.stat().st_size for path in self.folder.glob("*") if path.is_file()]
        seen = max(1, len({path.name[:3] for path in self.folder.rglob("epochs/*")}))
        cost.disk = sum(kept) + sum(by_epoch) // seen * (phases[-1].epochs if phases else 0)
        weights = self.folder / "weights.safetensors"
        cost.transient_disk = self.checkpoint_bytes + 2 * (weights.stat().st_size if weights.exists() else 0)
        return cost

    # -- what would look at every image ---------------------------------------------------------------------------

    def predictions(self, predict: Callable[[Feed], Prediction], feed: Feed, part: str) -> Prediction:
        whole, (few, count) = feed.run.parts[part], self._few(feed, part)
        started = time.perf_counter()
        seen = predict(few)
        self.missing += (time.perf_counter() - started) * (len(whole) - count) / count
        return Prediction(*(None if found is None else _repeated(found, len(whole)) for found in seen))  # type: ignore

    def total(self, count: Callable[[Feed], int], feed: Feed, part: str) -> int:
        few, rows = self._few(feed, part)
        whole, started = len(feed.run.parts[part]), time.perf_counter()
        found = count(few)
        self.missing += (time.perf_counter() - started) * (whole - rows) / rows
        return found * whole // rows

    def _few(self, inputs: Feed, part: str) -> tuple[Feed, int]:
        """`inputs` with only the first rows of `part`, and how many these are."""
        whole = inputs.run.parts[part]
        size = inputs.settings.image_size if inputs.run.track == "full" else 64
        count = min(len(whole), _BATCHES * evaluate.evaluation_batch(size))
        few = copy.copy(inputs)
        few.run = dataclasses.replace(inputs.run, parts={**inputs.run.parts, part: _Few(**vars(whole), count=count)})
        return few, count

    def open_pixels(self, split: Any, size: int, advance: Any = None) -> Any:
        how = on_the_fly.storage(split, size)
        self.pixels[f"{size} px, {len(split)} images"] = str(how)
        return on_the_fly.OnTheFly(split, size) if how.kind == "decode" else self._pixels(split, size, advance)

    def _pixels(self, split: Any, size: int, advance: Any = None) -> pixel_files.Rows:
        if _ready(split, size) or len(split) <= _IMAGES:
            return pixel_files.load_pixels(split, size, advance)
        started = time.perf_counter()
        few = pixel_files.LivePixels(split, size)[np.arange(_IMAGES)]
        taken = time.perf_counter() - started
        self.apart += taken
        shape = (len(split), size, size, 3)
        self.caches[pixel_files.pixel_file(split, size).name] = taken * len(split) / _IMAGES, int(np.prod(shape))
        return np.broadcast_to(few[:1], shape)

    def pixels_sha256(self, split: Any, size: int) -> str:
        return pixel_files.pixels_sha256(split, size) if _ready(split, size) else ""

    def load_features(
        self,
        split: Any,
        size: int,
        backbone: Any,
        name: str,
        device: torch.device,
        advance: Any = None,
        maps: bool = True,
    ) -> feature_files.Features:
        path = feature_files.feature_file(split, size, backbone, name, device)
        if path.exists() or len(split) <= _IMAGES:
            return feature_files.load_features(split, size, backbone, name, device, advance, self._pixels, maps)
        pixels, begun = self._pixels(split, size), time.perf_counter()
        images, backbone = _few_images(pixels, backbone, device), backbone.to(device).eval()
        with torch.inference_mode():
            backbone(images[:1])
            started = time.perf_counter()
            few = backbone(images).half().cpu().numpy()
        ended = time.perf_counter()
        self.apart += ended - begun
        shape = (len(split), *few.shape[1:])
        pooled = np.broadcast_to(few[:1].astype(np.float32).mean(axis=(2, 3)), shape[:2])
        kept = np.broadcast_to(few[:1], shape) if maps else None
        self.caches[path.name] = (ended - started) * len(split) / len(images), (pooled if kept is None else kept).nbytes
        return feature_files.Features(kept, pooled)


def _repeated(found: Tensor, count: int) -> Tensor:
    """`count` rows, those of `found` over and over."""
    again = new_matrix((count, found.shape[1]), found.numpy().dtype.type)
    for start in range(0, count, len(found)):
        again[start : start + len(found)] = found[: count - start].numpy()
    return as_tensor(again)


def _ready(split: Any, size: int) -> bool:
    """Whether the pixels of `split` are there without decoding."""
    return pixel_files.in_memory(split, size) is not None or pixel_files.pixel_file(split, size).exists()


def _few_images(pixels: pixel_files.Rows, backbone: Any, device: torch.device) -> Tensor:
    """A few images as the backbone takes them."""
    return normalise(torch.from_numpy(np.array(pixels[:_IMAGES])).to(device), backbone.mean, backbone.std)


def measure_in(connection: Any, plain: dict[str, Any], device: str, steps: int, threads: int) -> None:
    """Entry point of a pilot's process: sends a `Cost` or the reason there is none, and the seconds until then."""
    started = time.perf_counter()
    torch.set_num_threads(threads)
    found: Cost | str
    try:
        found = pilot(request_of(plain), device, steps)
    except MlbenchError as error:
        found = str(error)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    connection.send((found, time.perf_counter() - started))
