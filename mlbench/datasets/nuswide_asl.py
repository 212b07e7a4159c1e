"""NUS-WIDE as ASL and SPLC use it: a table of names, labels and parts, and the images it names."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.official import find_folder, refuse_shared, rows_present
from mlbench.datasets.reading import open_text
from mlbench.errors import DataError
from mlbench.images.decode import FileImages

TABLE = "nus_wid_data.csv"
N_CLASSES = 81
#: Images of each part, and what the table calls it (modern methods' facts 1.2).
SIZES = {"train": 119103, "test": 50720}
_PART = {"train": "train", "val": "test"}
_NAME = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def load_nuswide_asl(root: str | Path, partial: bool = False) -> Dataset:
    """Load ``nuswide-asl``: the split of Ridnik et al., which SPLC, Hill and later papers took over.

    Parameters
    ----------
    root : the folder, or one that holds it as ``nuswide`` or ``NUS-WIDE``, with ``nus_wid_data.csv`` (a header, then
        the name of an image, its labels as Python writes a list, and "train" or "val") and the images it names.
    partial : accept fewer images; the data set is then called ``nuswide-asl-partial``.

    Returns
    -------
    Dataset whose rows stand in the order of the table, and whose classes are the labels met, sorted, as its users have
    them. Part "val" is the test part.

    Raises
    ------
    DataError naming the file (and line) for anything missing, malformed or not as many as expected.

    Notes
    -----
    Unverified: what the columns are called, so they are taken by their place.
    """
    folder = find_folder(Path(root), TABLE, "nuswide", "NUS-WIDE")
    rows = _read(folder / TABLE)
    classes = tuple(sorted({label for _, labels, _ in rows for label in labels}))
    if len(classes) != N_CLASSES and not partial:
        raise DataError(f"{folder / TABLE}: {len(classes)} classes, expected {N_CLASSES}")
    column = {name: number for number, name in enumerate(classes)}
    splits: dict[str, Split] = {}
    notes: list[str] = []
    for part, expected in SIZES.items():
        own = [(name, labels) for name, labels, of in rows if of == part]
        names = [name for name, _ in own]
        there = rows_present(folder, names, part, expected, "nuswide-asl", partial, notes)
        matrix = np.full((len(there), len(classes)), State.NEGATIVE, dtype=np.int8)
        for line, row in enumerate(there):
            matrix[line, [column[label] for label in own[row][1]]] = State.POSITIVE
        kept = tuple(names[row] for row in there)
        splits[part] = Split(kept, matrix, FileImages(folder, kept))
    refuse_shared({f"{part} of {folder / TABLE}": split.ids for part, split in splits.items()})
    return Dataset(
        id="nuswide-asl-partial" if partial else "nuswide-asl",
        version="1",
        classes=classes,
        splits=splits,
        notes=tuple(notes),
        source=f"NUS-WIDE, the split of Ridnik et al., ICCV 2021: {TABLE}",
    )


def _read(path: Path) -> list[tuple[str, list[str], str]]:
    """(name, labels, part) of each line."""
    found: list[tuple[str, list[str], str]] = []
    with open_text(path, newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for number, fields in enumerate(reader):
                where = f"{path}, line {reader.line_num}"
                if not fields or not number:
                    continue
                if len(fields) < 3:
                    raise DataError(f"{where}: {len(fields)} fields, expected a name, labels and a part")
                name, text, part = (field.strip() for field in fields[:3])
                if part not in _PART:
                    raise DataError(f"{where}: part '{part}', expected train or val")
                labels = [single or double for single, double in _NAME.findall(text)]
                if not (text.startswith("[") and text.endswith("]")) or bool(text[1:-1].strip()) != bool(labels):
                    raise DataError(f"{where}: labels {text[:60]!r}, expected a list as ['clouds', 'sky']")
                found.append((name, labels, _PART[part]))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: malformed ({error})") from None
    if not found:
        raise DataError(f"{path}: no image in it")
    return found
