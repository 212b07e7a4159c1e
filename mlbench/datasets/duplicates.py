"""Pictures of a data set that have equal bytes: trained on and tested with, or counted more than once."""

from __future__ import annotations

import numpy as np

from mlbench.datasets.base import Dataset
from mlbench.images.decode import first_few
from mlbench.images.pixels import file_digests


def equal_pictures(dataset: Dataset) -> list[str]:
    """Notes on image files of equal content, across the parts of `dataset` and within one; none if there are none.

    Samples that share a picture on purpose (the persons of one photograph, by their group) are not counted.
    """
    digests = {name: file_digests(split) for name, split in dataset.splits.items()}
    contents = {name: found for name, found in digests.items() if found is not None}
    if not contents:
        return []
    places = [(part, row) for part in contents for row in range(len(contents[part]))]
    hashes = np.concatenate([np.ascontiguousarray(rows) for rows in contents.values()])
    _, first, inverse, counts = np.unique(
        hashes.view(np.dtype((np.void, hashes.shape[1]))).ravel(),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    rows_of: dict[int, list[int]] = {}
    for number in np.flatnonzero(counts[inverse] > 1).tolist():
        rows_of.setdefault(int(first[inverse[number]]), []).append(number)
    across, within, opposed = [], [], 0
    for numbers in rows_of.values():
        found = [places[number] for number in numbers]
        groups = {dataset.splits[part].groups[row] for part, row in found}
        text = " = ".join(f"{part} {dataset.splits[part].ids[row]}" for part, row in found)
        if len({part for part, _ in found}) > 1:
            across.append(text)
            opposed += len({dataset.splits[part].labels[row : row + 1].tobytes() for part, row in found}) > 1
        elif len(groups) > 1:
            within.append(text)
    notes = []
    if across:
        notes.append(
            f"pictures of equal bytes in several parts: {len(across)}, {opposed} of them with other labels there "
            f"({first_few(across, 10)})"
        )
    if within:
        notes.append(f"pictures of equal bytes within a part: {len(within)} ({first_few(within, 10)})")
    return notes
