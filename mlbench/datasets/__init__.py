"""The catalogue: every data set by name, and people's own by their TOML description."""

from __future__ import annotations

import tomllib
from pathlib import Path

from mlbench.datasets.base import Dataset, Split
from mlbench.errors import UsageError, unknown

__all__ = ["Dataset", "Split", "list_datasets", "load_dataset"]

_BUILT_IN = {
    "scenes": "embedded: 7,000 pictures of handwritten digits on photographs, made at first use, no files needed",
    "voc2007": "PASCAL VOC 2007, trainval and test, from the official distribution (part of it: voc2007-partial)",
    "voc2012": "PASCAL VOC 2012, train and val as test, from the official distribution (part of it: voc2012-partial)",
}
_PARTIAL = ("voc2007-partial", "voc2012-partial")


def _descriptions() -> dict[str, Path]:
    """The shipped descriptions by data set name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "descriptions").glob("*.toml"))}


def list_datasets() -> dict[str, str]:
    """Name and one-line description of every data set that `load_dataset` knows; reads no data."""
    shipped = {
        name: str(tomllib.loads(path.read_text(encoding="utf-8"))["summary"]) for name, path in _descriptions().items()
    }
    return {**_BUILT_IN, **shipped}


def load_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name : a name of `list_datasets`, "voc2007-partial" or "voc2012-partial" for a copy that is not complete, or the
        path of a ``.toml`` description (see `mlbench.datasets.description.Description`).
    root : folder the data lie in. `scenes` needs none; a description of your own defaults to its own folder.

    Returns
    -------
    Dataset. UsageError for an unknown name or a missing root, DataError for data that are missing or broken.
    """
    shipped = _descriptions()
    if name == "scenes":
        from mlbench.datasets.scenes import load_scenes

        return load_scenes()
    if name.endswith(".toml"):
        from mlbench.datasets.files import load_files

        return load_files(name, Path(name).parent if root is None else root)
    if name not in (*_BUILT_IN, *_PARTIAL, *shipped):
        raise unknown("data set", name, (*_BUILT_IN, *_PARTIAL, *shipped))
    if name in shipped:
        from mlbench.datasets.files import load_files, read_description

        about = read_description(shipped[name])
        return load_files(shipped[name], _needed(root, name, f"'{about.labels or about.images}'"))
    from mlbench.datasets.voc import load_voc

    year = name.removeprefix("voc").removesuffix("-partial")
    return load_voc(year, _needed(root, name, f"VOCdevkit/VOC{year}"), partial=name in _PARTIAL)


def _needed(root: str | Path | None, name: str, inside: str) -> Path:
    if root is None:
        raise UsageError(f"data set '{name}' needs its files: pass --data-root FOLDER, the folder that holds {inside}")
    return Path(root)
