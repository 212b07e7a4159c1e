"""Run methods over seeds and masks with their chosen settings, and publish the records."""

from __future__ import annotations

import tomllib
from itertools import product
from pathlib import Path
from typing import Any

import click

from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request
from mlbench.store import publish_record


def repetitions(table: dict[str, Any]) -> list[tuple[int, int]]:
    """(seed, mask seed) of every run of a method: all pairs, those with seed = mask first."""
    pairs = product(table["seeds"], table["masks"])
    return sorted(pairs, key=lambda pair: (pair[0] != pair[1], pair))


def variants(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The changes of each run that the plan varies beside seed and mask: all values of one key, or none."""
    return [{key: value} for key, values in table.get("vary", {}).items() for value in values] or [{}]


@click.command()
@click.argument("plan", type=click.Path(exists=True, path_type=Path))
@click.option("--methods", help="Only these, separated by commas.")
@click.option("--data-root", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), default=Path("runs/repeat"), show_default=True)
@click.option("--publish", type=click.Path(path_type=Path), help="Results folder to publish the records to.")
def main(
    plan: Path, methods: str | None, data_root: Path | None, weights: Path | None, output: Path, publish: Path | None
) -> None:
    """Run every method of PLAN for every pair of seed and mask; finished runs are found again."""
    table = tomllib.loads(plan.read_text(encoding="utf-8"))
    chosen = methods.split(",") if methods else table["methods"]
    for (seed, mask_seed), varied, method in product(repetitions(table), variants(table), chosen):
        request = Request(
            table["protocol"],
            method,
            table["dataset"],
            data_root=data_root,
            backbone=table.get("backbone"),
            weights=weights,
            track=table["track"],
            seed=seed,
            mask_seed=mask_seed,
            changes=table.get("set", {}) | varied,
        )
        record = run(request, Options(store=output, quiet=True, resume=True))
        shown = "".join(f" {key}={value}" for key, value in varied.items())
        click.echo(f"{method} seed {seed} mask {mask_seed}{shown}: test mAP {record['results']['test']['mAP']:.2f}")
        if publish is not None:
            publish_record(output, record["key"], publish, replace=True)


if __name__ == "__main__":
    main()
