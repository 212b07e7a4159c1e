"""The command line: every command calls one public function, imported when it is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from mlbench import __version__
from mlbench.cli.brief import end_soon, uncollected
from mlbench.cli.completion import add_completion
from mlbench.cli.data import data_group
from mlbench.cli.explain import explain_group
from mlbench.cli.inspect import inspect_command
from mlbench.cli.machine import cache_group, doctor_command, env_command
from mlbench.cli.options import DATA, DATASET, STORE, WHERE, to_read
from mlbench.cli.output import JSON, Laid, answer, echo, plain, wants_json
from mlbench.cli.report import report_command
from mlbench.cli.reproduce import reproduce_command
from mlbench.cli.results import results_group
from mlbench.cli.run import run_command
from mlbench.cli.site import site_command
from mlbench.cli.sweep import plan_command, search_command, sweep_group
from mlbench.errors import MlbenchError, visible

#: What `list` knows beside runs.
INSTALLED = ("methods", "datasets", "backbones", "heads", "protocols", "metrics")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Benchmark multi-label image classification with missing, wrong or weak labels."""


@cli.command("score")
@click.argument("run")
@DATASET
@DATA
@STORE
@click.option("--protocol", help="Score under another protocol's definitions.")
@click.option(
    "--metric", "metrics", multiple=True, help="Also this registered metric (`mlbench list metrics`); may be repeated."
)
@JSON
def score_command(run: str, **given: Any) -> None:
    """Compute a run's numbers again from its stored predictions, and compare with its record."""
    from mlbench.evaluation.rescore import score

    outcome = score(run, **given)
    answer(outcome.text, outcome.rows(), title=outcome.title)
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
@JSON
def submit_command(predictions: Path, to: Path | None, **given: Any) -> None:
    """Check predictions made elsewhere (.safetensors, .parquet, .csv), score them here, and write a record."""
    from mlbench.submit.submit import submit

    taken = submit(predictions, **given)
    rows = [{"metric": name, "value": value} for name, value in taken.record["results"]["test"].items()]
    answer(taken.text, rows, key=taken.record["key"], known=taken.known, notes=taken.record["notes"])
    if to is not None:
        from mlbench.paths import store_dir
        from mlbench.repository.hand_in import hand_in

        archive, text = hand_in([taken.record["key"]], to, given["store"] or store_dir())
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
@JSON
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
    rows = [{"table": shown.title, **cell} for shown in tables for cell in plain(shown.cells)]
    notes = [{"title": shown.title, "notes": dict(shown.notes), "footer": shown.footer} for shown in tables]
    answer(lambda: Laid(render(tables, form, document)), rows, tables=notes)
    if aged:
        same = ("protocol", "methods", "datasets", "track", "backbone", "conditions")
        echo(ages(store, **{option: given[option] for option in same}))


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
@JSON
def compare_command(first: str, second: str, **given: Any) -> None:
    """Compare two runs on the same test images: differences with paired bootstrap intervals."""
    from mlbench.significance.compare import compare

    found = compare(first, second, **given)
    answer(found.text, found.rows(), title=found.title, notes=found.notes)


@cli.command("cards")
@click.argument("methods", nargs=-1)
@click.option("--paper", default="boostlu", show_default=True, help="boostlu, vac, kd_wsd or kd_wsd_systems.")
@WHERE
@STORE
@JSON
def cards_command(methods: tuple[str, ...], paper: str, conditions: tuple[str, ...], store: Path | None) -> None:
    """Hold a paper's claims, written down before the runs, against the runs of the store."""
    from mlbench.report.cards import cards_text, load_card, order_agreement, outcomes_of, records_for

    card, records, chosen = load_card(paper), records_for(to_read(store), conditions), methods or None
    if wants_json():
        answer(str, outcomes_of(card, records, chosen), order=order_agreement(card, records))
    else:
        answer(lambda: cards_text(card, records, chosen))


@cli.command("list")
@click.argument("kind", type=click.Choice([*INSTALLED, "runs"]))
@WHERE
@STORE
@JSON
@uncollected()
def list_command(kind: str, conditions: tuple[str, ...], store: Path | None) -> None:
    """List what is installed, with the package it is from, or the runs of a store."""
    from mlbench.cli.listing import list_items, run_items

    if conditions and kind != "runs":
        raise click.UsageError(f"--where: chooses among runs, not among {kind}")
    read = to_read(store) if kind == "runs" else store
    if kind == "runs" and wants_json():
        runs, broken = run_items(read, conditions)
        answer(str, runs, broken=broken)
    else:
        answer(lambda: list_items(kind, read, conditions))


@cli.command("show")
@click.argument("name")
@STORE
@JSON
@uncollected()
def show_command(name: str, store: Path | None) -> None:
    """Show a method's card, a protocol, or a run by the first characters of its key."""
    from mlbench.cli.listing import found_items, show

    answer(lambda: show(name, store), found_items(name, store) if wants_json() else ())


@cli.command("check")
@click.argument("kind", type=click.Choice([door.removesuffix("s") for door in INSTALLED]))
@click.argument("name")
@DATA
@JSON
def check_command(kind: str, name: str, data_root: Path | None) -> None:
    """Check that something registered keeps its contract; what ours must pass, too.

    Records made afterwards by a method that passed carry a badge. Data sets and protocols may also be given as files.
    """
    if kind == "method":
        _check_method(name)
        return
    from mlbench.conformance.doors import check

    report = check(kind, name, data_root)
    answer(report.text, report.as_rows(), passed=report.passed)
    if not report.passed:
        raise MlbenchError(f"{kind} '{name}' does not conform")


@cli.command("check-method")
@click.argument("name")
@JSON
def check_method_command(name: str) -> None:
    """Run the conformance suite on a registered method (`check method`)."""
    _check_method(name)


def _check_method(name: str) -> None:
    from mlbench.conformance.suite import check_method
    from mlbench.methods.badge import leave_badge
    from mlbench.registry import load_method

    report = check_method(name)
    answer(report.text, report.as_rows(), passed=report.passed)
    if not report.passed:
        raise MlbenchError(f"method '{name}' does not conform")
    leave_badge(load_method(name), [outcome for _, _, outcome, _ in report.rows])


cli.add_command(run_command)
cli.add_command(data_group)
cli.add_command(explain_group)
cli.add_command(inspect_command)
cli.add_command(sweep_group)
cli.add_command(plan_command)
cli.add_command(reproduce_command)
cli.add_command(search_command)
cli.add_command(report_command)
cli.add_command(results_group)
cli.add_command(site_command)
cli.add_command(doctor_command)
cli.add_command(env_command)
cli.add_command(cache_group)
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
    finally:
        end_soon()


if __name__ == "__main__":
    main()
