"""Proposals as others keep them: MATLAB files, lists of images with their boxes, and a box a line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlbench.datasets.base import Split
from mlbench.errors import DataError, UsageError, unknown
from mlbench.foreign.matlab import read_cells
from mlbench.images.decode import first_few

ORDERS = {"xyxy": [0, 1, 2, 3], "yxyx": [1, 0, 3, 2]}

#: How far outside the image a box may reach before it is refused, in pixels: roundings.
_SLACK = 1.0

#: Boxes in pixels and scores [m, 5] by the image's name without folder and suffix.
Found = dict[str, np.ndarray]


@dataclass(frozen=True)
class Coordinates:
    """What the numbers of a box mean.

    order : "xyxy" or "yxyx" (MATLAB's selective search). first : the number of the first pixel, 0 or 1.
    inclusive : the second corner is the last pixel inside, not the first one outside.
    frame : side of the square that all images were warped to before; None: pixels of the image as decoded.
    """

    order: str = "xyxy"
    first: int = 0
    inclusive: bool = False
    frame: int | None = None

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise unknown("order of coordinates", self.order, ORDERS)
        if self.first not in (0, 1):
            raise UsageError(f"first = {self.first}: expected 0 or 1, the number of the first pixel")

    def shares(self, boxes: np.ndarray, width: int, height: int, where: str) -> np.ndarray:
        """Boxes float [m, 5] in pixels to shares of an image's width and height; DataError if one lies outside."""
        corners = boxes[:, ORDERS[self.order]].astype(np.float64) - self.first
        corners[:, 2:] += self.inclusive
        limits = np.array([width, height, width, height], dtype=np.float64)
        outside = ((corners < -_SLACK) | (corners > limits + _SLACK)).any(axis=1)
        if outside.any():
            at = int(np.flatnonzero(outside)[0])
            raise DataError(
                f"{where}: {int(outside.sum())} of {len(boxes)} boxes reach outside its {width} x {height} pixels, "
                f"the first is number {at + 1}: {boxes[at, :4].tolist()}. Are order, first pixel and frame right?"
            )
        return np.column_stack([np.clip(corners, 0, limits) / limits, boxes[:, 4]])


def read_mat(path: Path, images: str = "images", boxes: str = "boxes", scores: str = "boxScores") -> Found:
    """Boxes of a MATLAB file (not v7.3): cells of image names and of their boxes [m, 4], in the order they stand.

    Without a cell `scores`, boxes count as better the earlier they stand: scores fall from 1 towards 0.

    Raises
    ------
    DataError : no such file, no MATLAB file, no such variables, or cells of different lengths.
    """
    found: Found = {}
    for name, cell in zip(*read_cells(path, images, boxes, scores), strict=True):
        _add(found, name, cell, str(path))
    return found


def read_kdwsd_list(path: Path, classes: int) -> Found:
    """The list of the MLIC-KD-WSD code: a line has a path, `classes` labels, then x1 y1 x2 y2 score of each box.

    Its boxes are in the 672 x 672 frame. Source: released code of Liu et al., ACM MM 2018, human_att_data_layer.cpp.

    Raises
    ------
    DataError : a line of another length or with something that is no number, naming it.
    """
    found: Found = {}
    for number, fields in _lines(path):
        rest = len(fields) - 1 - classes
        if rest < 5 or rest % 5:
            raise DataError(
                f"{path}, line {number}: {len(fields)} fields; expected a path, {classes} labels and 5 numbers a box"
            )
        _add(found, fields[0], _numbers(fields[1 + classes :], path, number).reshape(-1, 5), f"{path}, line {number}")
    return found


def read_boxes(path: Path) -> Found:
    """A box a line: ``image x1 y1 x2 y2 [score]``, between spaces or commas; a missing score is 1.

    Raises
    ------
    DataError : a line of another length or with something that is no number, naming it.
    """
    rows: dict[str, list[np.ndarray]] = {}
    written: dict[str, str] = {}
    for number, fields in _lines(path):
        if len(fields) not in (5, 6):
            raise DataError(f"{path}, line {number}: {len(fields)} fields; expected image x1 y1 x2 y2 [score]")
        values = _numbers(fields[1:], path, number)
        stem = Path(fields[0]).stem
        if written.setdefault(stem, fields[0]) != fields[0]:
            raise DataError(
                f"{path}, line {number}: '{fields[0]}' and '{written[stem]}' are both '{stem}' without folder "
                "and ending; expected one image of a name"
            )
        rows.setdefault(stem, []).append(values if len(values) == 5 else np.append(values, 1.0))
    return {name: np.stack(boxes) for name, boxes in rows.items()}


def match_samples(found: Mapping[str, np.ndarray], split: Split, coordinates: Coordinates) -> Found:
    """Boxes of each sample of `split` in shares of its image, found by the name of its file or its id.

    Raises
    ------
    DataError : samples without boxes, or boxes outside their image.
    """
    matched, missing = {}, []
    for row, sample in enumerate(split.ids):
        file = re.sub(r" \d+( crop .*)?$", "", split.images.describe(row))
        name = next((name for name in (Path(file).stem, Path(sample).stem, sample) if name in found), None)
        if name is None:
            missing.append(sample)
            continue
        side = coordinates.frame
        height, width = (side, side) if side else split.images.load(row).shape[:2]
        matched[sample] = coordinates.shares(found[name], width, height, sample)
    if missing:
        raise DataError(f"{len(missing)} of {len(split)} images have no proposals in the file: {first_few(missing)}")
    return matched


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: no text file") from None
    lines = ((number, line.replace(",", " ").split()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, fields) for number, fields in lines if fields]


def _numbers(fields: list[str], path: Path, number: int) -> np.ndarray:
    try:
        return np.array([float(field) for field in fields])
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}") from None


def _add(found: Found, name: str, boxes: np.ndarray, where: str) -> None:
    stem = Path(name).stem
    if stem in found:
        raise DataError(f"{where}: image '{stem}' stands twice")
    found[stem] = boxes
