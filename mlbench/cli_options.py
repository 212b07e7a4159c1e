"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path

import click

from mlbench.errors import visible

STORE = click.option(
    "--output", "store", type=click.Path(path_type=Path), default=None, help="Run store [./runs or $MLBENCH_RUNS]."
)
DATA = click.option("--data-root", type=click.Path(path_type=Path), help="Folder the data set was unpacked in.")
DATASET = click.option("--dataset", help="Description (.toml) of the run's data set, if the catalogue has it not.")


def echo(text: object, err: bool = False) -> None:
    """Print `text` as a person may see it: what steers a terminal or hides in a line is written out."""
    click.echo(visible(str(text)), err=err)
