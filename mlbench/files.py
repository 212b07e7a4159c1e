"""Files that are whole or not there, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlbench.errors import DataError, MlbenchError

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def atomic_write(path: str | Path, data: bytes | Iterable[Any], *, replace: bool = True) -> bool:
    """Write `data` (or the buffers it gives, one by one) so that a reader sees the old file or the whole new one, also
    after a crash.

    Returns False, with nothing changed, if `path` exists and `replace` is False.

    Raises
    ------
    MlbenchError
        Naming the folder and the reason (read-only, disk full); no part of the file is left behind.
    """
    path = Path(path)
    buffers: Iterable[Any] = [data] if isinstance(data, bytes) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.writelines(buffers)
                file.flush()
                os.fsync(file.fileno())
            if not replace and not _create(temporary, path):
                return False
            if replace:
                os.replace(temporary, path)
        finally:
            with suppress(OSError):
                os.unlink(temporary)
        _sync_folder(path.parent)
    except OSError as error:
        raise MlbenchError(f"{path.parent}: cannot write {path.name}: {reason(error)}") from None
    return True


def link_files(source: Path, target: Path, without: Iterable[str] = ()) -> None:
    """Give the files below `source` a second name below `target` (a copy where the system has no hard links).

    Both are the same file until one is written anew, which is always by renaming (`atomic_write`).
    """
    try:
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source)
            if path.is_dir() or name.as_posix() in without or path.suffix == ".tmp":
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            temporary = (target / name).with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
            try:
                os.link(path, temporary)
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS | {errno.EXDEV}:
                    raise
                shutil.copyfile(path, temporary)
            os.replace(temporary, target / name)
    except OSError as error:
        raise MlbenchError(f"{target}: cannot write: {reason(error)}") from None


def remove_folder(folder: Path) -> None:
    """Delete a run's folder; its record goes first, so that what a kill leaves is no finished run."""
    try:
        (folder / "record.json").unlink(missing_ok=True)
        shutil.rmtree(folder)
    except OSError as error:
        raise MlbenchError(f"{folder}: cannot delete: {reason(error)}") from None


def file_blocks(path: str | Path, size: int = 2**24) -> Iterator[bytes]:
    """A file's bytes, `size` at a time."""
    with open(path, "rb") as file:
        while block := file.read(size):
            yield block


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits; DataError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}") from None


def reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _create(temporary: Path, path: Path) -> bool:
    """Give `temporary` the name `path` unless that is taken; of two processes exactly one gets True."""
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    # Without hard links a moment remains between looking and renaming; files stay whole all the same.
    if os.path.lexists(path):
        return False
    os.replace(temporary, path)
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last over a power cut, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
