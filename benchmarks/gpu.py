"""The runner on a GPU: beside a bare loop of the same precision, and beside fp32 in NCHW as the papers' code ran.

Images a second of training steps (forward, backward, Adam), the share of the arithmetic that a large product of
matrices reaches on the same device, and how often a step of the runner makes the host wait for the device.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from step import Bench
from timing import OUTPUT, REPEATS, about, markdown, ratio, seconds, spread, summary, take_turns, write
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.inputs.pixels import load_pixels
from mlbench.inputs.tensors import normalise
from mlbench.models.backbones import BACKBONES
from mlbench.runner.loop import PhaseLoop

#: Backbone and pixels of a side, as in the papers' tables.
CASES = {"resnet50-448": ("resnet50", 448), "resnet101-288": ("resnet101", 288)}
#: Images a batch of the papers' code.
PAPERS_BATCH = 16
BARE_TARGET, PAPERS_TARGET = 0.95, 3.0


class Bare:
    """A training loop without anything around it, over images that are on the device already."""

    def __init__(
        self, loop: PhaseLoop, *, batch: int, precision: str, channels_last: bool, compiled: bool = False
    ) -> None:
        trunk, split = BACKBONES[loop.feed.run.backbone], loop.feed.run.dataset.splits["train"]
        device = loop.world.device
        raw = torch.from_numpy(np.array(load_pixels(split, loop.feed.run.train.image_size)))
        images = torch.cat([normalise(some.to(device), trunk.mean, trunk.std) for some in raw.split(batch)])
        form = torch.channels_last if channels_last else torch.contiguous_format
        self.images, self.batch, self.kind = images.to(memory_format=form), batch, device.type
        self.targets = torch.from_numpy(np.asarray(loop.part.observed) == 1).float().to(device)
        self.network: nn.Module = loop.network.to(memory_format=form)
        self.half = precision == "bf16"
        self.forward: Callable[..., Any] = torch.compile(self.network) if compiled else self.network
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=loop.settings.lr)

    def loss(self, start: int) -> torch.Tensor:
        with torch.autocast(self.kind, dtype=torch.bfloat16, enabled=self.half):
            logits = self.forward(self.images[start : start + self.batch]).logits
        targets = self.targets[start : start + self.batch]
        return functional.binary_cross_entropy_with_logits(logits.float(), targets)

    def epoch(self) -> None:
        for start in range(0, len(self.targets), self.batch):
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(start).backward()
            self.optimizer.step()

    def flops_an_image(self) -> float:
        """Of forward and backward."""
        with FlopCounterMode(display=False) as counter:
            self.loss(0).backward()
        return counter.get_total_flops() / min(self.batch, len(self.targets))


def attainable(device: str, side: int, repeats: int) -> float:
    """Floating-point operations a second of a product of two square bf16 matrices."""
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    (one @ other).sum()
    return 2 * side**3 / summary([seconds(lambda: one @ other, device) for _ in range(repeats)])["median"]


def waits(loop: PhaseLoop, device: str) -> float | None:
    """How often the host waits for the device in an epoch of the runner, for each step; None where there is no GPU."""
    if device != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop.run_epoch(lambda: False, lambda: None, lambda rows: None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    loop.next_epoch()
    steps = -(-len(loop.part) // loop.settings.batch_size)
    return sum("synchronizing CUDA operation" in str(each.message) for each in caught) / steps


def measure(
    name: str, scenes: Dataset, scratch: Path, batch: int, batches: int, repeats: int, device: str
) -> dict[str, Any]:
    backbone, pixels = CASES[name]

    def bench(precision: str) -> PhaseLoop:
        settings = ("full", backbone, pixels, batch, batches)
        made = Bench(settings, scenes, scratch, device, precision)
        (loop,) = made.loops(made.request("an"))
        loop.position.epoch = 1
        return loop

    loop = bench("bf16")

    def runner() -> None:
        loop.run_epoch(lambda: False, lambda: None, lambda rows: None)
        loop.next_epoch()

    bare = Bare(bench("bf16"), batch=batch, precision="bf16", channels_last=True)
    compiled = Bare(bench("bf16"), batch=batch, precision="bf16", channels_last=True, compiled=True)
    papers = Bare(bench("fp32"), batch=min(PAPERS_BATCH, batch), precision="fp32", channels_last=False)
    ways: dict[str, Callable[[], None]] = {
        "runner, bf16": runner,
        "bare loop, bf16, channels last": bare.epoch,
        "the same, compiled": compiled.epoch,
        f"fp32, NCHW, {papers.batch} images": papers.epoch,
    }
    for way in ways.values():
        way()  # loads libraries, chooses algorithms, compiles
    found = take_turns({key: lambda way=way: seconds(way, device) for key, way in ways.items()}, repeats)
    images, rate = len(loop.part), attainable(device, 8192 if device == "cuda" else 512, repeats)
    flops = bare.flops_an_image()
    first, *_, last = ways
    return {
        "images_per_s": {key: summary([images / value for value in values]) for key, values in found.items()},
        "runner_to_bare": ratio(found["bare loop, bf16, channels last"], found[first]),
        "runner_to_papers": ratio(found[last], found[first]),
        "flops_an_image": flops,
        "matrix_product_flops_per_s": rate,
        "share_of_the_peak": {key: flops * images / summary(values)["median"] / rate for key, values in found.items()},
        "waits_a_step": waits(loop, device),
    }


def as_text(found: dict[str, dict[str, Any]], batch: int) -> str:
    texts = []
    for name, one in found.items():
        rows = [
            (way, spread(rate), f"{one['share_of_the_peak'][way]:.1%}") for way, rate in one["images_per_s"].items()
        ]
        waiting = "not measured" if one["waits_a_step"] is None else f"{one['waits_a_step']:.2g}"
        texts.append(
            f"{name}, {batch} images a batch:\n\n"
            + markdown(rows, ("loop", "images/s", "share of a matrix product's rate"))
            + f"\n\nRunner to bare loop {spread(one['runner_to_bare'])} (at least {BARE_TARGET}); to fp32 in NCHW "
            f"{spread(one['runner_to_papers'])} (at least {PAPERS_TARGET:g}); waits of the host a step: {waiting}."
        )
    return "\n\n".join(texts)


@click.command()
@click.option("--cases", default=",".join(CASES), show_default=True)
@click.option("--batch", default=64, show_default=True, help="Images a batch of the runner and the bare loop.")
@click.option("--batches", default=8, show_default=True, help="In an epoch.")
@click.option("--device", default="cuda", show_default=True)
@REPEATS
@OUTPUT
def main(cases: str, batch: int, batches: int, device: str, repeats: int, output: Path) -> None:
    """Measure, and write the figures; fp32 is as torch has it by default (TF32 in convolutions)."""
    with tempfile.TemporaryDirectory() as scratch:
        scenes = load_dataset("scenes")  # before the cache is elsewhere: drawing it takes longer than what is measured
        os.environ["MLBENCH_CACHE"] = scratch
        place = (scenes, Path(scratch), batch, batches, repeats, device)
        found = {name: measure(name, *place) for name in cases.split(",")}
    write(output, "gpu", about(repeats=repeats, device=device), found, as_text(found, batch))


if __name__ == "__main__":
    main()
