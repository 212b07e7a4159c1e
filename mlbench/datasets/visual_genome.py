"""Visual Genome with the 200 most frequent categories (VG-200), as papers on partial labels use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.official import find_folder, read_lines, refuse_shared, rows_present
from mlbench.datasets.reading import read_text
from mlbench.errors import DataError
from mlbench.images.decode import FileImages, file_size

LABELS = "vg_category_200_labels_index.json"
N_CLASSES = 200
#: The lists that all of them share, made for 500 categories; test images by the count the papers state.
LISTS = {"train": "train_list_500.txt", "test": "test_list_500.txt"}
_FOLDERS = ("VG_100K", "VG_100K_2")


def load_vg200(root: str | Path, partial: bool = False) -> Dataset:
    """Load ``vg-200``.

    Parameters
    ----------
    root : the folder, or one that holds it as ``VG`` or ``vg``, with the files that SSGRL and SARB hand out:
        ``train_list_500.txt`` and ``test_list_500.txt`` (the name of an image a line) and
        ``vg_category_200_labels_index.json`` (the indices of its categories by name of an image); and the images of
        Visual Genome in ``VG_100K`` and ``VG_100K_2``, or all in the first.
    partial : accept fewer images; the data set is then called ``vg-200-partial``.

    Returns
    -------
    Dataset whose rows stand in the order of the lists. The files carry no names, so a class is called by its index.

    Raises
    ------
    DataError naming the file (and image) for anything missing or malformed.

    Notes
    -----
    Unverified: counts of the parts, so none is checked; that a category that is not listed is absent, as the papers
    take it, though Visual Genome annotates freely.
    """
    folder = find_folder(Path(root), LABELS, "VG", "vg")
    present = _read_labels(folder / LABELS)
    splits: dict[str, Split] = {}
    notes = ["a category that is not listed is taken to be absent, and no count is checked (unverified)"]
    for part, listed in LISTS.items():
        names = read_lines(folder / listed)
        missing = [name for name in names if name not in present]
        if missing:
            raise DataError(f"{folder / LABELS}: no labels of '{missing[0]}', which {listed} names")
        files = [_place(folder, name) for name in names]
        rows = rows_present(folder, files, part, None, "vg-200", partial, notes)
        matrix = np.full((len(rows), N_CLASSES), State.NEGATIVE, dtype=np.int8)
        for line, row in enumerate(rows):
            matrix[line, present[names[row]]] = State.POSITIVE
        images = FileImages(folder, tuple(files[row] for row in rows))
        splits[part] = Split(tuple(names[row] for row in rows), matrix, images)
    refuse_shared({f"{folder / LISTS[part]}": split.ids for part, split in splits.items()})
    return Dataset(
        id="vg-200-partial" if partial else "vg-200",
        version="1",
        classes=tuple(f"category {number}" for number in range(N_CLASSES)),
        splits=splits,
        notes=tuple(notes),
        source="Visual Genome, lists and labels of SSGRL (ICCV 2019), 200 categories as SARB (AAAI 2022) takes them",
    )


def _place(folder: Path, name: str) -> str:
    """The image's path; the first folder where it is in neither."""
    return next(
        (f"{part}/{name}" for part in _FOLDERS if file_size(folder / part / name) >= 0), f"{_FOLDERS[0]}/{name}"
    )


def _read_labels(path: Path) -> dict[str, list[int]]:
    try:
        found: Any = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object of lists by image")
    for name, labels in found.items():
        whole = isinstance(labels, list) and all(type(label) is int for label in labels)
        if not whole or not all(0 <= label < N_CLASSES for label in labels):
            raise DataError(f"{path}: labels of '{name}': expected a list of whole numbers from 0 to {N_CLASSES - 1}")
    return found
