"""A file somebody else made, taken into memory: a plain file, no link, no larger than what is asked for can be."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from mlbench.errors import DataError

#: How files begin that are never what a submission should be, whatever their names say.
_BEGINNINGS = {
    b"PK\x03\x04": "a zip archive (as .npz files are)",
    b"PK\x05\x06": "an empty zip archive",
    b"\x93NUMPY": "a NumPy file",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"\xfd7zXZ\x00": "an xz file",
    b"BZh": "a bzip2 file",
    **{bytes([0x80, protocol]): "a pickle, which is never loaded" for protocol in range(2, 6)},
}


def read_file(path: Path, limit: int, what: str) -> bytes:
    """The bytes of the plain file `path`, at most `limit` of them.

    Raises
    ------
    DataError
        If it is no plain file (a link, a folder, a pipe), empty, longer than `limit`, or begins as an archive, a
        pickle or a NumPy file does.
    """
    # Without O_NONBLOCK, opening a pipe waits for its other end.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if path.is_symlink():
        raise DataError(f"{path}: is a symbolic link: give the {what} file itself")
    try:
        with open(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"{path}: is no plain file: expected a {what} file")
            if found.st_size > limit:
                raise DataError(f"{path}: {found.st_size:,} bytes; a {what} file has at most {limit:,} here")
            data = file.read(min(limit, found.st_size) + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot read the {what} file: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into memory") from None
    if not data:
        raise DataError(f"{path}: is empty")
    if len(data) > min(limit, found.st_size):
        raise DataError(f"{path}: grew while it was read; a {what} file has at most {limit:,} bytes here")
    for beginning, name in _BEGINNINGS.items():
        if data.startswith(beginning):
            raise DataError(f"{path}: is {name}, not a {what} file")
    return data


#: Levels of tables and lists in what a submission may say; an honest one has three.
DEEPEST = 16
#: Dots in a line of TOML. A dotted key of n parts takes memory and time with n squared.
_MOST_DOTS = 512


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text; ValueError where it is none, or nested deeper than `DEEPEST`."""
    for number, line in enumerate(text.split("\n"), start=1):
        if (dots := line.count(".")) > _MOST_DOTS:
            raise ValueError(f"line {number}: {dots:,} dots, expected at most {_MOST_DOTS}")
    try:
        table = tomllib.loads(text)
    except (RecursionError, MemoryError):
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    return dict(_shallow(table))


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text; ValueError where it is none, or nested deeper than `DEEPEST`."""
    try:
        value = json.loads(raw.decode("utf-8"))
    except (RecursionError, MemoryError):
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    return _shallow(value)


def _shallow(value: Any) -> Any:
    """`value`; ValueError where its tables and lists are nested deeper than `DEEPEST`."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    return value


def short(value: object) -> str:
    """`value` as Python writes it, cut to 60 characters: safe to print, whatever it holds."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:50]}...{text[-7:]}"
