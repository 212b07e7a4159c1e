"""`mlbench site`: calls one public function, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlbench.cli.options import DATA
from mlbench.cli.output import echo

_FOLDER = click.Path(path_type=Path)


@click.command("site")
@click.option("--output", type=_FOLDER, required=True, help="Folder to write; new, empty, or an earlier site.")
@click.option(
    *("--results", "--store", "results"),
    type=_FOLDER,
    help="Run store, or a folder of published records as results/runs [./runs or $MLBENCH_RUNS].",
)
@DATA
@click.option("--weights", type=_FOLDER, help="With --pictures: weights file the runs were given.")
@click.option(
    "--pictures",
    is_flag=True,
    help="Copy test images (best, worst, flipped, scaled) with CAMs into the runs' pages; mind the licence.",
)
def site_command(output: Path, **given: Any) -> None:
    """Write what to use, leaderboards, methods, runs and the papers' tables as static HTML, with CSV, JSON and a feed.

    Records in a folder `ablations` beside `runs` get a page of their own. Runs whose predictions are in the store and
    whose data set is at hand get precision-recall curves.
    """
    from mlbench.report.site import write_site

    if given["weights"] is not None and not given["pictures"]:
        raise click.UsageError("--weights: goes with --pictures")
    echo(write_site(output, **given).text())
