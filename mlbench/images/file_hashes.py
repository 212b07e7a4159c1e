"""SHA-256 of many files, computed once and kept beside all that tells that a file is no longer what was hashed."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

import numpy as np

from mlbench.errors import DataError, MlbenchError
from mlbench.files import atomic_write, reason
from mlbench.locks import locked
from mlbench.paths import cache_dir
from mlbench.provenance import usable_cores
from mlbench.seeds import id_hashes

_MAGIC = b"mlbench file hashes 1\n"

#: What the system says of a file. Of these `ctime` and `inode` cannot be set by a program (`os.utime`, `cp -p`, tar).
_STATE = [("size", "<i8"), ("mtime", "<i8"), ("ctime", "<i8"), ("inode", "<u8"), ("device", "<u8")]
_FIELDS = [name for name, _ in _STATE]
_ENTRY = np.dtype([("name", "<u8"), *_STATE, ("hashed", "<i8"), ("sha256", "u1", 32)])

#: A file that was changed this shortly before it was hashed (ns) may be changed again within the same tick of the
#: file system's clock, and nothing would tell: it is hashed again next time.
_TICK = 2_000_000_000
_TRIES = 3
_AT_ONCE = 256  # files of one task of a thread
_BATCH = 8192  # files between two looks at the clock
_SAVE_SECONDS = 60.0
_TELL_SECONDS = 10.0

log = logging.getLogger(__name__)


def hash_files(root: Path, names: Sequence[str], advance: Callable[[int, int], None] | None = None) -> np.ndarray:
    """SHA-256 of the files `names` (relative to `root`): uint8 [N, 32].

    A file is read only if it is not in the index of `root` (in the user's cache, `index_file`), or if its size,
    modification time, change time, inode or device is another than when it was hashed. Files that are read are told
    of by ``advance(done, total)``, or in the log every ten seconds; what is done is kept every minute, so that an
    interrupted first hash goes on where it was. Of two processes one hashes and the other waits for it. Where the
    cache cannot be written the hashes are right, and computed again next time.

    Raises
    ------
    DataError
        Files that are missing, that cannot be read, or that are written while they are read.
    """
    keys, first, places = np.unique(id_hashes(names), return_index=True, return_inverse=True)
    paths = [os.path.join(root, names[row]) for row in first]
    for row in np.flatnonzero(first[places] != np.arange(len(names))).tolist():  # the same file again
        name, other = names[row], names[int(first[places[row]])]
        if name != other:
            raise DataError(f"{root}: the names {name!r} and {other!r} have the same hash; rename one of them")
    with ThreadPoolExecutor(2 * usable_cores()) as pool:  # the disk is waited for, too
        entries, pending = _known(root, keys, _states(paths, pool))
        if len(pending):
            with _alone(root):
                # Another process may have hashed them meanwhile.
                entries, pending = _known(root, keys, _states(paths, pool))
                _hash(root, paths, entries, pending, pool, advance or _log_progress(root))
    return entries["sha256"][places]


def count_unhashed(root: Path, names: Sequence[str]) -> int:
    """How many of the files `names` `hash_files` would have to read."""
    keys, first = np.unique(id_hashes(names), return_index=True)
    with ThreadPoolExecutor(2 * usable_cores()) as pool:
        states = _states([os.path.join(root, names[row]) for row in first], pool)
    return len(_known(root, keys, states)[1])


def file_sizes(root: Path, names: Sequence[str]) -> np.ndarray:
    """Size of each file in bytes, int64 [N]; -1 where there is none, or no regular file."""

    def look(start: int) -> list[int]:
        found = []
        for name in names[start : start + _AT_ONCE]:
            try:
                state = os.stat(os.path.join(root, name))
            except (OSError, ValueError):  # a NUL in a name is a ValueError
                found.append(-1)
            else:
                found.append(state.st_size if S_ISREG(state.st_mode) else -1)
        return found

    with ThreadPoolExecutor(2 * usable_cores()) as pool:
        return np.array([size for some in pool.map(look, range(0, len(names), _AT_ONCE)) for size in some], np.int64)


def index_file(root: Path) -> Path:
    """Where the hashes of the files below `root` are kept.

    The nodes of a cluster may share the cache and know the same folder as different devices: each has its own index,
    or they would hash by turns.
    """
    place = os.path.realpath(root)
    device = os.stat(place).st_dev if os.path.exists(place) else 0
    name = hashlib.sha256(os.fsencode(f"{place}\0{device}")).hexdigest()[:32]
    return cache_dir() / "files" / f"{name}.hashes"


def _state(found: os.stat_result) -> tuple[int, ...]:
    wide = 2**64 - 1
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & wide, found.st_dev & wide


def _states(paths: list[str], pool: ThreadPoolExecutor) -> np.ndarray:
    """The state of each file; DataError naming the first that are missing."""
    missing: list[str] = []

    def look(start: int) -> list[tuple[int, ...]]:
        found = []
        for path in paths[start : start + _AT_ONCE]:
            try:
                found.append(_state(os.stat(path)))
            except OSError:
                missing.append(path)
                found.append((0,) * len(_STATE))
        return found

    states = [np.array(some, _STATE) for some in pool.map(look, range(0, len(paths), _AT_ONCE))]
    if missing:
        shown = ", ".join(sorted(missing)[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{len(missing)} of {len(paths)} images missing: {shown}")
    return np.concatenate(states) if states else np.zeros(0, _STATE)


def _known(root: Path, keys: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An entry for each of `keys` (ascending), and the numbers of those that have to be hashed."""
    index = _read(index_file(root))
    entries = np.zeros(len(keys), _ENTRY)
    entries["name"] = keys
    for name in _FIELDS:
        entries[name] = states[name]
    if not len(index):
        return entries, np.arange(len(keys))
    at = np.minimum(np.searchsorted(index["name"], keys), len(index) - 1)
    before = index[at]
    same = np.logical_and.reduce([before[name] == entries[name] for name in ("name", *_FIELDS)])
    same &= before["ctime"] < before["hashed"] - _TICK
    entries[same] = before[same]
    return entries, np.flatnonzero(~same)


def _hash(
    root: Path,
    paths: list[str],
    entries: np.ndarray,
    pending: np.ndarray,
    pool: ThreadPoolExecutor,
    advance: Callable[[int, int], None],
) -> None:
    """Fill in `entries` those that are `pending`, and keep them."""
    saved, written = time.monotonic(), 0

    def keep(done: int) -> None:
        if done > written:
            with suppress(MlbenchError):  # a cache that cannot be written costs only time
                _write(index_file(root), entries[pending[written:done]])

    def some(rows: np.ndarray) -> None:
        for row in rows:
            entries[row] = (entries[row]["name"], *_hash_one(paths[row]))

    for start in range(0, len(pending), _BATCH):
        batch = pending[start : start + _BATCH]
        try:
            list(pool.map(some, np.array_split(batch, -(-len(batch) // _AT_ONCE))))
        except BaseException:
            keep(start)
            raise
        done = start + len(batch)
        advance(done, len(pending))
        if time.monotonic() - saved > _SAVE_SECONDS:
            keep(done)
            saved, written = time.monotonic(), done
    keep(len(pending))


def _hash_one(path: str) -> tuple[int, int, int, int, int, int, np.ndarray]:
    """State, time and SHA-256 of one file, all of the same content."""
    try:
        with open(path, "rb", buffering=0) as file:
            for _ in range(_TRIES):
                begun, before = time.time_ns(), _state(os.fstat(file.fileno()))
                digest = hashlib.sha256()
                while block := file.read(2**20):
                    digest.update(block)
                if before == _state(os.fstat(file.fileno())):
                    return *before, begun, np.frombuffer(digest.digest(), np.uint8)  # type: ignore[return-value]
                file.seek(0)
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}") from None
    raise DataError(f"{path}: is being written while it is read")


def _read(path: Path) -> np.ndarray:
    """The index at `path`, ascending by name; empty where there is none, or where it is not what was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return np.zeros(0, _ENTRY)
    head = len(_MAGIC) + 32
    body = memoryview(content)[head:]
    if content[:head] != _MAGIC + hashlib.sha256(body).digest() or len(body) % _ENTRY.itemsize:
        log.warning("%s: damaged; the images are hashed again", path)
        return np.zeros(0, _ENTRY)
    return np.frombuffer(body, _ENTRY)


def _write(path: Path, entries: np.ndarray) -> None:
    """Add `entries` to the index at `path`, in place of older ones of the same names."""
    both = np.concatenate([entries, _read(path)])
    _, kept = np.unique(both["name"], return_index=True)
    body = both[kept].tobytes()
    atomic_write(path, [_MAGIC, hashlib.sha256(body).digest(), body])


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock of the index; where there can be none, go on without: files are then hashed twice at worst."""
    path = index_file(root).with_suffix(".lock")
    with ExitStack() as held:
        with suppress(OSError, MlbenchError, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(path, wait=True))
        yield


def _log_progress(root: Path) -> Callable[[int, int], None]:
    """Tells in the log how far the hashing is, where it takes long."""
    begun = spoken = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal spoken
        now = time.monotonic()
        if done < total and now - spoken > _TELL_SECONDS:
            spoken = now
            rate = done / (now - begun)
            log.warning(
                "hashing the images in %s, once: %s of %s, %s a second, %s s left",
                root,
                f"{done:,}",
                f"{total:,}",
                f"{rate:,.0f}",
                f"{(total - done) / rate:,.0f}",
            )

    return tell
