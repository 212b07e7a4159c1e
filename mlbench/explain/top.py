"""Test pictures with the best predictions of each run under them, right and wrong ones marked."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlbench.annotation import State, map_unspecified
from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.datasets.recorded import dataset_of, is_data_of
from mlbench.errors import DataError, UsageError, unknown, visible
from mlbench.evaluation.predictions import read_predictions
from mlbench.evaluation.scoring import align
from mlbench.explain.sides import require_same_test, sides_of
from mlbench.files import atomic_write
from mlbench.metrics import scores_of_kind, top_k
from mlbench.paths import store_dir
from mlbench.store import scores_file

#: How a prediction is marked, by the state of the label: by sign, then by colour.
MARKS = {
    State.POSITIVE: ("✓", (0, 110, 0)),
    State.NEGATIVE: ("✗", (190, 0, 0)),
    State.UNKNOWN: ("?", (90, 90, 90)),
    State.UNSPECIFIED: ("?", (90, 90, 90)),
}
TILE, COLUMN, GAP, LINE = 220, 160, 14, 17
#: Widest picture, in pixels, unless one block is wider.
_WIDEST = 1300
#: Characters of a text that are laid out, at most.
_LONGEST = 500


@dataclass(frozen=True)
class Top:
    """The `k` best classes of each test picture under each run.

    classes : int64 [runs, N, k], the best first. scores : float32 [runs, N, k], probabilities where the run's scores
    have them. states : int8 [N, C], what is known of the test labels, as precision and recall count it.
    """

    names: tuple[str, ...]
    data: Dataset
    classes: np.ndarray
    scores: np.ndarray
    states: np.ndarray

    def right(self) -> np.ndarray:
        """How many of the k are truly there: int64 [runs, N]."""
        rows = np.arange(self.states.shape[0])[:, None]
        return np.stack([(self.states[rows, found] == State.POSITIVE).sum(axis=1) for found in self.classes])

    def text(self) -> str:
        """How many pictures each run has right beyond the first: what a choice of pictures leaves out."""
        right, k = self.right(), self.classes.shape[2]
        lines = [
            f"{name}: {count.mean():.3f} of the top {k} right on average over {right.shape[1]} test pictures"
            for name, count in zip(self.names, right, strict=True)
        ]
        for name, count in zip(self.names[1:], right[1:], strict=True):
            more, fewer = int((count > right[0]).sum()), int((count < right[0]).sum())
            lines.append(f"{name} against {self.names[0]}: more right on {more} pictures, fewer on {fewer}")
        return "\n".join(lines)


def top_predictions(
    runs: Sequence[str],
    k: int = 3,
    store: Path | None = None,
    data_root: Path | None = None,
    dataset: str | None = None,
) -> Top:
    """The `k` best classes of every test picture, from the runs' stored predictions; ties go to the lower class.

    Parameters
    ----------
    runs : first characters of the keys, at least one; `dataset` and `data_root` as for `evaluation.rescore.score`.

    Raises
    ------
    UsageError
        No run, or `k` not from 1 to the number of classes; runs of different data sets or protocols.
    DataError
        The data set here is not the one the runs were tested on, or predictions are damaged.
    """
    if not runs:
        raise UsageError("no run given: expected the first characters of at least one key")
    sides = sides_of(runs, store)
    records = [side.records[0] for side in sides]
    for side in sides:
        if len(side.records) > 1:
            raise UsageError(f"{side.name}: several runs as one; predictions of a picture come from one run each")
    require_same_test(records)
    data = load_dataset(dataset_of(records[0], dataset), data_root)
    if not is_data_of(data, records[0]):
        raise DataError(f"data set '{data.id}' here is not the one the runs were tested on (fingerprints differ)")
    test, classes, scores = data.splits["test"], [], []
    for record in records:
        path = scores_file(store or store_dir(), record)
        predictions = read_predictions(path, record["predictions"]["test"]["sha256"])
        values = predictions.scores[align(predictions, test.ids, data.classes)]
        chosen = top_k(scores_of_kind(predictions.kind, values), k)
        best = np.argsort(np.where(chosen, -values, np.inf), axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(values, best, axis=1)
        classes.append(best)
        scores.append(_sigmoid(kept) if predictions.kind == "logit" else kept)
    states = np.asarray(map_unspecified(np.asarray(test.labels), records[0]["definitions"]["unspecified"]["f1"]))
    return Top(tuple(side.name for side in sides), data, np.stack(classes), np.stack(scores), states)


def differing_pictures(top: Top, count: int) -> np.ndarray:
    """The test rows on which the runs differ most, at most `count`: the rule by which pictures are chosen.

    First come those with the largest difference between the most and the fewest right predictions of the top k, in
    either direction; among equals those with the most classes that not all runs predict; then in the test part's order.
    """
    right = top.right()
    spread = right.max(axis=0) - right.min(axis=0)
    votes = np.zeros((len(spread), top.states.shape[1]), dtype=np.int64)
    for found in top.classes:
        np.add.at(votes, (np.arange(len(spread))[:, None], found), 1)
    contested = ((votes > 0) & (votes < len(top.classes))).sum(axis=1)
    return np.lexsort((-contested, -spread))[:count]


def draw_top(top: Top, picture: Path, images: int = 6, ids: Sequence[str] = ()) -> Path:
    """Write `picture` (PNG): test pictures, under each its true labels and the top k of every run, side by side.

    The pictures are those of `ids`, or `images` by the rule of `differing_pictures`. A tick marks a label that is
    there, a cross one that is not, a question mark one that is not known; numbers are probabilities, or plain scores.

    Raises
    ------
    UsageError : an unknown id, or `images` below 1.
    """
    if images < 1:
        raise UsageError(f"--images {images}: expected at least 1")
    place = {sample: row for row, sample in enumerate(top.data.splits["test"].ids)}
    for sample in ids:
        if sample not in place:
            raise unknown("test image", sample, place)
    rows = np.array([place[sample] for sample in ids]) if ids else differing_pictures(top, images)
    blocks = [_block(top, int(row)) for row in rows]
    wide, high = blocks[0].width, max(block.height for block in blocks)
    columns = min(len(blocks), max(1, _WIDEST // wide))
    lines = -(-len(blocks) // columns)
    sheet = Image.new("RGB", (wide * columns, high * lines), "white")
    for number, block in enumerate(blocks):
        sheet.paste(block, (number % columns * wide, number // columns * high))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    atomic_write(picture, buffer.getvalue())
    return picture


def _block(top: Top, row: int) -> Image.Image:
    """One picture with everything under it."""
    test, names = top.data.splits["test"], top.data.classes
    runs, k = top.classes.shape[0], top.classes.shape[2]
    wide = max(TILE, runs * COLUMN) + 2 * GAP
    truth = "true: " + (", ".join(names[c] for c in np.flatnonzero(top.states[row] == State.POSITIVE)) or "none known")
    told = _wrapped(truth, wide - 2 * GAP)
    sheet = Image.new("RGB", (wide, 2 * GAP + TILE + LINE * (len(told) + k + 2) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    photograph = Image.fromarray(test.images.load(row))
    scale = TILE / max(photograph.size)
    size = max(1, round(photograph.width * scale)), max(1, round(photograph.height * scale))
    # Small pictures are blown up as they are; photographs shrunk smoothly.
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC
    shown = photograph.resize(size, how)
    sheet.paste(shown, ((wide - shown.width) // 2, GAP + (TILE - shown.height) // 2))
    y = GAP + TILE + 6
    for line in (_cut(str(test.ids[row]), wide - 2 * GAP), *told):
        pen.text((GAP, y), line, fill="black", font=_font())
        y += LINE
    for run in range(runs):
        left, under = GAP + run * COLUMN, y + 4
        pen.text((left, under), _cut(top.names[run], COLUMN - 2 * GAP), fill="black", font=_font(bold=True))
        for best in range(k):
            under += LINE
            c = top.classes[run, row, best]
            sign, colour = MARKS[State(int(top.states[row, c]))]
            score = f"  {top.scores[run, row, best]:.2f}"
            right = left + COLUMN - 2 * GAP
            label = _cut(f"{sign} {names[c]}", right - left - _font().getlength(score))
            pen.text((left, under), label, fill=colour, font=_font())
            pen.text((right, under), score, fill=colour, font=_font(), anchor="ra")
    return sheet


@cache
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font with ticks and crosses, which Pillow's own has not: matplotlib ships it."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), 12)


def _line(text: str) -> str:
    """`text` as one line that can be laid out: the engine fails at line ends, and its time grows with the square."""
    return visible(" ".join(text.split()))[:_LONGEST]


def _cut(text: str, width: float) -> str:
    """`text`, shortened to `width` pixels."""
    text = _line(text)
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrapped(text: str, width: float) -> list[str]:
    """`text` in at most three lines of `width` pixels, broken at spaces."""
    lines = [""]
    for word in _line(text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font().getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > 3:
        lines = [*lines[:2], " ".join(lines[2:])]
    return [_cut(line, width) for line in lines]


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -values.astype(np.float64))).astype(np.float32)
