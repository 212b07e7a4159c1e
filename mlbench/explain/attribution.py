"""Numbers about class activation maps over a whole test set with boxes, for any trained runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlbench.annotation import State
from mlbench.datasets.base import Advance, Split, size_of
from mlbench.errors import UsageError
from mlbench.explain.cam import class_maps, has_maps
from mlbench.grid import grid
from mlbench.runner.plan import Run
from mlbench.runner.trained import reload_network, reload_run
from mlbench.store import all_runs, find_run

#: Points a side that a map's cell is sampled at to tell how much of it boxes cover.
POINTS = 8
BATCH = 64

#: What is measured, with the sign that makes more better; see `measure`.
NUMBERS = ("pointing", "energy", "no_evidence", "correlation", "positive", "peak")


@dataclass(frozen=True)
class Pair:
    """A test image, a class truly on it, and the share of each map cell [h, w] that the class's boxes cover."""

    row: int
    label: int
    inside: np.ndarray


def coverage(boxes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each cell of an (h, w) grid over the image that the union of `boxes` covers: float [h, w].

    boxes : float [K, 4] as x1, y1, x2, y2 in shares of the image's width and height. A cell is sampled at
    `POINTS` x `POINTS` points.
    """
    height, width = grid
    y = (np.arange(height * POINTS) + 0.5) / (height * POINTS)
    x = (np.arange(width * POINTS) + 0.5) / (width * POINTS)
    covered = np.zeros((len(y), len(x)), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        covered |= ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))[None, :]
    return covered.reshape(height, POINTS, width, POINTS).mean(axis=(1, 3))


def pairs_with_boxes(split: Split, grid: tuple[int, int]) -> list[Pair]:
    """Every (image, positive class) of `split` that has a box, in row order."""
    if split.boxes is None or not len(split.boxes):
        raise UsageError("this data set has no boxes to hold maps against")
    by_pair: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
    for box in split.boxes:
        if split.labels[int(box[0]), int(box[1])] == State.POSITIVE:
            by_pair[int(box[0]), int(box[1])].append(box[2:])
    sizes = {row: size_of(split.images, row)[::-1] for row in {row for row, _ in by_pair}}
    pairs = []
    for (row, label), boxes in sorted(by_pair.items()):
        height, width = sizes[row]
        pairs.append(Pair(row, label, coverage(np.array(boxes) / [width, height, width, height], grid)))
    return pairs


def measure(maps: np.ndarray, pairs: Sequence[Pair], reference: np.ndarray) -> dict[str, float]:
    """Numbers of maps float [P, h, w], one for each of `pairs`, beside the same maps of a reference model.

    Each is a mean over the pairs of a class, then over classes. Percent, but for `correlation`.

    pointing : the highest cell lies in a box (its centre is covered by at least half; the first of ties).
        Source: Zhang et al., ECCV 2016, without their tolerance.
    energy : share of the positive attribution that lies inside the boxes; 0 where there is none.
    no_evidence : no cell is positive.
    correlation : Pearson's, of the cells of map and reference map; 0 where either is constant.
    positive, peak : the mean positive attribution, and the highest attribution (not below 0), of the class's maps as
        a share of the reference model's. Kim et al., CVPR 2023, section 3: training with false negatives lowers them.
    """
    classes = np.array([pair.label for pair in pairs])
    inside = np.stack([pair.inside for pair in pairs]).reshape(len(pairs), -1)
    cells, theirs = maps.reshape(len(pairs), -1).astype(np.float64), reference.reshape(len(pairs), -1)
    positive, theirs_positive = np.maximum(cells, 0), np.maximum(theirs.astype(np.float64), 0)
    total = positive.sum(axis=1)
    values = {
        "pointing": 100.0 * (inside[np.arange(len(pairs)), cells.argmax(axis=1)] >= 0.5),
        "energy": 100.0 * (positive * inside).sum(axis=1) / np.where(total > 0, total, 1.0),
        "no_evidence": 100.0 * (total == 0),
        "correlation": _pearson(cells, theirs.astype(np.float64)),
    }
    found = {name: _by_class_mean(value, classes) for name, value in values.items()}
    for name, ours, other in (
        ("positive", positive.mean(axis=1), theirs_positive.mean(axis=1)),
        ("peak", positive.max(axis=1), theirs_positive.max(axis=1)),
    ):
        base = _by_class_mean(other, classes)
        found[name] = 100.0 * _by_class_mean(ours, classes) / base if base > 0 else float("nan")
    return found


def _pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = first - first.mean(axis=1, keepdims=True), second - second.mean(axis=1, keepdims=True)
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return np.where(scale > 0, (first * second).sum(axis=1) / np.where(scale > 0, scale, 1.0), 0.0)


def _by_class_mean(values: np.ndarray, classes: np.ndarray) -> float:
    return float(np.mean([values[classes == c].mean() for c in np.unique(classes)]))


def attribution_table(
    runs: Sequence[str],
    store: Path | None = None,
    data_root: Path | None = None,
    dataset: str | None = None,
    weights: Path | None = None,
    reference: str = "full",
    advance: Advance | None = None,
) -> list[dict[str, Any]]:
    """`measure` of each run's maps on all test images with boxes; one dict a method, means over its runs.

    Without `runs`, those of the whole store that have maps. Each is held against the run of method `reference` with
    the same repetition; UsageError where there is none. Test mAP stands beside the numbers. ``advance(done, total)``
    is told of runs.
    """
    records = [find_run(prefix, store) for prefix in runs] or all_runs(store)
    beside = {record["identity"]["repetition"]: record for record in records if _method(record) == reference}
    if not beside:
        raise UsageError(f"no run of method '{reference}' to compare with among the runs given")
    pairs: list[Pair] = []
    maps_of: dict[str, np.ndarray | None] = {}

    def maps(record: dict[str, Any]) -> np.ndarray | None:
        if record["key"] not in maps_of:
            run = reload_run(record, data_root, weights, dataset)
            maps_of[record["key"]] = _maps(run, store, pairs)
        return maps_of[record["key"]]

    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number, record in enumerate(records):
        if advance is not None and number:
            advance(number, len(records))
        partner = beside.get(record["identity"]["repetition"])
        if partner is None:
            raise UsageError(f"no run of '{reference}' with seed {record['identity']['repetition']} among the runs")
        ours, theirs = maps(record), maps(partner)
        if ours is None or theirs is None:
            continue
        if ours.shape != theirs.shape or record["identity"]["dataset"] != partner["identity"]["dataset"]:
            raise UsageError("the runs are of different data sets or map sizes: give runs of one")
        rows[_method(record)].append({"mAP": record["results"]["test"]["mAP"], **measure(ours, pairs, theirs)})
    return [
        {"method": method, "runs": len(found)} | {k: float(np.mean([f[k] for f in found])) for k in found[0]}
        for method, found in rows.items()
    ]


def _maps(run: Run, store: Path | None, pairs: list[Pair]) -> np.ndarray | None:
    """The maps float32 [P, h, w] of all `pairs`, which the first run with maps fills; None for a run without maps."""
    _, network, feed = reload_network(run, store)
    if not has_maps(network):
        return None
    test = run.dataset.splits["test"]
    if not pairs:
        probe = class_maps(network, feed.batch("test", np.arange(1), None).inputs)
        pairs.extend(pairs_with_boxes(test, (probe.shape[2], probe.shape[3])))
    rows = np.unique([pair.row for pair in pairs])
    place = {int(row): i for i, row in enumerate(rows)}
    chunks = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    every = torch.cat([class_maps(network, feed.batch("test", chunk, None).inputs).cpu() for chunk in chunks]).numpy()
    return np.stack([every[place[pair.row], pair.label] for pair in pairs])


def _method(record: dict[str, Any]) -> str:
    return str(record["identity"]["method"]["name"])


def gap_closed(rows: Sequence[dict[str, Any]], low: str = "an", high: str = "full") -> list[dict[str, Any]]:
    """For each method but `low` and `high`, the percent of the gap between those two that it closes, by number."""
    by_method = {row["method"]: row for row in rows}
    if low not in by_method or high not in by_method:
        return []
    ends = by_method[low], by_method[high]
    names = [name for name in ("mAP", *NUMBERS) if ends[1][name] != ends[0][name]]
    return [
        {"method": row["method"]}
        | {name: 100.0 * (row[name] - ends[0][name]) / (ends[1][name] - ends[0][name]) for name in names}
        for row in rows
        if row["method"] not in (low, high)
    ]


def attribution_text(rows: Sequence[dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    first = grid(rows, headers="keys", floatfmt=".2f", tablefmt="github")
    closed = gap_closed(rows)
    if not closed:
        return first
    second = grid(closed, headers="keys", floatfmt=".0f", tablefmt="github")
    return f"{first}\n\nPercent of the gap between an and full that is closed:\n\n{second}"
