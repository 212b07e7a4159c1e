"""Published lists of shown labels: an image and the numbers of its positive classes a line, as SPLC's code reads them.

``COCO_train2014_000000050518.jpg, 8 41``: a file name, a comma, classes counted from 0 in the data set's order. The
lists of SPLC (xinyu1205/robust-loss-mlml, folder dataset) and SCPNet (jameslahm/SCPNet) are of this form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.official import read_lines
from mlbench.errors import DataError, nearest

#: Folders beneath a data root that lists are looked for in.
FOLDERS = ("", "splc", "dataset")


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists there are of the labels of a split.

    Parameters
    ----------
    root : the data root. files : file name by what the list shows ("single", "0.4", ...).
    names : the image file of each row as the lists name it. n_classes : C.
    """

    root: Path
    files: Mapping[str, str]
    names: Sequence[str]
    n_classes: int

    def load(self, shown: str) -> np.ndarray:
        """int8 [N, C]: POSITIVE where the list shows a label, else UNKNOWN.

        DataError if there is no such list of this data set, its file is not there, or it is of other images.
        """
        if shown not in self.files:
            raise DataError(f"no list '{shown}' was published of this data set: there is {', '.join(self.files)}")
        path = find_list(self.root, self.files[shown])
        listed = read_list(path, self.n_classes)
        labels = np.full((len(self.names), self.n_classes), State.UNKNOWN, dtype=np.int8)
        for row, name in enumerate(self.names):
            if name not in listed:
                raise DataError(f"{path}: does not list image '{name}'.{nearest(name, listed)}")
            labels[row, list(listed[name])] = State.POSITIVE
        return labels

    def take(self, rows: np.ndarray) -> Lists:
        """The lists of `rows`, in the order given."""
        return Lists(self.root, self.files, [self.names[row] for row in rows], self.n_classes)


def find_list(root: Path, file: str) -> Path:
    """Where the list `file` lies beneath `root`; DataError if nowhere."""
    for folder in FOLDERS:
        if (root / folder / file).is_file():
            return root / folder / file
    others = " or ".join(filter(None, FOLDERS))
    raise DataError(f"{root}: no list {file} there, nor in {others}; it is published with SPLC's or SCPNet's code")


def read_list(path: Path, n_classes: int) -> dict[str, tuple[int, ...]]:
    """Numbers of the classes by image; DataError names file and line of one that is not as `Lists` says."""
    found: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        name, comma, classes = line.partition(",")
        fields = classes.split()
        wrong = [field for field in fields if not (field.isascii() and field.isdecimal() and int(field) < n_classes)]
        if not name or not comma or wrong:
            what = f"class '{wrong[0]}'" if wrong else f"'{line[:60]}'"
            raise DataError(f"{path}, line {number}: {what}: expected an image, a comma and numbers below {n_classes}")
        if name in found:
            raise DataError(f"{path}, line {number}: image '{name}' is listed twice")
        found[name] = tuple(map(int, fields))
    return found


#: Gives the states int8 [N, C] that a list shows, by its name.
ReadList = Callable[[str], np.ndarray]
