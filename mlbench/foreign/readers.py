"""Readers of submitted scores. Each knows beforehand which ids and classes there can be, and stops at the first fault.

No format here can hold code: safetensors is a JSON header and raw numbers, CSV is text, and Parquet is decoded in a
process of its own with limited memory (`mlbench.foreign.parquet`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.errors import DataError, UsageError, nearest
from mlbench.foreign.files import parse_json, read_file, short

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)
#: Longest text of one number: all digits of a float64 and room for a sign and an exponent.
_LONGEST_NUMBER = 40


@dataclass(frozen=True)
class Submitted:
    """Scores [n, C] (float32 or float64) as they stand in a file, in its order; `says`: what its metadata holds."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    scores: np.ndarray
    says: dict[str, str] = field(default_factory=dict)


def read_submission(path: Path, ids: Sequence[str], classes: Sequence[str]) -> tuple[Submitted, bytes]:
    """`read_scores` of predictions."""
    return read_scores(path, ids, classes, (".safetensors", ".csv", ".parquet"), "predictions", "test samples")


def read_scores(
    path: Path, ids: Sequence[str], classes: Sequence[str], endings: Sequence[str], what: str, samples: str
) -> tuple[Submitted, bytes]:
    """Read the scores at `path`, which should be of `ids` and `classes`. Returns them and the bytes of the file.

    `endings` are those of the formats allowed; `what` the file holds, and whose `samples`, is said in errors.

    Raises
    ------
    UsageError
        For another ending.
    DataError
        Naming the file and what is wrong with it.
    """
    readers: dict[str, Callable[..., Submitted]] = {
        ".safetensors": _read_safetensors,
        ".csv": partial(_read_csv, samples=samples),
        ".parquet": _read_parquet,
    }
    if path.suffix not in endings:
        known = ", ".join(endings)
        raise UsageError(f"{path}: {what} end in {known}, not {short(path.suffix)}.{nearest(path.suffix, endings)}")
    data = read_file(path, largest_file(ids, classes), path.suffix)
    try:
        return readers[path.suffix](data, ids, classes), data
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except MemoryError:
        raise DataError(f"{path}: its {len(data):,} bytes do not fit into memory") from None


def largest_file(ids: Sequence[str], classes: Sequence[str]) -> int:
    """Bytes that no honest file of these ids and classes exceeds, in any of the formats."""
    names = sum(len(name.encode()) for name in (*ids, *classes))
    # A character may be written "\\uXXXX" in JSON, and an mlbench file holds ids twice (its groups).
    return 2**20 + (_LONGEST_NUMBER + 2) * len(ids) * len(classes) + 16 * names + 64 * (len(ids) + len(classes))


# safetensors


def _read_safetensors(data: bytes, ids: Sequence[str], classes: Sequence[str]) -> Submitted:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise DataError(f"cut short or no safetensors file: a header of {size:,} bytes in a file of {len(data):,}")
    header = _json(data[8 : 8 + size], "the header")
    if not isinstance(header, dict):
        raise DataError("the header is no JSON object")
    says = header.pop("__metadata__", {})
    if not isinstance(says, dict) or not all(isinstance(value, str) for value in says.values()):
        raise DataError("the metadata is no table of texts")
    if set(header) != {"scores"} or not isinstance(header["scores"], dict):
        raise DataError(f"tensors {short(sorted(header))}: expected one, 'scores'")
    kind = header["scores"].get("dtype")
    if kind not in ("F32", "F64"):
        raise DataError(f"scores are {short(kind)}: expected F32 or F64 (16-bit numbers tie what the model told apart)")
    try:
        scores = load(data)["scores"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"not a whole safetensors file: {short(str(error))}") from None
    named = {name: _texts(says, name) for name in ("ids", "classes")}
    if scores.shape != (len(named["ids"]), len(named["classes"])):
        raise DataError(
            f"scores have shape {short(list(scores.shape))}, but there are {len(named['ids'])} ids and "
            f"{len(named['classes'])} classes in the metadata"
        )
    return Submitted(named["ids"], named["classes"], scores, says)


def _texts(says: dict[str, str], name: str) -> tuple[str, ...]:
    if name not in says:
        raise DataError(f"metadata '{name}' is missing: expected a JSON list of texts")
    found = _json(says[name].encode("utf-8", "surrogatepass"), f"metadata '{name}'")
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise DataError(f"metadata '{name}' is no JSON list of texts")
    return tuple(found)


def _json(raw: bytes, what: str) -> Any:
    try:
        return parse_json(raw)
    except ValueError as error:
        raise DataError(f"{what} is not JSON: {short(str(error))}") from None


# CSV


def _read_csv(data: bytes, ids: Sequence[str], classes: Sequence[str], samples: str) -> Submitted:
    """First row: ``id`` and the classes; then a row a sample. Lines end in LF or CRLF."""
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise DataError("begins with a byte order mark: save it as plain UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line}: not UTF-8 (byte {error.start})") from None
    longest = 4 * max(len(name) for name in (*ids, *classes)) + (_LONGEST_NUMBER + 2) * len(classes)
    longest = max(longest, sum(2 * len(name) + 3 for name in classes)) + 64
    rows = _rows(text, longest)
    header = next(rows)[1]
    if header[0] != "id":
        raise DataError(f"line 1: the first column is {short(header[0])}: expected 'id', then the classes")
    width = len(header) - 1
    if width == 0:
        raise DataError("line 1: no class follows the column 'id'")
    found: list[str] = []
    scores = np.empty((len(ids), width), dtype=np.float64)
    for line, row in rows:
        if len(found) == len(ids):
            raise DataError(f"line {line}: more rows than the {len(ids)} {samples}")
        if len(row) != len(header):
            raise DataError(f"line {line}: {len(row)} fields, the header has {len(header)}")
        for column, value in enumerate(row[1:]):
            if len(value) > _LONGEST_NUMBER or not _NUMBER.fullmatch(value):
                raise DataError(f"line {line}, class {short(header[column + 1])}: {short(value)} is no finite number")
        scores[len(found)] = [float(value) for value in row[1:]]
        found.append(row[0])
    return Submitted(tuple(found), tuple(header[1:]), scores[: len(found)])


def _rows(text: str, longest: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row; DataError for a line that is too long, or quotes that do not close."""
    start = 0

    def lines() -> Iterator[str]:
        nonlocal start
        while start < len(text):
            stop = text.find("\n", start, start + longest + 2) + 1
            if not stop and len(text) - start > longest:
                raise DataError(f"line {reader.line_num + 1}: longer than {longest} characters, the most there can be")
            stop = stop or len(text)
            line, start = text[start:stop], stop
            yield line

    reader = csv.reader(lines(), strict=True)
    try:
        for row in reader:
            if not row:
                raise DataError(f"line {reader.line_num}: is empty")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"line {reader.line_num}: not CSV: {error}") from None


# Parquet


def _read_parquet(data: bytes, ids: Sequence[str], classes: Sequence[str]) -> Submitted:
    from mlbench.foreign.parquet import decode

    named, scores = decode(data, len(ids), len(classes))
    return Submitted(named["ids"], named["classes"], scores)
