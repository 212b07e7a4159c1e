"""`mlbench results`: every command calls one public function, imported when it is called."""

from __future__ import annotations

from pathlib import Path

import click

from mlbench.cli.output import JSON, answer
from mlbench.errors import MlbenchError

_FOLDER = click.Path(path_type=Path)


@click.group("results")
def results_group() -> None:
    """Keep a folder of published records (results/runs) right."""


@results_group.command("verify")
@click.argument("folder", type=_FOLDER, default=Path("results/runs"))
@click.option("--against", type=_FOLDER, help="An earlier state of the folder: no score may have moved since.")
@JSON
def verify_command(folder: Path, against: Path | None) -> None:
    """Check records: schema, file names, that every method has code, that no score moved without a version bump."""
    from mlbench.repository.results import verify

    report = verify(folder, against)
    answer(report.text, report.rows(), counts=report.counts)
    if report.problems:
        raise MlbenchError(f"{folder}: {len(report.problems)} problems")


@results_group.command("merge")
@click.argument("folder", type=_FOLDER)
@click.argument("source", type=_FOLDER)
@JSON
def merge_command(folder: Path, source: Path) -> None:
    """Copy the records of SOURCE (a store or another such folder) into FOLDER; nothing is copied if any conflict."""
    from mlbench.repository.results import merge

    report = merge(folder, source)
    answer(report.text, report.rows(), counts=report.counts)
    if report.problems:
        raise MlbenchError(f"{len(report.problems)} conflicts, nothing was copied")


@results_group.command("migrate")
@click.argument("folder", type=_FOLDER, default=Path("results/runs"))
@click.option(
    "--data",
    "places",
    multiple=True,
    metavar="NAME=PLACE",
    help="Where data set NAME is: a .toml, or its files' folder.",
)
@click.option("--known", type=_FOLDER, multiple=True, help="Another folder, already brought over, that these build on.")
@click.option(
    "--store", "--output", "store", type=_FOLDER, help="Run store that has their predictions: they are scored again."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@JSON
def migrate_command(
    folder: Path, places: tuple[str, ...], known: tuple[Path, ...], store: Path | None, dry_run: bool
) -> None:
    """Bring records of an earlier harness to this one without a new run.

    Only where the labels, the mask and the pixels here are shown to be those of the record. What cannot be proved is
    listed, and stays as it is.
    """
    from mlbench.repository.migrate import migrate

    data = {}
    for text in places:
        name, equals, place = text.partition("=")
        if not equals or not name or not place:
            raise click.UsageError(f"--data {text}: expected NAME=PLACE")
        data[name] = place
    report = migrate(folder, data, known, store, dry_run)
    answer(report.text, report.rows(), counts=report.counts)
    if report.problems:
        raise MlbenchError(f"{folder}: {len(report.problems)} records stay as they are")


@results_group.command("rescore")
@click.argument("folder", type=_FOLDER, default=Path("results/runs"))
@click.option(
    "--store", "--output", "store", type=_FOLDER, help="Run store that has their predictions [./runs or $MLBENCH_RUNS]."
)
@click.option("--dataset", "only", help="Only records of this data set: its name, or a .toml description.")
@click.option("--data-root", type=_FOLDER, help="Folder of that data set's files.")
@click.option("--metric", "metrics", multiple=True, help="Also measure this registered metric; may be repeated.")
@click.option("--write", is_flag=True, help="Put what --metric names into the records.")
@JSON
def rescore_command(
    folder: Path,
    store: Path | None,
    only: str | None,
    data_root: Path | None,
    metrics: tuple[str, ...],
    write: bool,
) -> None:
    """Compute the numbers of records again from the predictions in a store, and compare."""
    from mlbench.progress import Reporter
    from mlbench.repository.results import rescore

    with Reporter() as reporter:
        counter = reporter.counter("scoring again", "records")
        report = rescore(folder, store, only, data_root, metrics, write, counter)
    answer(report.text, report.rows(), counts=report.counts)
    if report.problems:
        raise MlbenchError(f"{folder}: {len(report.problems)} records do not agree with their predictions")
