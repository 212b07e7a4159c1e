"""Miniatures, made-up small copies of official layouts (`mlbench.miniature` makes them), and the file that tells them.

A miniature is read by the adapter of the data set that it copies and bears its name, so that all that is said of that
data set (protocols, settings, tables' columns) can be rehearsed. That it is none is said by its version, its source and
a note, all of which travel into records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation import State
from mlbench.annotation.sparse import count_states
from mlbench.datasets.base import MINIATURE, Dataset, SubsetImages
from mlbench.datasets.reading import read_json
from mlbench.errors import DataError, UsageError
from mlbench.images.decode import FileImages, first_few

#: The file that tells a miniature from the data set; it lies in the folder that `--data-root` names.
MARKER = "MINIATURE.json"

_ABOVE = 3  # a root may also be VOCdevkit/VOC2012 of the folder that holds the marker


def find_marker(folder: Path) -> Path | None:
    """The marker of the miniature that `folder` is, or is a part of; None where it is none."""
    places = [folder, *list(folder.absolute().parents)[:_ABOVE]]
    return next((place / MARKER for place in places if (place / MARKER).is_file()), None)


def read_marker(path: Path) -> dict[str, Any]:
    """The content of a marker; DataError if it is not one."""
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("datasets"), dict):
        raise DataError(f"{path}: not a marker of a miniature (an object with 'datasets')")
    return found


def counts_of(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """By part: samples, and positives of each class."""
    return {
        part: {"samples": len(split), "positives": count_states(split.labels, State.POSITIVE).tolist()}
        for part, split in dataset.splits.items()
    }


def as_miniature(found: Dataset, name: str, marker: Path) -> Dataset:
    """What the adapter has read in a miniature's folder (as a partial copy), called `name`, and said to be a miniature.

    DataError if it is a miniature of something else, or no longer what its marker says: images and positives of each
    class, in each part.
    """
    about = read_marker(marker)
    expected: Mapping[str, Any] = about["datasets"]
    if name not in expected:
        raise UsageError(f"{marker.parent}: a miniature of {', '.join(sorted(expected))}, not of '{name}'")
    counts = counts_of(found)
    for part in sorted({*counts, *expected[name]}):
        if counts.get(part) != expected[name].get(part):
            raise DataError(
                f"{marker.parent}: the {part} part is not what {MARKER} says of '{name}' "
                f"({_difference(counts.get(part), expected[name].get(part), found.classes)}); make the miniature again"
            )
    samples = sum(part["samples"] for part in counts.values())
    note = (
        f"MINIATURE: not the data set, but a made-up copy of its layout with {samples} samples "
        f"(mlbench data miniature {about.get('name')} --seed {about.get('seed')}); its numbers say nothing of '{name}'"
    )
    return dataclasses.replace(
        found,
        id=name,
        version=found.version + MINIATURE,
        notes=(note, *(text for text in found.notes if not text.startswith("partial copy:"))),
        source=f"MINIATURE of {found.source}",
    )


def refuse_hidden(found: Dataset, root: Path) -> None:
    """DataError if the images of `found` lie in a miniature that `root`, which is no part of it, did not show."""
    for split in found.splits.values():
        images: Any = split.images
        while isinstance(images, SubsetImages):
            images = images.source
        marker = find_marker(Path(images.root)) if isinstance(images, FileImages) else None
        if marker is not None:
            raise DataError(f"{root}: what lies there is a miniature: give its own folder, {marker.parent}")


def _difference(found: Any, expected: Any, classes: tuple[str, ...]) -> str:
    if not found or not isinstance(expected, dict):
        return "a part that only one of the two has"
    if found["samples"] != expected.get("samples"):
        return f"{found['samples']} samples, expected {expected.get('samples')}"
    told = expected.get("positives")
    if not isinstance(told, list) or len(told) != len(classes):
        return f"{len(classes)} classes, expected {len(told) if isinstance(told, list) else told}"
    wrong = np.flatnonzero(np.array(found["positives"]) != np.array(told))
    return f"other numbers of positives of {first_few([classes[c] for c in wrong])}"
