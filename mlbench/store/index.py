"""What the records of a folder say, kept in SQLite, so that files that have not changed are not checked again.

The index is a cache: it may be deleted at any time and is made anew when this code or the schema changes. Where it
cannot be kept (a read-only cache, a damaged file) records are checked one by one as if there were none.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlbench.errors import DataError
from mlbench.files import reason
from mlbench.paths import cache_dir

#: A file that changed less than this many seconds before it was checked may change again within one tick of its clock.
_TICK = 2.0
_TABLE = "CREATE TABLE IF NOT EXISTS records (place TEXT PRIMARY KEY, stamp TEXT NOT NULL, entry TEXT NOT NULL)"

#: Size, times of modification and change (which cannot be set) and number of a file: what moves when its content does.
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class Entry:
    """One record file as it was when last checked.

    problem : why the record cannot be used, "" if it can. facts : what is kept of a record that can.
    """

    path: Path
    stamp: Stamp
    problem: str
    facts: dict[str, Any]


def entries(root: Path, paths: Iterable[Path], check: Callable[[Path], dict[str, Any]]) -> list[Entry]:
    """An `Entry` for each of `paths`, record files of the folder `root`, in their order.

    `check` reads and checks a record and returns the facts to keep; its DataError is the entry's problem. It is called
    only for files that are new or have changed since they were last checked.
    """
    paths = list(paths)
    with _opened(root) as index:
        known = _known(index)
        found = [_entry(path, known.get(_place(root, path)), check) for path in paths]
        _keep(index, root, found, known)
    return found


def read_text(entry: Entry) -> bytes | None:
    """The bytes of a record that was checked; None if its file is no longer the one that was."""
    try:
        with open(entry.path, "rb") as file:
            return file.read() if _stamp(os.fstat(file.fileno())) == entry.stamp else None
    except OSError:
        return None


def _entry(path: Path, row: tuple[str, str] | None, check: Callable[[Path], dict[str, Any]]) -> Entry:
    try:
        stamp = _stamp(os.stat(path))
    except OSError as error:
        return Entry(path, (0, 0, 0, 0), f"{path}: cannot read the record: {reason(error)}", {})
    if row is not None and row[0] == _text(stamp):
        kept = json.loads(row[1])
        return Entry(path, stamp, kept["problem"].replace("\0", str(path)), kept["facts"])
    try:
        return Entry(path, stamp, "", check(path))
    except DataError as error:
        return Entry(path, stamp, str(error), {})


def _known(index: sqlite3.Connection | None) -> dict[str, tuple[str, str]]:
    if index is None:
        return {}
    with suppress(sqlite3.Error):
        return {place: (stamp, entry) for place, stamp, entry in index.execute("SELECT * FROM records")}
    return {}


def _keep(
    index: sqlite3.Connection | None, root: Path, found: Sequence[Entry], known: dict[str, tuple[str, str]]
) -> None:
    """Bring the index to what was found; a file that may still change within a tick is not kept."""
    if index is None:
        return
    settled = time.time_ns() - int(_TICK * 1e9)
    rows, here = [], set()
    for entry in found:
        place, stamp = _place(root, entry.path), _text(entry.stamp)
        here.add(place)
        if place in known and known[place][0] == stamp:
            continue
        if 0 < entry.stamp[2] < settled:
            kept = {"problem": entry.problem.replace(str(entry.path), "\0"), "facts": entry.facts}
            rows.append((place, stamp, json.dumps(kept, separators=(",", ":"))))
    gone = [(place,) for place in known if place not in here]
    if not rows and not gone:
        return
    with suppress(sqlite3.Error), index:
        index.executemany("DELETE FROM records WHERE place = ?", gone)
        index.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", rows)


@contextmanager
def _opened(root: Path) -> Iterator[sqlite3.Connection | None]:
    """The index of the records in `root` while in use; None where none can be kept."""
    connection = _connect(_file(root))
    if connection is None:
        yield None
        return
    with closing(connection):
        yield connection


def _connect(file: Path) -> sqlite3.Connection | None:
    for attempt in (1, 2):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(file, timeout=5)
            try:
                connection.execute(_TABLE)
            except sqlite3.Error:
                connection.close()
                raise
            return connection
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or attempt == 2:  # busy, full, read-only
                return None
            with suppress(OSError):
                file.unlink()  # no database, or a damaged one
        except OSError:
            return None
    return None


def _file(root: Path) -> Path:
    name = hashlib.sha256(f"{root.resolve()}\0{_version()}".encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return cache_dir() / "records" / f"{name}.sqlite"


@cache
def _version() -> str:
    """Changes with the code and the schema by which records are checked."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), here.parent / "schema" / "record.json"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def _place(root: Path, path: Path) -> str:
    return str(path)[len(str(root)) :]  # os.path.relpath takes a quarter of a second for 10,000


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _text(stamp: Stamp) -> str:
    return " ".join(map(str, stamp))
