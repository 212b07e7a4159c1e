"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path

import click

STORE = click.option(
    "--output", "store", type=click.Path(path_type=Path), default=None, help="Run store [./runs or $MLBENCH_RUNS]."
)
DATA = click.option("--data-root", type=click.Path(path_type=Path), help="Folder the data set was unpacked in.")
DATASET = click.option("--dataset", help="Description (.toml) of the run's data set, if the catalogue has it not.")
