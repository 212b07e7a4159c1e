"""Whether two backbones that are to be one network (resnet50, timm:resnet50) give every method the same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from timing import OUTPUT, about, markdown, write

from mlbench.canonical import canonical_json
from mlbench.evaluation.predictions import read_predictions
from mlbench.store import all_runs
from mlbench.store.published import find_scores

Record = dict[str, Any]
HEADERS = ("method", "mAP, {}", "mAP, {}", "F1-O, {}", "F1-O, {}", "largest difference of a number", "of a test score")


def pairs(records: Iterable[Record], first: str, second: str) -> Iterator[tuple[Record, Record]]:
    """Runs of `first` with those of `second` that differ from them in the backbone alone, by method.

    Weights are to be one file. What a run builds on was trained on its own backbone.
    """
    found: dict[str, dict[bytes, Record]] = {first: {}, second: {}}
    for record in records:
        identity = record["identity"]
        backbone = identity["backbone"]
        if backbone["name"] in found:
            other = {**identity, "backbone": backbone["weights"], "uses": sorted(identity["uses"])}
            found[backbone["name"]][canonical_json(other)] = record
    for key in sorted(found[first].keys() & found[second].keys(), key=lambda key: _name(found[first][key])):
        yield found[first][key], found[second][key]


def _name(record: Record) -> str:
    return str(record["identity"]["method"]["name"])


def numbers_apart(a: Record, b: Record) -> float:
    """The largest difference of a number that two records have of their test images, in percent points."""
    ours, theirs = a["results"]["test"], b["results"]["test"]
    assert ours.keys() == theirs.keys(), f"{_name(a)}: measured by other metrics"
    assert all((ours[name] is None) == (theirs[name] is None) for name in ours), f"{_name(a)}: undefined in one"
    return max(abs(ours[name] - theirs[name]) for name in ours if ours[name] is not None)


def scores_apart(a: Record, b: Record, store: Path) -> float | None:
    """The largest difference of a test score; None where the predictions of one are not in `store`."""
    files = [find_scores(store, record) for record in (a, b)]
    if None in files:
        return None
    ours, theirs = (
        read_predictions(file, record["predictions"]["test"]["sha256"]).scores
        for file, record in zip(files, (a, b), strict=True)
    )
    return float(np.abs(ours - theirs).max())


def compared(records: Iterable[Record], first: str, second: str, store: Path) -> list[dict[str, Any]]:
    """What each pair of runs has, by method: mAP and F1-O of both, and how far apart they are.

    Scores that are ranks alone decide nothing, and have no F1.
    """
    return [
        {
            "method": _name(a),
            **{name: [one["results"]["test"].get(name) for one in (a, b)] for name in ("mAP", "F1-O")},
            "numbers_apart": numbers_apart(a, b),
            "scores_apart": scores_apart(a, b, store),
        }
        for a, b in pairs(records, first, second)
    ]


def table(found: Iterable[Mapping[str, Any]], first: str, second: str) -> str:
    """A row a pair of runs."""
    rows = []
    for one in found:
        shown = ["" if value is None else f"{value:.4f}" for name in ("mAP", "F1-O") for value in one[name]]
        scores = "" if one["scores_apart"] is None else f"{one['scores_apart']:.2g}"
        rows.append((one["method"], *shown, f"{one['numbers_apart']:.2g}", scores))
    names = iter((first, second, first, second))
    return markdown(rows, [header.format(next(names)) if "{}" in header else header for header in HEADERS])


@click.command()
@click.argument("store", type=click.Path(exists=True, path_type=Path))
@click.argument("first")
@click.argument("second")
@OUTPUT
def main(store: Path, first: str, second: str, output: Path) -> None:
    """Hold the runs in STORE on backbones FIRST and SECOND against each other."""
    found = compared(all_runs(store), first, second, store)
    write(output, "two_backbones", about(), {"pairs": found}, table(found, first, second))


if __name__ == "__main__":
    main()
