"""Options that several commands take."""

from __future__ import annotations

import csv
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from mlbench.cli.output import echo as echo  # where other commands look for it
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


@contextmanager
def going_on(option: str = "--resume") -> Iterator[None]:
    """Where a person stops what is done inside, say the command that goes on: the same, with `option`."""
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            echo(f"stopped; go on with: {command_with(option)}", err=True)
        sys.exit(1)


def command_with(option: str = "") -> str:
    """The command line of this process, and `option`, as a shell takes it."""
    processes = os.environ.get("WORLD_SIZE", "1")
    start = ["mlbench"] if processes == "1" else ["accelerate", "launch", "--num_processes", processes, "-m", "mlbench"]
    words = [*start, *sys.argv[1:]]
    return shlex.join([*words, *([option] if option and option not in words else [])])


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


WORKERS = click.option("--workers", type=int, help="Runs at a time [here as many as cores, on a cluster all].")
QUIET = click.option("--quiet", is_flag=True, help="No progress.")
_DRIVING = (
    click.option(
        "--executor", type=click.Choice(["local", "ray", "slurm"]), default="local", show_default=True, help="Where."
    ),
    WORKERS,
    click.option("--threads", type=int, help="Of each run on a cluster [1]."),
    click.option("--address", help="Of the Ray cluster [$RAY_ADDRESS, else one is started here]."),
    click.option("--resume", is_flag=True, help="Runs that were stopped go on from their checkpoints."),
    click.option(
        "--together",
        type=int,
        default=1,
        show_default=True,
        help="Runs on cached features that one process trains at once.",
    ),
    QUIET,
)


def DRIVING(command: F) -> F:  # as the other options
    """Where many runs are done, how many at a time, and whether those that were stopped go on."""
    for option in reversed(_DRIVING):
        command = option(command)
    return command


def comma_list(text: str | None) -> list[str]:
    """The names in an option's text, parted by commas; a name that holds one stands in double quotes."""
    try:
        fields = next(csv.reader([text or ""], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise click.UsageError(f"{text}: quotes that do not close ({error})") from None
    return [name.strip() for name in fields if name.strip()]


def number_list(text: str, option: str) -> tuple[int, ...]:
    """The numbers of "0-8", "0,3,5" or both mixed, in that order; UsageError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isdecimal() and (last.isdecimal() if dash else True)) or (dash and int(last) < int(first)):
            raise click.UsageError(f"{option} {text}: expected whole numbers from 0, as 0-8 or 0,3,5")
        if dash and int(last) - int(first) > 10_000:
            raise click.UsageError(f"{option} {text}: more than ten thousand runs")
        found += range(int(first), int(last) + 1) if dash else [int(first)]
    return tuple(found)


PLACES = click.option(
    "--data",
    "places",
    multiple=True,
    metavar="NAME=PLACE",
    help="Where data set NAME is: a .toml, or its files' folder.",
)


def parse_places(texts: Iterable[str]) -> dict[str, str]:
    """What `PLACES` was given, by data set."""
    found = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals or not name or not place:
            raise click.UsageError(f"--data {text}: expected NAME=PLACE")
        found[name] = place
    return found


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
