"""`mlbench results`: every command calls one public function, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlbench.cli.options import PLACES, STORE, parse_places
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
@click.argument("source")
@click.option(
    "--dataset", help="Data set of an archive's records, to score them again: a name, or a .toml description."
)
@click.option("--data-root", type=_FOLDER, help="Folder of that data set's files.")
@JSON
def merge_command(folder: Path, source: str, dataset: str | None, data_root: Path | None) -> None:
    """Copy the records of SOURCE (a store, another such folder, or an archive that was handed in: its file or address)
    into FOLDER; nothing is copied if any conflict.

    Of an archive every hash is checked, and its records are scored again where their data are at hand.
    """
    from mlbench.repository.results import merge

    report = merge(folder, source if source.startswith(("http://", "https://")) else Path(source), dataset, data_root)
    answer(report.text, report.rows(), counts=report.counts)
    if report.problems:
        raise MlbenchError(f"{len(report.problems)} conflicts, nothing was copied")


@results_group.command("pack")
@click.option("--store", "stores", type=_FOLDER, multiple=True, help="Run store that has scores; may be repeated.")
@click.option("--dataset", "datasets", multiple=True, help="This data set; may be repeated [all].")
@click.option("--protocol", "protocols", multiple=True, help="Runs of this protocol; may be repeated [all].")
@click.option("--draw", type=click.IntRange(0), help="Runs of this seed and mask [of each row the first at hand].")
@click.option("--to", type=_FOLDER, required=True, help="Folder that gets DATASET.zip.")
@click.option("--index", type=_FOLDER, help="Folder that gets DATASET.json, what is in the pack [that of --to].")
@click.option(
    "--records", "published", type=_FOLDER, help="Folder of the published records [those that came with mlbench]."
)
@click.option("--url", default="", help="Address under which the packs will lie; the index keeps it.")
@JSON
def pack_command(**given: Any) -> None:
    """Make a pack a data set: published records with their test scores, for `results fetch`."""
    from mlbench.repository.packs import pack

    report = pack(**given)
    answer(report.text, report.rows(), counts=report.counts)
    if report.problems:
        raise MlbenchError(f"{len(report.problems)} problems")


@results_group.command("hand-in")
@click.argument("runs", nargs=-1, required=True)
@click.option("--to", type=_FOLDER, required=True, help="Folder that gets the archive and the text.")
@STORE
@JSON
def hand_in_command(runs: tuple[str, ...], to: Path, store: Path | None) -> None:
    """Pack RUNS for a pull request: one archive of records and test scores, and the request's text."""
    from mlbench.paths import store_dir
    from mlbench.repository.hand_in import hand_in

    archive, text = hand_in(runs, to, store or store_dir())
    answer(lambda: f"wrote {archive} and {text}", [{"archive": archive, "text": text}])


@results_group.command("fetch")
@click.argument("source")
@JSON
def fetch_command(source: str) -> None:
    """Take in the test scores of a pack: SOURCE is a file, an address, or the name of a published pack.

    `compare`, `score`, `explain metrics` then know published:METHOD@DATASET, and `table --replicates` has its scores.
    """
    from mlbench.repository.packs import fetch

    report = fetch(source)
    answer(report.text, report.rows(), counts=report.counts)


@results_group.command("migrate")
@click.argument("folder", type=_FOLDER, default=Path("results/runs"))
@PLACES
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

    data = parse_places(places)
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
