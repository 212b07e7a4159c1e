"""Text that others wrote: plain files only, JSON without surprises, names that stay inside their folder."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from mlbench.errors import DataError, visible

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
#: Numbers above this are no pixels, and may be too large for a float.
_LARGEST = 1e15


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a UTF-8 text file, a byte-order mark left out.

    DataError if it is missing, no plain file (a pipe would be waited for without end), not readable or, while it is
    read within the context, not UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: no plain file (a folder, a pipe or a device)")
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}): save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror or error})") from None


def read_text(path: Path) -> str:
    """The text of a file; DataError as `open_text`."""
    with open_text(path) as file:
        return file.read()


def read_json(path: Path, keep: Collection[str] | None = None) -> Any:
    """The content of a JSON file, of whose objects only the keys `keep` are held (None: all).

    DataError with file, line and column for anything malformed, and for what `parse_json` refuses.
    """
    text = read_text(path)
    try:
        return _checked(text, keep)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: broken JSON ({_why(error)})") from None


def parse_json(text: str, where: str) -> Any:
    """The value of one JSON text.

    DataError, beginning with `where`, if it is malformed, names a key twice in one object, holds half a character (a
    lone surrogate), a number of thousands of digits, or is nested too deeply.
    """
    try:
        return _checked(text, None)
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{where}: not JSON ({_why(error)})") from None


def entries_of(content: dict[str, Any], key: str, path: Path, kinds: dict[str, Any]) -> list[dict[str, Any]]:
    """The list `key` of a JSON object read from `path`; DataError unless each entry holds values of `kinds`."""
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: no list '{key}', or an empty one")
    for position, entry in enumerate(entries):
        for name, kind in kinds.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
                found = repr(entry.get(name)) if isinstance(entry, dict) else type(entry).__name__
                raise DataError(f"{path}: entry {position} of '{key}': '{name}' is {found}")
    return entries


def _checked(text: str, keep: Collection[str] | None) -> Any:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            places = [str(place) for place, name in enumerate(names, start=1) if name == twice]
            raise ValueError(f"key '{twice}' stands twice in one object: entries {' and '.join(places)}")
        return found if keep is None else {name: value for name, value in found.items() if name in keep}

    value = json.loads(text, object_pairs_hook=build)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # raises for half a character
    return value


def _why(error: BaseException) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"half a character: \\u{ord(error.object[error.start]):04x} without its other half"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) or type(error).__name__


def file_name(name: str, where: str) -> str:
    """`name` in its plainest spelling ("./a//b.jpg" is "a/b.jpg").

    DataError, beginning with `where`, unless it is the name of a file below its folder: no absolute path, no ``..``, no
    control characters. Every name that a label file gives comes through here before anything is opened.
    """
    plainest = PurePosixPath(name).as_posix()
    leaves = name.startswith(("/", "\\")) or _DRIVE.match(name) or (".." in name and ".." in re.split(r"[\\/]", name))
    if not name.strip() or plainest == "." or leaves or _CONTROL.search(name):
        raise DataError(f"{where}: '{visible(name)}' is no file name relative to the image folder")
    return plainest


def file_names(names: Sequence[str], where: str) -> list[str]:
    """Each of `names` through `file_name`; DataError if two of them are the same file."""
    met: dict[str, str] = {}
    for name in names:
        plainest = file_name(name, where)
        if plainest in met:
            raise DataError(f"{where}: file '{name}' is listed twice{_as(met[plainest], name)}")
        met[plainest] = name
    return list(met)


def _as(first: str, second: str) -> str:
    return "" if first == second else f", first as '{first}'"


def holds_control(text: str) -> bool:
    """Whether `text` holds characters that are none to be read: controls, line ends, half characters."""
    return _CONTROL.search(text) is not None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number of sensible size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST
