"""Boxes beside a label file: read, turned into pixels of the upright picture, clipped, and looked at with suspicion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.cells import plain, spelled
from mlbench.datasets.description import Description
from mlbench.datasets.reading import file_name
from mlbench.datasets.rows import Row, note
from mlbench.datasets.tables import read_table
from mlbench.errors import DataError, nearest
from mlbench.images.decode import image_size

#: What boxes in corners and pixels would show by this chance, or a smaller one, is asked about.
_LIKELY = 0.5

#: What stands for the whole width or height.
_WHOLE = {"relative": 1.0, "percent": 100.0}


def read_boxes(
    about: Description,
    root: Path,
    rows: Sequence[Row],
    listed: Sequence[str],
    names: Sequence[str],
    labels: np.ndarray,
    notes: list[str],
) -> np.ndarray | None:
    """float32 [M, 6] (row, class, x1, y1, x2, y2) over all rows, clipped to the pictures; None without box file.

    `listed` are all classes, `names` those that the class filter left.
    """
    if about.boxes is None:
        return None
    path, columns = root / about.boxes["file"], about.boxes["columns"]
    row_of = {row.file: number for number, row in enumerate(rows)}
    position = {name: column for column, name in enumerate(listed)}
    kept_column = {name: column for column, name in enumerate(names)}
    sizes: dict[str, tuple[int, int]] = {}
    found: list[tuple[float, ...]] = []
    written: list[tuple[float, ...]] = []
    met: set[tuple[Any, ...]] = set()
    other_image, other_class = Counter[str](), Counter[str]()
    clipped, unlabelled, repeated = [], [], []
    for line, fields in read_table(path, list(columns.values()), about.delimiter):
        where = f"{path}, line {line}"
        name, label = spelled(fields[columns["file"]]), spelled(fields[columns["label"]])
        file = file_name(f"{name}{about.suffix}" if name else "", where)
        numbers = _numbers([fields[columns[key]] for key in ("x1", "y1", "x2", "y2")], where)
        wanted: str | int = int(plain(label)) if about.label_style == "indices" and plain(label).isdecimal() else label
        label = listed[column_of(wanted, position, about, where)]
        if file not in row_of:
            other_image[name] += 1
            continue
        if label not in kept_column:
            other_class[label] += 1
            continue
        row, column = row_of[file], kept_column[label]
        if file not in sizes:
            sizes[file] = image_size(root / about.images / file)
        corners = _corners(numbers, about.boxes, sizes[file], where)
        inside = np.clip(corners, 0, [*sizes[file], *sizes[file]])
        if np.float32(inside[0]) >= np.float32(inside[2]) or np.float32(inside[1]) >= np.float32(inside[3]):
            width, height = sizes[file]
            raise DataError(f"{where}: box {numbers} lies outside '{name}' of {width}x{height}{_hint(about.boxes)}")
        clipped += [name] if list(inside) != corners else []
        unlabelled += [name] if labels[row, column] != State.POSITIVE else []
        key = (row, column, *numbers)
        repeated += [name] if key in met else []
        met.add(key)
        found.append((row, column, *inside))
        written.append((*numbers, *sizes[file]))
    note(notes, "boxes reaching beyond their image, clipped", clipped)
    note(notes, "boxes listed more than once, kept", repeated)
    note(notes, "boxes of a class that their image is not labelled with", unlabelled)
    note(notes, "boxes of images not in the data set, left out", list(other_image.elements()))
    note(notes, "boxes of classes not in the data set, left out", list(other_class.elements()))
    notes += _doubts(np.array(written).reshape(-1, 6), about.boxes, len(clipped), str(about.boxes["file"]))
    boxes = np.array(found, dtype=np.float32).reshape(-1, 6)
    return boxes[np.argsort(boxes[:, 0], kind="stable")]


def column_of(name: str | int, position: Mapping[str, int], about: Description, where: str) -> int:
    """Column of a class given by name or index; DataError if there is no such class."""
    if isinstance(name, int):
        if name >= len(position):
            raise DataError(f"{where}: class index {name}, expected 0 to {len(position) - 1}")
        return name
    if name not in position:
        raise DataError(f"{where}: class '{name}' is not in the class list of {about.where}.{nearest(name, position)}")
    return position[name]


def _numbers(fields: Sequence[Any], where: str) -> list[float]:
    try:
        if any(isinstance(field, bool) or "_" in str(field) for field in fields):
            raise ValueError
        return [float(field) for field in fields]
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: box {list(fields)} is not four numbers") from None


def _corners(numbers: Sequence[float], rule: Mapping[str, Any], size: tuple[int, int], where: str) -> list[float]:
    """Corners in pixels of what is written; DataError for what is no box."""
    first, second, third, fourth = numbers
    form = rule.get("format", "xyxy")
    if form == "xywh":
        corners = [first, second, first + third, second + fourth]
    elif form == "cxcywh":
        corners = [first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2]
    else:
        corners = list(numbers)
    if not np.isfinite(corners).all() or corners[2] <= corners[0] or corners[3] <= corners[1]:
        expected = "x1 < x2 and y1 < y2" if form == "xyxy" else "width and height above 0"
        raise DataError(f"{where}: box {list(numbers)} is empty or not finite: expected {expected}{_hint(rule)}")
    if rule.get("unit", "pixels") != "pixels":
        whole = _WHOLE[rule["unit"]]
        corners = [corner * side / whole for corner, side in zip(corners, (*size, *size), strict=True)]
    return corners


def _hint(rule: Mapping[str, Any]) -> str:
    if "format" in rule and "unit" in rule:
        return ""
    return (
        ' (boxes.format = "xywh" says that x, y, width, height are written; boxes.unit = "relative" or "percent": '
        "shares of the picture's sides)"
    )


def _doubts(written: np.ndarray, rule: Mapping[str, Any], clipped: int, file: str) -> list[str]:
    """What looks wrong with boxes as they are written, rows (four numbers, width, height of the picture)."""
    if not len(written):
        return []
    first, second, third, fourth, width, height = written.T
    total, doubts = len(written), []
    if "unit" not in rule:
        if max(third.max(), fourth.max()) < 2:
            return [
                f"all {total} boxes of {file} end within the first two pixels of their picture: are they shares of its "
                'width and height? boxes.unit = "relative" takes them so, "pixels" says that pixels are meant'
            ]
        sides = np.stack([width, height])
        if max(third.max(), fourth.max()) <= 100 and _chance(np.minimum(1, 100 / sides)) <= _LIKELY:
            doubts.append(
                f"none of the {total} boxes of {file} has a number above 100, in pictures of up to {int(width.max())}x"
                f'{int(height.max())}: are they percent of its width and height? boxes.unit = "percent" takes them so, '
                '"pixels" says that pixels are meant'
            )
    if doubts or rule.get("unit", "pixels") != "pixels":
        width = height = np.full(total, 100.0 if doubts else _WHOLE[rule["unit"]])
    if "format" in rule:
        return doubts
    # A box that begins at the picture's edge is written alike either way.
    halves = np.where(np.stack([first, second]) > 0, 0.5, 1.0)
    if (first + third <= width).all() and (second + fourth <= height).all() and _chance(halves) <= _LIKELY:
        doubts.append(
            f"the middles of all {total} boxes of {file} lie in the upper left quarter of their picture: are they "
            'x, y, width, height (boxes.format = "xywh"), or is y before x? "xyxy" says that corners are meant'
        )
    if 2 * clipped > total:
        doubts.append(
            f"{clipped} of {total} boxes of {file} reach beyond their picture: is y before x, or is another size of "
            'the picture meant? boxes.format = "xyxy" says that they are right'
        )
    return doubts


def _chance(each: np.ndarray) -> float:
    """The chance that all of what is seen happens to boxes that lie anywhere, from that of each."""
    return float(np.exp(np.log(each).sum()))
