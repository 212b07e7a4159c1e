"""What the readers of official distributions share: text files, where a copy lies, whether it is complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlbench.datasets.folders import look_into, near_file
from mlbench.datasets.reading import file_names, read_text
from mlbench.errors import DataError
from mlbench.images.decode import file_size, first_few
from mlbench.images.names import HexNames


def find_folder(root: Path, inside: str, *names: str) -> Path:
    """The first of `root` and its subfolders `names` that holds the file `inside`; DataError if none does."""
    for folder in (root, *(root / name for name in names)):
        if (folder / inside).is_file():
            return folder
    raise DataError(f"{root}: no {inside} there{''.join(f', nor in {name}' for name in names)}")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without the empty ones at its end.

    A byte-order mark and CRLF ends are accepted. DataError if the file is missing, not UTF-8 or empty.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: empty")
    return lines


def refuse_shared(parts: Mapping[str, Sequence[str]]) -> None:
    """DataError if a sample stands in two of `parts` (where its names come from, and the names): it would be trained on
    and tested with."""
    places = list(parts.items())
    for number, (first, names) in enumerate(places):
        if isinstance(names, HexNames):
            others = [(place, found) for place, found in places[number + 1 :] if isinstance(found, HexNames)]
            both: dict[str, Sequence[str]] = {
                place: HexNames(np.intersect1d(names.numbers, found.numbers)) for place, found in others
            }
        else:
            own = set(names)
            both = {place: [name for name in found if name in own] for place, found in places[number + 1 :]}
        for second, shared in both.items():
            if len(shared):
                raise DataError(f"{first} and {second} both list {len(shared)} of the samples: {first_few(shared)}")


def rows_present(
    folder: Path, names: Sequence[str], part: str, expected: int | None, dataset: str, partial: bool, notes: list[str]
) -> np.ndarray:
    """The rows whose image file is there, which are all rows unless a partial copy was asked for.

    Parameters
    ----------
    folder, names : the images, as N names relative to a folder.
    part : name of the official part, for messages.
    expected : how many images the complete part has; None where that is not known: then as many as are listed.
    dataset : id of the complete data set; a partial copy of it is called ``{dataset}-partial``.
    partial : accept fewer images; `notes` gets a line that counts them.

    Returns
    -------
    int64 [M], ascending. DataError for an incomplete copy that was not asked for, for one without any image, for names
    that lead out of `folder`, and for two that are the same file.
    """
    if not isinstance(names, HexNames):
        file_names(names, f"{folder}: images of '{part}'")
    there = np.array([file_size(folder / name) >= 0 for name in names], dtype=bool)
    expected = len(names) if expected is None else expected
    if not there.any():
        first = next(iter(names), "")
        near = near_file(first, look_into(folder).images, guess=False) if first and folder.is_dir() else ""
        raise DataError(f"{folder}: no images of '{part}': looked for {folder / first}{near}")
    if partial:
        notes.append(f"partial copy: {int(there.sum())} of {expected} images of the official {part} part")
    elif len(names) != expected or not there.all():
        missing = [name for name, found in zip(names, there, strict=True) if not found]
        raise DataError(
            f"{folder}: expected {expected} images of '{part}', found {len(names)} listed and {int(there.sum())} of "
            f"them there{f' (missing: {first_few(missing)})' if missing else ''}; ask for '{dataset}-partial' to use "
            "a partial copy"
        )
    return np.flatnonzero(there)
