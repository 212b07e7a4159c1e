"""Two tables of results/reports/boostlu.md that no command prints: by share of labels, and what methods changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import click
from tabulate import tabulate

from mlbench.store import all_runs


def by_share(records: Iterable[dict[str, Any]]) -> list[list[str]]:
    """A row a method: test mAP under `partial` by the share of labels shown; the first row is the header."""
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for record in records:
        identity = record["identity"]
        if identity["protocol"] == "partial":
            keep = identity["mask"]["params"]["keep"]
            found[identity["method"]["name"]][keep] = record["results"]["test"]["mAP"]
    shares = sorted({keep for line in found.values() for keep in line})
    body = [
        [name, *(f"{line[keep]:.1f}" if keep in line else "" for keep in shares)]
        for name, line in sorted(found.items())
    ]
    return [["method", *(f"{keep:.0%}" for keep in shares)], *body]


def what_was_changed(records: Iterable[dict[str, Any]]) -> list[list[str]]:
    """A row a data set, method and kind of change: precision and recall in the last epoch, means over the runs."""
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        identity = record["identity"]
        epochs = [e for e in record["epochs"] if e["phase"] == (record["selected"] or {}).get("phase")]
        if identity["protocol"] != "single_positive" or not epochs:
            continue
        for kind, rates in epochs[-1].get("forensics", {}).items():
            if rates["precision"] is not None:
                key = identity["dataset"]["id"], identity["method"]["name"], kind
                found[key].append((rates["precision"], rates["recall"]))
    body = [
        [*key, str(len(rates)), *(f"{mean(column):.1f}" for column in zip(*rates, strict=True))]
        for key, rates in sorted(found.items())
    ]
    return [["data set", "method", "what it did, last epoch", "runs", "precision", "recall"], *body]


@click.command()
@click.argument("results", type=click.Path(exists=True, path_type=Path))
def main(results: Path) -> None:
    """Print both tables from the records in RESULTS (results/runs)."""
    records = all_runs(results)
    for rows in (by_share(records), what_was_changed(records)):
        click.echo(tabulate(rows, headers="firstrow", tablefmt="github", disable_numparse=True))
        click.echo()


if __name__ == "__main__":
    main()
