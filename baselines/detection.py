"""``python -m mlbench.baselines.detection RUN``: what a trained `wsddn` finds, scored against ground-truth boxes.

Boxes are used for scoring alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from mlbench.annotation import State
from mlbench.cli.options import DATA, DATASET, STORE
from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.inputs.cache import Advance
from mlbench.metrics.detection import Detections, corloc, detection_average_precision
from mlbench.progress import Reporter
from mlbench.proposals import split_proposals
from mlbench.runner.data import Part
from mlbench.runner.evaluate import evaluation_batch
from mlbench.runner.feed import Feed
from mlbench.runner.trained import reload_network, reload_run
from mlbench.store import find_run

from .wsddn import detect


def boxed_rows(part: Part, dataset: str) -> np.ndarray:
    """Rows of `part` that somebody looked over for boxes: those with one, and those without any positive label.

    An image with labels and no box was not annotated with boxes; whatever is found there would count as wrong.

    Raises
    ------
    DataError : the data set has no boxes.
    """
    if part.split.boxes is None:
        raise DataError(f"data set '{dataset}' has no boxes for its {part.name} images: nothing to score against")
    boxed = np.isin(np.arange(len(part)), part.split.boxes[:, 0])
    labelled = [bool((part.labels[[row]] == State.POSITIVE).any()) for row in range(len(part))]
    return np.flatnonzero(boxed | ~np.array(labelled))


def ground_truth(part: Part, rows: np.ndarray) -> list[Detections]:
    """Ground-truth boxes of the images `rows` of `part` in shares of each image's width and height."""
    split = part.split
    assert split.boxes is not None
    found = []
    for row in rows:
        own = split.boxes[split.boxes[:, 0] == row]
        height, width = split.images.load(row).shape[:2]
        found.append(Detections(own[:, 1].astype(int), np.ones(len(own)), own[:, 2:] / [width, height, width, height]))
    return found


@torch.inference_mode()
def detections(
    network: nn.Module, feed: Feed, part: str, rows: np.ndarray, iou: float = 0.4, advance: Advance | None = None
) -> list[Detections]:
    """What `network`, a `Detector`, finds in the images `rows` of `part`, in their order; see `detect` for `iou`."""
    network.eval()
    size = evaluation_batch(feed.settings.image_size)
    found = []
    for some in np.split(rows, range(size, len(rows), size)):
        batch = feed.batch(part, some, None)
        regions = split_proposals(batch.side["proposals"])
        for each in detect(network(batch.inputs, regions)[0], regions, iou=iou):
            table = each.double().cpu().numpy()
            found.append(Detections(table[:, 0].astype(int), table[:, 1], table[:, 2:]))
        if advance is not None:
            advance(len(found), len(rows))
    return found


def detection_metrics(
    network: nn.Module, feed: Feed, advance: Callable[[str], Advance] | None = None
) -> dict[str, Any]:
    """Detection mAP at 0.5 on the test part and CorLoc on the training part, in per cent and by class, and the images
    that were scored of each (`boxed_rows`).

    Source: as WSDDN reports them (Bilen and Vedaldi, CVPR 2016); AP in both flavours of PASCAL VOC.
    """
    dataset = feed.run.dataset
    names, count = dataset.classes, len(dataset.classes)
    rows = {name: boxed_rows(feed.run.parts[name], dataset.id) for name in ("test", "train")}
    test, train = (
        (
            detections(network, feed, name, rows[name], advance=advance(f"detect in {name}") if advance else None),
            ground_truth(feed.run.parts[name], rows[name]),
        )
        for name in rows
    )
    by_class = {
        "detection_AP50": detection_average_precision(*test, count),
        "detection_AP50_eleven_point": detection_average_precision(*test, count, flavour="eleven_point"),
        "CorLoc": corloc(*train, count),
    }
    means = {
        name.replace("AP50", "mAP50"): float(100 * np.nanmean(values))
        for name, values in by_class.items()
        if not np.isnan(values).all()
    }
    per_class = {
        name: {c: None if np.isnan(value) else float(100 * value) for c, value in zip(names, values, strict=True)}
        for name, values in by_class.items()
    }
    return {**means, "images": {name: len(rows[name]) for name in rows}, "per_class": per_class}


@click.command()
@click.argument("run")
@STORE
@DATA
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file the run was given.")
@DATASET
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def main(
    run: str, store: Path | None, data_root: Path | None, weights: Path | None, dataset: str | None, device: str
) -> None:
    """Print detection mAP and CorLoc of RUN (the beginning of its key) as JSON."""
    record = find_run(run, store)
    if record["identity"]["method"]["name"] != "wsddn":
        raise UsageError(f"run '{run}' is of method '{record['identity']['method']['name']}': expected 'wsddn'")
    _, network, feed = reload_network(reload_run(record, data_root, weights, dataset), store, device)
    with Reporter() as reporter:
        found = detection_metrics(network, feed, reporter.counter)
    click.echo(json.dumps(found, indent=1))


if __name__ == "__main__":
    try:
        main()
    except MlbenchError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
