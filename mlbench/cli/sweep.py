"""`mlbench sweep`, `plan` and `search`: every command calls one public function, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlbench.cli.options import DRIVING, HEAD, QUIET, STORE, WORKERS, going_on
from mlbench.cli.output import JSON, answer, echo, wants_json
from mlbench.errors import MlbenchError

_GRID = click.argument("grid", type=click.Path(path_type=Path))


def _grid_options(command: Any) -> Any:
    """Options that replace keys of the grid file."""
    for option in (
        click.option("--methods", help="Only these, separated by commas."),
        click.option("--data-root", type=click.Path(path_type=Path), help="Folder the data set was unpacked in."),
        click.option("--weights", type=click.Path(path_type=Path), help="Local ImageNet weights for the backbone."),
        click.option("--device", help="auto, cpu or cuda."),
    ):
        command = option(command)
    return command


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `_grid_options` out of `given`, as keys of a grid."""
    changes = {name: given.pop(name) for name in ("methods", "data_root", "weights", "device")}
    if changes["methods"] is not None:
        changes["methods"] = tuple(name.strip() for name in changes["methods"].split(",") if name.strip())
    for name in ("data_root", "weights"):
        changes[name] = None if changes[name] is None else str(changes[name].resolve())
    return changes


class _Sweep(click.Group):
    """`mlbench sweep GRID.toml` is `mlbench sweep run GRID.toml`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args.insert(0, "run")
        return super().parse_args(ctx, args)


@click.group("sweep", cls=_Sweep, subcommand_metavar="GRID.toml [OPTIONS] | status [OPTIONS]")
def sweep_group() -> None:
    """Run a grid of methods, seeds, masks and data sets: `mlbench sweep GRID.toml`."""


@sweep_group.command("run")
@_GRID
@DRIVING
@click.option("--name", help="Of the sweep in the store [that of the file].")
@_grid_options
@STORE
@JSON
def run_command(grid: Path, store: Path | None, **given: Any) -> None:
    """Run every run of GRID that the store does not have; the name `run` may be left out."""
    from mlbench.paths import store_dir
    from mlbench.sweep.drive import sweep

    changes = _changes(given)
    with going_on():
        outcome = sweep(grid, store=store or store_dir(), changes=changes, **given)
    answer(outcome.text, outcome.rows())
    if outcome.failed:
        raise MlbenchError(f"{len(outcome.failed)} of {len(outcome.sweep.jobs)} runs failed")


@sweep_group.command("status")
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Until the sweep ends.")
@STORE
@JSON
def status_command(name: str | None, watch: bool, store: Path | None) -> None:
    """Show the runs of a sweep [the latest]: done, running, waiting, failed."""
    from mlbench.paths import store_dir
    from mlbench.sweep.status import find_sweep, plain_rows, show_status

    if wants_json():
        found = find_sweep(store or store_dir(), name)
        answer(str, plain_rows(found), sweep=found.name)
    else:
        show_status(store or store_dir(), name, watch)


@click.command("plan")
@_GRID
@WORKERS
@click.option("--steps", type=int, default=20, show_default=True, help="Training steps timed in each cell.")
@QUIET
@_grid_options
@STORE
@JSON
def plan_command(grid: Path, store: Path | None, **given: Any) -> None:
    """Time a few real steps of each cell of GRID, and print hours, GPU-hours, disk and memory; nothing is started."""
    from mlbench.paths import store_dir
    from mlbench.sweep.estimate import plan

    changes = _changes(given)
    found = plan(grid, store=store or store_dir(), changes=changes, **given)
    rows = [{**vars(cell), "seconds": found.seconds(cell)} for cell in found.cells]
    whole = {name: getattr(found, name) for name in ("workers", "hours", "gpu_hours", "disk", "free", "memory_mib")}
    answer(found.text, rows, **whole)


@click.command("search")
@click.option("--method", "methods", multiple=True, required=True, help="Registered method; may be repeated.")
@click.option("--protocol", required=True, help="Protocol name, or path of a .toml file.")
@click.option("--dataset", required=True, help="Data set name, or path of a .toml description.")
@click.option("--trials", type=int, default=20, show_default=True, help="Of each method.")
@click.option(
    "--space", multiple=True, metavar="KEY=SPACE", help='Instead of what methods declare: "train.lr=log 1e-4 1e-2".'
)
@click.option("--data-root", type=click.Path(path_type=Path), help="Folder the data set was unpacked in.")
@click.option("--backbone", help="Network trunk [resnet50].")
@click.option("--weights", type=click.Path(path_type=Path), help="Local ImageNet weights for the backbone.")
@HEAD
@click.option("--track", help="head: frozen backbone, cached features; full: end to end.")
@click.option("--seed", type=int, default=0, show_default=True, help="Repetition.")
@click.option("--mask-seed", type=int, default=0, show_default=True, help="Draw of the hidden labels.")
@click.option("--epochs", type=int, help="Instead of the protocol's.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="The same in all trials.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@QUIET
@STORE
@JSON
def search_command(
    methods: tuple[str, ...],
    trials: int,
    space: tuple[str, ...],
    assignments: tuple[str, ...],
    device: str,
    quiet: bool,
    store: Path | None,
    **given: Any,
) -> None:
    """Search settings on validation data, the same number of trials for each method; prints them as a settings file."""
    from mlbench.paths import store_dir
    from mlbench.settings import parse_assignments

    changes = parse_assignments(assignments)
    from mlbench.runner.plan import Request
    from mlbench.sweep.search import parse_space, search

    with going_on(""):
        found = search(
            methods,
            Request(method=methods[0], changes=changes, **given),
            store=store or store_dir(),
            trials=trials,
            space=parse_space(space),
            device=device,
            quiet=quiet,
            told=None if wants_json() else lambda found: echo(f"{found.text()}\n"),
        )
    if wants_json():
        answer(str, [{"method": one.method, **vars(trial)} for one in found for trial in one.trials])
