"""``python -m mlbench.baselines.detection RUN``: what a trained `wsddn` finds, scored against ground-truth boxes.

Boxes are used for scoring alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from mlbench.cli_options import DATA, DATASET, STORE
from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.metrics.detection import Detections, corloc, detection_average_precision
from mlbench.proposals import split_proposals
from mlbench.runner.evaluate import evaluation_batch
from mlbench.runner.feed import Feed
from mlbench.trained import find_run, reload_network, reload_run

from .wsddn import detect


def ground_truth(feed: Feed, part: str) -> list[Detections]:
    """Ground-truth boxes of `part` in shares of each image's width and height.

    Raises
    ------
    DataError : the data set has no boxes.
    """
    split = feed.run.parts[part].split
    if split.boxes is None:
        raise DataError(f"data set '{feed.run.dataset.id}' has no boxes in its {part} part: nothing to score against")
    found = []
    for row in range(len(split)):
        own = split.boxes[split.boxes[:, 0] == row]
        height, width = split.images.load(row).shape[:2]
        found.append(Detections(own[:, 1].astype(int), np.ones(len(own)), own[:, 2:] / [width, height, width, height]))
    return found


@torch.inference_mode()
def detections(network: nn.Module, feed: Feed, part: str, iou: float = 0.4) -> list[Detections]:
    """What `network`, a `Detector`, finds in each image of `part`, in row order; see `detect` for `iou`."""
    network.eval()
    size = evaluation_batch(feed.settings.image_size)
    found = []
    for rows in np.split(np.arange(len(feed.run.parts[part])), range(size, len(feed.run.parts[part]), size)):
        batch = feed.batch(part, rows, None)
        regions = split_proposals(batch.side["proposals"])
        for each in detect(network(batch.inputs, regions)[0], regions, iou=iou):
            table = each.double().cpu().numpy()
            found.append(Detections(table[:, 0].astype(int), table[:, 1], table[:, 2:]))
    return found


def detection_metrics(network: nn.Module, feed: Feed) -> dict[str, Any]:
    """Detection mAP at 0.5 on the test part and CorLoc on the training part, in per cent and by class.

    Source: as WSDDN reports them (Bilen and Vedaldi, CVPR 2016); AP in both flavours of PASCAL VOC.
    """
    names, count = feed.run.dataset.classes, len(feed.run.dataset.classes)
    test = detections(network, feed, "test"), ground_truth(feed, "test")
    train = detections(network, feed, "train"), ground_truth(feed, "train")
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
    return {**means, "per_class": per_class}


@click.command()
@click.argument("run")
@STORE
@DATA
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file the run was given.")
@DATASET
def main(run: str, store: Path | None, data_root: Path | None, weights: Path | None, dataset: str | None) -> None:
    """Print detection mAP and CorLoc of RUN (the beginning of its key) as JSON."""
    record = find_run(run, store)
    if record["identity"]["method"]["name"] != "wsddn":
        raise UsageError(f"run '{run}' is of method '{record['identity']['method']['name']}': expected 'wsddn'")
    _, network, feed = reload_network(reload_run(record, data_root, weights, dataset), store)
    click.echo(json.dumps(detection_metrics(network, feed), indent=1))


if __name__ == "__main__":
    try:
        main()
    except MlbenchError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
