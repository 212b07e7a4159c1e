"""What the readers of official distributions share: text files, where a copy lies, whether it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlbench.errors import DataError
from mlbench.images.decode import file_size, first_few


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
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: empty")
    return lines


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
    int64 [M], ascending. DataError for an incomplete copy that was not asked for, for one without any image, and for
    names that lead out of `folder`.
    """
    outside = [name for name in names if name.startswith("/") or (".." in name and ".." in name.split("/"))]
    if outside:
        raise DataError(f"{folder}: image names of '{part}' that leave the folder: {first_few(outside)}")
    there = np.array([file_size(folder / name) >= 0 for name in names], dtype=bool)
    expected = len(names) if expected is None else expected
    if partial:
        notes.append(f"partial copy: {int(there.sum())} of {expected} images of the official {part} part")
    elif len(names) != expected or not there.all():
        missing = [name for name, found in zip(names, there, strict=True) if not found]
        raise DataError(
            f"{folder}: expected {expected} images of '{part}', found {len(names)} listed and {int(there.sum())} of "
            f"them there{f' (missing: {first_few(missing)})' if missing else ''}; ask for '{dataset}-partial' to use "
            "a partial copy"
        )
    if not there.any():
        raise DataError(f"{folder}: no images of '{part}'")
    return np.flatnonzero(there)
