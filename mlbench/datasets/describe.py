"""What a data set holds: counts, labels an image, classes, missing labels, co-occurrence; tables and a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.files import atomic_write
from mlbench.grid import grid

#: Classes of which co-occurrence is counted: those with the most positives.
MOST_CLASSES = 200

_ENTRIES_AT_ONCE = 20_000_000
#: Picture: pixels of one panel, of a margin and of names beside a panel; classes drawn.
_PANEL, _MARGIN, _NAMES, _DRAWN = 360, 30, 90, 40
#: Columns of the table of labels a sample.
_COLUMNS = 15


@dataclass(frozen=True)
class PartFacts:
    """Counts over one split of N samples and C classes.

    positives, negatives, unknown, unspecified : int64 [C], entries of each class in each state.
    per_sample : int64 [K], how many samples have 0, 1, 2, ... positive labels.
    together : int64 [M, M], samples in which two of the classes `frequent` (int64 [M], most positives first) are both
        positive.
    """

    samples: int
    images: int
    boxes: int | None
    positives: np.ndarray
    negatives: np.ndarray
    unknown: np.ndarray
    unspecified: np.ndarray
    per_sample: np.ndarray
    frequent: np.ndarray
    together: np.ndarray

    @property
    def mean_positives(self) -> float:
        return float(self.positives.sum() / max(self.samples, 1))


def count_part(split: Split) -> PartFacts:
    """Count one split; labels are read some rows at a time, so that they need not fit into memory as a matrix."""
    n_classes = split.labels.shape[1]
    counts = {state: np.zeros(n_classes, dtype=np.int64) for state in State}
    per_sample = np.zeros(n_classes + 1, dtype=np.int64)
    for labels in _rows(split):
        for state, count in counts.items():
            count += np.count_nonzero(labels == state, axis=0)
        per_sample += np.bincount(np.count_nonzero(labels == State.POSITIVE, axis=1), minlength=n_classes + 1)
    frequent = np.argsort(-counts[State.POSITIVE], kind="stable")[:MOST_CLASSES]
    together = np.zeros((len(frequent), len(frequent)), dtype=np.int64)
    for labels in _rows(split):
        # float32 products are exact below 2**24 samples at once.
        present = (labels[:, frequent] == State.POSITIVE).astype(np.float32)
        together += (present.T @ present).astype(np.int64)
    return PartFacts(
        samples=len(split),
        images=len(split) if split.groups is split.ids else len(set(split.groups)),
        boxes=None if split.boxes is None else len(split.boxes),
        positives=counts[State.POSITIVE],
        negatives=counts[State.NEGATIVE],
        unknown=counts[State.UNKNOWN],
        unspecified=counts[State.UNSPECIFIED],
        per_sample=np.trim_zeros(per_sample, "b"),
        frequent=frequent,
        together=together,
    )


def _rows(split: Split) -> Iterator[np.ndarray]:
    step = max(1, _ENTRIES_AT_ONCE // max(split.labels.shape[1], 1))
    for start in range(0, len(split), step):
        yield split.labels[start : start + step]


def describe_dataset(dataset: Dataset, most: int = 20, notes: Sequence[str] | None = None) -> str:
    """Tables for people: the parts, the `most` frequent classes, and the pairs that come together most.

    `notes` are what is to be told beside; None: those of the data set.
    """
    facts = {part: count_part(split) for part, split in dataset.splits.items()}
    sections = [
        f"{dataset.id}, version {dataset.version}: {len(dataset.classes)} classes. {dataset.source}".rstrip(),
        _parts_table(facts, len(dataset.classes)),
        _per_sample_table(facts),
        _class_table(dataset, facts, most),
        _pairs_table(dataset, facts["train"], most),
        *(f"note: {note}" for note in (dataset.notes if notes is None else notes)),
        _fingerprint(dataset),
    ]
    return "\n\n".join(sections)


def _fingerprint(dataset: Dataset) -> str:
    """The fingerprint, if it is known: no image is read for it."""
    unhashed = dataset.count_unhashed()
    if unhashed:
        return f"fingerprint: known once {unhashed:,} images are hashed (`mlbench data verify` or a run does that)"
    return f"fingerprint {dataset.fingerprint}"


def _parts_table(facts: dict[str, PartFacts], n_classes: int) -> str:
    rows = []
    for part, f in facts.items():
        entries = max(f.samples * n_classes, 1)
        shares = [100 * int(count.sum()) / entries for count in (f.positives, f.negatives, f.unknown, f.unspecified)]
        empty = int((f.positives == 0).sum())
        boxes = "none" if f.boxes is None else f"{f.boxes:,}"
        rows.append((part, f.samples, f.images, f.mean_positives, *shares, empty, boxes))
    headers = ["part", "samples", "images", "positives a sample", "positive %", "negative %", "missing %"]
    headers += ["unspecified %", "classes without a positive", "boxes"]
    return grid(rows, headers=headers, floatfmt=".2f", tablefmt="simple")


def _per_sample_table(facts: dict[str, PartFacts]) -> str:
    most = max(len(f.per_sample) for f in facts.values())
    counts = {part: np.pad(f.per_sample, (0, most - len(f.per_sample))) for part, f in facts.items()}
    shown = np.flatnonzero(sum(counts.values()))
    first, rest = (shown, shown[:0]) if len(shown) <= _COLUMNS else (shown[: _COLUMNS - 1], shown[_COLUMNS - 1 :])
    more = [f"{rest[0]} to {rest[-1]}"] if len(rest) else []
    rows = [
        (f"samples of {part} with that many", *count[first].tolist(), *([int(count[rest].sum())] if more else []))
        for part, count in counts.items()
    ]
    return grid(rows, headers=["positive labels", *map(str, first), *more], tablefmt="simple")


def _class_table(dataset: Dataset, facts: dict[str, PartFacts], most: int) -> str:
    rows = []
    for c in facts["train"].frequent[:most]:
        row: list[object] = [dataset.classes[c]]
        for f in facts.values():
            row += [int(f.positives[c]), 100 * int(f.unknown[c]) / max(f.samples, 1)]
        rows.append(row)
    headers = ["class"] + [text for part in facts for text in (f"{part} positives", f"{part} missing %")]
    title = f"{len(rows)} of {len(dataset.classes)} classes, those with the most positives in training:\n"
    return title + grid(rows, headers=headers, floatfmt=".1f", tablefmt="simple")


def _pairs_table(dataset: Dataset, train: PartFacts, most: int) -> str:
    first, second = np.triu_indices(len(train.frequent), k=1)
    joint = train.together[first, second]
    rows = []
    for pair in np.argsort(-joint, kind="stable")[:most]:
        if not joint[pair]:
            break
        a, b = train.frequent[first[pair]], train.frequent[second[pair]]
        share_a, share_b = (100 * joint[pair] / train.positives[c] for c in (a, b))
        rows.append((dataset.classes[a], dataset.classes[b], int(joint[pair]), share_a, share_b))
    title = "pairs that come together most in training (% of the first's and of the second's samples):\n"
    headers = ["first", "second", "samples", "of first %", "of second %"]
    return title + grid(rows, headers=headers, floatfmt=".1f", tablefmt="simple")


def draw_dataset(dataset: Dataset, picture: Path) -> Path:
    """Write a PNG of the training part: labels a sample, positives and missing labels by class, co-occurrence."""
    train = count_part(dataset.splits["train"])
    shown = train.frequent[:_DRAWN]
    sheet = Image.new("RGB", (3 * (_PANEL + _MARGIN) + _MARGIN + _NAMES, _PANEL + 2 * _MARGIN + _NAMES), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 8), f"{dataset.id}, training part: {train.samples:,} samples", fill="black", font=_font(14))
    lefts = [_MARGIN, 2 * _MARGIN + _PANEL, 3 * _MARGIN + 2 * _PANEL + _NAMES]
    _bars(pen, lefts[0], "samples by number of positive labels", [train.per_sample], ["navy"])
    _numbers_below(pen, lefts[0], len(train.per_sample))
    title = f"{len(shown)} of {len(dataset.classes)} classes: positive (blue), missing (grey)"
    _bars(pen, lefts[1], title, [train.unknown[shown], train.positives[shown]], ["silver", "navy"])
    _title(pen, lefts[2], "share of the row's samples that have the column's label, too")
    joint = train.together[: len(shown), : len(shown)]
    shares = joint / np.maximum(train.positives[shown], 1)[:, None]
    heat = Image.fromarray((255 * (1 - shares)).astype(np.uint8))
    sheet.paste(heat.resize((_PANEL, _PANEL), Image.Resampling.NEAREST), (lefts[2], 2 * _MARGIN))
    names = _name_column([dataset.classes[c] for c in shown])
    sheet.paste(names, (lefts[2] - _NAMES, 2 * _MARGIN))
    for left in lefts[1:]:
        sheet.paste(names.rotate(90, expand=True), (left, 2 * _MARGIN + _PANEL + 1))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    atomic_write(picture, buffer.getvalue())
    return picture


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _title(pen: ImageDraw.ImageDraw, left: int, title: str) -> None:
    pen.text((left, 2 * _MARGIN - 18), title, fill="black", font=_font(12))


def _name_column(names: Sequence[str]) -> Image.Image:
    """Names one under the other, a panel high, the ends of the long ones; turned by 90 degrees they hang below bars."""
    column = Image.new("RGB", (_NAMES, _PANEL), "white")
    pen, pitch = ImageDraw.Draw(column), _PANEL / max(len(names), 1)
    for i, name in enumerate(names):
        at = (_NAMES - 4, (i + 0.5) * pitch)
        pen.text(at, name, fill="black", font=_font(min(12.0, pitch)), anchor="rm")
    return column


def _numbers_below(pen: ImageDraw.ImageDraw, left: int, n: int) -> None:
    """0 to n - 1 below n bars, as many of them as there is room for."""
    width = _PANEL / n
    for i in range(0, n, int(np.ceil(20 / width))):
        at = (left + (i + 0.4) * width, 2 * _MARGIN + _PANEL + 4)
        pen.text(at, str(i), fill="black", font=_font(12), anchor="mt")


def _bars(pen: ImageDraw.ImageDraw, left: int, title: str, heights: list[np.ndarray], colours: list[str]) -> None:
    """Bars over one another, the highest as high as the panel."""
    bottom = 2 * _MARGIN + _PANEL
    most = max(1, *(int(h.max()) for h in heights if len(h)))
    _title(pen, left, f"{title}; the highest bar: {most:,}")
    for values, colour in zip(heights, colours, strict=True):
        width = _PANEL / max(len(values), 1)
        for i, value in enumerate(values.tolist()):
            if value:
                top = bottom - round(_PANEL * value / most)
                pen.rectangle((left + i * width, min(top, bottom - 1), left + (i + 0.8) * width, bottom), fill=colour)
    pen.line((left, bottom, left + _PANEL, bottom), fill="black")
