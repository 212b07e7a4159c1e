"""MS-COCO 2014 and 2017, read from the official distribution as unpacked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.listed import Lists
from mlbench.datasets.official import find_folder, refuse_shared, rows_present
from mlbench.datasets.reading import entries_of, file_name, is_number, read_json
from mlbench.errors import DataError, unknown
from mlbench.images.decode import FileImages, first_few

#: Number of categories in every official instances file.
N_CLASSES = 80

#: Official part behind each split, and how many of its images are used: those with an annotation, or all. 2014:
#: partial-label facts 4.1 [known] and attention facts 5.2 [recall]; confirmed by counting a list of annotations per
#: image. 2017: commonly given as 117,266 and 4,952 [memory, unverified], in no fact file, therefore not checked.
PARTS: dict[str, dict[str, tuple[str, int | None]]] = {
    "2014": {"train": ("train2014", 82081), "test": ("val2014", 40137)},
    "2014-all": {"train": ("train2014", 82783), "test": ("val2014", 40504)},
    "2017": {"train": ("train2017", None), "test": ("val2017", None)},
}

#: Lists of shown labels that SPLC published, by what they show: a share of the positives of 2014's training images.
LISTS = {
    "single": "coco_train_singlelabel.txt",
    "0.4": "coco_train_0.4left.txt",
    "0.75": "coco_train_0.75left.txt",
    "full": "coco_train_full.txt",
}

# All that is read of an instances file. The outlines alone fill most of it.
_WANTED = ("images", "annotations", "categories", "id", "file_name", "width", "height", "name", "image_id")
_KEYS = frozenset((*_WANTED, "category_id", "bbox", "iscrowd"))


def load_coco(year: str, root: str | Path, partial: bool = False) -> Dataset:
    """Load MS-COCO: the training images, and the validation images as test.

    Parameters
    ----------
    year : "2014" or "2017"; "2014-all" keeps the images without an annotation too (VAC and SRN, attention facts 5.2).
    root : the folder that holds ``annotations/instances_{train,val}{year}.json`` and the image folders
        ``train{year}`` and ``val{year}``, or a folder that holds it as ``coco`` or ``coco{year}``.
    partial : accept a copy with fewer images; the data set is then called ``coco{year}-partial``. Without it such a
        copy is a DataError (2014: also one with another number of annotated images than the official one).

    Returns
    -------
    Dataset whose sample ids are the image ids, sorted as strings, and whose classes stand in the order of the
    ``categories`` list. Any annotation makes its class positive, a crowd or a small one too; all other classes are
    NEGATIVE. Images without an annotation are left out and counted (partial-label facts 4.1, 4.2). Boxes: those of
    all annotations, crowds included and counted, as x1, y1, x2, y2 in pixels, clipped to the image; a box without
    area is left out and counted, its class stays positive.

    Raises
    ------
    DataError naming the file and the entry for anything missing, malformed or not as many as expected.

    Notes
    -----
    Memory: an instances file is read as a whole (train 2014: 448 MB, briefly twice that), but its outlines and
    links are dropped while it is parsed, so what is kept is small.
    """
    if year not in PARTS:
        raise unknown("year of COCO", year, PARTS)
    every, files = year.endswith("-all"), year.removesuffix("-all")
    folder = find_folder(Path(root), f"annotations/instances_train{files}.json", "coco", f"coco{files}")
    splits: dict[str, Split] = {}
    notes: list[str] = []
    classes: tuple[str, ...] | None = None
    for split, (part, expected) in PARTS[year].items():
        path = folder / "annotations" / f"instances_{part}.json"
        found = _read_instances(path)
        if classes is not None and found.classes != classes:
            raise DataError(f"{path}: 'categories' differ from those of the training file")
        classes = found.classes
        ids = sorted(found.images if every else found.boxes, key=str)
        names = [f"{part}/{found.images[image][0]}" for image in ids]
        bare = sorted(str(image) for image in found.images.keys() - found.boxes.keys())
        if bare:
            done = "kept" if every else "left out"
            notes.append(f"{len(bare)} {part} images without an annotation {done}: {first_few(bare, 10)}")
        rows = rows_present(folder, names, part, expected, f"coco{year}", partial, notes)
        ids = [ids[row] for row in rows]
        labels, boxes = _labels_and_boxes(found, ids, part, notes)
        images = FileImages(folder, tuple(names[row] for row in rows))
        bases = [found.images[image][0] for image in ids]
        lists = Lists(Path(root), LISTS, bases, N_CLASSES) if part == "train2014" else None
        splits[split] = Split(tuple(str(image) for image in ids), labels, images, boxes=boxes, lists=lists)
    refuse_shared({f"{folder}: {part}": splits[split].ids for split, (part, _) in PARTS[year].items()})
    return Dataset(
        id=f"coco{year}-partial" if partial else f"coco{year}",
        version="1",
        classes=classes or (),
        splits=splits,
        notes=tuple(notes),
        source=f"MS-COCO {files}, instances_train{files}.json and instances_val{files}.json",
    )


@dataclass
class _Instances:
    """An instances file: file name, width and height by image id; (class, corners, crowd) of its annotations."""

    classes: tuple[str, ...]
    images: dict[int, tuple[str, float, float]] = field(default_factory=dict)
    boxes: dict[int, list[tuple[int, tuple[float, float, float, float], bool]]] = field(default_factory=dict)


def _read_instances(path: Path) -> _Instances:
    content = _parse(path)
    categories = entries_of(content, "categories", path, {"id": int, "name": str})
    columns = {entry["id"]: column for column, entry in enumerate(categories)}
    if not len(columns) == len({entry["name"] for entry in categories}) == len(categories) == N_CLASSES:
        raise DataError(
            f"{path}: {len(categories)} categories with {len(columns)} ids, expected {N_CLASSES}, each with an id and "
            "a name of its own"
        )
    found = _Instances(tuple(entry["name"] for entry in categories))
    files: dict[str, int] = {}
    number = (int, float)
    for entry in entries_of(content, "images", path, {"id": int, "file_name": str, "width": number, "height": number}):
        if entry["id"] in found.images:
            raise DataError(f"{path}: image id {entry['id']} is listed twice")
        if not min(entry["width"], entry["height"]) > 0:
            raise DataError(f"{path}: image {entry['id']} is {entry['width']} x {entry['height']} pixels")
        if not all(map(is_number, (entry["width"], entry["height"]))):
            raise DataError(f"{path}: image {entry['id']} has a side that is no number of pixels")
        name = file_name(entry["file_name"], f"{path}: image {entry['id']}")
        if name in files:
            raise DataError(f"{path}: file '{name}' is listed twice: as image {files[name]} and as image {entry['id']}")
        files[name] = entry["id"]
        found.images[entry["id"]] = (entry["file_name"], entry["width"], entry["height"])
    kinds = {"id": int, "image_id": int, "category_id": int, "bbox": list}
    seen: set[int] = set()
    for entry in entries_of(content, "annotations", path, kinds):
        where = f"{path}: annotation {entry['id']}"
        if entry["id"] in seen:
            raise DataError(f"{where} is listed twice")
        seen.add(entry["id"])
        if entry["image_id"] not in found.images:
            raise DataError(f"{where} is of image {entry['image_id']}, which 'images' does not list")
        if entry["category_id"] not in columns:
            raise DataError(f"{where} has category {entry['category_id']}, which 'categories' does not list")
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DataError(f"{where} has iscrowd {crowd!r}, expected 0 or 1")
        item = (columns[entry["category_id"]], _corners(entry["bbox"], where), bool(crowd))
        found.boxes.setdefault(entry["image_id"], []).append(item)
    return found


def _parse(path: Path) -> dict[str, Any]:
    content = read_json(path, keep=_KEYS)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with 'images', 'annotations' and 'categories'")
    return content


def _corners(box: list[Any], where: str) -> tuple[float, float, float, float]:
    """(x, y, width, height) to (x1, y1, x2, y2)."""
    if len(box) != 4 or not all(map(is_number, box)) or min(box[2:]) < 0:
        raise DataError(f"{where} has bbox {box}, expected the numbers x, y, width, height")
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def _labels_and_boxes(found: _Instances, ids: list[int], part: str, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.full((len(ids), len(found.classes)), State.NEGATIVE, dtype=np.int8)
    boxes: list[tuple[float, ...]] = []
    crowds, empty, clipped = 0, [], []
    for row, image in enumerate(ids):
        _, width, height = found.images[image]
        for column, (x1, y1, x2, y2), crowd in found.boxes.get(image, ()):
            labels[row, column] = State.POSITIVE
            inside = (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height))
            if np.float32(inside[0]) >= np.float32(inside[2]) or np.float32(inside[1]) >= np.float32(inside[3]):
                empty.append(str(image))
                continue
            # The last digit of x + width is no reason for a note.
            if max(-x1, -y1, x2 - width, y2 - height) > 0.01:
                clipped.append(str(image))
            crowds += crowd
            boxes.append((row, column, *inside))
    if crowds:
        notes.append(f"{crowds} boxes in {part} frame a crowd, not one object")
    if empty:
        notes.append(
            f"{len(empty)} boxes in {part} have no area inside their image and were left out: {first_few(empty)}"
        )
    if clipped:
        notes.append(f"{len(clipped)} boxes in {part} reach beyond their image and were clipped: {first_few(clipped)}")
    return labels, np.array(boxes, dtype=np.float32).reshape(-1, 6)
