"""Label files read line by line: CSV and JSONL, each row with the line it stands in."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlbench.errors import DataError, nearest


def read_table(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of a CSV file with a header, or of a JSONL file (suffix ``.jsonl`` or ``.ndjson``).

    A byte-order mark, CRLF ends and blank lines are accepted. `columns` must all be there. DataError names file and
    line for anything malformed.
    """
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            yield from _read_jsonl(path, columns)
        else:
            yield from _read_csv(path, columns, delimiter)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error})") from None


def _read_csv(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        try:
            for fields in reader:
                if not fields:
                    continue
                if header is None:
                    header = [name.strip() for name in fields]
                    _check_header(path, header, columns)
                elif len(fields) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(fields)} fields, but the header has {len(header)}"
                    )
                else:
                    yield reader.line_num, dict(zip(header, (value.strip() for value in fields), strict=True))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: malformed ({error})") from None
        if header is None:
            raise DataError(f"{path}: empty, expected a header line with {', '.join(columns)}")


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    for name in columns:
        if name not in header:
            raise DataError(f"{path}: no column '{name}'.{nearest(name, header)} Columns: {', '.join(header)}")
        if header.count(name) > 1:
            raise DataError(f"{path}: column '{name}' stands twice in the header")


def _read_jsonl(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise DataError(f"{path}, line {line}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {line}: expected an object, found {type(row).__name__}")
            for name in columns:
                if name not in row:
                    raise DataError(f"{path}, line {line}: no key '{name}'.{nearest(name, row)}")
            yield line, row
