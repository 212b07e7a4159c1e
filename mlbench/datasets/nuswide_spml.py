"""NUS-WIDE as the single-positive papers use it: their re-crawl of 2020, labels in NumPy arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.nuswide_files import read_concepts
from mlbench.datasets.official import find_folder, refuse_shared, rows_present
from mlbench.datasets.reading import file_name
from mlbench.errors import DataError
from mlbench.images.decode import FileImages, file_size, first_few

#: Images of each split, and the part of the array files that holds it (partial-label facts 4.1).
SIZES = {"train": 150000, "test": 60260}
_PART = {"train": "train", "test": "val"}


def load_spml(root: str | Path, partial: bool = False) -> Dataset:
    """Load ``nuswide-spml``: arrays of Cole et al. (zenodo record 10162606), images of ``Flickr.zip``.

    Parameters
    ----------
    root : the folder, or one that holds it as ``nuswide`` or ``NUS-WIDE``, with
        ``formatted_{train,val}_images.npy`` (text [N], image names), ``formatted_{train,val}_labels.npy`` (0 or 1,
        [N, 81]), ``Concepts81.txt`` (there or in ``ConceptsList``), and the images under ``Flickr`` or beside the
        arrays. Part "val" is the test part.
    partial : accept arrays of fewer rows and missing images; the data set is then called ``nuswide-spml-partial``.

    Returns
    -------
    Dataset whose rows, and sample ids, are those of the arrays. Images without a positive label are kept and counted
    (facts 1, item 7). Pickled arrays are refused: nothing in a data file may run.

    Raises
    ------
    DataError naming the file (and row) for anything missing, malformed or not as many as expected.

    Notes
    -----
    Unverified: that the columns stand in the order of Concepts81.txt, as the arrays carry no names.
    """
    folder = find_folder(Path(root), "formatted_train_labels.npy", "nuswide", "NUS-WIDE")
    classes = read_concepts(folder)
    splits: dict[str, Split] = {}
    notes = ["columns are taken to stand in the order of Concepts81.txt (unverified: the arrays carry no names)"]
    for split, expected in SIZES.items():
        part = _PART[split]
        names = _read_names(folder / f"formatted_{part}_images.npy")
        present = _read_present(folder / f"formatted_{part}_labels.npy", len(names), len(classes))
        below = next((b for b in ("Flickr/", "") if any(file_size(folder / f"{b}{n}") >= 0 for n in names)), "Flickr/")
        files = [f"{below}{name}" for name in names]
        rows = rows_present(folder, files, split, expected, "nuswide-spml", partial, notes)
        bare = int((~present[rows].any(axis=1)).sum())
        if bare:
            notes.append(f"{bare} of {len(rows)} {split} images without a positive label kept")
        labels = np.where(present[rows], State.POSITIVE, State.NEGATIVE).astype(np.int8)
        images = FileImages(folder, tuple(files[row] for row in rows))
        splits[split] = Split(tuple(names[row] for row in rows), labels, images)
    refuse_shared({f"{folder}: formatted_{part}_images.npy": splits[split].ids for split, part in _PART.items()})
    return Dataset(
        id="nuswide-spml-partial" if partial else "nuswide-spml",
        version="1",
        classes=classes,
        splits=splits,
        notes=tuple(notes),
        source="NUS-WIDE, re-crawl of Cole et al., CVPR 2021: formatted_{train,val}_{images,labels}.npy",
    )


def _load(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such file, or no plain one")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except Exception as error:  # a broken header makes NumPy raise whatever Python's own parser raises
        raise DataError(f"{path}: not a plain NumPy array ({error})") from None


def _read_names(path: Path) -> list[str]:
    array = _load(path)
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(f"{path}: expected text [N], found {array.dtype} {list(array.shape)}")
    letters = np.ascontiguousarray(array).view(np.uint32)
    if letters.size and letters.max() > 0x10FFFF:
        raise DataError(f"{path}: holds letters that do not exist")
    names = [str(name) for name in array]
    seen: set[str] = set()
    for row, name in enumerate(names):
        plainest = file_name(name, f"{path}, row {row}")
        if plainest in seen:
            raise DataError(f"{path}, row {row}: '{name}' stands there twice")
        seen.add(plainest)
    return names


def _read_present(path: Path, n_images: int, n_classes: int) -> np.ndarray:
    """bool [N, C]."""
    array = _load(path)
    if array.shape != (n_images, n_classes) or array.dtype.kind not in "biuf":
        raise DataError(f"{path}: expected numbers [{n_images}, {n_classes}], found {array.dtype} {list(array.shape)}")
    wrong = np.argwhere((array != 0) & (array != 1))
    if len(wrong):
        rows = first_few([f"{row}, {column}" for row, column in wrong[:6]])
        raise DataError(f"{path}: {len(wrong)} entries are neither 0 nor 1 (row, column: {rows})")
    return array != 0
