"""CUB-200-2011 with its 312 attributes, read from the official distribution as unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.listed import Lists
from mlbench.datasets.official import find_folder, read_lines, rows_present
from mlbench.datasets.reading import file_names
from mlbench.errors import DataError
from mlbench.images.decode import FileImages, first_few

#: Number of attributes, and of images of each split (partial-label facts 4.1 [known]; counted in the official lists).
N_ATTRIBUTES = 312
COUNTS = {"train": 5994, "test": 5794}

_UNSEEN = np.int8(-128)

#: List of shown labels that SCPNet published.
LISTS = {"single": "cub_train.txt"}


def load_cub(root: str | Path, partial: bool = False) -> Dataset:
    """Load the attributes of CUB-200-2011 (``CUB_200_2011.tgz``).

    Parameters
    ----------
    root : the folder ``CUB_200_2011`` (with images.txt, train_test_split.txt, images, attributes), or a folder that
        holds it, once or doubled. attributes.txt is looked for beside that folder, where the archive has it, then
        inside it and in its ``attributes``.
    partial : accept a copy with fewer images; the data set is then called ``cub-partial``. Without it such a copy
        is a DataError.

    Returns
    -------
    Dataset whose sample ids are the official image numbers, in the order of images.txt. An attribute is POSITIVE
    where is_present is 1 and NEGATIVE where it is 0, however certain the annotator was (partial-label facts 4.2).
    Images without a present attribute are kept (facts 4.1). There are no boxes: bounding_boxes.txt frames the bird,
    not an attribute, so it says nothing about a class.

    Raises
    ------
    DataError naming the file (and line) for anything missing, malformed or not as many as expected.
    """
    folder = find_folder(Path(root), "images.txt", "CUB_200_2011", "CUB_200_2011/CUB_200_2011")
    numbers, names, in_train = read_lists(folder)
    classes = _read_attributes(folder)
    labels = _read_labels(folder / "attributes" / "image_attribute_labels.txt", numbers, len(classes))
    splits: dict[str, Split] = {}
    notes: list[str] = []
    for split, expected in COUNTS.items():
        rows = np.flatnonzero(in_train == (split == "train"))
        listed = [f"images/{names[row]}" for row in rows]
        rows = rows[rows_present(folder, listed, split, expected, "cub", partial, notes)]
        images = FileImages(folder, tuple(f"images/{names[row]}" for row in rows))
        shown = Lists(Path(root), LISTS, [names[row] for row in rows], len(classes))
        lists = shown if split == "train" else None
        splits[split] = Split(tuple(numbers[row] for row in rows), labels[rows], images, lists=lists)
    return Dataset(
        id="cub-partial" if partial else "cub",
        version="1",
        classes=classes,
        splits=splits,
        notes=tuple(notes),
        source="CUB-200-2011, image_attribute_labels.txt",
    )


def read_lists(folder: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Image numbers, file names and bool [N] "is a training image", in the order of images.txt."""
    names = _read_pairs(folder / "images.txt", "an image number and a file name")
    path = folder / "train_test_split.txt"
    flags = _read_pairs(path, "an image number and 0 or 1")
    if flags.keys() != names.keys():
        differing = first_few(sorted(flags.keys() ^ names.keys()))
        raise DataError(f"{path}: lists other images than images.txt: {differing}")
    for number, flag in flags.items():
        if flag not in ("0", "1"):
            raise DataError(f"{path}: image {number} has '{flag}', expected 0 or 1")
    file_names(list(names.values()), str(folder / "images.txt"))
    return list(names), list(names.values()), np.array([flags[number] == "1" for number in names], dtype=bool)


def _read_pairs(path: Path, expected: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split(maxsplit=1)
        if len(fields) != 2 or not fields[0].isdecimal():
            raise DataError(f"{path}, line {number}: '{line}', expected {expected}")
        if fields[0] in pairs:
            raise DataError(f"{path}, line {number}: '{fields[0]}' is listed twice")
        pairs[fields[0]] = fields[1]
    return pairs


def _read_attributes(folder: Path) -> tuple[str, ...]:
    """Attribute names in the order of their numbers 1, 2, ..., which is the order of the file."""
    places = (folder.parent, folder, folder / "attributes")
    path = next((place / "attributes.txt" for place in places if (place / "attributes.txt").is_file()), None)
    if path is None:
        raise DataError(f"{folder.parent / 'attributes.txt'}: no such file (the archive has it beside {folder.name})")
    found = _read_pairs(path, "an attribute number and its name")
    if list(found) != [str(number) for number in range(1, N_ATTRIBUTES + 1)] or len(set(found.values())) != len(found):
        raise DataError(f"{path}: expected {N_ATTRIBUTES} attributes numbered from 1, each with a name of its own")
    return tuple(found.values())


def _read_labels(path: Path, numbers: list[str], n_classes: int) -> np.ndarray:
    """int8 [N, C] from lines "image attribute is_present certainty seconds"; some lines have further fields."""
    labels = np.full((len(numbers), n_classes), _UNSEEN, dtype=np.int8)
    rows = {number: row for row, number in enumerate(numbers)}
    columns = {str(column + 1): column for column in range(n_classes)}
    states = {"0": State.NEGATIVE, "1": State.POSITIVE}
    for line_number, line in enumerate(read_lines(path), start=1):
        fields = line.split(maxsplit=3)
        if len(fields) < 3 or fields[2] not in states:
            raise DataError(f"{path}, line {line_number}: '{line}', expected image, attribute and 0 or 1")
        row, column = rows.get(fields[0]), columns.get(fields[1])
        if row is None or column is None:
            kind, name = ("image", fields[0]) if row is None else ("attribute", fields[1])
            raise DataError(f"{path}, line {line_number}: unknown {kind} '{name}'")
        if labels[row, column] != _UNSEEN:
            raise DataError(f"{path}, line {line_number}: image {fields[0]}, attribute {fields[1]} is listed twice")
        labels[row, column] = states[fields[2]]
    missing = np.argwhere(labels == _UNSEEN)
    if len(missing):
        row, column = missing[0]
        raise DataError(
            f"{path}: {len(missing)} of {labels.size} labels missing, first that of image {numbers[row]}, "
            f"attribute {column + 1}"
        )
    return labels
