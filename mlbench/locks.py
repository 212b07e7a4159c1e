"""Locks between processes, released by the kernel when their holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlbench.errors import MlbenchError


@contextmanager
def locked(path: Path, wait: bool, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path`; without `wait`, MlbenchError(`busy`) if another process holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MlbenchError(busy) from None
        yield
    finally:
        os.close(handle)
