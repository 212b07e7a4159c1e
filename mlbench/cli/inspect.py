"""`mlbench inspect`: calls public functions, imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlbench.cli.options import DATA, DATASET, STORE
from mlbench.cli.output import echo
from mlbench.errors import MlbenchError

#: Options that only one of the two forms has.
_ONLY_FIFTYONE = ("name", "overwrite", "pictures", "launch", "address", "port")


@click.command("inspect")
@click.argument("run")
@click.argument("run2", required=False)
@click.option(
    "--part",
    type=click.Choice(["train", "val", "test"]),
    default="train",
    show_default=True,
    help="Labels are hidden in train and val only.",
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a gallery to this file instead of FiftyOne."
)
@click.option("--images", type=int, help="At most so many, the most telling first [FiftyOne: all, --html: 240].")
@click.option("--name", help="Of the FiftyOne data set [data set, part and runs].")
@click.option("--overwrite", is_flag=True, help="Replace the FiftyOne data set of that name.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for PNGs of images that are no files [./NAME-pictures].",
)
@click.option("--launch/--no-launch", default=True, show_default=True, help="Start the FiftyOne app.")
@click.option("--address", help="Of the app [FiftyOne's: localhost].")
@click.option("--port", type=int, help="Of the app [FiftyOne's: 5151].")
@DATASET
@DATA
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file the runs were given.")
@STORE
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def inspect_command(
    run: str,
    run2: str | None,
    html: Path | None,
    images: int | None,
    name: str | None,
    overwrite: bool,
    pictures: Path | None,
    launch: bool,
    address: str | None,
    port: int | None,
    **given: Any,
) -> None:
    """Look at a run, or at two beside each other, image by image: in FiftyOne, or in one HTML file."""
    if html is not None:
        source = click.get_current_context().get_parameter_source
        for option in _ONLY_FIFTYONE:
            if source(option) is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError(f"--{option}: does not go with --html, which needs no FiftyOne")
    from mlbench.inspection.look import look

    runs = [run] if run2 is None else [run, run2]
    if html is not None:
        from mlbench.inspection.gallery import IMAGES, write_gallery

        echo(write_gallery(look(runs, **given), html, IMAGES if images is None else images).text())
        return
    from mlbench.datasets.fiftyone_in import connect
    from mlbench.inspection.to_fiftyone import launch as launch_app
    from mlbench.inspection.to_fiftyone import write_fiftyone

    try:
        connect()  # before anything is computed
    except MlbenchError as error:
        raise MlbenchError(f"{error}; --html FILE needs neither") from None
    written = write_fiftyone(look(runs, **given), name, overwrite, pictures, images)
    echo(written.text())
    if launch:
        session = launch_app(written.dataset, address, port)
        echo(f"app: {session.url} (Ctrl-C ends it)")
        session.wait(-1)
