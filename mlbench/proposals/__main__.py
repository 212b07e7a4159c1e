"""``python -m mlbench.proposals``: find proposals ahead of a run, or import those of others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from mlbench.datasets import load_dataset
from mlbench.errors import MlbenchError, visible
from mlbench.progress import Reporter
from mlbench.proposals.arrays import compute_proposals, import_proposals, load_proposals, split_proposals
from mlbench.proposals.readers import ORDERS, Coordinates, Found, match_samples, read_boxes, read_kdwsd_list, read_mat
from mlbench.proposals.selective_search import edge_boxes, edge_rule

_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Region proposals of a data set, kept in the cache; a run takes them by --set proposals.source=NAME."""


def _of_dataset(command: Any) -> Any:
    for option in (
        click.option("--count", default=500, show_default=True, help="Boxes of an image."),
        click.option("--split", required=True, help="train, val or test."),
        click.option("--data-root", type=click.Path(exists=True, path_type=Path)),
        click.option("--dataset", required=True, help="Name or description file."),
    ):
        command = option(command)
    return command


def _split(dataset: str, data_root: Path | None, split: str) -> tuple[Any, int]:
    found = load_dataset(dataset, data_root)
    if split not in found.splits:
        raise click.UsageError(f"--split {split}: '{found.id}' has {', '.join(found.splits)}")
    return found.splits[split], len(found.classes)


def _tell(array: Any, name: str) -> None:
    import torch

    valid = split_proposals(torch.from_numpy(np.array(array))).valid.sum(dim=1)
    click.echo(
        f"{name}: {len(array)} images, {int(valid.min())} to {int(valid.max())} of {array.shape[1]} places filled"
    )


@main.command()
@_of_dataset
@click.option("--source", default="selective_search", show_default=True)
def compute(dataset: str, data_root: Path | None, split: str, count: int, source: str) -> None:
    """Find proposals now; a killed computation goes on where it was."""
    part, _ = _split(dataset, data_root, split)
    with Reporter() as reporter:
        _tell(load_proposals(part, source, count, reporter.counter(f"{source} of {split}")), source)


@main.command("edge-boxes")
@_of_dataset
@click.option("--model", type=_EXISTING, required=True, help="OpenCV's structured-forest edge model.")
@click.option("--name", default="edge_boxes", show_default=True, help="Kept under this name.")
def edges(dataset: str, data_root: Path | None, split: str, count: int, model: Path, name: str) -> None:
    """Find edge boxes with a model file of your own."""
    part, _ = _split(dataset, data_root, split)
    with Reporter() as reporter:
        find = partial(_edge_boxes, model=model)
        counter = reporter.counter(f"edge boxes of {split}")
        _tell(compute_proposals(part, find, name, count, edge_rule(model), counter), name)


def _edge_boxes(image: Any, key: int, model: Path) -> Any:
    return edge_boxes(image, model)


@main.command("import")
@_of_dataset
@click.option("--name", required=True, help="Kept under this name.")
@click.option("--format", "kind", type=click.Choice(["mat", "kdwsd", "boxes"]), required=True)
@click.option("--order", type=click.Choice(list(ORDERS)), default="xyxy", show_default=True)
@click.option("--first", type=click.Choice(["0", "1"]), default="0", show_default=True, help="Number of the 1st pixel.")
@click.option("--inclusive", is_flag=True, help="The second corner is the last pixel inside.")
@click.option("--frame", type=int, help="Side of the square the images were warped to (672 for kdwsd).")
@click.argument("file", type=_EXISTING)
def take(
    dataset: str,
    data_root: Path | None,
    split: str,
    count: int,
    name: str,
    kind: str,
    order: str,
    first: str,
    inclusive: bool,
    frame: int | None,
    file: Path,
) -> None:
    """Import FILE: a MATLAB file of cells, a list of the MLIC-KD-WSD code, or a box a line."""
    part, classes = _split(dataset, data_root, split)
    readers: dict[str, Callable[[Path], Found]] = {
        "mat": read_mat,
        "kdwsd": partial(read_kdwsd_list, classes=classes),
        "boxes": read_boxes,
    }
    side = 672 if kind == "kdwsd" and frame is None else frame
    found = match_samples(readers[kind](file), part, Coordinates(order, int(first), inclusive, side))
    _tell(import_proposals(part, found, name, count), name)


if __name__ == "__main__":
    try:
        main()
    except MlbenchError as error:
        click.echo(visible(f"Error: {error}"), err=True)
        raise SystemExit(error.exit_code) from None
