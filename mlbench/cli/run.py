"""`mlbench run`: one run, or a small sweep of several methods or seeds."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mlbench.cli.options import DATA, HEAD, QUIET, STORE, comma_list, going_on, number_list, parse_sides
from mlbench.cli.output import JSON, answer, plain, wants_json
from mlbench.errors import MlbenchError

#: Options of `run` that only a single run takes.
_OF_ONE = ("mask", "again", "keep", "log_to")


@click.command("run")
@click.option("--protocol", required=True, help="Protocol name, or path of a .toml file.")
@click.option("--method", required=True, help="Registered method; several, separated by commas, are a small sweep.")
@click.option("--dataset", help="Data set name, or path of a .toml description [scenes-2].")
@DATA
@click.option("--backbone", help="Network trunk [that of the embedded set on it, else resnet50].")
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
@click.option("--seeds", help="Several repetitions, as 0-8 or 0,3: a small sweep, in which seed i sees mask i.")
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
@QUIET
@click.option("--debug", is_flag=True, help="With an error, also print where in the code it came from.")
@JSON
def run_command(
    assignments: tuple[str, ...], sides: tuple[str, ...], store: Path | None, seeds: str | None, **given: Any
) -> None:
    """Train a method under a protocol, score it, and write a record.

    Several methods (--method a,b,c) or seeds (--seeds 0-8) are a small sweep, at whose end is a table of them.
    """
    from mlbench.paths import store_dir
    from mlbench.settings import parse_assignments

    changes, side = parse_assignments(assignments), parse_sides(sides)
    from mlbench.annotation import load_mask
    from mlbench.runner.execute import Options, run
    from mlbench.runner.plan import EMBEDDED, Request, default_dataset_note

    if given["dataset"] is None:
        given["dataset"] = EMBEDDED
        if not given["quiet"]:
            click.echo(default_dataset_note(), err=True)
    if seeds is not None or "," in given["method"]:
        with going_on():
            _run_several(given, seeds, changes, side, store or store_dir())
        return
    if given["mask"] is not None:
        given["mask"] = load_mask(given["mask"])
    execution = {name: given.pop(name) for name in ("resume", "again", "device", "keep", "quiet", "log_to")}
    debug = given.pop("debug")
    try:
        with going_on():
            record = run(
                Request(**given, changes=changes, side=side),
                Options(store=store or store_dir(), command=sys.argv, **execution),
            )
    except MlbenchError as error:
        if debug:
            error.add_note("".join(traceback.format_exception(error)))
        raise
    if wants_json():
        rows = [{"metric": name, "value": value} for name, value in record["results"]["test"].items()]
        answer(str, rows, key=record["key"])


def _run_several(
    given: dict[str, Any], seeds: str | None, changes: Mapping[str, Any], side: Mapping[str, Path], store: Path
) -> None:
    """`mlbench run` of several methods or seeds: a sweep of them, and a table of its runs."""
    from mlbench.report.tables import build_table
    from mlbench.seeds import derive
    from mlbench.sweep.drive import sweep
    from mlbench.sweep.grid import Grid
    from mlbench.sweep.jobs import finished

    chosen = click.get_current_context().get_parameter_source
    for option in _OF_ONE:
        if chosen(option) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{option.replace('_', '-')}: goes with a single run, not with several")
    if seeds is not None and chosen("seed") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--seed and --seeds: expected one of them")
    mask_named = chosen("mask_seed") is not click.core.ParameterSource.DEFAULT
    repetitions = (given["seed"],) if seeds is None else number_list(seeds, "--seeds")
    same = ("backbone", "head", "track", "pretraining", "epochs", "precision", "device")
    paths: dict[str, Any] = {
        name: None if given[name] is None else str(given[name].resolve()) for name in ("data_root", "weights")
    }
    for name in ("protocol", "dataset"):
        paths[name] = str(Path(given[name]).resolve()) if given[name].endswith(".toml") else given[name]
    grid = Grid(
        methods=tuple(comma_list(given["method"])),
        **{**{name: given[name] for name in same}, **paths},
        side={kind: str(file.resolve()) for kind, file in side.items()},
        seeds=repetitions,
        masks=(given["mask_seed"],) if mask_named or seeds is None else (),
        paired=seeds is not None and not mask_named,
        set=dict(changes),
    )
    name = f"run-{derive(repr(grid)):016x}"  # the same command finds its sweep again
    outcome = sweep(Path("run"), grid=grid, name=name, store=store, resume=given["resume"], quiet=given["quiet"])
    records = [record for job in outcome.sweep.jobs if job.asked and (record := finished(store, job.key))]
    if records:
        table = build_table(records)
        answer(table.to_markdown, plain(table.cells), runs=outcome.rows())
    if outcome.failed:
        raise MlbenchError("\n".join(outcome.text().splitlines()[1:]).strip())
