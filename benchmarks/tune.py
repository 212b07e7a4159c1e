"""Choose each method's settings on validation data from a grid, the same number of trials for each method."""

from __future__ import annotations

import itertools
import json
import tomllib
from pathlib import Path
from typing import Any

import click

from mlbench.runner.execute import Options
from mlbench.runner.plan import Request
from mlbench.runner.together import run_together


def trials(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination of a grid's values."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


@click.command()
@click.argument("plan", type=click.Path(exists=True, path_type=Path))
@click.option("--methods", help="Only these, separated by commas.")
@click.option("--data-root", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), default=Path("runs/tune"), show_default=True)
def main(plan: Path, methods: str | None, data_root: Path | None, weights: Path | None, output: Path) -> None:
    """Run the grids in PLAN and print the best setting of each method by validation mAP."""
    table = tomllib.loads(plan.read_text(encoding="utf-8"))
    budgets = {method: len(trials(grid)) for method, grid in table["grid"].items()}
    if len(set(budgets.values())) != 1:
        raise click.ClickException(f"methods have different budgets: {budgets}")
    chosen = methods.split(",") if methods else list(table["grid"])
    asked = [(method, changes) for method in chosen for changes in trials(table["grid"][method])]
    common = {name: table.get(name) for name in ("backbone", "track")} | {"data_root": data_root, "weights": weights}
    common |= {"seed": table["tune_seed"], "mask_seed": table["tune_seed"]}
    requests = [
        Request(table["protocol"], method, table["dataset"], changes=changes, **common) for method, changes in asked
    ]
    outcomes = run_together(requests, Options(store=output, quiet=True, resume=True))
    for method in chosen:
        found = []
        for (name, changes), record in zip(asked, outcomes, strict=True):
            if name != method:
                continue
            if isinstance(record, Exception):
                raise record
            validation = max(row["val"]["mAP"] for row in record["epochs"])
            found.append((validation, record["selected"]["epoch"], changes))
            click.echo(
                f"{method} {json.dumps(changes)}: validation mAP {validation:.2f} (epoch {found[-1][1]})", err=True
            )
        best = max(found, key=lambda trial: trial[0])
        click.echo(f"\n[{method}.{table['dataset']}.{table['track']}]")
        for name, value in best[2].items():
            click.echo(f'"{name}" = {value}')
        tried = f"{len(found)} settings tried on validation ({plan.name}), seed {table['tune_seed']}"
        click.echo(f'source = "{tried}: validation mAP {best[0]:.2f}"')


if __name__ == "__main__":
    main()
