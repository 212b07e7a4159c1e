"""Time and memory of one training step on VAC's four views against four steps on a single view each.

The two ways take turns. Each batch is gathered, normalised, transformed, and goes forward, backward and into the
optimiser. On a CPU the time is that of the process (whatever else the machine does falls out of it) and the memory
what autograd keeps between forward and backward; on a GPU, seconds by the clock and the peak of all that was allocated.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mlbench.methods import Batch, Step
from mlbench.models.backbones import BACKBONES
from mlbench.protocol import load_protocol
from mlbench.provenance import hardware, package_versions
from mlbench.registry import load_method
from mlbench.runner.feed import Feed
from mlbench.runner.plan import Request, resolve
from mlbench.runner.task import Task
from mlbench.runner.world import World
from mlbench.testing import tiny_dataset

#: Four views in one step by four single views in four steps.
TARGET = 1.1


class Trainer:
    """Steps of one method at one image size, on the same images each time."""

    def __init__(self, method: str, backbone: str, size: int, batch: int, classes: int, device: str) -> None:
        data = tiny_dataset(train=batch, val=1, test=1, classes=classes, size=size)
        changes = {"train.image_size": size, "train.batch_size": batch}
        protocol, chosen = load_protocol("full"), load_method(method)
        run = resolve(Request(protocol, chosen, data, backbone=backbone, track="full", changes=changes))
        world = World(device)
        self.device, self.index = world.device, np.arange(len(run.parts["train"]))
        self.feed = Feed(run, world.device)
        self.task = Task(run, world, self.feed)
        self.method = chosen(self.task)
        (phase,) = self.method.phases()
        self.task.begin(phase)
        self.network = self.method.network(phase).to(world.device).train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.9)

    def batch(self) -> Batch:
        return self.feed.with_labels(self.feed.batch("train", self.index, 1), self.index, self.task.labels)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.labels is not None
        labels = batch.labels
        step = Step("train", 1, 1, 0, 1, len(self.index), lambda tensor: tensor, lambda: labels)
        found = self.method.training_step(self.network, batch, step)
        return sum(found.values(), torch.zeros((), device=self.device)) if isinstance(found, dict) else found

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss(self.batch()).backward()
        self.optimizer.step()

    def kept_mib(self) -> float:
        """MiB kept for the backward pass, parameters and the batch itself left out; on a GPU the peak of a step."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return torch.cuda.max_memory_allocated() / 2**20
        batch, kept = self.batch(), {}
        ours = {tensor.untyped_storage().data_ptr() for tensor in (*self.network.parameters(), *batch.views.values())}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss(batch)
        loss.backward()
        return sum(size for place, size in kept.items() if place not in ours) / 2**20


def seconds(action: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        begun = time.process_time()
        action()
        return time.process_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


@click.command()
@click.option("--backbone", default="scenes", show_default=True, type=click.Choice(sorted(BACKBONES)))
@click.option("--size", default=64, show_default=True, help="Side in pixels; the second size is a cell smaller.")
@click.option("--batch", default=16, show_default=True, help="Images, before views.")
@click.option("--classes", default=14, show_default=True)
@click.option("--repeats", default=15, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="JSON file with every figure.")
def main(
    backbone: str, size: int, batch: int, classes: int, repeats: int, threads: int, device: str, output: Path | None
) -> None:
    """Compare `vac_fs` with `wbce` on each of its four views, and with `wbce_fs`."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLBENCH_CACHE"] = scratch
        small = size - BACKBONES[backbone].stride
        four, control = (Trainer(name, backbone, size, batch, classes, device) for name in ("vac_fs", "wbce_fs"))
        single = [Trainer("wbce", backbone, side, batch, classes, device) for side in (size, size, small, small)]

        def singles() -> None:
            for trainer in single:
                trainer.step()

        ways = {"vac_fs": four.step, "wbce_fs": control.step, "four steps of wbce": singles}
        for way in ways.values():
            way()  # the first step starts libraries
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                times[name].append(seconds(way, four.device))
        memory = {"vac_fs": four.kept_mib(), "wbce_fs": control.kept_mib()}
        memory["four steps of wbce"] = sum(trainer.kept_mib() for trainer in single)
    base = "four steps of wbce"
    ratios = {name: statistics.median(a / b for a, b in zip(times[name], times[base], strict=True)) for name in times}
    for name in ways:
        click.echo(
            f"{name:20} {1000 * statistics.median(times[name]):8.1f} ms  {ratios[name]:.3f}x   "
            f"{memory[name]:8.1f} MiB  {memory[name] / memory[base]:.3f}x"
        )
    click.echo(f"vac_fs to four steps of wbce: time {ratios['vac_fs']:.3f} (target {TARGET:g} at most)")
    if output is not None:
        about = {"hardware": hardware(), "packages": package_versions(), "threads": threads, "device": device}
        settings = {"backbone": backbone, "size": size, "batch": batch, "classes": classes}
        found = {"seconds": times, "ratios": ratios, "memory_mib": memory}
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({**about, **settings, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
