"""`mlbench reproduce`: it calls one public function, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlbench.cli.options import DRIVING, STORE, comma_list
from mlbench.cli.output import JSON, answer, echo, plain
from mlbench.errors import MlbenchError

_FOLDER = click.Path(path_type=Path)


@click.command("reproduce")
@click.argument("paper")
@click.option("--table", help="Only this table: single_positive, wider_ablation, coco, ... or as printed.")
@click.option("--rows", help="Only these, by label or method, separated by commas.")
@click.option(
    "--data",
    multiple=True,
    metavar="NAME=DIR",
    help="Where a data set is; NAME=OTHER:DIR takes data set OTHER in its place. May be repeated.",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="DIR",
    help="Folder of weights files named for their backbones, a file, or BACKBONE=FILE. May be repeated.",
)
@click.option(
    "--side",
    "sides",
    multiple=True,
    metavar="[DATASET:]KIND=FILE",
    help="File of a side input, of one data set or of all: coco2014:vl_scores=FILE.",
)
@click.option("--budget", help="A stated reduction of the plan (small) [the published recipe].")
@click.option("--track", help="head or full [the plan's].")
@click.option("--backbone", help="Instead of the plan's, for all rows.")
@click.option("--draws", type=int, help="Of each row [the plan's].")
@click.option("--precision", default="fp32", show_default=True, help="fp32 or bf16.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, what is missing, and what it takes.")
@click.option("--only-missing", is_flag=True, help="Only rows that have no run yet on a data set.")
@click.option(
    "--steps",
    type=int,
    default=5,
    show_default=True,
    help="Steps measured of each kind of run before the first; 0: none.",
)
@DRIVING
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--processes", type=int, default=1, show_default=True, help="Of one run, data-parallel.")
@click.option("--gpus", type=int, default=0, show_default=True, help="Of one run.")
@click.option("--memory-gib", type=float, help="Of one run, asked of a cluster.")
@click.option("--slurm", "slurm", multiple=True, metavar="KEY=VALUE", help="Parameter of submitit's Slurm executor.")
@click.option("--report", "output", type=_FOLDER, help="Folder for the report [STORE/reports/PAPER.TABLE].")
@STORE
@JSON
def reproduce_command(paper: str, store: Path | None, **given: Any) -> None:
    """Run a paper's table from its plan: boostlu, vac, kd_wsd, spml_2026 or all; ends with ours beside the print."""
    from mlbench.paths import store_dir
    from mlbench.reproduce.execute import Settings, reproduce
    from mlbench.reproduce.frozen import freeze_plans
    from mlbench.reproduce.listing import listing, planned
    from mlbench.reproduce.places import parse_data, parse_sides, parse_weights
    from mlbench.reproduce.plans import load_plans
    from mlbench.reproduce.runs import Asked, data_of
    from mlbench.settings import parse_assignments
    from mlbench.sweep.drive import How

    plans = load_plans(paper, given["table"])
    asked = Asked(
        plans,
        data=parse_data(given["data"], data_of(plans), data_of(load_plans("all"))),
        weights=parse_weights(given["weights"]),
        side=parse_sides(given["sides"]),
        rows=comma_list(given["rows"]),
        **{name: given[name] for name in ("budget", "track", "backbone", "draws", "precision")},
    )
    root = store or store_dir()
    if given["dry_run"]:
        frozen = freeze_plans(asked, root, given["only_missing"])
        answer(lambda: listing(frozen), planned(frozen))
        return
    how = How(*(given[name] for name in ("executor", "workers", "resume", "address", "together")))
    execution = {name: given[name] for name in ("device", "processes", "gpus", "memory_gib", "threads")}
    done = reproduce(
        asked,
        store=root,
        how=how,
        settings=Settings(**execution, slurm=parse_assignments(given["slurm"])),
        **{name: given[name] for name in ("steps", "only_missing", "output", "quiet")},
        told=echo,
    )
    shown = [table for table in done.tables if table.over or "published" in table.cells]
    texts = [table.to_markdown() for table in shown] + ([done.outcome.text()] if done.outcome is not None else [])
    rows = [{"table": table.title, **cell} for table in shown for cell in plain(table.cells)]
    answer(lambda: "\n".join([*texts, *(f"report: {path}" for path in done.files)]), rows, report=done.files)
    if done.outcome is not None and done.outcome.failed:
        raise MlbenchError(f"{len(done.outcome.failed)} of {len(done.outcome.sweep.jobs)} runs failed")
