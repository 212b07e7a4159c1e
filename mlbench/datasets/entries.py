"""What the group ``mlbench.datasets`` registers: objects with ``load(root)``, and the two kinds that ours are."""

from __future__ import annotations

import pkgutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol

from mlbench.datasets.base import Dataset
from mlbench.errors import MlbenchError, UsageError


class Entry(Protocol):
    """A registered data set.

    It may also have ``load_partial(root)``, for a copy that is not complete: a data set ``NAME-partial``.
    """

    @property
    def summary(self) -> str:
        """One line for people."""
        ...

    def load(self, root: Path | None) -> Dataset:
        """The data set `NAME` from its files in folder `root`; UsageError where it needs them and `root` is None."""
        ...


@dataclass(frozen=True)
class Loader:
    """A function as a registered data set: what is left of its docstring's first line is the summary."""

    function: Callable[[Path | None], Dataset]

    @property
    def summary(self) -> str:
        return next(iter((self.function.__doc__ or "").strip().splitlines()), "")

    def load(self, root: Path | None) -> Dataset:
        return self.function(root)


@dataclass(frozen=True)
class Official:
    """An official distribution.

    Parameters
    ----------
    about : what it is, in words.
    inside : what the folder of its files holds, for the message about a missing one.
    reader : "module:function", imported when data are read; called with `edition` (if any), root, and whether a
        partial copy will do.
    """

    name: str
    about: str
    inside: str
    reader: str
    edition: str = ""

    @property
    def summary(self) -> str:
        return f"{self.about} (part of it: {self.name}-partial)"

    def load(self, root: Path | None) -> Dataset:
        return self._read(self.name, root, False)

    def load_partial(self, root: Path | None) -> Dataset:
        return self._read(f"{self.name}-partial", root, True)

    def _read(self, name: str, root: Path | None, partial: bool) -> Dataset:
        read: Any = pkgutil.resolve_name(self.reader)
        edition = (self.edition,) if self.edition else ()
        found: Dataset = read(*edition, needed(root, name, self.inside), partial)
        return found


@dataclass(frozen=True)
class Described:
    """A data set of files by a TOML description that a package ships.

    Parameters
    ----------
    package : the package that holds the description, as ``__package__``.
    file : its path there.
    """

    package: str
    file: str

    @property
    def _path(self) -> Traversable:
        return files(self.package) / self.file

    @property
    def summary(self) -> str:
        return str(tomllib.loads(self._path.read_text(encoding="utf-8")).get("summary", ""))

    def load(self, root: Path | None) -> Dataset:
        from mlbench.datasets.files import load_files, read_description

        with as_file(self._path) as path:
            about = read_description(path)
            return load_files(path, needed(root, about.id, f"'{about.labels or about.images}'"))


def as_entry(name: str, found: Any) -> Entry:
    """`found`, or the entry that a function is; MlbenchError where it is neither."""
    if callable(getattr(found, "load", None)) and not isinstance(found, type):
        return found  # type: ignore[no-any-return]
    if callable(found) and not isinstance(found, type):
        return Loader(found)
    raise MlbenchError("is neither a function load(root) nor an object that has one")


def summary_of(entry: Entry) -> str:
    """The one line about a registered data set; an entry may leave it out."""
    first = getattr(entry, "summary", None) or (type(entry).__doc__ or "").strip()
    return next(iter(str(first).splitlines()), "")


def needed(root: str | Path | None, name: str, inside: str) -> Path:
    """`root`, the folder with the files of data set `name`; UsageError says what it holds where there is none."""
    if root is None:
        raise UsageError(f"data set '{name}' needs its files: pass --data-root FOLDER, the folder that holds {inside}")
    return Path(root)
