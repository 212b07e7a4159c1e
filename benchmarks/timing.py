"""What the benchmarks share: ways that take turns, medians and ratios with their spread, and the files written."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from mlbench.provenance import (
    PACKAGES,
    hardware,
    own_commit,
    package_versions,
    peak_memory_mib,
    shorten_argv,
    usable_cores,
)

#: Where figures go, beside those of the other scripts.
OUTPUT = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parents[1] / "results" / "benchmarks",
    show_default="results/benchmarks",
    help="Folder for the figures, as JSON and as a table.",
)
REPEATS = click.option("--repeats", default=7, show_default=True, help="Turns of each way.")


CLOCK = click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="Time by the clock or, on a CPU that others use too, that of the process.",
)


def seconds(action: Callable[[], object], device: str = "cpu", clock: str = "wall") -> float:
    """Time that `action` takes, on a GPU by the clock and until it is done there, too."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        begun = time.perf_counter()
        action()
        torch.cuda.synchronize()
        return time.perf_counter() - begun
    now = time.perf_counter if clock == "wall" else time.process_time
    begun = now()
    action()
    return now() - begun


def alone(step: Callable[..., Any], *arguments: Any) -> Any:
    """``step(*arguments)`` in a process of its own, whose peak memory is that of the step."""
    # A pool of `multiprocessing` would forbid the step processes of its own.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(step, *arguments).result()


def take_turns(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each way measures, once in each repeat, so that whatever else the machine does falls on all of them.

    The order turns by one place from repeat to repeat: none always comes after the same other one.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    names, begun = list(ways), time.monotonic()
    for number in range(repeats):
        start = number % len(names)
        for name in [*names[start:], *names[:start]]:
            found[name].append(ways[name]())
        left = (time.monotonic() - begun) / (number + 1) * (repeats - number - 1)
        click.echo(f"turn {number + 1} of {repeats} of {len(names)} ways: about {left:.0f} s left", err=True)
    return found


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a 95 % confidence interval of the median, two of the values: no shape of their spread is assumed.

    Below six values even the least and the most fall short of 95 %.
    """
    ordered, count = sorted(values), len(values)
    # The median lies below the k-th of n values in as many of 2**n cases as there are sets of fewer than k.
    outside = [sum(math.comb(count, size) for size in range(k)) for k in range(1, count // 2 + 1)]
    dropped = max(0, sum(2 * cases <= 0.05 * 2**count for cases in outside) - 1)
    return ordered[dropped], ordered[-1 - dropped]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, its confidence bounds, least, most, and all values in the order they were measured."""
    low, high = median_bounds(values)
    return {
        "median": statistics.median(values),
        "bounds": [low, high],
        "least": min(values),
        "most": max(values),
        "values": list(values),
    }


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, Any]:
    """`summary` of the ratios of what was measured in the same repeat."""
    return summary([a / b for a, b in zip(numerator, denominator, strict=True)])


def spread(found: Mapping[str, Any], digits: int = 3) -> str:
    """A `summary` as "median [low, high]"."""
    low, high = found["bounds"]
    return f"{found['median']:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def about(**settings: Any) -> dict[str, Any]:
    """Machine, versions, command and what else was under way, beside the script's own `settings`."""
    torch = sys.modules.get("torch")
    return {
        "command": "python " + shorten_argv(sys.argv),
        "git": own_commit(),
        "hardware": hardware(),
        "python": platform.python_version(),
        "packages": package_versions((*PACKAGES, "scipy", "torchmetrics")),
        "threads": torch.get_num_threads() if torch else usable_cores(),
        "load_average": os.getloadavg()[0],
        "peak_memory_mib": peak_memory_mib(),
        **settings,
    }


def markdown(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A table as GitHub shows it, cells as they are."""
    return tabulate([[*map(str, row)] for row in rows], headers, tablefmt="github", disable_numparse=True)


def write(output: Path, name: str, facts: Mapping[str, Any], figures: Mapping[str, Any], text: str) -> None:
    """Print `text`; write ``name.json`` (`facts` and `figures`) and ``name.md`` (`text` and `facts`) to `output`."""
    output.mkdir(parents=True, exist_ok=True)
    held = json.dumps({**facts, "figures": figures}, indent=1, allow_nan=False)
    (output / f"{name}.json").write_text(held + "\n", encoding="utf-8")
    machine = facts["hardware"]
    versions = ", ".join(f"{package} {version}" for package, version in facts["packages"].items())
    made = (
        f"`{facts['command']}`\n\n{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, accelerator "
        f"{machine['accelerator']}; {facts['threads']} threads; load average {facts['load_average']:.1f}; "
        f"Python {facts['python']}, {versions}."
    )
    (output / f"{name}.md").write_text(f"# {name}\n\n{made}\n\n{text}\n", encoding="utf-8")
    click.echo(text)
