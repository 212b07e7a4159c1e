"""The files of the official NUS-WIDE distribution: concepts, image lists, labels and tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.official import find_folder, read_lines
from mlbench.errors import DataError, nearest
from mlbench.images.decode import first_few

#: Number of concepts, and of tags in a row of ``{Train,Test}_Tags1k.dat``.
N_CONCEPTS = 81
N_TAGS = 1000

_LABELS = "Groundtruth/TrainTestLabels"


@dataclass(frozen=True, eq=False)
class Pool:
    """Images by their names in the list, ``actor/0001_2124494179.jpg``, with labels int8 [N, C] of raw states."""

    names: tuple[str, ...]
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> Pool:
        """The images of `rows`, in the order given."""
        return Pool(tuple(self.names[row] for row in rows), self.labels[rows])

    @staticmethod
    def join(*pools: Pool) -> Pool:
        """All images, one pool after the other."""
        return Pool(tuple(n for pool in pools for n in pool.names), np.concatenate([pool.labels for pool in pools]))


def read_concepts(folder: Path) -> tuple[str, ...]:
    """The concepts in the order of Concepts81.txt, which lies in `folder` or in its ``ConceptsList``."""
    path = find_folder(folder, "Concepts81.txt", "ConceptsList") / "Concepts81.txt"
    concepts = tuple(read_lines(path))
    if not len(set(concepts)) == len(concepts) == N_CONCEPTS:
        raise DataError(
            f"{path}: {len(concepts)} lines with {len(set(concepts))} concepts, expected {N_CONCEPTS}, one a line"
        )
    return concepts


def read_image_list(path: Path) -> tuple[str, ...]:
    """Image names, one a line; DataError for an empty line or a name listed twice."""
    # Made on Windows: folders end in a backslash.
    names = [line.replace("\\", "/") for line in read_lines(path)]
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or name in seen:
            raise DataError(f"{path}, line {number}: {f'{name!r} is listed twice' if name else 'empty'}")
        seen.add(name)
    return tuple(names)


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


def names_with_frequent_tag(folder: Path, lists: dict[str, tuple[str, ...]]) -> set[str]:
    """Names of the images with at least one of the 1,000 most frequent tags.

    Read from ``{Train,Test}_Tags1k.dat``: a row an image, in the order of the part's image list, of 1,000 fields 0
    or 1. `lists` gives the names of each part.
    """
    names = [name for part in lists.values() for name in part]
    return {names[row] for row in np.flatnonzero(read_frequent_tags(folder, lists).any(axis=1))}


def read_frequent_tags(folder: Path, lists: dict[str, tuple[str, ...]]) -> np.ndarray:
    """bool [N, 1000]: which of the most frequent tags the users gave each image of `lists`, one part after the other.

    Read from the files that `names_with_frequent_tag` tells of.
    """
    present = np.zeros((sum(map(len, lists.values())), N_TAGS), dtype=bool)
    before = 0
    for part, names in lists.items():
        path = folder / f"{part}_Tags1k.dat"
        rows = 0
        with path.open("rb") as file:
            for rows, line in enumerate(file, start=1):
                fields = line.split()
                if len(fields) != N_TAGS or not set(fields) <= {b"0", b"1"}:
                    raise DataError(f"{path}, line {rows}: {len(fields)} fields, expected {N_TAGS}, each 0 or 1")
                if rows <= len(names):
                    present[before + rows - 1] = np.frombuffer(b"".join(fields), dtype=np.uint8) == ord("1")
        if rows != len(names):
            raise DataError(f"{path}: {rows} lines, but {part}Imagelist.txt lists {len(names)} images")
        before += rows
    return present


def names_with_any_tag(folder: Path, lists: dict[str, tuple[str, ...]]) -> set[str]:
    """Names of the images with any tag at all.

    Read from ``All_Tags.txt``: a line an image, its photo id (the number that ends the image's name) and then its
    tags, separated by blanks. Tags are of many languages and encodings and are not decoded.
    """
    path = folder / "All_Tags.txt"
    with path.open("rb") as file:
        lines = [line.split(maxsplit=1) for line in file]
    listed = {fields[0].decode("ascii", errors="replace") for fields in lines if fields}
    with_tag = {fields[0].decode("ascii", errors="replace") for fields in lines if len(fields) > 1}
    photo = {name: Path(name).stem.rpartition("_")[2] for names in lists.values() for name in names}
    absent = [name for name, number in photo.items() if number not in listed]
    if absent:
        raise DataError(f"{path}: {len(absent)} images of the image lists have no line: {first_few(absent)}")
    return {name for name, number in photo.items() if number in with_tag}
