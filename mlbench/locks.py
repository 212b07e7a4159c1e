"""Locks between processes, released by the kernel when their holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mlbench.errors import MlbenchError


@contextmanager
def locked(path: Path, wait: bool, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path`; without `wait`, MlbenchError(`busy`) if another process holds it.

    The lock is `flock` where there is one and `LockFileEx` or its like on Windows (filelock, which torch needs too).
    """
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise MlbenchError(busy) from None
    try:
        yield
    finally:
        lock.release()
