"""Class activation maps of test images as one picture: a row an (image, class), a column a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from mlbench.annotation import State
from mlbench.datasets.base import Split
from mlbench.errors import UsageError, unknown, visible
from mlbench.files import atomic_write
from mlbench.runner.trained import reload_network, reload_run
from mlbench.store import all_runs, find_run

TILE = 160
GAP = 8
CAPTION = 26


def has_maps(network: nn.Module) -> bool:
    """Whether `network` is a classifier whose head has class activation maps."""
    return hasattr(getattr(network, "head", None), "maps")


def class_maps(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """CAMs float32 [B, C, h, w] of a classifier: bias included, BoostLU as in inference.

    Their mean over positions is the logit of a linear head, and a part of that of others.

    Source: Zhou et al., CVPR 2016; Kim et al., CVPR 2023.
    """
    if not has_maps(network):
        raise UsageError(
            "this method's network has no class activation maps: give runs whose head has them, as linear and csra do"
        )
    with torch.inference_mode():
        return network.head.maps(network.backbone(inputs), boosted=True).float()  # type: ignore[operator, union-attr]


def colour(heat: np.ndarray) -> np.ndarray:
    """Values in [-1, 1] as RGB uint8: blue against the class, white neutral, red for it."""
    red = np.clip(1 + heat, 0, 1)
    blue = np.clip(1 - heat, 0, 1)
    green = np.minimum(red, blue)
    return (np.stack([red, green, blue], axis=-1) * 255).astype(np.uint8)


def draw_cams(
    runs: Sequence[str],
    store: Path | None = None,
    data_root: Path | None = None,
    images: int = 4,
    picture: Path = Path("cams.png"),
    dataset: str | None = None,
    weights: Path | None = None,
    ids: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> Path:
    """Write `picture`: class activation maps of test images, a row an (image, class), a column a run.

    The images are those of `ids`, or the first `images` with at least two labels; the classes those of `classes`
    (also where an image has them not), or each image's own. Without `runs`, those of the whole store. All must be of
    the same data set. Each map is scaled by its own largest magnitude; the class's score stands above it. Boxes of
    the class, where the data set has them, are drawn. `dataset` and `weights` are needed again where the runs were
    given a description or a weights file.
    """
    if images < 1:
        raise UsageError(f"--images {images}: expected at least 1")
    records = [find_run(prefix, store) for prefix in runs] or all_runs(store)
    loaded = [reload_run(record, data_root, weights, dataset) for record in records]
    data = loaded[0].dataset
    if any(run.dataset.fingerprint != data.fingerprint for run in loaded):
        raise UsageError("the runs are of different data sets: give runs of one")
    test = data.splits["test"]
    cells = chosen_cells(test, data.classes, images, ids, classes)
    rows = np.unique([row for row, _ in cells])
    columns = []
    for run in loaded:
        method, network, feed = reload_network(run, store)
        if not runs and not has_maps(network):
            continue  # of a whole store, methods that look at no image
        batch = feed.batch("test", rows, None)
        with torch.inference_mode():
            answer = method.predict(network, batch)
        logits = answer if isinstance(answer, torch.Tensor) else answer.scores
        columns.append((run, class_maps(network, batch.inputs).numpy(), logits.float().numpy()))
    if not columns:
        raise UsageError("no run here has class activation maps")
    width = (TILE + GAP) * (len(columns) + 1) + GAP
    height = (TILE + CAPTION) * len(cells) + CAPTION + GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for j, (run, _, _) in enumerate(columns, start=1):
        several = sum(other.method.name == run.method.name for other, _, _ in columns) > 1
        name = f"{run.method.name}, seed {run.seed}" if several else run.method.name
        pen.text((GAP + j * (TILE + GAP), 6), visible(name), fill="black")
    for i, (row, c) in enumerate(cells):
        top = CAPTION + i * (TILE + CAPTION)
        photograph = Image.fromarray(test.images.load(row))
        base = photograph.resize((TILE, TILE), Image.Resampling.BILINEAR)
        pen.text((GAP, top + 6), visible(f"{test.ids[row]}: {data.classes[c]}"), fill="black")
        boxes = _boxes(test.boxes, row, c, photograph.size)
        sheet.paste(_with_boxes(base, boxes), (GAP, top + CAPTION - 4))
        for j, (_, maps, scores) in enumerate(columns, start=1):
            heat = maps[list(rows).index(row), c]
            shown = Image.fromarray(colour(heat / max(float(np.abs(heat).max()), 1e-12)))
            blend = Image.blend(base, shown.resize((TILE, TILE), Image.Resampling.BILINEAR), 0.6)
            left = GAP + j * (TILE + GAP)
            pen.text((left, top + 6), f"score {scores[list(rows).index(row), c]:.2f}", fill="black")
            sheet.paste(_with_boxes(blend, boxes), (left, top + CAPTION - 4))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    atomic_write(picture, buffer.getvalue())
    return picture


def chosen_cells(
    test: Split, names: Sequence[str], images: int, ids: Sequence[str], classes: Sequence[str]
) -> list[tuple[int, int]]:
    """The (test row, class) pairs to draw; see `draw_cams`. UsageError names an id or class that is not there."""
    place = {sample: row for row, sample in enumerate(test.ids)}
    for kind, asked, known in (("test image", ids, place), ("class", classes, names)):
        for name in asked:
            if name not in known:
                raise unknown(kind, name, known)
    positive = test.labels[:] == State.POSITIVE
    if classes:
        positive = positive & np.isin(np.arange(len(names)), [names.index(name) for name in classes])
    if ids:
        rows = np.array([place[sample] for sample in ids])
    else:
        several = np.flatnonzero((positive.sum(axis=1) >= 2) | (bool(classes) & positive.any(axis=1)))
        rows = several[:images] if len(several) else np.flatnonzero(positive.any(axis=1))[:images]
    if ids and classes:
        return [(int(row), names.index(name)) for row in rows for name in classes]
    cells = [(int(row), int(c)) for row in rows for c in np.flatnonzero(positive[row])]
    if not cells:
        raise UsageError("none of the test images asked for has a class to draw")
    return cells


def _boxes(boxes: np.ndarray | None, row: int, c: int, size: tuple[int, int]) -> list[tuple[float, ...]]:
    """Boxes of class `c` in image `row`, in tile pixels."""
    if boxes is None:
        return []
    mine = boxes[(boxes[:, 0] == row) & (boxes[:, 1] == c), 2:]
    scale = np.array([TILE / size[0], TILE / size[1]] * 2)
    return [tuple(box) for box in mine * scale]


def _with_boxes(image: Image.Image, boxes: list[tuple[float, ...]]) -> Image.Image:
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    for box in boxes:
        pen.rectangle(box, outline="lime", width=2)
    return drawn
