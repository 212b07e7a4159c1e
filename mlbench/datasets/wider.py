"""WIDER Attribute: 14 attributes of persons, a sample a person box, read from the official distribution as unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.official import refuse_shared, rows_present
from mlbench.datasets.reading import file_name, is_number, read_json
from mlbench.errors import DataError
from mlbench.images.decode import FileImages, first_few, image_size

#: Number of attributes.
N_ATTRIBUTES = 14

#: Official parts behind each split, whose file may also come as several, and how many person boxes it lists (attention
#: facts 5.1).
PARTS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "train": ("trainval", ("train", "val"), 28345),
    "test": ("test", (), 29179),
}


@dataclass(frozen=True)
class _Person:
    """One box as listed: image, its number in the image, attributes as they are, (x, y, width, height) as it is."""

    image: str
    number: int
    attribute: Any
    box: Any


def load_wider(root: str | Path, partial: bool = False) -> Dataset:
    """Load WIDER Attribute: trainval as train, and test.

    Parameters
    ----------
    root : the folder that holds ``wider_attribute_annotation/wider_attribute_{trainval,test}.json`` (``_train`` and
        ``_val`` do in place of ``_trainval``) and the images in ``Image``, or one that holds it as ``WIDER`` or
        ``wider_attribute``.
    partial : accept a copy with fewer images or boxes; the data set is then called ``wider-partial``. Without it such
        a copy is a DataError.

    Returns
    -------
    Dataset with a sample a person box, called ``{file_name}#{k}`` after the image and the box's number in it, from 0;
    in the order of the sorted (file name, k). Its picture is the box cut out of the image, black where the box reaches
    beyond it; its group is the image. Attributes 1, -1 and 0 are POSITIVE, NEGATIVE and UNSPECIFIED, in the order of
    ``attribute_id_map``. The person boxes are the ``crops`` of the images, x1, y1, x2, y2 in pixels of the whole
    image; the source has no boxes of attributes.

    A box without a pixel inside its image is replaced by the whole image, as VAC does where x or y lies beyond it,
    whatever the box's sides (attention facts 1.6). Other boxes without area, and those that are not four numbers, are
    left out. All are counted, as are boxes that reach beyond their image.

    Raises
    ------
    DataError naming the file and the entry for anything missing, malformed or not as many as expected.
    """
    folder = _folder(Path(root))
    classes: tuple[str, ...] = ()
    splits: dict[str, Split] = {}
    notes: list[str] = []
    for split, (part, pieces, expected) in PARTS.items():
        persons: list[_Person] = []
        for path in _files(folder, part, pieces):
            names, found = _read(path)
            if classes and names != classes:
                raise DataError(f"{path}: 'attribute_id_map' differs from that of the training file")
            classes, persons = names, persons + found
        persons.sort(key=lambda person: (person.image, person.number))
        if len({(person.image, person.number) for person in persons}) != len(persons):
            raise DataError(f"{folder}: the files of '{part}' list an image twice")
        if not partial and len(persons) != expected:
            raise DataError(
                f"{folder}: {len(persons)} person boxes in '{part}', expected {expected}; ask for 'wider-partial' to "
                "use a partial copy"
            )
        splits[split] = _split(folder, part, persons, partial, notes)
    refuse_shared({f"{folder}: {PARTS[split][0]}": sorted(set(part.groups)) for split, part in splits.items()})
    return Dataset(
        id="wider-partial" if partial else "wider",
        version="1",
        classes=classes,
        splits=splits,
        notes=tuple(notes),
        source="WIDER Attribute, wider_attribute_trainval.json and wider_attribute_test.json",
    )


def _folder(root: Path) -> Path:
    for folder in (root, root / "WIDER", root / "wider_attribute"):
        if (folder / "wider_attribute_annotation").is_dir():
            return folder
    raise DataError(f"{root}: no folder wider_attribute_annotation there, nor in WIDER or wider_attribute")


def _files(folder: Path, part: str, pieces: Sequence[str]) -> list[Path]:
    whole, *rest = (folder / "wider_attribute_annotation" / f"wider_attribute_{name}.json" for name in (part, *pieces))
    return rest if rest and not whole.is_file() and all(path.is_file() for path in rest) else [whole]


def _read(path: Path) -> tuple[tuple[str, ...], list[_Person]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with 'images' and 'attribute_id_map'")
    images = content.get("images")
    if not isinstance(images, list) or not images:
        raise DataError(f"{path}: no list 'images', or an empty one")
    persons: list[_Person] = []
    seen: set[str] = set()
    for position, entry in enumerate(images):
        name, targets = (entry.get(key) if isinstance(entry, dict) else None for key in ("file_name", "targets"))
        if not isinstance(name, str) or not name or not isinstance(targets, list):
            raise DataError(f"{path}: entry {position} of 'images' has no 'file_name' or no list 'targets'")
        plainest = file_name(name, f"{path}: entry {position} of 'images'")
        if plainest in seen:
            raise DataError(f"{path}: image '{name}' is listed twice")
        seen.add(plainest)
        for number, target in enumerate(targets):
            where = f"{path}: image '{name}', target {number}"
            if not isinstance(target, dict):
                raise DataError(f"{where} is {target!r}, expected an object with 'attribute' and 'bbox'")
            attribute = target.get("attribute")
            if (
                not isinstance(attribute, list)
                or len(attribute) != N_ATTRIBUTES
                or any(isinstance(value, bool) or value not in (1, -1, 0) for value in attribute)
            ):
                raise DataError(f"{where}: 'attribute' is {attribute}, expected {N_ATTRIBUTES} values 1, -1 or 0")
            persons.append(_Person(name, number, attribute, target.get("bbox")))
    return _attributes(content.get("attribute_id_map"), path), persons


def _attributes(names: Any, path: Path) -> tuple[str, ...]:
    """The attributes in the order of their numbers, which JSON has as text."""
    keys = [str(number) for number in range(N_ATTRIBUTES)]
    if not isinstance(names, dict) or set(names) != set(keys) or len(set(map(str, names.values()))) != N_ATTRIBUTES:
        raise DataError(f"{path}: 'attribute_id_map' does not name the attributes 0 to {N_ATTRIBUTES - 1}, each once")
    return tuple(str(names[key]) for key in keys)


def _split(folder: Path, part: str, persons: list[_Person], partial: bool, notes: list[str]) -> Split:
    images = sorted({person.image for person in persons})
    if not images:
        raise DataError(f"{folder}: no person boxes in '{part}'")
    there = rows_present(folder / "Image", images, part, None, "wider", partial, notes)
    sizes = {images[row]: image_size(folder / "Image" / images[row]) for row in there}
    kept: list[_Person] = []
    crops: list[tuple[float, ...]] = []
    malformed, empty, outside, beyond = [], [], [], []
    for person in persons:
        if person.image not in sizes:
            continue
        name, (width, height) = f"{person.image}#{person.number}", sizes[person.image]
        if not _four_numbers(person.box):
            malformed.append(name)
            continue
        x, y, w, h = map(float, person.box)
        crop = (x, y, x + w, y + h)
        beside = x >= width or y >= height  # VAC asks this alone, before it looks at the box's sides
        if not beside and (w <= 0 or h <= 0):
            empty.append(name)
            continue
        if beside or x + w <= 0 or y + h <= 0:
            outside.append(name)
            crop = (0.0, 0.0, float(width), float(height))
        elif max(-x, -y, x + w - width, y + h - height) > 0:
            beyond.append(name)
        kept.append(person)
        crops.append(crop)
    for what, found in (
        ("that are not four numbers left out", malformed),
        ("without area left out", empty),
        ("outside their image, replaced by the whole image", outside),
        ("reaching beyond their image, black there", beyond),
    ):
        if found:
            notes.append(f"{len(found)} person boxes in {part} {what}: {first_few(found)}")
    if not kept:
        raise DataError(f"{folder}: no usable person boxes in '{part}'")
    raw = np.array([person.attribute for person in kept], dtype=np.int8)
    labels = np.where(raw == 0, np.int8(State.UNSPECIFIED), raw)  # 1 and -1 are POSITIVE and NEGATIVE already
    return Split(
        ids=tuple(f"{person.image}#{person.number}" for person in kept),
        labels=labels,
        images=FileImages(folder / "Image", tuple(person.image for person in kept), tuple(crops)),
        groups=tuple(person.image for person in kept),
    )


def _four_numbers(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
