"""Where the official files of each data set come from, read from ``sources.toml``."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlbench.errors import DataError, UsageError

SOURCES = Path(__file__).parent / "sources.toml"


@dataclass(frozen=True)
class SourceFile:
    """One archive of a distribution.

    Parameters
    ----------
    url : official address. None where a person must fetch it.
    name : its file name in ``ROOT/downloads``.
    holds : paths under the root, of which one is there once the archive is unpacked; the last part may have a ``*``.
    size : bytes, None where no public page gives them.
    checksums : ``md5`` or ``sha256`` to hex digits, as far as public pages give them; `checksum_from` says which page.
    pictures : the archive has pictures alone.
    folder : where the content belongs, also if the archive has no such folder at its top.
    """

    name: str
    holds: tuple[str, ...]
    url: str | None = None
    size: int | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    checksum_from: str = ""
    pictures: bool = False
    folder: str = ""

    def address(self, mirror: str | None) -> str:
        """Its URL: the official one, or the file of the same name under `mirror`."""
        if self.url is None:
            raise UsageError(f"{self.name} has no public address")
        return f"{mirror.rstrip('/')}/{self.name}" if mirror else self.url

    def present(self, root: Path) -> bool:
        """Whether its content lies in `root`."""
        return any(_exists(root / path) for path in self.holds)


@dataclass(frozen=True)
class ByHand:
    """What a person must fetch: what it is, how to get it, and the `file` it comes as (or the folder, if not one)."""

    what: str
    how: str
    file: SourceFile
    is_archive: bool


@dataclass(frozen=True)
class Source:
    """The official distribution of a data set."""

    name: str
    title: str
    page: str
    licence: str
    account: str
    files: tuple[SourceFile, ...]
    by_hand: tuple[ByHand, ...]

    @property
    def size(self) -> int | None:
        """Bytes of all files to download together; None if one of them is unknown."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def load_sources() -> dict[str, Source]:
    """All known distributions by data set name."""
    tables = tomllib.loads(SOURCES.read_text(encoding="utf-8"))
    return {name: _source(name, table) for name, table in tables.items()}


def find_source(name: str) -> Source | None:
    """The distribution that a data set is read from, ``NAME-partial`` and ``NAME-all`` too; None if none is known."""
    return load_sources().get(name.removesuffix("-partial").removesuffix("-all"))


def missing_by_hand(source: Source, root: Path, pictures: bool) -> list[ByHand]:
    """What a person still has to fetch into `root`."""
    wanted = [item for item in source.by_hand if pictures or not item.file.pictures]
    placed = root / "downloads"
    return [
        item
        for item in wanted
        if not item.file.present(root) and not (item.is_archive and (placed / item.file.name).is_file())
    ]


def tell_by_hand(source: Source, items: list[ByHand], root: Path) -> DataError:
    """The error that says what to fetch and where to put it."""
    lines = [
        f"{item.what} ({item.how}): put it into {root / 'downloads' if item.is_archive else root}"
        + ("" if item.is_archive else f", so that {item.file.holds[0]} is there")
        for item in items
    ]
    account = f" {source.account}." if source.account else ""
    return DataError(
        f"{source.title}: to be fetched by hand from {source.page}.{account} Missing: {'; '.join(lines)}. "
        "Then run the command again"
    )


def _exists(path: Path) -> bool:
    if "*" not in path.name:
        return path.exists()
    if not path.parent.is_dir():
        return False
    with os.scandir(path.parent) as entries:  # stops at the first, also in a folder of millions
        return any(fnmatchcase(entry.name, path.name) for entry in entries)


def _source(name: str, table: Mapping[str, Any]) -> Source:
    files = tuple(
        _file(unquote(urlsplit(entry["url"]).path.rpartition("/")[2]), entry) for entry in table.get("files", ())
    )
    by_hand = tuple(
        ByHand(entry["what"], entry["how"], _file(entry.get("archive", entry["holds"][0]), entry), "archive" in entry)
        for entry in table.get("by_hand", ())
    )
    return Source(name, table["title"], table["page"], table["licence"], table.get("account", ""), files, by_hand)


def _file(name: str, entry: Mapping[str, Any]) -> SourceFile:
    kept = {key: entry[key] for key in ("url", "size", "checksum_from", "pictures", "folder") if key in entry}
    checksums = {key: entry[key] for key in ("sha256", "md5") if key in entry}
    return SourceFile(name, tuple(entry["holds"]), checksums=checksums, **kept)
