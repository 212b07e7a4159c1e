"""The table of results/reports/kd_wsd.md on what of `kd_wsd` matters, which no command prints."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.stats import spearmanr
from tabulate import tabulate

from mlbench.significance.crossed import interval
from mlbench.store import all_runs

#: Values by seed.
Runs = dict[int, float]
#: Stages, regions and teacher.epochs of `kd_wsd`; the others are held against the first, too.
ROWS = (
    ("both", 10, 0),
    ("features", 10, 0),
    ("predictions", 10, 0),
    ("both", 1, 0),
    ("both", 3, 0),
    ("both", 30, 0),
    ("both", 10, 8),
    ("both", 10, 4),
)


def gain(runs: Runs, over: Runs) -> str:
    """Mean difference, paired by seed, and its 95 % interval."""
    found = interval({(seed, 0): runs[seed] - over[seed] for seed in sorted(runs)})
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(stores: tuple[Path, ...]) -> None:
    """Print it from the records in STORES (results/runs results/ablations), and how a student follows its teacher."""
    plain: Runs = {}
    students: dict[tuple[str, int, int], Runs] = defaultdict(dict)
    teachers: dict[int, Runs] = defaultdict(dict)
    usual = 0
    for record in (record for store in stores for record in all_runs(store)):
        identity: dict[str, Any] = record["identity"]
        if (identity["protocol"], identity["dataset"]["id"]) != ("full", "scenes"):
            continue
        hyper, seed, value = (
            identity["method"]["hyperparameters"],
            identity["repetition"],
            record["results"]["test"]["mAP"],
        )
        if identity["method"]["name"] == "kd_wsd":
            students[hyper["stages"], hyper["regions"], hyper["teacher.epochs"]][seed] = value
            usual = identity["train"]["epochs"]
        elif identity["method"]["name"] == "wsddn":
            teachers[identity["train"]["epochs"]][seed] = value
        elif identity["method"]["name"] == "bce" and identity["train"]["lr"] == 3e-3:
            plain[seed] = value
    table = []
    for row in ROWS:
        runs = students[row]
        values = list(runs.values())
        level = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
        table.append([*row, level, gain(runs, plain), "" if row == ROWS[0] else gain(runs, students[ROWS[0]])])
    heads = ["stages", "regions", "teacher.epochs", "mAP", "gain over bce", "gain over the first line"]
    click.echo(tabulate(table, heads, tablefmt="github", disable_numparse=True))
    pairs = [
        (teachers[epochs or usual][seed], value - plain[seed])
        for (stages, regions, epochs), runs in students.items()
        if (stages, regions) == ("both", 10)
        for seed, value in runs.items()
    ]
    told = spearmanr(*zip(*pairs, strict=True))
    click.echo(
        f"\nteacher's mAP and student's gain: {len(pairs)} pairs, rank correlation {told[0]:.2f} (p {told[1]:.2f})"
    )
    for teacher, student in sorted(pairs):
        click.echo(f"{teacher:.1f} {student:+.2f}")


if __name__ == "__main__":
    main()
