"""The frozen-feature track: runs trained together beside the same one by one, and how long the whole table takes.

together : seeds, masks or learning rates of one method, by `run_together` and by `run` one after another in the same
    process, so that what a process of its own would cost each run (imports) is in neither. Scores have to be equal.
table : a sweep over the methods of the single-positive table and three seeds, grouped as `mlbench sweep --together`
    does it. Features are extracted before, which is timed apart.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from timing import CLOCK, OUTPUT, REPEATS, about, markdown, ratio, seconds, spread, summary, take_turns, write

from mlbench.conformance.suite import read_scores
from mlbench.errors import MlbenchError
from mlbench.provenance import usable_cores
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request
from mlbench.runner.together import run_together
from mlbench.sweep.drive import sweep

METHODS = (
    *("full", "an", "an_boostlu_inference", "ls", "asl", "role", "em", "em_apl"),
    *("llr", "llct", "llcp", "llr_boostlu", "llct_boostlu", "llcp_boostlu"),
)
#: What the runs of a group differ in.
KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "seeds": lambda number: {"seed": number},
    "masks": lambda number: {"mask_seed": number},
    "learning rates": lambda number: {"changes": {"train.lr": 1e-3 * (1 + number)}},
}
TARGET_MINUTES, TOLERANCE = 15, 1e-5


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the data is, at which size, and where stores may be made."""

    data_root: Path
    weights: Path
    size: int
    scratch: Path

    def request(self, method: str, **given: Any) -> Request:
        changes = {"train.image_size": self.size, **given.pop("changes", {})}
        return Request(
            "single_positive",
            method,
            "corel5k-199",
            data_root=self.data_root,
            backbone="resnet50-keras",
            weights=self.weights,
            track="head",
            changes=changes,
            **given,
        )

    def store(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.scratch))


def compare(place: Place, method: str, kind: str, runs: int, epochs: int, repeats: int, clock: str) -> dict[str, Any]:
    """Seconds of `runs` runs together and one by one, their ratio, and the largest difference of their scores."""
    requests = [place.request(method, epochs=epochs, **KINDS[kind](number)) for number in range(runs)]
    stores: dict[str, Path] = {}
    records: dict[str, list[Any]] = {}

    def together() -> None:
        records["together"] = run_together(requests, Options(stores["together"], device="cpu", quiet=True))

    def one_by_one() -> None:
        options = Options(stores["one by one"], device="cpu", quiet=True)
        records["one by one"] = [run(request, options) for request in requests]

    def timed(name: str, action: Callable[[], None]) -> float:
        stores[name] = place.store()
        return seconds(action, clock=clock)

    ways = {"together": together, "one by one": one_by_one}
    found = take_turns({name: lambda name=name, way=way: timed(name, way) for name, way in ways.items()}, repeats)
    difference = 0.0
    for one, other in zip(*records.values(), strict=True):
        if isinstance(one, Exception) or one["key"] != other["key"]:
            raise MlbenchError(f"{method}, {kind}: not the same run together: {one}")
        scores = [read_scores(stores[name], record) for name, record in zip(records, (one, other), strict=True)]
        difference = max(difference, float(np.abs(scores[0] - scores[1]).max()))
    if difference > TOLERANCE:
        raise MlbenchError(f"{method}, {kind}: scores differ by {difference:.2g}, more than {TOLERANCE:g}")
    times = {name: summary(values) for name, values in found.items()}
    return {**times, "speed-up": ratio(found["one by one"], found["together"]), "difference": difference}


def whole_table(place: Place, seeds: int, epochs: int | None, together: int, workers: int) -> dict[str, Any]:
    """Minutes of the sweep over all methods, and of what fills the cache of features before it."""
    grid = place.scratch / "table.toml"
    lines = {
        "protocol": "single_positive",
        "dataset": "corel5k-199",
        "track": "head",
        "backbone": "resnet50-keras",
        "methods": list(METHODS),
        "seeds": list(range(seeds)),
        **({"epochs": epochs} if epochs else {}),
    }
    text = "".join(f"{key} = {value!r}\n" for key, value in lines.items())
    grid.write_text(f'{text}set = {{ "train.image_size" = {place.size} }}\n', encoding="utf-8")
    changes = {"data_root": str(place.data_root.resolve()), "weights": str(place.weights.resolve())}
    first = place.request("an", epochs=1)
    extraction = seconds(lambda: run(first, Options(place.store(), device="cpu", quiet=True)))
    outcomes = []
    spent = seconds(
        lambda: outcomes.append(
            sweep(grid, store=place.store(), workers=workers, together=together, quiet=True, changes=changes)
        )
    )
    if outcomes[0].failed:
        raise MlbenchError(outcomes[0].text())
    return {
        "runs": len(outcomes[0].sweep.jobs),
        "together": together,
        "workers": workers,
        "first run, with extraction where it was not cached": extraction,
        "minutes": spent / 60,
        "target": TARGET_MINUTES,
    }


@click.command()
@click.option("--data-root", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--size", default=128, show_default=True, help="Pixels; 128 give 4x4 maps.")
@click.option("--methods", default="an,llr,role,llr_boostlu", show_default=True, help="Compared; empty: none.")
@click.option("--kinds", default=",".join(KINDS), show_default=True, help="What compared runs differ in.")
@click.option("--runs", default=3, show_default=True, help="In a compared group.")
@click.option("--epochs", default=2, show_default=True, help="Of compared runs.")
@click.option("--table/--no-table", default=True, show_default=True, help="Whether to train the whole table.")
@click.option("--table-epochs", type=int, help="Of its runs, from 2 [those of the protocol].")
@click.option("--seeds", default=3, show_default=True, help="Of each method of the table.")
@click.option("--together", default=(7, 1), multiple=True, show_default=True, help="Runs in a process of the table.")
@click.option("--workers", type=int, default=usable_cores(), show_default=True)
@REPEATS
@CLOCK
@OUTPUT
def main(
    data_root: Path,
    weights: Path,
    size: int,
    methods: str,
    kinds: str,
    runs: int,
    epochs: int,
    table: bool,
    table_epochs: int | None,
    seeds: int,
    together: tuple[int, ...],
    workers: int,
    repeats: int,
    clock: str,
    output: Path,
) -> None:
    """Measure training together on cached features of corel5k-199, and the minutes of the whole table."""
    figures: dict[str, Any] = {"compared": {}, "table": []}
    text = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(data_root, weights, size, Path(scratch))
        rows = []
        for method in filter(None, methods.split(",")):
            run(place.request(method, epochs=1, seed=99), Options(place.store(), device="cpu", quiet=True))  # warm
            for kind in kinds.split(","):
                found = compare(place, method, kind, runs, epochs, repeats, clock)
                figures["compared"][f"{method}, {kind}"] = found
                times = [spread(found[name]) for name in ("one by one", "together", "speed-up")]
                rows.append([method, f"{runs} {kind}", *times, f"{found['difference']:.1g}"])
        if rows:
            head = ["method", "group", "one by one, s", "together, s", "times as fast", "largest difference"]
            text.append(markdown(rows, head))
            text.append(f"{epochs} epochs, {repeats} turns, {clock} time, medians with 95 % bounds, {size} px.")
        rows = []
        for count in together if table else ():
            found = whole_table(place, seeds, table_epochs, count, workers)
            figures["table"].append(found)
            rows.append([found["runs"], count, workers, f"{found['minutes']:.2f}", TARGET_MINUTES])
        if rows:
            text.append(markdown(rows, ["runs", "in a process", "processes", "minutes", "target"]))
    write(output, "head_track", about(clock=clock, epochs=epochs, size=size), figures, "\n\n".join(text))


if __name__ == "__main__":
    main()
