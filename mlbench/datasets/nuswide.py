"""NUS-WIDE with its 81 concepts, read from the official distribution as unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.official import find_folder, read_lines, rows_present
from mlbench.errors import DataError, nearest
from mlbench.images.decode import FileImages, first_few

#: Number of concepts.
N_CONCEPTS = 81

#: Official part behind each split, the images its list holds, and how many of them have a label (attention facts
#: 5.3). The labelled counts were read in another project's code; of them only the sum, 209,347, was counted by us.
PARTS: dict[str, tuple[str, int, int]] = {"train": ("Train", 161789, 125449), "test": ("Test", 107859, 83898)}

_LABELS = "Groundtruth/TrainTestLabels"


def load_nuswide(root: str | Path, partial: bool = False) -> Dataset:
    """Load the official version of NUS-WIDE: its own Train and Test lists, images with at least one label.

    Other versions in circulation (re-crawls, random splits of the labelled images) hold other images: their results
    must not be mixed with this one's (partial-label facts 4.2, attention facts 5.3).

    Parameters
    ----------
    root : the folder, or one that holds it as ``NUS-WIDE``, with ``ImageList/{Train,Test}Imagelist.txt``,
        ``Groundtruth/TrainTestLabels/Labels_{concept}_{Train,Test}.txt``, ``Concepts81.txt`` (there or in
        ``ConceptsList``), and the images under ``Flickr``.
    partial : accept a copy with fewer images, as is usual since links died; the data set is then called
        ``nuswide-official-partial``. Without it such a copy is a DataError.

    Returns
    -------
    Dataset whose sample ids are the names in the image list (``actor/0001_2124494179.jpg``), in its order, and whose
    classes stand in the order of Concepts81.txt. Images without a label are left out and counted. The source has no
    boxes.

    Raises
    ------
    DataError naming the file (and line) for anything missing, malformed or not as many as expected.
    """
    folder = find_folder(Path(root), "ImageList/TrainImagelist.txt", "NUS-WIDE")
    classes = read_concepts(folder)
    splits: dict[str, Split] = {}
    notes: list[str] = []
    for split, (part, n_listed, n_labelled) in PARTS.items():
        names = _read_image_list(folder / "ImageList" / f"{part}Imagelist.txt")
        if not partial and len(names) != n_listed:
            raise DataError(
                f"{folder / 'ImageList' / f'{part}Imagelist.txt'}: {len(names)} images, expected {n_listed}; ask for "
                "'nuswide-official-partial' to use a partial copy"
            )
        labels = read_labels(folder, classes, part, len(names))
        labelled = np.flatnonzero((labels == State.POSITIVE).any(axis=1))
        if len(labelled) < len(names):
            bare = np.setdiff1d(np.arange(len(names)), labelled)
            listed = first_few([names[row] for row in bare[:11]], 10)
            notes.append(f"{len(bare)} {part} images without a label left out: {listed}")
        files = [f"Flickr/{names[row]}" for row in labelled]
        there = rows_present(folder, files, part, n_labelled, "nuswide-official", partial, notes)
        rows = labelled[there]
        images = FileImages(folder, tuple(files[row] for row in there))
        splits[split] = Split(tuple(names[row] for row in rows), labels[rows], images)
    return Dataset(
        id="nuswide-official-partial" if partial else "nuswide-official",
        version="1",
        classes=classes,
        splits=splits,
        notes=tuple(notes),
        source="NUS-WIDE, Groundtruth/TrainTestLabels",
    )


def read_concepts(folder: Path) -> tuple[str, ...]:
    """The concepts in the order of Concepts81.txt."""
    path = find_folder(folder, "Concepts81.txt", "ConceptsList") / "Concepts81.txt"
    concepts = tuple(read_lines(path))
    if not len(set(concepts)) == len(concepts) == N_CONCEPTS:
        raise DataError(
            f"{path}: {len(concepts)} lines with {len(set(concepts))} concepts, expected {N_CONCEPTS}, one a line"
        )
    return concepts


def _read_image_list(path: Path) -> list[str]:
    # Made on Windows: folders end in a backslash.
    names = [line.replace("\\", "/") for line in read_lines(path)]
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or name in seen:
            raise DataError(f"{path}, line {number}: {f'{name!r} is listed twice' if name else 'empty'}")
        seen.add(name)
    return names


def read_labels(folder: Path, classes: tuple[str, ...], part: str, n_images: int) -> np.ndarray:
    """int8 [N, C] from the label files of a part, "Train" or "Test", one column a file."""
    place = folder / _LABELS
    start, end = "Labels_", f"_{part}.txt"
    found = {file.name.removeprefix(start).removesuffix(end) for file in place.glob(f"{start}*{end}")}
    for name in classes:
        if name not in found:
            raise DataError(f"{place / f'{start}{name}{end}'}: no such file.{nearest(name, found)}")
    if found - set(classes):
        raise DataError(f"{place}: labels of concepts not in Concepts81.txt: {first_few(sorted(found - set(classes)))}")
    labels = np.empty((n_images, len(classes)), dtype=np.int8)
    for column, name in enumerate(classes):
        path = place / f"{start}{name}{end}"
        lines = read_lines(path)
        if len(lines) != n_images:
            raise DataError(f"{path}: {len(lines)} lines, but {part}Imagelist.txt lists {n_images} images")
        if not set(lines) <= {"0", "1"}:
            wrong = next(number for number, line in enumerate(lines) if line not in ("0", "1"))
            raise DataError(f"{path}, line {wrong + 1}: '{lines[wrong]}', expected 0 or 1")
        present = np.frombuffer("".join(lines).encode(), dtype=np.uint8) == ord("1")
        labels[:, column] = np.where(present, State.POSITIVE, State.NEGATIVE)
    return labels
