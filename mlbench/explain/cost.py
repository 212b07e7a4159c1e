"""What a trained run costs: parameters, floating-point operations and images a second at inference, training time."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mlbench.datasets.base import Advance
from mlbench.errors import DataError, UsageError
from mlbench.explain.deployed import Deployed
from mlbench.explain.sides import Record, Side, method_of, sides_of
from mlbench.methods import Batch
from mlbench.paths import store_dir
from mlbench.store import find_records

#: Fewest batches a rate is the median of.
FEWEST = 7
#: Batches before the first that is timed: the first ones load kernels and claim memory.
WARM_UP = 2
#: Quartiles further apart than this factor are remarked on.
_STEADY = 1.25


@dataclasses.dataclass(frozen=True)
class Cost:
    """One method's cost, means over `runs` where it comes from records.

    batch_size, device : of what was timed.
    parameters : those that take part in inference; `idle` others the network holds. flops : of one image.
    images_per_s : median over timed batches; `quartiles` of the same. training_s, training_images_per_s : from the
    records, None where nothing was trained. run_s : the whole run, with validation and prediction. used_by : methods
    whose training needed this one (their teacher); it costs them nothing at inference.
    """

    name: str
    runs: int
    track: str
    backbone: str
    size: int
    parameters: int
    idle: int
    flops: int
    images_per_s: float
    quartiles: tuple[float, float]
    training_s: float | None
    training_images_per_s: float | None
    run_s: float
    batch_size: int
    device: str
    used_by: tuple[str, ...] = ()


class _Touched(TorchFunctionMode):
    """Collects the parameters that functions are given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter)}
        return func(*args, **(kwargs or {}))


def count_flops(model: Deployed, batch: Batch) -> int:
    """Floating-point operations of one image's inference: a multiplication and an addition count as two.

    What `torch.utils.flop_counter` counts: convolutions, matrix products (recurrent layers too) and attention;
    element by element work, pooling of regions and sorting are not in it.
    """
    # Fused recurrent layers count as nothing; without these libraries they are taken apart into products.
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        counter = stack.enter_context(FlopCounterMode(display=False))
        model.predict(batch)
    return round(counter.get_total_flops() / len(batch.index))


def count_parameters(model: Deployed, batch: Batch) -> tuple[int, int]:
    """How many parameters take part in inference, and how many the network holds beside them."""
    with _Touched() as touched:
        model.predict(batch)
    sizes = {id(p): p.numel() for p in model.modules().parameters()}
    used = sum(size for key, size in sizes.items() if key in touched.seen)
    return used, sum(sizes.values()) - used


def time_inference(
    models: Sequence[Deployed], batches: Sequence[Batch], repeats: int, advance: Advance | None = None
) -> list[np.ndarray]:
    """Images a second of each of `models` on its batch, `repeats` times: float64 [repeats] each.

    The models take turns, so that what else the machine does meets all of them alike.
    """
    rates = [np.empty(repeats) for _ in models]
    for number in range(-WARM_UP, repeats):
        for model, batch, rate in zip(models, batches, rates, strict=True):
            _wait(model.device)
            started = time.perf_counter()
            model.predict(batch)
            _wait(model.device)
            if number >= 0:
                rate[number] = len(batch.index) / (time.perf_counter() - started)
        if advance is not None:
            advance(number + WARM_UP + 1, WARM_UP + repeats)
    return rates


def measure_costs(
    runs: Sequence[str],
    store: Path | None = None,
    data_root: Path | None = None,
    dataset: str | None = None,
    weights: Path | None = None,
    batch_size: int = 16,
    repeats: int = FEWEST,
    device: str = "cpu",
    advance: Advance | None = None,
) -> list[Cost]:
    """Cost of the deployed network of each of `runs`, each followed by the runs it was trained with (teachers).

    Each of `runs` is the first characters of a key, or of several keys joined by commas (seeds); without them, those of
    the whole store by method. The first run of a method is measured; times of training are means over its runs. On
    track "head" the frozen backbone belongs to the network. Decoding, resizing and normalising of pictures and the
    making of region proposals are not in the numbers. ``advance(done, total)`` is told of turns of all models.

    Raises
    ------
    UsageError
        `batch_size` below 1, `repeats` below `FEWEST`, or a submission, which has no network.
    DataError
        A run's teacher is not in the store.
    """
    if batch_size < 1:
        raise UsageError(f"--batch {batch_size}: expected at least 1")
    if repeats < FEWEST:
        raise UsageError(f"--repeats {repeats}: expected at least {FEWEST}, for a median")
    sides = _with_teachers(sides_of(runs, store), store)
    models = [Deployed(side.records[0], store, data_root, weights, dataset, device) for side, _ in sides]
    batches = []
    for model in models:
        pixels = model.pixels()
        rows = np.arange(batch_size) % len(pixels)
        batches.append(_with_side(model, model.batch(rows, pixels[rows])))
    flops = [count_flops(model, batch) for model, batch in zip(models, batches, strict=True)]
    parameters = [count_parameters(model, batch) for model, batch in zip(models, batches, strict=True)]
    rates = time_inference(models, batches, repeats, advance)
    found = []
    for (side, students), model, work, (used, idle), rate in zip(sides, models, flops, parameters, rates, strict=True):
        low, middle, high = np.percentile(rate, [25, 50, 75])
        spent = [sum(phase["seconds"] for phase in record["phases"]) for record in side.records]
        pace = [record["provenance"].get("images_per_s") for record in side.records]
        found.append(
            Cost(
                name=side.name,
                runs=len(side.records),
                track=model.run.track,
                backbone=model.run.backbone,
                size=model.size,
                parameters=used,
                idle=idle,
                flops=work,
                images_per_s=float(middle),
                quartiles=(float(low), float(high)),
                training_s=float(np.mean(spent)) if any(spent) else None,
                training_images_per_s=float(np.mean([p for p in pace if p])) if any(pace) else None,
                run_s=float(np.mean([record["provenance"]["seconds"] for record in side.records])),
                batch_size=batch_size,
                device=model.device.type,
                used_by=students,
            )
        )
    return found


def costs_text(costs: Sequence[Cost]) -> str:
    """The costs as Markdown, with how they were measured."""
    rows = []
    for cost in costs:
        learned = cost.training_s is not None
        rows.append(
            [
                cost.name,
                ", ".join(cost.used_by),
                cost.runs,
                f"{cost.backbone}, {cost.size} px",
                f"{cost.parameters:,}",
                f"{cost.flops / 1e6:,.2f}",
                f"{cost.images_per_s:,.0f} ({cost.quartiles[0]:,.0f} to {cost.quartiles[1]:,.0f})",
                f"{cost.training_s:,.0f}" if learned else "",
                f"{cost.training_images_per_s:,.0f}" if cost.training_images_per_s else "",
                f"{cost.run_s:,.0f}",
            ]
        )
    header = ["method", "used by", "runs", "backbone", "parameters", "MFLOP/image", "images/s (quartiles)"]
    header += ["training s", "training images/s", "whole run s"]
    aligned = ["left", "left", "right", "left"] + ["right"] * (len(header) - 4)
    table = tabulate(rows, header, "github", disable_numparse=True, colalign=aligned)
    notes = [
        f"Inference in batches of {costs[0].batch_size} on {costs[0].device}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; median over timed batches, runs taking turns. From normalised pictures to scores: no "
        "decoding, no making of proposals.",
        "A multiplication and an addition are two operations; convolutions, products and attention are counted.",
        "Training times are what the records say, on their machines, without the teacher's (its own line).",
    ]
    if any(cost.quartiles[1] > _STEADY * cost.quartiles[0] for cost in costs):
        notes.append("The machine was busy with something else (see the quartiles): its rates are not to be compared.")
    idle = [f"{cost.name} {cost.idle:,}" for cost in costs if cost.idle]
    if idle:
        notes.append(f"Parameters the networks hold but inference does not read, left out: {', '.join(idle)}.")
    if any(cost.track == "head" for cost in costs):
        notes.append("Track head: the frozen backbone is counted at inference, training was on cached features.")
    return "\n".join([table, "", *(f"- {note}" for note in notes)])


def _with_teachers(sides: Sequence[Side], store: Path | None) -> list[tuple[Side, tuple[str, ...]]]:
    """Each side, after it the runs it builds on that are not given themselves, and of each the methods that use it."""
    given = {record["key"] for side in sides for record in side.records}
    users: dict[str, list[str]] = {}
    for side in sides:
        for key in dict.fromkeys(key for record in side.records for key in record["identity"]["uses"].values()):
            users.setdefault(key, []).append(side.name)
    known: dict[str, Record] = {}
    if users.keys() - given:
        known = {record["key"]: record for record in find_records(store or store_dir())[0]}
    found, listed = [], set(given)
    for side in sides:
        taught = [side]
        for role in side.records[0]["identity"]["uses"]:
            keys = dict.fromkeys(record["identity"]["uses"][role] for record in side.records)
            lost = [key for key in keys if key not in given and key not in known]
            if lost:
                raise DataError(f"{side.name} builds on run {lost[0][:16]} ({role}), which is not in the store")
            records = tuple(known[key] for key in keys if key not in listed)
            listed |= keys.keys()
            taught += [Side(method_of(records[0]), records)] if records else []
        found += [
            (each, tuple(dict.fromkeys(name for record in each.records for name in users.get(record["key"], []))))
            for each in taught
        ]
    return found


def _with_side(model: Deployed, batch: Batch) -> Batch:
    """`batch` with what the method takes beside the image made now, so that its making is not timed."""
    return dataclasses.replace(batch, side={kind: batch.side[kind] for kind in model.run.method.inputs})


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
