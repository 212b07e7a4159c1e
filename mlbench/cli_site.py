"""`mlbench site`: calls one public function, imported when it is called."""

from __future__ import annotations

from pathlib import Path

import click

_FOLDER = click.Path(path_type=Path)


@click.command("site")
@click.option("--output", type=_FOLDER, required=True, help="Folder to write; new, empty, or an earlier site.")
@click.option(
    *("--results", "--store", "results"),
    type=_FOLDER,
    help="Run store, or a folder of published records as results/runs [./runs or $MLBENCH_RUNS].",
)
def site_command(output: Path, results: Path | None) -> None:
    """Write leaderboards, method pages, run pages and the papers' tables as static HTML."""
    from mlbench.report.site import write_site

    click.echo(write_site(output, results).text())
