"""Pictures of a data set that have equal bytes: trained on and tested with, or counted more than once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlbench.datasets.base import Dataset
from mlbench.images.decode import first_few
from mlbench.inputs.pixels import file_digests

#: Notes by the fingerprint of the data set.
_KNOWN: dict[str, list[str]] = {}


def notes_of(dataset: Dataset, most: int | None = None) -> list[str]:
    """All that is to be told of `dataset`: what its reading was unsure about, and pictures of equal bytes.

    Where more than `most` images would have to be read for the latter, it says so in their place.
    """
    unhashed = 0 if most is None else dataset.count_unhashed()
    if most is None or unhashed <= most:
        return [*dataset.notes, *equal_pictures(dataset)]
    later = f"equal pictures are not looked for yet: {unhashed:,} images are to be hashed (`mlbench data verify`)"
    return [*dataset.notes, later]


def equal_pictures(dataset: Dataset) -> list[str]:
    """Notes on picture files of equal bytes, across the parts of `dataset` and within one; none if there are none.

    Files are hashed once, as the fingerprint hashes them. Samples that share a picture on purpose (the persons of one
    photograph, by their group) are not counted.
    """
    # A run of a sweep resolves its data set again, and so does every other one.
    if dataset.fingerprint not in _KNOWN:
        known = {part: file_digests(split) for part, split in dataset.splits.items()}
        found = {part: digests for part, digests in known.items() if digests is not None}
        _KNOWN[dataset.fingerprint] = _notes(dataset, found) if found else []
    return list(_KNOWN[dataset.fingerprint])


def _notes(dataset: Dataset, digests: Mapping[str, np.ndarray]) -> list[str]:
    parts, contents = list(digests), [np.ascontiguousarray(rows) for rows in digests.values()]
    starts = np.cumsum([0, *map(len, contents)])
    hashes = np.concatenate(contents).view(np.dtype((np.void, 32))).ravel()
    _, first, inverse, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    groups: dict[int, list[tuple[str, int]]] = {}
    for number in np.flatnonzero(counts[inverse] > 1).tolist():
        part = int(np.searchsorted(starts, number, side="right")) - 1
        groups.setdefault(int(first[inverse[number]]), []).append((parts[part], number - int(starts[part])))
    across, within, opposed = [], [], 0
    for found in groups.values():
        text = " = ".join(f"{part} {dataset.splits[part].ids[row]}" for part, row in found)
        if len({part for part, _ in found}) > 1:
            across.append(text)
            opposed += len({dataset.splits[part].labels[row : row + 1].tobytes() for part, row in found}) > 1
        elif len({dataset.splits[part].groups[row] for part, row in found}) > 1:
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
