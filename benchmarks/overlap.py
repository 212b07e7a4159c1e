"""What the host does between two training steps, and how much of it is hidden behind the step that is under way.

The network does nothing but sleep, as the host does while a GPU computes: whatever an epoch takes beyond the sleep is
the host's. Batches are made when they are asked for ("one after the other"), or the next one while the step sleeps
("ahead", as the runner does on a GPU). A profile of an epoch without sleep says what the host is busy with.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from step import Bench
from timing import OUTPUT, REPEATS, about, markdown, ratio, seconds, spread, summary, take_turns, write

from mlbench.datasets import load_dataset
from mlbench.methods import Batch, Phase
from mlbench.registry import load_method
from mlbench.runner.loop import PhaseLoop

#: track, backbone, pixels, images a batch, batches an epoch; and the sleep of a step in seconds.
CASES = {
    "448 px, 16 images": (("full", "scenes", 448, 16, 12), 0.1),
    "224 px, 64 images": (("full", "scenes", 224, 64, 12), 0.15),
    "pooled features, 64 images": (("head", "resnet50", 64, 64, 12), 0.02),
}
#: Share of the sleep that an epoch may take beyond it where batches are made ahead.
TARGET = 1.1


class Asleep(load_method("an")):  # type: ignore[misc]
    """AN with a network that sleeps in place of computing."""

    name = "asleep"
    sleep = 0.0

    def network(self, phase: Phase) -> torch.nn.Module:
        return torch.nn.Linear(1, 10)

    def training_step(self, network: torch.nn.Module, batch: Batch, step: Any) -> torch.Tensor:
        time.sleep(self.sleep)
        return self.loss(network(batch.inputs[:, :1, 0, 0]), batch.labels, step)

    def predict(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return network(batch.inputs[:, :1, 0, 0])


def epoch(loop: PhaseLoop, ahead: bool) -> None:
    loop.feed.ahead = ahead
    loop.run_epoch(lambda: False, lambda: None, lambda rows: None)
    loop.next_epoch()


def measure(settings: Any, sleep: float, bench: Bench, repeats: int) -> dict[str, Any]:
    (loop,) = bench.loops(bench.request(Asleep))
    loop.position.epoch = 1
    batches = settings[-1]
    loop.method.sleep = 0.0
    epoch(loop, False)
    profile = cProfile.Profile()
    profile.runcall(epoch, loop, False)
    bare = take_turns({"without a step": lambda: seconds(lambda: epoch(loop, False))}, repeats)["without a step"]
    loop.method.sleep = sleep
    ways = {
        "one after the other": lambda: seconds(lambda: epoch(loop, False)),
        "ahead": lambda: seconds(lambda: epoch(loop, True)),
    }
    found = take_turns(ways, repeats)
    return {
        "sleep_ms": 1e3 * sleep,
        "host_ms_a_step": summary([1e3 * value / batches for value in bare]),
        "step_ms": {way: summary([1e3 * value / batches for value in values]) for way, values in found.items()},
        "of_the_sleep": {way: ratio(values, [sleep * batches] * repeats) for way, values in found.items()},
        "profile": longest(profile, batches),
    }


def longest(profile: cProfile.Profile, batches: int, count: int = 12) -> list[dict[str, Any]]:
    """Functions by the time spent in themselves, in milliseconds a step."""
    rows = []
    for (file, _, name), (_, calls, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        place = f"{Path(file).parent.name}/{Path(file).name} {name}" if "/" in file else name
        rows.append({"function": place, "calls_a_step": calls / batches, "ms_a_step": 1e3 * own / batches})
    return sorted(rows, key=lambda row: -row["ms_a_step"])[:count]


def as_text(found: dict[str, dict[str, Any]]) -> str:
    rows = [
        (
            name,
            f"{one['sleep_ms']:.0f}",
            spread(one["host_ms_a_step"]),
            *(spread(one["step_ms"][way]) for way in ("one after the other", "ahead")),
            spread(one["of_the_sleep"]["ahead"]),
        )
        for name, one in found.items()
    ]
    headers = [
        "batch",
        "the step sleeps, ms",
        "host's work, ms",
        "one after the other, ms",
        "ahead, ms",
        "ahead / sleep",
    ]
    texts = [markdown(rows, headers)]
    for name, one in found.items():
        lines = [(row["function"], f"{row['calls_a_step']:.1f}", f"{row['ms_a_step']:.3f}") for row in one["profile"]]
        texts.append(f"{name}: the host's work, by function\n\n" + markdown(lines, ["function", "calls a step", "ms"]))
    return "\n\n".join(texts)


@click.command(help=__doc__)
@REPEATS
@OUTPUT
def main(repeats: int, output: Path) -> None:
    scenes, found = load_dataset("scenes"), {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLBENCH_CACHE"] = scratch
        for name, (settings, sleep) in CASES.items():
            bench = Bench(settings, scenes, Path(scratch), "cpu")
            found[name] = measure(settings, sleep, bench, repeats)
    missed = [name for name, one in found.items() if one["of_the_sleep"]["ahead"]["median"] > TARGET]
    told = f"Target: an epoch of at most {TARGET} times its sleep. " + (f"Missed: {missed}." if missed else "Held.")
    write(output, "overlap", about(repeats=repeats, target=TARGET), found, f"{as_text(found)}\n\n{told}")


if __name__ == "__main__":
    main()
