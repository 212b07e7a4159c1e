"""The command line: every command calls one public function, imported when it is called."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from mlbench import __version__
from mlbench.cli.completion import add_completion
from mlbench.cli.data import data_group
from mlbench.cli.explain import explain_group
from mlbench.cli.inspect import inspect_command
from mlbench.cli.options import DATA, DATASET, HEAD, STORE, WHERE, echo, parse_sides, to_read
from mlbench.cli.report import report_command
from mlbench.cli.results import results_group
from mlbench.cli.site import site_command
from mlbench.cli.sweep import plan_command, search_command, sweep_group
from mlbench.errors import MlbenchError, visible

#: What `list` knows beside runs.
INSTALLED = ("methods", "datasets", "backbones", "heads", "protocols", "metrics")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Benchmark multi-label image classification with missing, wrong or weak labels."""


@cli.command("run")
@click.option("--protocol", required=True, help="Protocol name, or path of a .toml file.")
@click.option("--method", required=True, help="Registered method.")
@click.option("--dataset", help="Data set name, or path of a .toml description [scenes].")
@DATA
@click.option("--backbone", help="Network trunk [scenes on scenes, else resnet50].")
@click.option("--weights", type=click.Path(path_type=Path), help="Local ImageNet weights for the backbone.")
@HEAD
@click.option("--track", help="head: frozen backbone, cached features; full: end to end.")
@click.option("--pretraining", help="What --weights were trained on, if not ImageNet: random, vision_language.")
@click.option(
    "--side",
    "sides",
    multiple=True,
    metavar="KIND=FILE",
    help="File of a side input: vl_scores=FILE (.safetensors, .csv).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Repetition.")
@click.option("--mask-seed", type=int, default=0, show_default=True, help="Draw of the hidden labels.")
@click.option(
    "--mask", type=click.Path(path_type=Path), help="Stored mask (mask.safetensors of a run) instead of a draw."
)
@click.option("--epochs", type=int, help="Instead of the protocol's.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Hyperparameter, train.KEY or head.KEY.")
@STORE
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of a run that was stopped.")
@click.option("--again", is_flag=True, help="Train even if the store has this run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--precision", default="fp32", show_default=True, help="fp32 or bf16.")
@click.option(
    "--keep",
    default="auto",
    show_default=True,
    help="Predictions of which epochs stay: epochs (all), selected, or auto: all where they are small.",
)
@click.option(
    "--log-to",
    multiple=True,
    metavar="TRACKER",
    help="Also tell an experiment tracker of each epoch: tensorboard, wandb, mlflow, comet_ml, where installed.",
)
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--debug", is_flag=True, help="With an error, also print where in the code it came from.")
def run_command(assignments: tuple[str, ...], sides: tuple[str, ...], store: Path | None, **given: Any) -> None:
    """Train a method under a protocol, score it, and write a record."""
    from mlbench.paths import store_dir
    from mlbench.settings import parse_assignments

    changes, side = parse_assignments(assignments), parse_sides(sides)
    from mlbench.annotation import load_mask
    from mlbench.runner.execute import Options, run
    from mlbench.runner.plan import EMBEDDED, Request, default_dataset_note

    if given["mask"] is not None:
        given["mask"] = load_mask(given["mask"])
    execution = {name: given.pop(name) for name in ("resume", "again", "device", "keep", "quiet", "log_to")}
    debug = given.pop("debug")
    if given["dataset"] is None:
        given["dataset"] = EMBEDDED
        if not execution["quiet"]:
            click.echo(default_dataset_note(), err=True)
    try:
        run(
            Request(**given, changes=changes, side=side),
            Options(store=store or store_dir(), command=sys.argv, **execution),
        )
    except MlbenchError as error:
        if debug:
            error.add_note("".join(traceback.format_exception(error)))
        raise


@cli.command("score")
@click.argument("run")
@DATASET
@DATA
@STORE
@click.option("--protocol", help="Score under another protocol's definitions.")
@click.option(
    "--metric", "metrics", multiple=True, help="Also this registered metric (`mlbench list metrics`); may be repeated."
)
def score_command(run: str, **given: Any) -> None:
    """Compute a run's numbers again from its stored predictions, and compare with its record."""
    from mlbench.evaluation.rescore import score

    outcome = score(run, **given)
    echo(outcome.text())
    if outcome.differences:
        raise MlbenchError(f"{len(outcome.differences)} numbers differ from the record")


@cli.command("submit")
@click.argument("predictions", type=click.Path(path_type=Path))
@click.option("--protocol", required=True, help="Protocol name, or path of a .toml file.")
@click.option("--dataset", required=True, help="Data set name, or path of a .toml description.")
@click.option("--card", type=click.Path(path_type=Path), required=True, help="The submission's card (.toml).")
@DATA
@STORE
@click.option("--seed", type=int, default=0, show_default=True, help="Repetition these predictions are of.")
@click.option("--mask-seed", type=int, default=0, show_default=True, help="Draw of the hidden labels they are of.")
@click.option(
    "--pack", "to", type=click.Path(path_type=Path), help="Also write the archive and text of a pull request there."
)
def submit_command(predictions: Path, to: Path | None, **given: Any) -> None:
    """Check predictions made elsewhere (.safetensors, .parquet, .csv), score them here, and write a record."""
    from mlbench.submit.submit import submit

    receipt = submit(predictions, **given)
    echo(receipt.text())
    if to is not None:
        from mlbench.paths import store_dir
        from mlbench.repository.hand_in import hand_in

        archive, text = hand_in([receipt.record["key"]], to, given["store"] or store_dir())
        echo(f"wrote {archive} and {text}")


@cli.command("table")
@STORE
@click.option(
    *("--format", "form"),
    type=click.Choice(["markdown", "latex", "csv", "html"]),
    default="markdown",
    show_default=True,
)
@click.option("--document", is_flag=True, help="With latex and html: a whole file.")
@click.option("--paper", help="The tables of a paper as it prints them: boostlu, vac, kd_wsd, spml_2026 or all.")
@click.option("--table", "name", help="With --paper: this table only.")
@click.option("--diagram", type=click.Path(path_type=Path), help="Also draw mean ranks over the columns (.svg).")
@click.option("--protocol", help="Runs of this protocol [all; a column that would mix several is refused].")
@click.option(
    *("--metric", "--metrics", "metric"), default="mAP", show_default=True, help="One or more, separated by commas."
)
@click.option("--layout", is_flag=True, help="Metrics and data sets of the protocol's own table.")
@click.option("--methods", help="Rows, separated by commas.")
@click.option("--datasets", help="Columns, separated by commas.")
@click.option("--track", help="Only runs of this track.")
@click.option("--backbone", help="Only runs of this backbone.")
@WHERE
@click.option("--published/--no-published", default=True, help="Published numbers beside ours.")
@click.option(
    "--replicates",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Test tie groups on so many draws of the test images, too, where predictions are at hand.",
)
@click.option(
    "--gap",
    type=click.FloatRange(0, min_open=True),
    metavar="POINTS",
    help="Also say how many paired runs would find so large a gap to the best.",
)
@click.option("--ages", "aged", is_flag=True, help="Also list each row's age: days of its runs, versions of the code.")
@DATA
def table_command(
    store: Path | None,
    form: str,
    document: bool,
    paper: str | None,
    name: str | None,
    diagram: Path | None,
    aged: bool,
    **given: Any,
) -> None:
    """Print the store as a table: methods by data sets, mean and deviation over runs; or as a paper prints it."""
    from mlbench.report.board import ages, papers, render, table

    if aged and (paper is not None or form != "markdown"):
        raise click.UsageError("--ages: goes with --format markdown, and does not go with --paper")

    store = to_read(store)
    if paper is not None:
        for option in ("protocol", "metric", "layout", "methods", "published", "replicates", "data_root", "gap"):
            if click.get_current_context().get_parameter_source(option) is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError(
                    f"--{option.replace('_', '-')}: does not go with --paper, which lays out the table itself"
                )
        chosen = {option: given[option] for option in ("datasets", "track", "backbone", "conditions")}
        tables = papers(store, paper, name, **chosen)
    elif name is not None:
        raise click.UsageError("--table: name the paper with --paper")
    else:
        tables = [table(store=store, **given)]
    for result in tables:
        for line in result.missing():
            echo(line, err=True)
    if diagram is not None:
        from mlbench.files import atomic_write
        from mlbench.report.rank_diagram import rank_diagram

        if len(tables) != 1 or paper is not None:
            raise click.UsageError("--diagram: does not go with --paper")
        atomic_write(diagram, rank_diagram(tables[0].cells).encode())
    click.echo(render(tables, form, document))
    if aged:
        same = ("protocol", "methods", "datasets", "track", "backbone", "conditions")
        click.echo(ages(store, **{option: given[option] for option in same}))


@cli.command("compare")
@click.argument("first")
@click.argument("second")
@DATASET
@DATA
@STORE
@click.option("--protocol", help="Count by this protocol's definitions.")
@click.option("--replicates", type=int, default=1000, show_default=True, help="Draws of the test images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@click.option("--metric", "metrics", multiple=True, help="Also by this registered metric; may be repeated.")
def compare_command(first: str, second: str, **given: Any) -> None:
    """Compare two runs on the same test images: differences with paired bootstrap intervals."""
    from mlbench.significance.compare import compare

    echo(compare(first, second, **given).text())


@cli.command("cards")
@click.argument("methods", nargs=-1)
@click.option("--paper", default="boostlu", show_default=True, help="boostlu, vac, kd_wsd or kd_wsd_systems.")
@WHERE
@STORE
def cards_command(methods: tuple[str, ...], paper: str, conditions: tuple[str, ...], store: Path | None) -> None:
    """Hold a paper's claims, written down before the runs, against the runs of the store."""
    from mlbench.report.cards import reproduction_cards

    echo(reproduction_cards(paper, to_read(store), methods or None, conditions))


@cli.command("list")
@click.argument("kind", type=click.Choice([*INSTALLED, "runs"]))
@WHERE
@STORE
def list_command(kind: str, conditions: tuple[str, ...], store: Path | None) -> None:
    """List what is installed, with the package it is from, or the runs of a store."""
    from mlbench.cli.listing import list_items

    if conditions and kind != "runs":
        raise click.UsageError(f"--where: chooses among runs, not among {kind}")
    echo(list_items(kind, to_read(store) if kind == "runs" else store, conditions))


@cli.command("show")
@click.argument("name")
@STORE
def show_command(name: str, store: Path | None) -> None:
    """Show a method's card, a protocol, or a run by the first characters of its key."""
    from mlbench.cli.listing import show

    echo(show(name, store))


@cli.command("check")
@click.argument("kind", type=click.Choice([door.removesuffix("s") for door in INSTALLED]))
@click.argument("name")
@DATA
def check_command(kind: str, name: str, data_root: Path | None) -> None:
    """Check that something registered keeps its contract; what ours must pass, too.

    Records made afterwards by a method that passed carry a badge. Data sets and protocols may also be given as files.
    """
    if kind == "method":
        _check_method(name)
        return
    from mlbench.conformance.doors import check

    report = check(kind, name, data_root)
    echo(report.text())
    if not report.passed:
        raise MlbenchError(f"{kind} '{name}' does not conform")


@cli.command("check-method")
@click.argument("name")
def check_method_command(name: str) -> None:
    """Run the conformance suite on a registered method (`check method`)."""
    _check_method(name)


def _check_method(name: str) -> None:
    from mlbench.conformance.suite import check_method
    from mlbench.methods.badge import leave_badge
    from mlbench.registry import load_method

    report = check_method(name)
    echo(report.text())
    if not report.passed:
        raise MlbenchError(f"method '{name}' does not conform")
    leave_badge(load_method(name), [outcome for _, _, outcome, _ in report.rows])


cli.add_command(data_group)
cli.add_command(explain_group)
cli.add_command(inspect_command)
cli.add_command(sweep_group)
cli.add_command(plan_command)
cli.add_command(search_command)
cli.add_command(report_command)
cli.add_command(results_group)
cli.add_command(site_command)
add_completion(cli)


def main() -> None:
    """Run the command line; errors meant for people become one line and an exit code (2 usage, 1 failed)."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.message = visible(error.message)  # type: ignore[misc]  # names that a shell put there are anybody's
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(1)
    except MlbenchError as error:
        echo(f"error: {' '.join(str(error).split())}", err=True)
        for note in getattr(error, "__notes__", ()):
            echo(note, err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        echo(f"error: {place}{error.strerror or error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
