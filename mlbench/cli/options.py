"""Options that several commands take."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from mlbench.errors import visible
from mlbench.paths import published_records, store_dir

F = TypeVar("F", bound=Callable[..., Any])


def _of_old(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    """Take what ``--output`` says, the name that ``--store`` had."""
    if value is not None:
        click.echo("note: --output, the run store, is called --store now", err=True)
        context.meta[__name__] = value


def _store(context: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    return value if value is not None else context.meta.get(__name__)


def to_read(store: Path | None) -> Path | None:
    """`store` for a command that reads records alone: where none is named and none is here, the published ones."""
    if store is not None or "MLBENCH_RUNS" in os.environ or store_dir().exists():
        return store
    if (published := published_records()) is not None:
        click.echo(f"note: there is no {store_dir()} here: these are the published records ({published})", err=True)
    return published


def STORE(command: F) -> F:  # as the other options
    """``--store``, and its old name."""
    kind = click.Path(path_type=Path)
    command = click.option("--output", type=kind, callback=_of_old, is_eager=True, expose_value=False, hidden=True)(
        command
    )
    return click.option("--store", type=kind, callback=_store, help="Run store [./runs or $MLBENCH_RUNS].")(command)


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


def parse_sides(texts: Iterable[str]) -> dict[str, Path]:
    """Files by kind of ``("vl_scores=scores.csv",)``."""
    found: dict[str, Path] = {}
    for text in texts:
        kind, equals, path = text.partition("=")
        if not equals or not kind.strip() or not path:
            raise click.UsageError(f"--side {text}: expected KIND=FILE, as vl_scores=scores.safetensors")
        if kind.strip() in found:
            raise click.UsageError(f"--side {kind}: given twice")
        found[kind.strip()] = Path(path)
    return found


def echo(text: object, err: bool = False) -> None:
    """Print `text` as a person may see it: what steers a terminal or hides in a line is written out."""
    click.echo(visible(str(text)), err=err)
