"""Time and memory of one training step on VAC's four views against four steps on a single view each.

The two ways take turns. Each batch is gathered, normalised, transformed, and goes forward, backward and into the
optimiser. On a CPU the memory is what autograd keeps between forward and backward, on a GPU the peak of all that was
allocated.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from timing import CLOCK, OUTPUT, about, markdown, ratio, seconds, spread, summary, take_turns, write
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mlbench.conformance.testing import tiny_dataset
from mlbench.methods import Batch, Step
from mlbench.models.backbones import BACKBONES
from mlbench.models.weights import TORCHVISION
from mlbench.protocol import load_protocol
from mlbench.registry import load_method
from mlbench.runner.feed import Feed
from mlbench.runner.plan import Request, resolve
from mlbench.runner.task import RunTask
from mlbench.runner.world import World

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
        self.task = RunTask(run, world, self.feed)
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


@click.command()
@click.option("--backbone", default="scenes", show_default=True, type=click.Choice(sorted(TORCHVISION)))
@click.option("--size", default=64, show_default=True, help="Side in pixels; the second size is a cell smaller.")
@click.option("--batch", default=16, show_default=True, help="Images, before views.")
@click.option("--classes", default=14, show_default=True)
@click.option("--repeats", default=15, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@CLOCK
@OUTPUT
def main(
    backbone: str,
    size: int,
    batch: int,
    classes: int,
    repeats: int,
    threads: int,
    device: str,
    clock: str,
    output: Path,
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
        kind = four.device.type
        times = take_turns({name: lambda way=way: seconds(way, kind, clock) for name, way in ways.items()}, repeats)
        memory = {"vac_fs": four.kept_mib(), "wbce_fs": control.kept_mib()}
        memory["four steps of wbce"] = sum(trainer.kept_mib() for trainer in single)
    base = "four steps of wbce"
    ratios = {name: ratio(times[name], times[base]) for name in times}
    rows = [
        (
            name,
            f"{1000 * summary(times[name])['median']:.1f}",
            spread(ratios[name]),
            f"{memory[name]:.1f}",
            f"{memory[name] / memory[base]:.3f}",
        )
        for name in ways
    ]
    heads = ("way", "ms", f"times {base}", "MiB", f"times {base}")
    text = markdown(rows, heads) + f"\n\nvac_fs to {base}: time {spread(ratios['vac_fs'])} (at most {TARGET:g})"
    settings = {"backbone": backbone, "size": size, "batch": batch, "classes": classes, "device": device}
    found = {"seconds": {name: summary(taken) for name, taken in times.items()}, "ratios": ratios, "memory_mib": memory}
    write(output, "views", about(clock=clock, repeats=repeats, **settings), found, text)


if __name__ == "__main__":
    main()
