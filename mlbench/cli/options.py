"""Options that several commands take."""

from __future__ import annotations

import csv
from pathlib import Path

import click

from mlbench.errors import visible

STORE = click.option(
    "--output", "store", type=click.Path(path_type=Path), default=None, help="Run store [./runs or $MLBENCH_RUNS]."
)
DATA = click.option("--data-root", type=click.Path(path_type=Path), help="Folder the data set was unpacked in.")
WHERE = click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only runs whose identity says so: precision=fp32, mask.params.keep=0.1, ... (may be given several times).",
)
HEAD = click.option("--head", help="Classification head: linear, csra, ml_decoder, q2l, ... [the method's: linear].")
DATASET = click.option("--dataset", help="Description (.toml) of the run's data set, if the catalogue has it not.")


def comma_list(text: str | None) -> list[str]:
    """The names in an option's text, parted by commas; a name that holds one stands in double quotes."""
    try:
        fields = next(csv.reader([text or ""], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise click.UsageError(f"{text}: quotes that do not close ({error})") from None
    return [name.strip() for name in fields if name.strip()]


def echo(text: object, err: bool = False) -> None:
    """Print `text` as a person may see it: what steers a terminal or hides in a line is written out."""
    click.echo(visible(str(text)), err=err)
