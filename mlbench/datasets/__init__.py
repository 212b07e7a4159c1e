"""The catalogue: every data set by name, ours and those other packages register, and people's own by their TOML."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mlbench.datasets.base import ArrayImages, Dataset, Split
from mlbench.datasets.entries import Described, Entry, as_entry, needed, summary_of
from mlbench.errors import MlbenchError, UsageError
from mlbench.registry import Registry

__all__ = ["DATASETS", "ArrayImages", "Dataset", "Described", "Split", "list_datasets", "load_dataset", "needed"]

#: Data sets by name, those of which a part may be loaded as ``NAME-partial``, too.
DATASETS: Registry[Entry] = Registry("mlbench.datasets", "data set", as_entry)

_PARTIAL = "-partial"


def list_datasets() -> dict[str, str]:
    """Name and one-line description of every data set that `load_dataset` knows; reads no data.

    What another package registers and cannot be loaded is listed with the reason.
    """
    found = {}
    for name in DATASETS:
        try:
            found[name] = summary_of(DATASETS[name])
        except MlbenchError as error:
            found[name] = str(error)
    return found


def load_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name : a name of `list_datasets`, with "-partial" after the name of an official distribution for a copy of it
        that is not complete, or the path of a ``.toml`` description (see `mlbench.datasets.description.Description`).
    root : folder the data lie in. `scenes` needs none; a description of your own defaults to its own folder.

    Returns
    -------
    Dataset; where `root` is a miniature (`mlbench.datasets.miniature`), one that says so. UsageError for an unknown
    name or a missing root, DataError for data that are missing or broken, MlbenchError where another package's code
    fails or gives something else.
    """
    from mlbench.datasets.miniature import as_miniature, find_marker, refuse_hidden

    if name.endswith(".toml"):
        from mlbench.datasets.files import load_files

        return load_files(name, Path(name).parent if root is None else root)
    whole = name.removesuffix(_PARTIAL)
    partial = name not in DATASETS and hasattr(DATASETS.get(whole), "load_partial")
    known = whole if partial else name
    entry, folder = DATASETS[known], None if root is None else Path(root)
    what = f"data set '{name}' ({DATASETS.point(known).value})"
    marker = None if folder is None or not hasattr(entry, "load_partial") else find_marker(folder)
    if marker is not None and partial:
        raise UsageError(f"{folder}: a miniature, which has no parts: load it as '{whole}'")
    try:
        part = partial or marker is not None
        found = entry.load_partial(folder) if part else entry.load(folder)  # type: ignore[attr-defined]
    except (MlbenchError, OSError, MemoryError):
        raise
    except Exception as error:  # anybody's code
        raise MlbenchError(f"{what}: load failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, Dataset):
        raise MlbenchError(f"{what}: load gave a {type(found).__name__}, expected a mlbench.datasets.Dataset")
    if marker is not None:
        found = as_miniature(found, DATASETS.point(known).name, marker)
    elif folder is not None:
        refuse_hidden(found, folder)
    expected = DATASETS.point(known).name + (_PARTIAL if partial else "")
    if found.id not in (expected, DATASETS.point(known).name + _PARTIAL):
        raise MlbenchError(f"{what}: load gave a data set with id '{found.id}', expected '{expected}'")
    return dataclasses.replace(found, owner=str(DATASETS.owner(known)))
