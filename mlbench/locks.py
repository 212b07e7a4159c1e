"""Locks between processes: the kernel's, and leases where the file system has none.

`flock` is let go by the kernel when its holder dies. Network drives may lack it (ENOSYS, ENOLCK, EOPNOTSUPP). There a
lock is the highest of the files ``<name>.lease-1``, ``-2``, ...: who creates the next number holds it, keeps the file's
time fresh, and marks it free at the end. A lease is stale where its holder, of this machine, is dead, or where its
time has stood still for `EXPIRY` seconds of the file system's own clock.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlbench.errors import MlbenchError

#: Errors of a file system that has no locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_TAKEN = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
#: Seconds between two signs of life of a lease, and how long it is believed without one.
HEARTBEAT = 10.0
EXPIRY = 90.0
#: Seconds between two attempts of a process that waits.
_PAUSE = 0.05
_FREE = {"free": True}


class Busy(MlbenchError):
    """Another process holds the lock."""


class _NoLocksError(Exception):
    """The file system has no locks."""


@contextmanager
def locked(path: Path, wait: bool | float, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path`, whose folder exists.

    Parameters
    ----------
    wait : until the lock is free, or at most so many seconds; without it, not at all.
    busy : begins the message of `Busy`, which goes on with the path and the holder.

    Raises
    ------
    Busy
        If another process holds it.
    MlbenchError
        At the end, if the lock is a lease and was taken over meanwhile: this process was not heard of for `EXPIRY` s.
    OSError
        Naming the path, where it cannot be written.
    """
    patience = wait if not isinstance(wait, bool) else float("inf") if wait else 0.0
    until = time.monotonic() + patience
    while (release := _acquire(path)) is None:
        if time.monotonic() >= until:
            raise Busy("; ".join(filter(None, [busy, f"{path} is held by {holder(path)}"])))
        time.sleep(_PAUSE)
    try:
        yield
    except BaseException:
        with suppress(MlbenchError):
            release()
        raise
    release()


def held(path: Path) -> bool:
    """Whether a process holds the lock file `path`; False where there is no such file. Nothing is written."""
    if not path.exists():
        return False
    if sys.platform == "win32":
        release = _acquire_on_windows(path)
        if release is not None:
            release()
        return release is None
    import fcntl

    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _flock(handle, fcntl.LOCK_SH, path):
            return False
    except _NoLocksError:
        leases = _leases(path)
        return bool(leases) and not _over(leases[-1][1])
    finally:
        os.close(handle)
    return True


def holder(path: Path) -> str:
    """Who holds the lock file `path`, for people, as far as the holder has said so."""
    try:
        leases = _leases(path)
        about = _read(leases[-1][1] if leases else path)
    except OSError:
        about = {}
    if not {"process", "host", "since"} <= about.keys():
        return "another process"
    return f"process {about['process']} on {about['host']}, since {about['since']}"


def _acquire(path: Path) -> Callable[[], None] | None:
    """Take the lock without waiting: what releases it, or None where another process holds it."""
    if sys.platform == "win32":
        return _acquire_on_windows(path)
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        taken = _flock(handle, fcntl.LOCK_EX, path)
    except OSError:
        os.close(handle)
        raise
    except _NoLocksError:
        os.close(handle)
        return _acquire_lease(path)
    if not taken or os.fstat(handle).st_nlink == 0:  # deleted meanwhile, and so no longer what others look at
        os.close(handle)
        return _acquire(path) if taken else None
    with suppress(OSError):  # the lock holds, whatever becomes of what it tells
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_about()).encode(), 0)
    return lambda: os.close(handle)


def _flock(handle: int, kind: int, path: Path) -> bool:
    """Lock an open file without waiting; False where another process holds it."""
    import fcntl

    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno in _NO_LOCKS:
            raise _NoLocksError from None
        raise OSError(error.errno, f"cannot lock it: {error.strerror}", str(path)) from None
    return True


def _acquire_on_windows(path: Path) -> Callable[[], None] | None:
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock.release


# Leases. A number is only ever freed for a higher one, so that whoever creates a file and finds none higher is alone:
# a process that was late and creates a number that was used before finds the higher one, and gives way.


def _acquire_lease(path: Path) -> Callable[[], None] | None:
    leases = _leases(path)
    number, last = leases[-1] if leases else (0, None)
    if last is not None and not _over(last):
        return None
    mine, about = _lease(path, number + 1), {**_about(), "token": secrets.token_hex(8)}
    try:
        handle = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o644)
    except FileExistsError:
        return None
    with os.fdopen(handle, "wb") as file:
        file.write(json.dumps(about).encode())
    if _leases(path)[-1][0] != number + 1:
        mine.unlink(missing_ok=True)
        return None
    for _, old in leases:
        old.unlink(missing_ok=True)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(OSError):  # gone, or the drive is away: `release` looks
                os.utime(mine)

    pulse = threading.Thread(target=beat, daemon=True)
    pulse.start()

    def release() -> None:
        ended.set()
        pulse.join()
        if _read(mine).get("token") != about["token"]:
            raise MlbenchError(f"{path}: this process was not heard of for {EXPIRY:.0f} s and lost the lock to another")
        mine.write_text(json.dumps(_FREE))

    return release


def _lease(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.lease-{number}")


def _leases(path: Path) -> list[tuple[int, Path]]:
    """Leases of `path` and their numbers, the highest last."""
    pattern = re.compile(re.escape(path.name) + r"\.lease-([0-9]+)")
    found = [
        (int(match[1]), path.with_name(name)) for name in os.listdir(path.parent) if (match := pattern.fullmatch(name))
    ]
    return sorted(found)


def _over(lease: Path) -> bool:
    """Whether the lease is free or stale."""
    about = _read(lease)
    if about == _FREE:
        return True
    if about.get("machine") == _machine() != "":
        return _started(about.get("process")) != about.get("started")
    try:
        return _now(lease.parent) - lease.stat().st_mtime > EXPIRY
    except FileNotFoundError:
        return False  # a higher one took its place


def _read(path: Path) -> dict[str, Any]:
    """What a lock or lease says of its holder; empty where it says nothing (yet)."""
    try:
        found = json.loads(path.read_bytes()[:4096])
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _about() -> dict[str, Any]:
    """This process, as leases tell of it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    process = os.getpid()
    return {
        "host": platform.node(),
        "process": process,
        "since": now,
        "machine": _machine(),
        "started": _started(process),
    }


def _machine() -> str:
    """Of all that can see this process by its number: this start of the system, and the container. "" if unknown."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: object) -> str:
    """When `process` of this machine was started, in the kernel's ticks; "" if there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def _now(folder: Path) -> float:
    """The file system's clock, which may differ from this machine's."""
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(handle, b".")
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)
