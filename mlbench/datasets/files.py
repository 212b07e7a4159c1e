"""People's own pictures as a data set: label files or folders, told by a TOML description (no Python)."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split, held_out_tags
from mlbench.datasets.description import STATES, Description, check_class_names, read_description
from mlbench.datasets.tables import read_table
from mlbench.errors import DataError, UsageError, nearest
from mlbench.images.decode import FileImages, file_size, first_few, image_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class _Row:
    """One picture as listed: its name under the image folder, its part, and states by class name or index."""

    name: str
    part: str
    states: Mapping[str | int, State]
    where: str


def load_files(path: str | Path, root: str | Path) -> Dataset:
    """Load the data set that the TOML description `path` tells of; its paths are relative to `root`.

    Rows stand in the order of the label file (folders: sorted by name); the sample id is the file name as listed.

    Returns
    -------
    Dataset; whatever was left out or mended is counted and listed in `notes`. UsageError for a wrong description
    (see `Description` for its keys), DataError with file and line for data that are not what it says.
    """
    about = read_description(path)
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (the data root of '{about.id}')")
    about = replace(about, classes=_declared_classes(about, root))
    notes: list[str] = []
    rows = list(_rows_of_folders(about, root, notes) if about.labels is None else _rows_of_table(about, root, notes))
    rows, partial = _present(about, root, rows, notes)
    met = sorted({str(name) for row in rows for name in row.states})
    listed = about.classes if isinstance(about.classes, tuple) else check_class_names(met, about.where)
    labels = _label_matrix(about, rows, listed)
    names, labels = _filter_classes(about, rows, listed, labels, notes)
    rows, labels = _unlabelled(about, rows, labels, notes)
    boxes = _boxes(about, root, rows, listed, names, labels, notes)
    tags = held_out_tags(_label_matrix(about, rows, listed), listed, names, about.where) if about.tags else None

    splits = {}
    for part in ("train", "val", "test"):
        chosen = np.array([row for row, entry in enumerate(rows) if entry.part == part], dtype=np.int64)
        if len(chosen):
            ids = tuple(rows[row].name for row in chosen)
            own = None if boxes is None else _boxes_of(boxes, chosen)
            images = FileImages(root / about.images, ids)
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


def _note(notes: list[str], what: str, names: Sequence[str]) -> None:
    """Add "WHAT: N (the first names)" unless there is none."""
    if names:
        notes.append(f"{what}: {len(names)} ({first_few(names, 10)})")


# --- rows -------------------------------------------------------------------------------------------------------------


def _rows_of_table(about: Description, root: Path, notes: list[str]) -> Iterator[_Row]:
    path = root / str(about.labels)
    columns = [about.columns["file"]]
    columns += [about.columns["split"]] if "split" in about.columns else []
    columns += [about.columns["labels"]] if about.label_style != "columns" else []
    met: dict[str, str] = {}
    repeated: list[str] = []
    seen_values: dict[str, str] = {}
    for line, fields in read_table(path, columns, about.delimiter):
        where = f"{path}, line {line}"
        name = str(fields[about.columns["file"]]).strip()
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{where}: '{name}' is no file name relative to the image folder")
        if name in met:
            raise DataError(f"{where}: '{name}' is listed twice (before: {met[name].rpartition(', ')[2]})")
        met[name] = where
        if about.label_style == "columns":
            states = _states_of_columns(about, fields, seen_values, where)
        else:
            labels = _labels_in(about, fields[about.columns["labels"]], where)
            repeated += [name] if len(set(labels)) < len(labels) else []
            states = dict.fromkeys(labels, State.POSITIVE)
        yield _Row(name, _part(about, name, str(fields.get(about.columns.get("split", ""), "")), where), states, where)
    _note(notes, "images that name a class more than once (counted once)", repeated)
    _note(notes, f"images not listed in {about.labels}, left out", sorted(_walk(root / about.images) - set(met)))


def _rows_of_folders(about: Description, root: Path, notes: list[str]) -> Iterator[_Row]:
    folder = root / about.images
    names = sorted(_walk(folder))
    if not names:
        raise DataError(f"{folder}: no images")
    prefixes = [prefix.strip("/") + "/" for part in about.splits.values() for prefix in part]
    for name in names:
        below = next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)
        where = str(folder / name)
        labels = [label for part in PurePosixPath(below).parts[:-1] for label in _labels_in(about, part, where, True)]
        yield _Row(name, _part(about, name, "", where), dict.fromkeys(labels, State.POSITIVE), where)
    _note(notes, "files that are no images by their suffix, left out", sorted(_walk(folder, images=False)))


def _walk(folder: Path, images: bool = True) -> set[str]:
    """Files under `folder` with an image's suffix (or without one), relative, with forward slashes."""
    return {
        (Path(base) / file).relative_to(folder).as_posix()
        for base, _, files in os.walk(folder)
        for file in files
        if file.lower().endswith(IMAGE_SUFFIXES) == images
    }


def _labels_in(about: Description, field: Any, where: str, alone: bool = False) -> list[str | int]:
    """The labels in one field: a list (JSONL), or text parted by the separator; an empty field holds none."""
    if field is None or field == "":
        return []
    if isinstance(field, str):
        if about.separator is None and not alone:
            raise UsageError(
                f"{about.where}: key 'separator' is missing: what parts the labels in '{field}' ({where})?"
            )
        labels = [label.strip() for label in (field.split(about.separator) if about.separator else [field])]
        labels = [label for label in labels if label]
    elif isinstance(field, list) and all(isinstance(v, str | int) and not isinstance(v, bool) for v in field):
        labels = [str(label).strip() for label in field]
    else:
        raise DataError(f"{where}: labels are {field!r}, expected text or a list")
    if about.label_style != "indices":
        return list(labels)
    for label in labels:
        if not label.isdecimal():
            raise DataError(f"{where}: '{label}' is no class index, expected whole numbers from 0")
    return [int(label) for label in labels]


def _states_of_columns(
    about: Description, fields: Mapping[str, Any], seen: dict[str, str], where: str
) -> dict[str | int, State]:
    """States of one row with a column a class; `seen` collects where each value was first met."""
    others = (about.columns["file"], about.columns.get("split"))
    wanted = about.classes if isinstance(about.classes, tuple) else [key for key in fields if key not in others]
    states: dict[str | int, State] = {}
    for name in wanted:
        if name not in fields:
            raise DataError(f"{where}: no column for class '{name}'.{nearest(name, list(fields))}")
        value = _plain(fields[name])
        seen.setdefault(value, where)
        if about.values is not None and value in about.values:
            states[name] = STATES[about.values[value]]
        elif value == "":
            states[name] = about.missing_state
        elif about.values is None and value in ("1", "0", "-1"):
            states[name] = State.POSITIVE if value == "1" else State.NEGATIVE
        else:
            raise DataError(f"{where}: value '{value}' of class '{name}'; expected {_known_values(about)}")
    if about.values is None and {"0", "-1"} <= seen.keys():
        raise UsageError(
            f"{about.where}: labels hold both 0 ({seen['0']}) and -1 ({seen['-1']}): say what they mean, "
            'for example values = {"1" = "positive", "0" = "unspecified", "-1" = "negative"}'
        )
    return states


def _known_values(about: Description) -> str:
    return ", ".join(about.values or ("1", "0", "-1")) + " or nothing"


def _plain(value: Any) -> str:
    """1, 1.0, true and "1.0" are all written "1"; None is written ""."""
    if value is None:
        return ""
    if isinstance(value, bool | float) and float(value).is_integer():
        return str(int(value))
    text = str(value).strip()
    whole, dot, rest = text.partition(".")
    return whole if dot and rest.strip("0") == "" and whole.lstrip("-").isdecimal() else text


# --- splits, classes, labels ------------------------------------------------------------------------------------------


def _part(about: Description, name: str, value: str, where: str) -> str:
    """Which part the picture belongs to."""
    if about.split is not None:
        key = hashlib.sha256(f"split\0{about.split['seed']}\0{name}".encode()).digest()
        return "test" if int.from_bytes(key[:6], "big") / 2**48 < about.split["test_fraction"] else "train"
    for part, values in about.splits.items():
        if "split" in about.columns:
            if value in values:
                return part
        elif any(name.startswith(prefix.strip("/") + "/") for prefix in values):
            return part
    known = [value for values in about.splits.values() for value in values]
    what = f"split '{value}'" if "split" in about.columns else f"the folder of '{name}'"
    raise DataError(f"{where}: {what} belongs to no part; {about.where} knows {', '.join(known)}")


def _present(about: Description, root: Path, rows: list[_Row], notes: list[str]) -> tuple[list[_Row], bool]:
    """Rows whose picture exists, and whether that makes the copy a partial one."""
    folder = root / about.images
    missing = {row.name for row in rows if file_size(folder / row.name) < 0}
    if not missing:
        return rows, False
    found = f"{len(missing)} of {len(rows)} listed images missing"
    if len(missing) == len(rows) or about.allow_missing != "new-id":
        raise DataError(
            f"{folder}: {found}: {first_few(sorted(missing))}. A partial copy is another data set: "
            f"allow_missing = \"new-id\" in the description loads it as '{about.id}-partial'"
        )
    _note(notes, f"partial copy, listed images missing of {len(rows)}", sorted(missing))
    return [row for row in rows if row.name not in missing], True


def _declared_classes(about: Description, root: Path) -> tuple[str, ...] | None:
    """The class list that the description gives or points to, None if the classes are those met."""
    if not isinstance(about.classes, str):
        return about.classes
    path = root / about.classes
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: class names not readable ({error})") from None
    return check_class_names([line.strip() for line in lines if line.strip()], str(path))


def _column_of(name: str | int, position: Mapping[str, int], about: Description, where: str) -> int:
    """Column of a class given by name or index; DataError if there is no such class."""
    if isinstance(name, int):
        if name >= len(position):
            raise DataError(f"{where}: class index {name}, expected 0 to {len(position) - 1}")
        return name
    if name not in position:
        raise DataError(f"{where}: class '{name}' is not in the class list of {about.where}.{nearest(name, position)}")
    return position[name]


def _label_matrix(about: Description, rows: Sequence[_Row], names: Sequence[str]) -> np.ndarray:
    position = {name: column for column, name in enumerate(names)}
    labels = np.full((len(rows), len(names)), about.missing_state, dtype=np.int8)
    for number, row in enumerate(rows):
        for name, state in row.states.items():
            labels[number, _column_of(name, position, about, row.where)] = state
    return labels


def _filter_classes(
    about: Description, rows: Sequence[_Row], names: tuple[str, ...], labels: np.ndarray, notes: list[str]
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
    _note(notes, f"classes of {len(names)} left out by {limits}", [names[c] for c in np.flatnonzero(~kept)])
    for part, count in positives.items():
        _note(notes, f"classes without a positive in {part}", [names[c] for c in np.flatnonzero(kept & (count == 0))])
    return tuple(names[c] for c in np.flatnonzero(kept)), labels[:, kept]


def _unlabelled(
    about: Description, rows: list[_Row], labels: np.ndarray, notes: list[str]
) -> tuple[list[_Row], np.ndarray]:
    empty = ~(labels == State.POSITIVE).any(axis=1)
    dropped = about.unlabelled == "drop"
    fate = "dropped" if dropped else "kept"
    _note(notes, f"images without a positive label, {fate}", [rows[r].name for r in np.flatnonzero(empty)])
    if not dropped:
        return rows, labels
    return [rows[r] for r in np.flatnonzero(~empty)], labels[~empty]


# --- boxes and counts -------------------------------------------------------------------------------------------------


def _boxes(
    about: Description,
    root: Path,
    rows: Sequence[_Row],
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
    row_of = {row.name: number for number, row in enumerate(rows)}
    position = {name: column for column, name in enumerate(listed)}
    kept_column = {name: column for column, name in enumerate(names)}
    sizes: dict[str, tuple[int, int]] = {}
    found: list[tuple[float, ...]] = []
    other_image, other_class, clipped, unlabelled = Counter[str](), Counter[str](), [], []
    for line, fields in read_table(path, list(columns.values()), about.delimiter):
        where = f"{path}, line {line}"
        name, label = str(fields[columns["file"]]).strip(), str(fields[columns["label"]]).strip()
        corners = _corners([fields[columns[key]] for key in ("x1", "y1", "x2", "y2")], where)
        wanted: str | int = int(label) if about.label_style == "indices" and label.isdecimal() else label
        label = listed[_column_of(wanted, position, about, where)]
        if name not in row_of:
            other_image[name] += 1
        elif label not in kept_column:
            other_class[label] += 1
        else:
            row, column = row_of[name], kept_column[label]
            if name not in sizes:
                sizes[name] = image_size(root / about.images / name)
            inside = np.clip(corners, 0, [*sizes[name], *sizes[name]])
            if inside[0] >= inside[2] or inside[1] >= inside[3]:
                raise DataError(f"{where}: box {corners} lies outside '{name}' of {sizes[name][0]}x{sizes[name][1]}")
            clipped += [name] if list(inside) != corners else []
            unlabelled += [name] if labels[row, column] != State.POSITIVE else []
            found.append((row, column, *inside))
    _note(notes, "boxes reaching beyond their image, clipped", clipped)
    _note(notes, "boxes of a class that their image is not labelled with", unlabelled)
    _note(notes, "boxes of images not in the data set, left out", list(other_image.elements()))
    _note(notes, "boxes of classes not in the data set, left out", list(other_class.elements()))
    boxes = np.array(found, dtype=np.float32).reshape(-1, 6)
    return boxes[np.argsort(boxes[:, 0], kind="stable")]


def _corners(fields: Sequence[Any], where: str) -> list[float]:
    try:
        corners = [float(field) for field in fields]
    except (TypeError, ValueError):
        raise DataError(f"{where}: box {list(fields)} is not four numbers") from None
    if not np.isfinite(corners).all() or corners[2] <= corners[0] or corners[3] <= corners[1]:
        raise DataError(f"{where}: box {corners} is empty or not finite: expected x1 < x2 and y1 < y2")
    return corners


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
