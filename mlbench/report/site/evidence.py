"""What a run's page shows of its predictions: precision-recall curves, and the images ranked best and worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from mlbench.annotation.sparse import SparseLabels
from mlbench.datasets import Dataset
from mlbench.datasets.base import Split
from mlbench.errors import DataError, MlbenchError
from mlbench.evaluation.predictions import Predictions
from mlbench.evaluation.scoring import align, targets_of
from mlbench.metrics import average_precision, scores_of_kind
from mlbench.protocol import protocol_of
from mlbench.report.at_hand import AtHand
from mlbench.report.site.charts import Line, line_chart
from mlbench.report.site.side_by_side import attention_of, data_uri

Record = Mapping[str, Any]
#: Recall levels in percent that a curve is drawn at.
LEVELS = np.linspace(0, 100, 41)
#: Best and worst images each, side of a picture in pixels, and labels named below it.
IMAGES, SIDE, NAMED = 4, 128, 3


@dataclass(frozen=True)
class Seen:
    """One image of a page: `picture` and `heat` (the map of `label`, empty without) as data URIs, AP in percent."""

    sample: str
    ap: float
    present: tuple[str, ...]
    highest: tuple[str, ...]
    label: str
    picture: str
    heat: str = ""


@dataclass(frozen=True)
class Evidence:
    """A chart, or why there is none (`missing`); images with a note on their maps, both empty if not asked for.

    attention : a picture as data URI, what is on it, and why there is none.
    """

    curves: Markup
    missing: str = ""
    best: tuple[Seen, ...] = ()
    worst: tuple[Seen, ...] = ()
    note: str = ""
    attention: tuple[str, str, str] = ("", "", "")


def evidence(record: Record, here: AtHand, pictures: bool = False, weights: Path | None = None) -> Evidence:
    """Curves of a run whose predictions and test labels are at hand; with `pictures`, also images and their maps."""
    try:
        predictions, data = here.predictions(record), here.dataset(record)
        test = data.splits["test"]
        if isinstance(test.labels, SparseLabels):
            raise DataError("no curves of sparse labels")
        order = align(predictions, test.ids, data.classes)
        rule = protocol_of(record).unspecified_for(data.id).ap
    except MlbenchError as error:
        return Evidence(Markup(""), str(error))
    scores = predictions.scores[order]
    targets, known = targets_of(test.labels, rule)
    curves = _chart(scores, targets, known, data.classes)
    if not pictures:
        return Evidence(curves)
    ap = image_average_precision(predictions, scores, targets, known)
    best, worst = extreme_rows(ap, targets & known)
    shown = [(int(row), _label(scores[row], targets[row] & known[row], row in set(best))) for row in (*best, *worst)]
    maps, note = _maps(record, here, data, shown, weights)
    seen = [
        _seen(test, data.classes, row, c, float(ap[row]), scores[row], targets[row] & known[row], maps.get(row))
        for row, c in shown
    ]
    attention = attention_of(record, here, weights)
    return Evidence(curves, "", tuple(seen[: len(best)]), tuple(seen[len(best) :]), note, attention)


def precision_at_recall(scores: np.ndarray, present: np.ndarray, levels: np.ndarray = LEVELS) -> np.ndarray:
    """Highest precision in percent at each recall level (percent) or above, float64; the envelope that AP sums.

    scores float [n], present bool [n] with at least one True. Ties share one threshold.
    """
    positives = np.sort(scores[present])
    true = len(positives) - np.searchsorted(positives, positives, side="left")
    retrieved = len(scores) - np.searchsorted(np.sort(scores), positives, side="left")
    envelope = np.maximum.accumulate(true / retrieved)  # ascending score is descending recall
    wanted = np.maximum(1, np.ceil(levels / 100 * len(positives) - 1e-9))
    return 100 * envelope[np.searchsorted(-true, -wanted, side="right") - 1]


def image_average_precision(
    predictions: Predictions, scores: np.ndarray, targets: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """AP of the ranking of each image's labels, in percent, float64 [N]; NaN for an image without a known positive."""
    return 100 * average_precision(scores_of_kind(predictions.kind, scores.T), targets.T, known.T)


def extreme_rows(ap: np.ndarray, present: np.ndarray, count: int = IMAGES) -> tuple[list[int], list[int]]:
    """Rows of the images with the highest and the lowest AP; of equal ones those with more labels, then the first."""
    rows = np.flatnonzero(~np.isnan(ap))
    labels = present.sum(axis=1)
    best = sorted(rows, key=lambda row: (-ap[row], -labels[row], row))[:count]
    worst = sorted((row for row in rows if row not in set(best)), key=lambda row: (ap[row], -labels[row], row))[:count]
    return list(map(int, best)), list(map(int, worst))


def _chart(scores: np.ndarray, targets: np.ndarray, known: np.ndarray, classes: Sequence[str]) -> Markup:
    curves = {
        c: precision_at_recall(scores[known[:, c], c], targets[known[:, c], c])
        for c in range(len(classes))
        if (targets & known)[:, c].any()
    }
    if not curves:
        return Markup("")
    order = sorted(curves, key=lambda c: (-curves[c].mean(), c))
    lines = {
        f"mean of {len(curves)} classes": np.mean(list(curves.values()), axis=0),
        "all labels pooled": precision_at_recall(scores[known], targets[known]),
        f"best class: {classes[order[0]]}": curves[order[0]],
        f"worst class: {classes[order[-1]]}": curves[order[-1]],
    }
    drawn = [
        Line(name, list(zip(LEVELS.tolist(), values.tolist(), strict=True)), colour)
        for colour, (name, values) in enumerate(lines.items())
    ]
    return line_chart(
        "Highest precision at each recall or above, test images", drawn, "recall (%)", "precision (%)", percent=True
    )


def _label(scores: np.ndarray, present: np.ndarray, best: bool) -> int:
    """The class whose map is drawn: of a best image the highest true label, of a worst one the lowest."""
    true = np.flatnonzero(present)
    return int(true[np.argmax(scores[true]) if best else np.argmin(scores[true])])


def _maps(
    record: Record, here: AtHand, data: Dataset, shown: Sequence[tuple[int, int]], weights: Path | None
) -> tuple[dict[int, np.ndarray], str]:
    """Heat maps [h, w] by row, or why there are none."""
    # Imported late: torch and the runner are of no use without pictures.
    from mlbench.explain.cam import class_maps, has_maps
    from mlbench.runner.trained import reload_network, reload_run

    try:
        if record["weights"] is None:
            raise DataError("the run has no weights")
        run = reload_run(dict(record), here.data_root, weights)
        _, network, feed = reload_network(run, here.root)
        if not has_maps(network):
            raise DataError("the network has none")
        rows = np.array([row for row, _ in shown])
        maps = class_maps(network, feed.batch("test", rows, None).inputs).numpy()
    except MlbenchError as error:
        return {}, f"No class activation maps: {error}."
    return {row: maps[i, c] for i, (row, c) in enumerate(shown)}, ""


def _seen(
    test: Split,
    classes: Sequence[str],
    row: int,
    c: int,
    ap: float,
    scores: np.ndarray,
    present: np.ndarray,
    heat: np.ndarray | None,
) -> Seen:
    picture = Image.fromarray(test.images.load(row)).convert("RGB")
    picture = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    overlay = ""
    if heat is not None:
        from mlbench.explain.cam import colour

        coloured = Image.fromarray(colour(heat / max(float(np.abs(heat).max()), 1e-12)))
        overlay = data_uri(Image.blend(picture, coloured.resize((SIDE, SIDE), Image.Resampling.BILINEAR), 0.6))
    highest = np.argsort(-scores, kind="stable")[:NAMED].tolist()
    return Seen(
        str(test.ids[row]),
        ap,
        tuple(classes[i] for i in np.flatnonzero(present).tolist()),
        tuple(f"{classes[i]} ({scores[i]:.2f})" for i in highest),
        classes[c],
        data_uri(picture),
        overlay,
    )
