"""What the cache holds, and taking it away: every entry can be made again, but for what `GIVEN` names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlbench.errors import unknown
from mlbench.locks import Busy, held, locked
from mlbench.paths import cache_dir

#: Folders of the cache, and what they hold. A folder of another name is not ours to touch.
KINDS = {
    "pixels": "decoded and resized pictures",
    "features": "features of frozen backbones",
    "proposals": "region proposals",
    "files": "hashes of picture files",
    "records": "indexes of run stores",
    "published": "the published records, unpacked from a wheel",
    "checked": "badges of methods that passed `mlbench check`",
    "scenes": "the embedded data set",
    "packs": "archives of test scores, as they were fetched",
    "scores": "test scores of published runs, fetched",
    "vl_scores": "scores of vision-language models that runs were given",
}
#: Kinds that a person brought and no run makes again. They go only where they are named.
GIVEN = ("packs", "scores", "vl_scores")
#: Kinds whose entries are written under a lock of their own.
_LOCKED = ("pixels", "features", "proposals", "files")


@dataclass(frozen=True)
class Entry:
    """One thing in the cache: its files, their size in bytes, when they were last written (seconds since 1970)."""

    kind: str
    key: str
    files: tuple[Path, ...]
    bytes: int
    modified: float
    lock: Path | None

    @property
    def used(self) -> bool:
        """Whether a process holds its lock: it is being made."""
        return self.lock is not None and held(self.lock)


def entries(kinds: Sequence[str] = (), key: str = "") -> list[Entry]:
    """The entries of `kinds` [all] whose key begins with `key`, by kind, the largest first.

    UsageError for an unknown kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind of cache", kind, KINDS)
    found = [entry for entry in _entries() if (not kinds or entry.kind in kinds) and entry.key.startswith(key)]
    return sorted(found, key=lambda entry: (list(KINDS).index(entry.kind), -entry.bytes, entry.key))


def clear(found: Collection[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Delete entries; (those that are gone, those that are left because a process holds their lock).

    A process that has one of them open keeps what it has; whoever comes later makes it again.
    """
    gone: list[Entry] = []
    left: list[Entry] = []
    for entry in found:
        try:
            if entry.lock is None:
                _delete(entry.files)
            else:
                with locked(entry.lock, wait=False):
                    _delete(entry.files)
                    with suppress(OSError):
                        entry.lock.unlink()  # whoever waits for it finds it gone, and takes a new one
        except Busy:
            left.append(entry)
        else:
            gone.append(entry)
    return gone, left


def _delete(files: Collection[Path]) -> None:
    for path in files:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _entries() -> Iterator[Entry]:
    root = cache_dir()
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        kind = "scenes" if re.fullmatch(r"scenes-\w+", folder.name) else folder.name
        if kind not in KINDS or not folder.is_dir() or folder.is_symlink():
            continue
        by_key: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            # A sidecar, a half-written part and a lock belong to what they are named after.
            name = path.name if kind == "scenes" else path.name.lstrip(".").split(".")[0]
            by_key.setdefault(f"{folder.name}/{name}" if kind == "scenes" else name, []).append(path)
        for key, paths in by_key.items():
            files = tuple(path for path in paths if not re.search(r"\.lock(\.lease-\d+)?$", path.name))
            if files:
                sizes, times = zip(*map(_measure, files), strict=True)
                lock = folder / f"{key}.lock" if kind in _LOCKED else None
                yield Entry(kind, key, files, sum(sizes), max(times), lock)


def _measure(path: Path) -> tuple[int, float]:
    """Bytes and time of a file, or of all in a folder; nothing of what is gone meanwhile."""
    inside = [path, *path.rglob("*")] if path.is_dir() else [path]
    states = []
    for one in inside:
        with suppress(OSError):
            states.append(one.lstat())
    return sum(s.st_size for s in states), max((s.st_mtime for s in states), default=0.0)
