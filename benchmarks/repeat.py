"""Run methods over seeds with their chosen settings, and publish the records."""

from __future__ import annotations

import tomllib
from pathlib import Path

import click

from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request
from mlbench.store import publish_record


@click.command()
@click.argument("plan", type=click.Path(exists=True, path_type=Path))
@click.option("--data-root", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), default=Path("runs/repeat"), show_default=True)
@click.option("--publish", type=click.Path(path_type=Path), help="Results folder to publish the records to.")
def main(plan: Path, data_root: Path | None, weights: Path | None, output: Path, publish: Path | None) -> None:
    """Run every method of PLAN for every seed (which is also the mask's)."""
    table = tomllib.loads(plan.read_text(encoding="utf-8"))
    for seed in table["seeds"]:
        for method in table["methods"]:
            request = Request(
                table["protocol"],
                method,
                table["dataset"],
                data_root=data_root,
                backbone=table.get("backbone"),
                weights=weights,
                track=table["track"],
                seed=seed,
                mask_seed=seed,
            )
            record = run(request, Options(store=output, quiet=True, resume=True))
            click.echo(f"{method} seed {seed}: test mAP {record['results']['test']['mAP']:.2f}")
            if publish is not None:
                publish_record(output, record["key"], publish, replace=True)


if __name__ == "__main__":
    main()
