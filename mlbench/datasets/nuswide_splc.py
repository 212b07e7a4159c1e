"""NUS-WIDE as SPLC has it: its lists of 119,103 training images with one label each, and of 50,720 test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.listed import Lists, find_list, read_list
from mlbench.datasets.nuswide_files import read_concepts
from mlbench.datasets.official import refuse_shared, rows_present
from mlbench.images.decode import FileImages

#: List and number of images of each split (modern-methods facts 1.2: the split of ASL).
LISTS = {"train": ("nus_train_single.txt", 119103), "test": ("nus_val.txt", 50720)}


def load_splc(root: str | Path, partial: bool = False) -> Dataset:
    """Load ``nuswide-splc``.

    Parameters
    ----------
    root : the folder with the lists ``nus_train_single.txt`` and ``nus_val.txt`` (there, in ``splc`` or in
        ``dataset``), ``Concepts81.txt`` (there or in ``ConceptsList``), and the pictures in ``images``.
    partial : accept fewer pictures; the data set is then called ``nuswide-splc-partial``.

    Returns
    -------
    Dataset in the order of the lists, whose sample ids are the file names there. Of a training image the listed label
    is POSITIVE and nothing else is known; of a test image what is not listed is NEGATIVE.

    Raises
    ------
    DataError naming the file (and line) for anything missing, malformed or not as many as expected.

    Notes
    -----
    Unverified: that the numbers of the lists stand in the order of Concepts81.txt.
    """
    folder = Path(root)
    classes = read_concepts(folder)
    splits: dict[str, Split] = {}
    notes = ["numbers of classes are taken to stand in the order of Concepts81.txt (unverified)"]
    for split, (file, expected) in LISTS.items():
        listed = read_list(find_list(folder, file), len(classes))
        names = list(listed)
        pictures = [f"images/{name}" for name in names]
        rows = rows_present(folder, pictures, split, expected, "nuswide-splc", partial, notes)
        names = [names[row] for row in rows]
        rest = State.UNKNOWN if split == "train" else State.NEGATIVE
        labels = np.full((len(names), len(classes)), rest, dtype=np.int8)
        for row, name in enumerate(names):
            labels[row, list(listed[name])] = State.POSITIVE
        lists = Lists(folder, {"single": file}, names, len(classes)) if split == "train" else None
        images = FileImages(folder, tuple(f"images/{name}" for name in names))
        splits[split] = Split(tuple(names), labels, images, lists=lists)
    refuse_shared({f"{folder}: {file}": splits[split].ids for split, (file, _) in LISTS.items()})
    return Dataset(
        id="nuswide-splc-partial" if partial else "nuswide-splc",
        version="1",
        classes=classes,
        splits=splits,
        notes=tuple(notes),
        source="NUS-WIDE, lists of Zhang et al., arXiv 2112.07368 (SPLC): nus_train_single.txt, nus_val.txt",
    )
