"""Parquet, decoded in a process of its own: the footer may lie about sizes, and a page may unfold a thousandfold.

The child has limited memory and time, and passes back nothing but a safetensors file. If it dies, the submission is
refused and nothing else happens.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from mlbench.errors import DataError, MlbenchError
from mlbench.foreign.files import short

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SECONDS = 300
#: The child's exit status where it says why on stderr; any other but 0 is a crash.
_REFUSED = 65
#: Longest id, on average, in bytes.
_LONGEST_ID = 1024
#: Address space of the child beside what the scores take: the libraries alone reserve about one GiB.
_SPARE_MEMORY = 2 * 2**30


def decode(data: bytes, rows: int, classes: int) -> tuple[dict[str, tuple[str, ...]], np.ndarray]:
    """Texts "ids" and "classes", and float64 scores [n, C], of a Parquet file of at most `rows` rows.

    The first column is ``id`` (text), the others are classes (float or double).

    Raises
    ------
    MlbenchError
        If pyarrow is not installed.
    DataError
        If it is no such file, or asks for more memory or time than its scores can need.
    """
    from safetensors.numpy import load

    if importlib.util.find_spec("pyarrow") is None:
        raise MlbenchError("reading .parquet needs pyarrow: pip install 'mlbench-multilabel[parquet]'")
    command = [sys.executable, "-m", "mlbench.foreign.parquet", str(rows), str(classes)]
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, input=data, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"reading it took more than {SECONDS} s") from None
    if done.returncode == _REFUSED:
        raise DataError(done.stderr.decode("utf-8", "replace").strip().splitlines()[-1])
    if done.returncode:
        raise DataError("reading it took more memory than its scores can need, or broke the reader")
    size = int.from_bytes(done.stdout[:8], "little")
    said = json.loads(done.stdout[8 : 8 + size])["__metadata__"]
    return {name: tuple(json.loads(said[name])) for name in ("ids", "classes")}, load(done.stdout)["scores"]


def _check(file: ParquetFile, rows: int, classes: int) -> list[str]:
    """The classes of a Parquet file whose footer promises what a submission may hold."""
    import pyarrow as pa

    footer, schema = file.metadata, file.schema_arrow
    if footer.num_rows != rows:
        raise DataError(f"{footer.num_rows:,} rows; the test part has {rows:,}")
    if len(schema) != classes + 1 or footer.num_columns != classes + 1:
        raise DataError(f"{len(schema)} columns: expected 'id' and {classes} classes")
    if schema.names[0] != "id" or not (
        pa.types.is_string(schema.types[0]) or pa.types.is_large_string(schema.types[0])
    ):
        raise DataError(f"first column {short(schema.names[0])} ({schema.types[0]}): expected 'id', of texts")
    for name, kind in zip(schema.names[1:], schema.types[1:], strict=True):
        if not (pa.types.is_float32(kind) or pa.types.is_float64(kind)):
            raise DataError(f"column {short(name)} is {short(str(kind))}: expected float or double")
    sizes = [footer.row_group(group).total_byte_size for group in range(footer.num_row_groups)]
    most = 2**20 + rows * (_LONGEST_ID + 16 * classes)
    if sum(sizes) > most or min(sizes, default=0) < 0:
        raise DataError(f"unfolds to {sum(sizes):,} bytes; these scores take at most {most:,}")
    return list(schema.names[1:])


def _convert(data: bytes, rows: int, classes: int) -> bytes:
    """The Parquet file `data` as a safetensors file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save

    try:
        file = pq.ParquetFile(
            io.BytesIO(data),
            thrift_string_size_limit=len(data),
            thrift_container_size_limit=10**6,
            pre_buffer=False,
            page_checksum_verification=True,  # of pages that have one
        )
        names = _check(file, rows, classes)
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a whole Parquet file: {short(str(error))}") from None
    for column in table.columns:
        if column.null_count:
            raise DataError(f"{column.null_count} empty fields: expected a value in every field")
    if table.column(0).nbytes > 2**20 + _LONGEST_ID * rows:
        raise DataError(f"its ids take {table.column(0).nbytes:,} bytes: at most {_LONGEST_ID} each, on average")
    ids: list[Any] = table.column(0).to_pylist()
    scores = np.empty((table.num_rows, classes), dtype=np.float64)
    for number in range(classes):
        scores[:, number] = table.column(number + 1).to_numpy()
    return save({"scores": scores}, {"ids": json.dumps(ids), "classes": json.dumps(names)})


def _main() -> None:
    rows, classes = int(sys.argv[1]), int(sys.argv[2])
    try:
        import resource

        most = _SPARE_MEMORY + 64 * rows * (classes + 64)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    except (ImportError, ValueError):  # Windows has no such module, macOS no limit on address space
        pass
    try:
        sys.stdout.buffer.write(_convert(sys.stdin.buffer.read(), rows, classes))
    except DataError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(_REFUSED)


if __name__ == "__main__":
    _main()
