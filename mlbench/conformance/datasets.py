"""Does a data set keep the contract? It loads, and says the same twice; ids, labels, boxes and images are sound."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.annotation.sparse import SparseLabels, count_states
from mlbench.conformance.report import Report, Skipped
from mlbench.datasets import DATASETS, Dataset, load_dataset
from mlbench.datasets.base import Split
from mlbench.datasets.entries import summary_of
from mlbench.errors import DataError, MlbenchError

PARTS = ("train", "val", "test")
#: Images of a part that are decoded; the fingerprint reads all files.
_DECODED = 100
#: What another process says of a data set.
_SAY = "import sys; from mlbench.datasets import load_dataset; print(load_dataset(sys.argv[1], {root}).fingerprint)"


def check_dataset(name: str, root: Path | None = None, processes: bool = True) -> Report:
    """Every check on data set `name` (or a description's path) with its files in `root`.

    `processes` says whether another process, in which sets have another order, takes the fingerprint, too. UsageError
    where `root` is needed and missing, and for an unknown name.
    """
    dataset = load_dataset(name, root)
    report = Report(name)
    whole = report.attempt("", "has a training and a test part", lambda: _parts(dataset))
    report.attempt("", "says in one line what it is", lambda: _summary(name))
    report.attempt("", "class names are unique", lambda: _classes(dataset))
    if not whole:
        return report
    report.attempt("", "sample ids are unique", lambda: _ids(dataset))
    report.attempt("", "parts share no sample and no image", lambda: _disjoint(dataset))
    report.attempt("", "labels are states of its classes", lambda: _labels(dataset))
    report.attempt("", "boxes lie in their images", lambda: _boxes(dataset))
    report.attempt("", "images can be read", lambda: _images(dataset))
    report.attempt("", "loaded again, the same fingerprint", lambda: _again(dataset, name, root, processes))
    return report


def _parts(dataset: Dataset) -> None:
    other = sorted(set(dataset.splits) - set(PARTS))
    if other:
        raise DataError(f"splits has '{other[0]}': expected {', '.join(PARTS)}")
    for part in ("train", "test"):
        if part not in dataset.splits or not len(dataset.splits[part]):
            raise DataError(f"the {part} part is missing or empty")


def _summary(name: str) -> None:
    if name.endswith(".toml"):
        raise Skipped("a description of one's own")
    whole = name if name in DATASETS else name.removesuffix("-partial")
    if not summary_of(DATASETS[whole]):
        raise MlbenchError("no summary: give the object one, or the function a docstring")


def _classes(dataset: Dataset) -> str:
    names = dataset.classes
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if wrong or not names:
        raise DataError(f"classes: {wrong[0]!r} is no name" if wrong else "no classes")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"class '{twice[0]}' stands twice")
    return f"{len(names)} classes"


def _ids(dataset: Dataset) -> str:
    for part, split in dataset.splits.items():
        ids = list(split.ids)
        if len(set(ids)) < len(ids):
            seen: set[str] = set()
            first = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise DataError(f"{part}: id '{first}' stands twice")
        if len(split.groups) != len(ids):
            raise DataError(f"{part}: {len(split.groups)} groups for {len(ids)} samples")
    return ", ".join(f"{len(split)} {part}" for part, split in dataset.splits.items())


def _disjoint(dataset: Dataset) -> None:
    for what in ("ids", "groups"):
        owner: dict[str, str] = {}
        for part, split in dataset.splits.items():
            for name in set(getattr(split, what)):
                if owner.setdefault(name, part) != part:
                    raise DataError(f"{owner[name]} and {part} share {what.removesuffix('s')} '{name}'")


def _labels(dataset: Dataset) -> str:
    shown = []
    for part, split in dataset.splits.items():
        expected = (len(split), len(dataset.classes))
        if tuple(split.labels.shape) != expected:
            raise DataError(f"{part}: labels of shape {list(split.labels.shape)}, expected {list(expected)}")
        if not isinstance(split.labels, SparseLabels):
            found = np.asarray(split.labels)
            if found.dtype != np.int8:
                raise DataError(f"{part}: labels are {found.dtype}, expected int8")
            unknown = np.setdiff1d(found, [int(state) for state in State])
            if len(unknown):
                known = ", ".join(f"{state.name} {int(state)}" for state in State)
                raise DataError(f"{part}: label {unknown[0]} is no state: expected {known}")
        positives = int(np.sum(count_states(split.labels, State.POSITIVE)))
        if not positives:
            raise DataError(f"{part}: no positive label")
        shown.append(f"{positives / len(split):.2f} in {part}")
    return f"positives an image: {', '.join(shown)}"


def _boxes(dataset: Dataset) -> str:
    boxed = {part: split for part, split in dataset.splits.items() if split.boxes is not None}
    if not boxed:
        raise Skipped("it has no boxes")
    for part, split in boxed.items():
        boxes = np.asarray(split.boxes)
        if boxes.dtype != np.float32 or boxes.ndim != 2 or boxes.shape[1] != 6 or not np.isfinite(boxes).all():
            raise DataError(f"{part}: boxes must be finite float32 [M, 6], found {boxes.dtype} {list(boxes.shape)}")
        rows, classes = boxes[:, 0], boxes[:, 1]
        if len(boxes) and not (0 <= rows.min() <= rows.max() < len(split)):
            raise DataError(f"{part}: a box of row {rows.max():g}, which is no sample")
        if len(boxes) and not (0 <= classes.min() <= classes.max() < len(dataset.classes)):
            raise DataError(f"{part}: a box of class {classes.max():g}, which is no class")
        chosen = set(_some(split).tolist())
        for row, _, x1, y1, x2, y2 in boxes[np.isin(rows, list(chosen))]:
            height, width = split.images.load(int(row)).shape[:2]
            if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
                raise DataError(
                    f"{part}: box {x1:g}, {y1:g}, {x2:g}, {y2:g} of '{split.ids[int(row)]}' does not lie in its image "
                    f"of {width} x {height}"
                )
    return ", ".join(f"{len(np.asarray(split.boxes))} in {part}" for part, split in boxed.items())


def _images(dataset: Dataset) -> str:
    count = 0
    for part, split in dataset.splits.items():
        if len(split.images) != len(split):
            raise DataError(f"{part}: {len(split.images)} images for {len(split)} samples")
        for row in _some(split):
            image = split.images.load(int(row))
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
                raise DataError(
                    f"{part}: image of '{split.ids[int(row)]}' is {found}, expected uint8 [height, width, 3]"
                )
            if 0 in image.shape:
                raise DataError(f"{part}: image of '{split.ids[int(row)]}' is empty")
            if not np.array_equal(image, split.images.load(int(row))):
                raise DataError(f"{part}: image of '{split.ids[int(row)]}' is another one the second time")
            if Path(split.images.describe(int(row))).is_absolute():
                raise DataError(f"{part}: describe gives an absolute path: records must not know this machine")
            count += 1
    return f"{count} decoded twice"


def _some(split: Split) -> np.ndarray:
    """Rows that are looked at: all of a small part, else the first, the last and some drawn by a fixed seed."""
    if len(split) <= _DECODED:
        return np.arange(len(split))
    drawn = np.random.default_rng(0).choice(len(split), _DECODED - 2, replace=False)
    return np.unique([0, *drawn, len(split) - 1])


def _again(dataset: Dataset, name: str, root: Path | None, processes: bool) -> str:
    known = dataset.fingerprint
    if load_dataset(name, root).fingerprint != known:
        raise DataError("another fingerprint when loaded a second time: something in it is drawn, or in no fixed order")
    if processes:
        code = _SAY.format(root=repr(None if root is None else str(root)))
        environment = {**os.environ, "PYTHONHASHSEED": "1"}
        done = subprocess.run([sys.executable, "-c", code, name], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise DataError(f"another process cannot load it: {(done.stderr.strip().splitlines() or [''])[-1]}")
        if done.stdout.split()[-1:] != [known]:
            raise DataError("another fingerprint in another process: something in it is in the order of a set")
    return known[:16]
