"""People's own pictures as a data set: label files or folders, told by a TOML description (no Python)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split, held_out_tags
from mlbench.datasets.boxes import column_of, read_boxes
from mlbench.datasets.cells import alike
from mlbench.datasets.description import Description, check_class_names, read_description
from mlbench.datasets.reading import read_text
from mlbench.datasets.rows import Row, note, read_rows
from mlbench.errors import DataError
from mlbench.images.decode import FileImages

__all__ = ["load_files", "read_description"]

_COMMENT = ("#", "//", ";")
_NUMBERED = re.compile(r"\d+[\s,;:]")
_HEADINGS = frozenset(("class", "classes", "class_name", "classname", "name", "names", "label", "labels", "category"))


def load_files(path: str | Path, root: str | Path) -> Dataset:
    """Load the data set that the TOML description `path` tells of; its paths are relative to `root`.

    Rows stand in the order of the label file (folders: sorted by name); the sample id is the file name as listed.

    Returns
    -------
    Dataset; whatever was left out or mended, or looks wrong, is counted and listed in `notes`. UsageError for a wrong
    description (see `Description` for its keys), DataError with file and line for data that are not what it says.
    """
    about = read_description(path)
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (the data root of '{about.id}')")
    notes: list[str] = []
    about = replace(about, classes=_declared_classes(about, root, notes))
    rows, partial = read_rows(about, root, notes)
    met = sorted({str(name) for row in rows for name in row.states})
    listed = about.classes if isinstance(about.classes, tuple) else check_class_names(met, about.where)
    note(notes, "classes whose names look alike", alike(listed))
    labels = _label_matrix(about, rows, listed)
    names, labels = _filter_classes(about, rows, listed, labels, notes)
    rows, labels = _unlabelled(about, rows, labels, notes)
    boxes = read_boxes(about, root, rows, listed, names, labels, notes)
    tags = held_out_tags(_label_matrix(about, rows, listed), listed, names, about.where) if about.tags else None

    splits = {}
    for part in ("train", "val", "test"):
        chosen = np.array([row for row, entry in enumerate(rows) if entry.part == part], dtype=np.int64)
        if len(chosen):
            ids = tuple(rows[row].name for row in chosen)
            own = None if boxes is None else _boxes_of(boxes, chosen)
            images = FileImages(root / about.images, tuple(rows[row].file for row in chosen))
            splits[part] = Split(ids, labels[chosen], images, boxes=own, tags=tags and tags.take(chosen))
        elif part != "val":
            raise DataError(f"{about.where}: the {part} split is empty")
    if partial:
        notes.append("counts of the full copy not checked: this is a partial one")
    else:
        _check_counts(about, names, splits)
    return Dataset(
        id=f"{about.id}-partial" if partial else about.id,
        version=about.version,
        classes=names,
        splits=splits,
        flippable=about.flippable,
        notes=tuple(notes),
        source=about.source,
    )


# --- classes and labels -----------------------------------------------------------------------------------------------


def _declared_classes(about: Description, root: Path, notes: list[str]) -> tuple[str, ...] | None:
    """The class list that the description gives or points to, None if the classes are those met."""
    if not isinstance(about.classes, str):
        return about.classes
    path = root / about.classes
    try:
        lines = [line.strip() for line in read_text(path).split("\n")]
    except DataError as error:
        raise DataError(f"class names not readable: {error}") from None
    while lines and not lines[-1]:
        lines.pop()
    way_out = f"; where it is meant, list the names in the description: classes = [...] in {about.where}"
    numbered = [bool(_NUMBERED.match(line)) for line in lines]
    for number, line in enumerate(lines, start=1):
        if not line:
            raise DataError(f"{path}, line {number}: empty, so the numbers of all classes below it are in doubt")
        heading = line.casefold() in _HEADINGS or (not numbered[0] and all(numbered[1:]))
        if line.startswith(_COMMENT) or (number == 1 and heading and len(lines) > 1):
            raise DataError(f"{path}, line {number}: '{line}' looks like a comment or a heading, not a class{way_out}")
    if len(lines) == 1 and len(re.split(r"[,;|\t]", lines[0])) > 1:
        raise DataError(f"{path}, line 1: '{lines[0]}' looks like several classes, expected one a line{way_out}")
    if len(lines) > 1 and all(numbered):
        notes.append(f"all lines of {about.classes} begin with a number, which is taken as part of the class's name")
    return check_class_names(lines, str(path))


def _label_matrix(about: Description, rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    position = {name: column for column, name in enumerate(names)}
    labels = np.full((len(rows), len(names)), about.missing_state, dtype=np.int8)
    for number, row in enumerate(rows):
        for name, state in row.states.items():
            labels[number, column_of(name, position, about, row.where)] = state
    return labels


def _filter_classes(
    about: Description, rows: Sequence[Row], names: tuple[str, ...], labels: np.ndarray, notes: list[str]
) -> tuple[tuple[str, ...], np.ndarray]:
    positives = {
        part: (labels[np.array([row.part == part for row in rows], dtype=bool)] == State.POSITIVE).sum(axis=0)
        for part in ("train", "test")
    }
    kept = np.ones(len(names), dtype=bool)
    for part, count in positives.items():
        kept &= count >= about.class_filter.get(f"min_{part}", 0)
    limits = ", ".join(f"{key} {value}" for key, value in about.class_filter.items())
    if not kept.any():
        raise DataError(f"{about.where}: class_filter ({limits}) leaves no class")
    note(notes, f"classes of {len(names)} left out by {limits}", [names[c] for c in np.flatnonzero(~kept)])
    for part, count in positives.items():
        note(notes, f"classes without a positive in {part}", [names[c] for c in np.flatnonzero(kept & (count == 0))])
    return tuple(names[c] for c in np.flatnonzero(kept)), labels[:, kept]


def _unlabelled(
    about: Description, rows: list[Row], labels: np.ndarray, notes: list[str]
) -> tuple[list[Row], np.ndarray]:
    empty = ~(labels == State.POSITIVE).any(axis=1)
    dropped = about.unlabelled == "drop"
    fate = "dropped" if dropped else "kept"
    note(notes, f"images without a positive label, {fate}", [rows[r].name for r in np.flatnonzero(empty)])
    if not dropped:
        return rows, labels
    return [rows[r] for r in np.flatnonzero(~empty)], labels[~empty]


# --- boxes and counts -------------------------------------------------------------------------------------------------


def _boxes_of(boxes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The boxes of the rows `chosen` (ascending), their first column counted within them."""
    own = boxes[np.isin(boxes[:, 0], chosen)].copy()
    own[:, 0] = np.searchsorted(chosen, own[:, 0])
    return own


def _check_counts(about: Description, names: Sequence[str], splits: Mapping[str, Split]) -> None:
    boxes = [split.boxes for split in splits.values() if split.boxes is not None]
    found = {"classes": len(names), **{part: len(splits[part]) if part in splits else 0 for part in about.splits}}
    found |= {part: len(split) for part, split in splits.items()}
    found["boxes"] = sum(len(part) for part in boxes)
    found["boxed_images"] = sum(len(np.unique(part[:, 0])) for part in boxes)
    wrong = [
        f"{key}: expected {value}, found {found.get(key, 0)}"
        for key, value in about.expect.items()
        if found.get(key, 0) != value
    ]
    if wrong:
        raise DataError(f"{about.where}: data are not what the description expects: {'; '.join(wrong)}")
