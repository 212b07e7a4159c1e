"""What `mlbench plan` says a run takes, beside what it then takes: each cell of a small grid, planned and run in turns.

Runs go one at a time, as the local executor starts them; the time is from its start to the end of its process. What a
sweep waits for before its first run is left out of both.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from timing import OUTPUT, about, markdown, ratio, spread, summary, write

from mlbench.errors import MlbenchError
from mlbench.sweep.drive import make_sweep
from mlbench.sweep.estimate import Plan, plan
from mlbench.sweep.executors import LocalExecutor
from mlbench.sweep.grid import load_grid

#: Estimate to actual time.
TARGET = 0.2
GRID = """\
protocol = "single_positive"
dataset = "scenes"
methods = ["an", "llr_boostlu", "role", "em_apl", "role_li", "prior"]
epochs = 5
device = "cpu"
"""


def run_each(grid: Path, store: Path) -> dict[str, float]:
    """Seconds of a run of each cell (mean), in the order of the grid; MlbenchError where one fails."""
    made = make_sweep(load_grid(grid), grid, store)
    made.save()
    executor = LocalExecutor(made, 1)
    found: dict[str, list[float]] = {}
    try:
        for job in made.jobs:
            begun = time.perf_counter()
            executor.start(job, resume=False, attempt=1)
            while (status := executor.ended(job)) is None:
                time.sleep(0.01)
            found.setdefault(job.cell, []).append(time.perf_counter() - begun)
            if status:
                raise MlbenchError(f"{job.title} ended with status {status}: {made.log(job).read_text()}")
    finally:
        executor.stop()
    return {cell: fmean(each) for cell, each in found.items()}


def measure(grid: Path, repeats: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each cell as planned and as taken, once in each repeat."""
    found: dict[str, dict[str, list[float]]] = {"planned": {}, "taken": {}}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            made: Plan = plan(grid, store=Path(scratch), workers=1, steps=steps, quiet=True)
            taken = run_each(grid, Path(scratch))
        filled: set[str] = set()
        for cell in made.cells:
            if cell.cost is None:
                raise MlbenchError(f"{cell.name}: {cell.problem}")
            # A cache is filled by the first run that needs it.
            caches = sum(seconds for name, (seconds, _) in cell.cost.caches.items() if name not in filled)
            filled |= cell.cost.caches.keys()
            planned = made.seconds(cell) + caches / cell.runs
            found["planned"].setdefault(cell.name, []).append(planned)
            found["taken"].setdefault(cell.name, []).append(taken[cell.name])
            click.echo(f"{cell.name}: planned {planned:.1f} s, taken {taken[cell.name]:.1f} s", err=True)
    return found


@click.command()
@click.option("--grid", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="[six methods on `scenes`]")
@click.option("--steps", default=20, show_default=True, help="Timed for a plan.")
@click.option("--repeats", default=3, show_default=True)
@OUTPUT
def main(grid: Path | None, steps: int, repeats: int, output: Path) -> None:
    """Plan and run the grid, and write both times of each cell."""
    with tempfile.TemporaryDirectory() as scratch:
        if grid is None:
            grid = Path(scratch) / "accuracy.toml"
            grid.write_text(GRID)
        found = measure(grid, repeats, steps)
    cells: dict[str, Any] = {}
    for name, planned in found["planned"].items():
        taken = found["taken"][name]
        cells[name] = {"planned": summary(planned), "taken": summary(taken), "ratio": ratio(planned, taken)}
    rows = [
        (name, *(spread(cell[key]) for key in ("planned", "taken", "ratio")), _held(cell["ratio"]["median"]))
        for name, cell in cells.items()
    ]
    sums = [[sum(values) for values in zip(*found[key].values(), strict=True)] for key in ("planned", "taken")]
    whole = ratio(*sums)
    rows.append(("all", spread(summary(sums[0])), spread(summary(sums[1])), spread(whole), _held(whole["median"])))
    headers = ("cell", "planned, s", "taken, s", "planned to taken", f"within {TARGET:.0%}")
    worst = max((abs(cell["ratio"]["median"] - 1) for cell in cells.values()), default=0.0)
    text = markdown(rows, headers) + f"\n\nThe cell farthest off: {worst:.0%}."
    write(output, "plan_accuracy", about(repeats=repeats, steps=steps), {"cells": cells, "all": whole}, text)


def _held(found: float) -> str:
    return "yes" if abs(found - 1) <= TARGET else "NO"


if __name__ == "__main__":
    main()
