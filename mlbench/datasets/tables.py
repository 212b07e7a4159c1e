"""Label files read line by line: CSV, JSONL and Parquet, each row with the line it stands in."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlbench.datasets.reading import open_text, parse_json
from mlbench.errors import DataError, MlbenchError, nearest

#: Longest field, in characters: what people keep beside their labels (outlines, say) may be long.
LONGEST_FIELD = 2**26

Used = Callable[[str], bool]


def read_table(
    path: Path, columns: Sequence[str], delimiter: str = ",", used: Used = lambda name: False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of a CSV file with a header, a JSONL (``.jsonl``, ``.ndjson``) or a Parquet file.

    A byte-order mark, CRLF ends and blank lines are accepted. `columns` must all be there; they, and the columns that
    are `used`, may stand in the header once only. DataError names file and line for anything malformed.
    """
    readers = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix.lower() in readers:
        yield from readers[path.suffix.lower()](path, columns, used)
    else:
        yield from _read_csv(path, columns, delimiter, used)


def _read_csv(path: Path, columns: Sequence[str], delimiter: str, used: Used) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(LONGEST_FIELD)  # of the whole process; Python's own limit is 128 KiB
    with open_text(path, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        try:
            for fields in reader:
                if not fields:
                    continue
                if header is None:
                    header = [name.strip() for name in fields]
                    _check_header(path, header, columns, used)
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


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str], used: Used) -> None:
    for name in columns:
        if name not in header:
            hint = nearest(name, header)
            other = next((d for d in (";", "\t", ",", "|") if len(header) == 1 and name in header[0].split(d)), None)
            if other is not None:
                shown = "\\t" if other == "\t" else other
                hint = f' Its fields seem to be parted otherwise: delimiter = "{shown}" says so.'
            raise DataError(f"{path}: no column '{name}'.{hint} Columns: {', '.join(header)}")
    for name in dict.fromkeys(header):
        if header.count(name) > 1 and (name in columns or used(name)):
            places = [str(place) for place, other in enumerate(header, start=1) if other == name]
            raise DataError(
                f"{path}: column '{name}' stands twice in the header: as columns {' and '.join(places)}; rename or "
                "delete one"
            )


def _read_jsonl(path: Path, columns: Sequence[str], used: Used) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_text(path) as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            row = parse_json(text, f"{path}, line {line}")
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {line}: expected an object, found {type(row).__name__}")
            for name in columns:
                if name not in row:
                    raise DataError(f"{path}, line {line}: no key '{name}'.{nearest(name, row)}")
            yield line, row


def _read_parquet(path: Path, columns: Sequence[str], used: Used) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MlbenchError(
            f"{path}: reading .parquet needs pyarrow: pip install 'mlbench-multilabel[parquet]'"
        ) from None
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    broken = (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError, RecursionError)
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_header(path, file.schema_arrow.names, columns, used)
            line = 0
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    line += 1
                    yield line, row
    except broken as error:
        raise DataError(f"{path}: not a whole Parquet file ({' '.join(str(error).split())[:200]})") from None
