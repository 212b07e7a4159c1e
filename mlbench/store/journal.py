"""Several files of one folder changed together: whoever reads sees all the old ones or all the new ones."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from mlbench.errors import DataError, MlbenchError
from mlbench.files import atomic_write, reason

#: A folder of this name holds files that replace those of the folder it lies in. It appears whole, by one renaming.
JOURNAL = ".merging"
_REMOVED = "removed.txt"
_STALE = 3600.0


def change_together(folder: Path, files: Mapping[str, bytes], removed: Iterable[str] = ()) -> None:
    """Write `files` (content by name) into `folder`, which is made if need be, and delete those `removed`.

    A process that is killed meanwhile leaves the folder as it was, or a journal that `overlaid` reads as if it were
    done, and that `finish` completes.
    """
    finish(folder)
    for old in folder.glob(f"{JOURNAL}.*"):  # of a process that was killed before its journal was whole
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE:
                shutil.rmtree(old)
    growing = folder / f"{JOURNAL}.{os.getpid()}.{secrets.token_hex(8)}"
    try:
        for name, content in files.items():
            atomic_write(growing / name, content)
        gone = "".join(f"{name}\n" for name in removed)
        atomic_write(growing / _REMOVED, gone.encode())
        os.rename(growing, folder / JOURNAL)
    except OSError as error:
        raise MlbenchError(f"{folder}: cannot write: {reason(error)}") from None
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    finish(folder)


def finish(folder: Path) -> None:
    """Complete what a process that was killed had begun in `folder`, if there is anything."""
    journal = folder / JOURNAL
    if not journal.is_dir():
        return
    try:
        new, gone = _read(journal)
        for path in new:
            os.replace(path, folder / path.name)
        for name in gone:
            (folder / name).unlink(missing_ok=True)
        (journal / _REMOVED).unlink(missing_ok=True)
        journal.rmdir()
    except OSError as error:
        raise MlbenchError(f"{folder}: cannot complete the changes in {JOURNAL}: {reason(error)}") from None


def overlaid(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """`paths` of `folder` as they will be when its journal is done, sorted by name."""
    by_name = {path.name: path for path in paths if path.name != JOURNAL}
    journal = folder / JOURNAL
    if journal.is_dir():
        new, gone = _read(journal)
        by_name |= {path.name: path for path in new}
        by_name = {name: path for name, path in by_name.items() if name not in gone}
    return [by_name[name] for name in sorted(by_name)]


def _read(journal: Path) -> tuple[list[Path], set[str]]:
    """The new files, and the names of those removed."""
    try:
        gone = set((journal / _REMOVED).read_text(encoding="utf-8").split("\n")) - {""}
    except FileNotFoundError:  # the last step but one of `finish`
        gone = set()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{journal}: cannot read the journal: {error}") from None
    if any(Path(name).name != name for name in gone):
        raise DataError(f"{journal / _REMOVED}: names a file outside its folder")
    return [path for path in journal.iterdir() if path.name != _REMOVED], gone
