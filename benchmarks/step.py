"""What a training step costs: the runner beside a loop written by hand, methods beside `an`, and memory formats.

runner : the runner and a plain PyTorch loop train the same network with the same loss on the same batches; their
    weights have to be equal to the bit after the last turn.
methods : every phase of every registered method, a few steps at a time, beside `an`, and what its last network takes
    to predict a batch. The labels, the teacher's start and the batch are the same in each turn; what methods do between
    epochs is not part of a step.
heads : the same of `an` with each registered head, beside the linear one.
formats : forward and backward of three networks with memory formats and precisions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from timing import CLOCK, OUTPUT, REPEATS, about, markdown, ratio, seconds, spread, summary, take_turns, write
from torch import Tensor, nn
from torch.nn import functional

from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.errors import MlbenchError
from mlbench.inputs.pixels import load_pixels
from mlbench.inputs.tensors import normalise
from mlbench.methods import Method
from mlbench.models.backbones import BACKBONES, build_backbone
from mlbench.models.head_choice import HEADS
from mlbench.provenance import usable_cores
from mlbench.registry import available, load_method
from mlbench.runner.checkpoint import save_tensors
from mlbench.runner.evaluate import predict_part
from mlbench.runner.feed import Feed
from mlbench.runner.loop import PhaseLoop, epoch_order, set_training_mode
from mlbench.runner.plan import Request, resolve, used_requests
from mlbench.runner.side import inputs_of
from mlbench.runner.task import RunTask
from mlbench.runner.vl_scores import write_vl_scores
from mlbench.runner.world import World
from mlbench.seeds import id_hashes

#: As many times the hand-written loop, and `an`; held where a step is as long as in the papers (ResNet-50, 224 px).
RUNNER_TARGET = 1.03
TARGETS = {"llr": 1.05, "an_boostlu": 1.05, "role": 1.1, "em_apl": 1.1}
#: track, backbone, pixels, images a batch, batches an epoch.
SETTINGS = {
    "scenes": ("full", "scenes", 64, 32, 25),
    "head": ("head", "resnet50", 64, 64, 8),
    "resnet50": ("full", "resnet50", 224, 16, 2),
}
PARTS = ("runner", "methods", "heads", "formats")
NETWORKS = {"scenes": (64, 32), "mobilenet_v2": (128, 16), "resnet50": (224, 8)}


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where a step is measured: `settings` is a value of `SETTINGS`."""

    settings: tuple[str, str, int, int, int]
    scenes: Dataset
    scratch: Path
    device: str
    precision: str = "fp32"

    def dataset(self) -> Dataset:
        """The first rows of `scenes`, under a name of its own: its protocols count the rows."""
        _, _, _, size, batches = self.settings
        splits = {
            "train": self.scenes.splits["train"].take(np.arange(size * batches)),
            "val": self.scenes.splits["train"].take(np.arange(size * batches, size * (batches + 1))),
            "test": self.scenes.splits["test"].take(np.arange(size)),
        }
        return dataclasses.replace(self.scenes, id="scenes-part", splits=splits, notes=())

    def request(self, method: str | type[Method], head: str | None = None) -> Request:
        track, backbone, pixels, batch, _ = self.settings
        weights = None
        if track == "head":
            weights = self.scratch / f"{backbone}.safetensors"
            if not weights.exists():
                torch.manual_seed(0)
                save_tensors(weights, build_backbone(backbone).state_dict(), {})
        changes = {
            "train.epochs": 40,
            "train.batch_size": batch,
            "train.image_size": pixels,
            "train.lr": 1e-4,
            "train.schedule": "constant",
            "train.lr_multipliers": {},
        }
        return Request(
            "single_positive",
            method,
            self.dataset(),
            backbone=backbone,
            weights=weights,
            track=track,
            precision=self.precision,
            changes=changes,
            head=head,
            side=self._side(method),
        )

    def _side(self, method: str | type[Method]) -> dict[str, Path]:
        """Made-up scores of a vision-language model, for methods that take them."""
        cls = load_method(method) if isinstance(method, str) else method
        if "vl_scores" not in inputs_of(cls, cls.resolve({})):
            return {}
        file = self.scratch / "vl_scores.safetensors"
        if not file.exists():
            data = self.dataset()
            ids = [sample for split in data.splits.values() for sample in split.ids]
            scores = np.random.default_rng(0).uniform(-0.3, 0.3, (len(ids), len(data.classes)))
            about = {"model": "made up", "prompt": "{}", "crop": "none", "values": "cosine"}
            write_vl_scores(file, scores, ids, data.classes, about)
        return {"vl_scores": file}

    def loops(self, request: Request) -> Iterator[PhaseLoop]:
        """A loop for each phase, each with a task of its own; earlier phases and used runs hand over their start."""
        run, world = resolve(request), World(self.device, self.precision)
        handed = {}
        for name, used in used_requests(run).items():
            for loop in self.loops(used):
                handed[name] = {key: tensor.cpu() for key, tensor in loop.network.state_dict().items()}
        for number in range(len(list(run.method(RunTask(run, world, Feed(run, world.device))).phases()))):
            task = RunTask(run, world, Feed(run, world.device))
            task.artefacts = dict(handed)
            method = run.method(task)
            task.bind(method)
            phase = list(method.phases())[number]
            task.begin(phase)
            torch.manual_seed(0)
            loop = PhaseLoop(task, method, phase, method.network(phase), world, task._feed)
            loop.position.epoch = max(1, loop.settings.epochs - 1)  # where methods do all that they do
            set_training_mode(loop.network, phase.roles)
            handed[phase.name] = method.handover(phase, loop.network)
            yield loop


class ByHand:
    """A loop as one writes it for one experiment: Adam, binary cross-entropy, images or features from an array."""

    def __init__(self, loop: PhaseLoop, network: nn.Module) -> None:
        run = loop.feed.run
        part, trunk = run.parts["train"], BACKBONES[run.backbone]
        self.network, self.device, self.batch = network.to(loop.world.device).train(), loop.world.device, loop.settings
        self.mean, self.std, self.images = trunk.mean, trunk.std, run.track == "full"
        split = run.dataset.splits["train"]
        inputs = load_pixels(split, run.train.image_size) if self.images else loop.feed._feature_inputs("train")
        self.inputs = np.asarray(inputs if self.images else inputs.features.pooled)[part.rows]
        self.targets = torch.from_numpy(np.asarray(part.observed) == 1).float()
        self.optimizer = torch.optim.Adam(network.parameters(), lr=loop.settings.lr)

    def epoch(self, order: np.ndarray) -> None:
        size = self.batch.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            inputs = torch.from_numpy(self.inputs[rows]).to(self.device)
            inputs = normalise(inputs, self.mean, self.std) if self.images else inputs[:, :, None, None]
            logits = self.network(inputs).logits
            # The mean of the entries, as in `an`: the built-in mean divides later, and rounds otherwise.
            targets = self.targets[rows].to(self.device)
            loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()


def beside_hand(bench: Bench, repeats: int, clock: str) -> dict[str, Any]:
    """Seconds of an epoch of `an`, by the runner and by hand; AssertionError unless they end with the same weights."""
    runs = [resolve(bench.request("an")) for _ in range(2)]
    (loop,), (other,) = (list(bench.loops(run.request)) for run in runs)
    hand = ByHand(other, other.network)
    part = runs[0].parts["train"]
    loop.position.epoch = 1
    epochs = range(1, repeats + 3)
    orders = iter([epoch_order(id_hashes(part.split.ids), (runs[0].dataset.id, 0, epoch)) for epoch in epochs])

    def runner() -> None:
        loop.run_epoch(lambda: False, lambda: None, lambda rows: None)
        loop.next_epoch()

    ways = {"runner": runner, "by hand": lambda: hand.epoch(next(orders))}
    for way in ways.values():
        way()  # the first epoch loads libraries
    found = take_turns({name: lambda way=way: seconds(way, bench.device, clock) for name, way in ways.items()}, repeats)
    theirs = hand.network.state_dict()
    different = [name for name, tensor in loop.network.state_dict().items() if not torch.equal(tensor, theirs[name])]
    assert not different, f"runner and hand-written loop end with other weights: {different}"
    times = ratio(found["runner"], found["by hand"])
    return {"seconds": {name: summary(values) for name, values in found.items()}, "runner_to_hand": times}


def loops_of(
    bench: Bench, asked: Mapping[str, Callable[[], Request]]
) -> tuple[dict[str, PhaseLoop], dict[str, PhaseLoop], dict[str, str]]:
    """Loops of all phases of what is `asked`, warm; those of the last ones, by the same names; why others are left out.

    A phase is called "name: phase" where there are several.
    """
    loops: dict[str, PhaseLoop] = {}
    last: dict[str, PhaseLoop] = {}
    left_out: dict[str, str] = {}
    for name, request in asked.items():
        try:
            found = list(bench.loops(request()))
            for loop in found:
                step_of(loop)()  # the first step loads libraries and side inputs
            if found:
                prediction_of(found[-1])()
        except (MlbenchError, ImportError) as error:
            left_out[name] = str(error)
            continue
        if not found:
            left_out[name] = "trains nothing"
            continue
        labels = [name if len(found) == 1 else f"{name}: {loop.phase.name}" for loop in found]
        loops |= dict(zip(labels, found, strict=True))
        last[labels[-1]] = found[-1]
    return loops, last, left_out


def step_of(loop: PhaseLoop, steps: int = 1) -> Callable[[], None]:
    """Trains on the first rows, `steps` times, as the loop stands."""
    rows = np.arange(min(len(loop.part), loop.settings.batch_size))

    def some() -> None:
        for _ in range(steps):
            loop._step(rows, rows[:0])

    return some


def prediction_of(loop: PhaseLoop) -> Callable[[], None]:
    """Predicts the test part, which is one batch, as validation after an epoch does."""
    feed, world, source = loop.feed, loop.world, loop.phase.source

    def whole() -> None:
        predict_part(loop.network, loop.method.predict, feed, "test", world, None, source)

    return whole


def beside(plain: str, ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Any]:
    """What `ways` take, and as many times what the way `plain` takes right before.

    The row of `plain` shows how far two measurements of the same are apart.
    """
    before: dict[str, list[float]] = {name: [] for name in ways}

    def after_plain(name: str) -> float:
        before[name].append(ways[plain]())
        return ways[name]()

    taken = take_turns({name: partial(after_plain, name) for name in ways}, repeats)
    return {
        "seconds": {name: summary(values) for name, values in taken.items()},
        f"to_{plain}": {name: ratio(values, before[name]) for name, values in taken.items()},
    }


def beside_plain(
    bench: Bench, asked: Mapping[str, Callable[[], Request]], plain: str, repeats: int, steps: int, clock: str
) -> dict[str, Any]:
    """Seconds of a step of each phase of what is `asked`, of predictions, beside `plain`; why others are left out."""
    loops, last, left_out = loops_of(bench, asked)

    def timed(action: Callable[[], None], times: int) -> Callable[[], float]:
        return lambda: seconds(action, bench.device, clock) / times

    training = {name: timed(step_of(loop, steps), steps) for name, loop in loops.items()}
    predicting = {name: timed(prediction_of(loop), 1) for name, loop in last.items()}
    return {
        **beside(plain, training, repeats),
        "images": {name: loop.settings.batch_size for name, loop in loops.items()},
        "inference": beside(plain, predicting, repeats),
        "left_out": left_out,
    }


def of_methods(bench: Bench, names: list[str], repeats: int, steps: int, clock: str) -> dict[str, Any]:
    """`beside_plain` of methods, beside `an`."""
    track = bench.settings[0]
    fitting = [name for name in names if track in load_method(name).tracks]
    found = beside_plain(bench, {name: partial(bench.request, name) for name in fitting}, "an", repeats, steps, clock)
    others = dict.fromkeys((name for name in names if name not in fitting), f"not on track {track}")
    return {**found, "left_out": others | found["left_out"]}


def of_heads(bench: Bench, repeats: int, steps: int, clock: str) -> dict[str, Any]:
    """`beside_plain` of `an` with each head, beside the linear one."""
    asked = {name: partial(bench.request, "an", name) for name in HEADS}
    return beside_plain(bench, asked, "linear", repeats, steps, clock)


def formats(backbone: str, pixels: int, batch: int, repeats: int, device: str, clock: str) -> dict[str, Any]:
    """Seconds of forward and backward by memory format and precision, compiled or not, and how far gradients are from
    the runner's. The first step includes compilation.

    Batch norm in training mode and ReLU make the gradients of a deep network of random weights follow the rounding of
    what it is shown: `rounded_images` is the same difference in fp32 for images rounded to bf16, and nothing else.
    """
    torch.manual_seed(0)
    raw = torch.randint(0, 256, (batch, pixels, pixels, 3), dtype=torch.uint8)
    trunk = build_backbone(backbone)
    images = normalise(raw, trunk.mean, trunk.std).to(device)  # channels last, as in the runner
    targets = (torch.rand(batch, 80) < 0.04).float().to(device)
    start = nn.ModuleDict({"trunk": trunk, "head": nn.Linear(trunk.out_channels, 80)}).state_dict()

    def made(
        inputs_last: bool, weights_last: bool, precision: str, images: Tensor = images, compiled: bool = False
    ) -> tuple[Callable[[], None], nn.ModuleDict]:
        network = nn.ModuleDict({"trunk": build_backbone(backbone), "head": nn.Linear(trunk.out_channels, 80)})
        network.load_state_dict(start)
        network.to(device).to(memory_format=torch.channels_last if weights_last else torch.contiguous_format)
        inputs = images if inputs_last else images.contiguous()

        def logits_of(inputs: Tensor) -> Tensor:
            return network["head"](network["trunk"](inputs).mean(dim=(2, 3)))

        forward = torch.compile(logits_of) if compiled else logits_of

        def step() -> None:
            network.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
                logits = forward(inputs)
            functional.binary_cross_entropy_with_logits(logits.float(), targets).backward()

        return step, network

    ways = {
        "fp32, NCHW": made(False, False, "fp32"),
        "fp32, channels-last images (the runner)": made(True, False, "fp32"),
        "fp32, channels-last images and weights": made(True, True, "fp32"),
        "fp32, channels-last images, compiled": made(True, False, "fp32", compiled=True),
        "bf16, NCHW": made(False, False, "bf16"),
        "bf16, channels-last images (the runner)": made(True, False, "bf16"),
        "bf16, channels-last images and weights": made(True, True, "bf16"),
        "bf16, channels-last images, compiled": made(True, False, "bf16", compiled=True),
    }
    rounded = made(True, False, "fp32", images.bfloat16().float())
    gradients, first = {}, {}
    for name, (step, network) in {**ways, "rounded": rounded}.items():
        first[name] = seconds(step, device)
        gradients[name] = torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])
    usual = "fp32, channels-last images (the runner)"
    apart = {
        name: float((each - gradients[usual]).norm() / gradients[usual].norm()) for name, each in gradients.items()
    }
    taken = take_turns({name: lambda s=way[0]: seconds(s, device, clock) for name, way in ways.items()}, repeats)
    return {
        "seconds": {name: summary(values) for name, values in taken.items()},
        "first_step": first,
        "to_runner": {name: ratio(values, taken[usual]) for name, values in taken.items()},
        "rounded_images": apart.pop("rounded"),
        "relative_difference": apart,
    }


def as_text(found: dict[str, Any]) -> str:
    texts = []
    if "runner" in found:
        rows = []
        for name, one in found["runner"].items():
            track, backbone, pixels, batch, batches = SETTINGS[name]
            taken = one["seconds"]
            shape = f"{track}: {backbone}, {pixels} px, {batch} images x {batches}"
            rows.append((shape, *map(spread, (taken["runner"], taken["by hand"], one["runner_to_hand"]))))
        heads = ("an epoch of", "runner, s", "by hand, s", f"runner to hand (resnet50: at most {RUNNER_TARGET})")
        texts.append("Runner and hand-written loop, equal weights after the last turn:\n\n" + markdown(rows, heads))
    for setting, one in found.get("methods", {}).items():
        aims = TARGETS if setting == "resnet50" else {}
        texts.append(f"A step of each method, {setting}:\n\n" + costs(one, "an", "method: phase", aims))
        reasons = [f"* {name}: {why}" for name, why in one["left_out"].items()]
        texts.append("Left out:\n\n" + "\n".join(reasons) if reasons else "Nothing left out.")
    for setting, one in found.get("heads", {}).items():
        _, backbone, pixels, _, _ = SETTINGS[setting]
        texts.append(f"A step of `an` by head, {backbone}, {pixels} px:\n\n" + costs(one, "linear", "head", {}))
    for name, one in found.get("formats", {}).items():
        rows = []
        for way, times in one["to_runner"].items():
            apart = f"{one['relative_difference'][way]:.1e}"
            taken, first = one["seconds"][way]["median"], one["first_step"][way]
            rows.append((way, f"{1000 * taken:.3g}", spread(times), f"{first:.2g}", apart))
        heads = ("format", "ms", "times the runner's fp32 [95 %]", "first step, s", "relative difference of gradients")
        pixels, batch = NETWORKS[name]
        texts.append(f"Forward and backward, {name}, {pixels} px, {batch} images:\n\n" + markdown(rows, heads))
        texts.append(f"Images rounded to bf16, all else fp32: gradients differ by {one['rounded_images']:.1e}.")
    return "\n\n".join(texts)


def costs(one: dict[str, Any], plain: str, kind: str, aims: Mapping[str, float]) -> str:
    """The table of what `beside_plain` measured, the cheapest step first; predictions are of the last network."""
    told = one.get("inference", {"seconds": {}})
    rows = []
    for name, times in sorted(one[f"to_{plain}"].items(), key=lambda item: item[1]["median"]):
        step = f"{1000 * one['seconds'][name]['median']:.3g}", spread(times)
        predicted: tuple[str, str] = ("", "")
        if name in told["seconds"]:
            predicted = f"{1000 * told['seconds'][name]['median']:.3g}", spread(told[f"to_{plain}"][name])
        rows.append((name, one["images"][name], *step, aims.get(name, ""), *predicted))
    beside = f"times `{plain}` [95 %]"
    headers = [kind, "images", "ms a step", beside, "at most", "ms a prediction", beside]
    kept = [column for column in range(len(headers)) if column != 4 or aims]
    return markdown([[row[column] for column in kept] for row in rows], [headers[column] for column in kept])


def measured_before(file: Path, parts: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures in `file` of other parts than `parts`, and how each of them was measured."""
    if not file.exists():
        return {}, {}
    held = json.loads(file.read_text(encoding="utf-8"))
    how = {key: held[key] for key in ("command", "git", "hardware", "load_average", "repeats", "clock", "threads")}
    kept = {part: figures for part, figures in held["figures"].items() if part not in parts}
    return kept, {part: held.get("measured_before", {}).get(part, how) for part in kept}


def whole_text(figures: dict[str, Any], before: Mapping[str, Mapping[str, Any]]) -> str:
    """`as_text`, and of parts that were measured before by what, on what."""
    lines = [
        f"{part}: measured before, by `{how['command']}` on {how['hardware']['cpu']}, "
        f"{how['hardware']['cores']} cores, {how['threads']} threads; load average {how['load_average']:.1f}."
        for part, how in before.items()
    ]
    return "\n\n".join([as_text(figures), *lines])


@click.command()
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--settings", default=",".join(SETTINGS), show_default=True, help="Of runner, methods and heads.")
@click.option("--networks", default=",".join(NETWORKS), show_default=True, help="Of formats.")
@click.option("--methods", help="Only these on `scenes`, separated by commas [all registered ones].")
@click.option("--steps", default=3, show_default=True, help="Steps in a turn of `methods`, but one of resnet50.")
@click.option("--threads", default=usable_cores(), show_default="all cores")
@click.option("--device", default="cpu", show_default=True)
@CLOCK
@REPEATS
@OUTPUT
def main(
    parts: str,
    settings: str,
    networks: str,
    methods: str | None,
    steps: int,
    threads: int,
    device: str,
    clock: str,
    repeats: int,
    output: Path,
) -> None:
    """Measure, and write the figures; those of other parts stay as they were measured before."""
    torch.set_num_threads(threads)
    found: dict[str, Any] = {part: {} for part in parts.split(",")}
    scenes = load_dataset("scenes")  # from the person's cache: drawing it takes longer than what is measured
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLBENCH_CACHE"] = scratch
        for name in settings.split(","):
            bench = Bench(SETTINGS[name], scenes, Path(scratch), device)
            if "runner" in found:
                found["runner"][name] = beside_hand(bench, repeats, clock)
            if "methods" in found and name != "head":
                every = methods.split(",") if methods else sorted(available())
                chosen = every if name == "scenes" else ["an", *TARGETS]
                some = steps if name == "scenes" else 1
                found["methods"][name] = of_methods(bench, list(dict.fromkeys(["an", *chosen])), repeats, some, clock)
            if "heads" in found and name != "head":
                found["heads"][name] = of_heads(bench, repeats, steps if name == "scenes" else 1, clock)
        for name in networks.split(",") if "formats" in found else ():
            found["formats"][name] = formats(name, *NETWORKS[name], repeats, device, clock)
    facts = about(repeats=repeats, clock=clock, device=device)
    earlier, how = measured_before(output / "step.json", found)
    both = {part: figures for part in PARTS if (figures := (earlier | found).get(part)) is not None}
    write(output, "step", {**facts, "measured_before": how}, both, whole_text(both, how))


if __name__ == "__main__":
    main()
