"""PASCAL VOC 2007 and 2012, read from the official distribution as unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.listed import Lists
from mlbench.datasets.official import refuse_shared
from mlbench.datasets.reading import file_names, read_text
from mlbench.errors import DataError, nearest, unknown
from mlbench.images.decode import FileImages, file_size, first_few

#: The 20 classes of VOC, alphabetical, which is the column order of the labels.
CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

#: Official part behind each split, and how many images its list holds (2007: facts, counted in its label files; 2012:
#: facts 4.1, the commonly known sizes).
PARTS: dict[str, dict[str, tuple[str, int]]] = {
    "2007": {"train": ("trainval", 5011), "test": ("test", 4952)},
    "2012": {"train": ("train", 5717), "test": ("val", 5823)},
}

#: List of shown labels that SCPNet published, of 2012's training images.
LISTS = {"single": "voc_train.txt"}

_STATES = {"1": State.POSITIVE, "-1": State.NEGATIVE, "0": State.UNSPECIFIED}


def load_voc(year: str, root: str | Path, partial: bool = False) -> Dataset:
    """Load VOC 2007 (trainval, test) or VOC 2012 (train, and val as test).

    Parameters
    ----------
    year : "2007" or "2012".
    root : the folder ``VOC{year}`` (with ImageSets, JPEGImages, Annotations), or a folder that holds it or
        ``VOCdevkit/VOC{year}``.
    partial : accept a copy with fewer images than the official lists; the data set is then called
        ``voc{year}-partial``. Without it such a copy is a DataError.

    Returns
    -------
    Dataset with rows in the order of the sorted image names. The classification label of an image that shows only
    difficult objects of a class (0 in the class file) is UNSPECIFIED. Images without a positive in any class are
    left out and counted (facts 4.2). Boxes: objects not marked difficult, in 0-based pixels with x2 and y2
    exclusive (the source counts from 1, inclusive); None if there is no Annotations folder.

    Raises
    ------
    DataError naming the file (and line) for anything missing, malformed or not as many as expected.
    """
    if year not in PARTS:
        raise unknown("year of VOC", year, PARTS)
    folder = _folder(year, Path(root))
    splits = {}
    notes: list[str] = []
    for split, (part, expected) in PARTS[year].items():
        ids, labels = _read_labels(folder / "ImageSets" / "Main", part)
        names = [f"JPEGImages/{n}" for n in file_names([f"{n}.jpg" for n in ids], f"{folder}: images of '{part}'")]
        there = np.array([file_size(folder / name) >= 0 for name in names], dtype=bool)
        if not there.any():
            raise DataError(f"{folder}: no images of '{part}'{f': looked for {folder / names[0]}' if names else ''}")
        if partial:
            ids, labels = [ids[row] for row in np.flatnonzero(there)], labels[there]
            notes.append(f"partial copy: {len(ids)} of {expected} images of the official {part} list")
        elif len(ids) != expected or not there.all():
            raise DataError(
                f"{folder}: expected {expected} images of '{part}', found {len(ids)} listed and {int(there.sum())} "
                f"of them in JPEGImages; ask for 'voc{year}-partial' to use a partial copy"
            )
        positive = (labels == State.POSITIVE).any(axis=1)
        left_out = [ids[row] for row in np.flatnonzero(~positive)]
        if left_out:
            notes.append(f"{len(left_out)} {part} images without a positive label left out: {first_few(left_out, 10)}")
        ids, labels = [ids[row] for row in np.flatnonzero(positive)], labels[positive]
        if not ids:
            raise DataError(f"{folder}: no labelled images of '{part}'")
        images = FileImages(folder, tuple(f"JPEGImages/{name}.jpg" for name in ids))
        boxes = _read_boxes(folder / "Annotations", ids, part, notes)
        listed = Lists(Path(root), LISTS, [f"{name}.jpg" for name in ids], len(CLASSES))
        lists = listed if (year, split) == ("2012", "train") else None
        splits[split] = Split(tuple(ids), labels, images, boxes=boxes, lists=lists)
    refuse_shared({f"{folder}: the list {part}": splits[split].ids for split, (part, _) in PARTS[year].items()})
    return Dataset(
        id=f"voc{year}-partial" if partial else f"voc{year}",
        version="1",
        classes=CLASSES,
        splits=splits,
        notes=tuple(notes),
        source=f"PASCAL VOC {year}, ImageSets/Main",
    )


def _folder(year: str, root: Path) -> Path:
    for folder in (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        # A folder of the other year, given by itself, must not pass for this one.
        if (folder / "ImageSets" / "Main").is_dir() and f"VOC{year}" in (folder.name, folder.resolve().name):
            return folder
    raise DataError(f"{root}: no VOC{year} there (expected VOCdevkit/VOC{year}, VOC{year}, or that folder itself)")


def _read_labels(folder: Path, part: str) -> tuple[list[str], np.ndarray]:
    """Sorted image names of an official part, and int8 [N, 20] labels from its 20 class files."""
    found = {file.name.removesuffix(f"_{part}.txt") for file in folder.glob(f"*_{part}.txt")}
    for name in CLASSES:
        if name not in found:
            raise DataError(f"{folder / f'{name}_{part}.txt'}: no such file.{nearest(name, found)}")
    if found - set(CLASSES):
        raise DataError(f"{folder}: lists of classes that VOC does not have: {first_few(sorted(found - set(CLASSES)))}")
    columns = [_read_class_file(folder / f"{name}_{part}.txt") for name in CLASSES]
    ids = sorted(columns[0])
    for name, column in zip(CLASSES, columns, strict=True):
        if column.keys() != columns[0].keys():
            differing = first_few(sorted(column.keys() ^ columns[0].keys()))
            raise DataError(
                f"{folder / f'{name}_{part}.txt'}: lists other images than {CLASSES[0]}_{part}.txt: {differing}"
            )
    labels = np.array([[column[name] for column in columns] for name in ids], dtype=np.int8)
    return ids, labels.reshape(len(ids), len(CLASSES))


def _read_class_file(path: Path) -> dict[str, State]:
    states: dict[str, State] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in _STATES:
            raise DataError(f"{path}, line {number}: '{line.strip()}', expected an image name and 1, 0 or -1")
        if fields[0] in states:
            raise DataError(f"{path}, line {number}: '{fields[0]}' is listed twice")
        states[fields[0]] = _STATES[fields[1]]
    return states


def _read_boxes(folder: Path, ids: Sequence[str], part: str, notes: list[str]) -> np.ndarray | None:
    if not folder.is_dir():
        notes.append(f"no boxes for {part}: there is no folder {folder.name}")
        return None
    found: list[tuple[float, ...]] = []
    difficult, clipped = 0, []
    for row, name in enumerate(ids):
        path = folder / f"{name}.xml"
        tree = _parse(path)
        limits = [_number(tree, f"size/{side}", path) for side in ("width", "height")] * 2
        for item in tree.findall("object"):
            label = item.findtext("name", "").strip()
            if label not in CLASSES:
                raise DataError(f"{path}: object of class '{label}'.{nearest(label, CLASSES)}")
            if item.findtext("difficult", "0").strip() == "1":
                difficult += 1
                continue
            corners = [_number(item, f"bndbox/{corner}", path) for corner in ("xmin", "ymin", "xmax", "ymax")]
            corners = [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]
            inside = np.clip(corners, 0, limits)
            if inside[0] >= inside[2] or inside[1] >= inside[3]:
                raise DataError(f"{path}: box {corners} of '{label}' is empty or outside the image")
            clipped += [name] if list(inside) != corners else []
            found.append((row, CLASSES.index(label), *inside))
    if difficult:
        notes.append(f"{difficult} boxes of difficult objects in {part} left out")
    if clipped:
        notes.append(f"{len(clipped)} boxes in {part} reach beyond their image and were clipped: {first_few(clipped)}")
    return np.array(found, dtype=np.float32).reshape(-1, 6)


def _parse(path: Path) -> ElementTree.Element:
    if not path.is_file():
        raise DataError(f"{path}: not readable (no such file, or no plain one)")
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{path}, line {error.position[0]}: broken XML ({error})") from None
    except (ValueError, LookupError) as error:  # an encoding that the parser does not have
        raise DataError(
            f"{path}: its XML declaration asks for what cannot be read ({error}): save it as UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None


def _number(element: ElementTree.Element, path_inside: str, path: Path) -> float:
    text = element.findtext(path_inside)
    try:
        number = float(text or "")
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise DataError(f"{path}: <{path_inside}> is {text!r}, expected a number")
    return number
