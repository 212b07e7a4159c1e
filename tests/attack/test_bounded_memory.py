"""Small files that promise to become large ones, read by a process that is given little memory: refused in a line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from on_submissions import data_set, good_card, write

#: Address space beyond what the process has once it has imported everything, in MiB.
ROOM = 128
#: Reads what its arguments name, tells of each in a line, and its memory at the end.
READER = """
import resource, sys
from pathlib import Path
from mlbench.acquire.archives import read_whole
from mlbench.acquire.extract import extract
from mlbench.datasets import load_dataset
from mlbench.errors import MlbenchError
from mlbench.submit.card import read_card
from mlbench.foreign.readers import read_submission
import pyarrow.parquet, safetensors.numpy
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + ROOM * 2**20,) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    path = Path(name)
    if path.name.startswith("card"):
        calls = [lambda: read_card(path)]
    elif path.name.startswith("predictions"):
        calls = [lambda: read_submission(path, IDS, CLASSES)]
    elif path.name.startswith("labels"):
        calls = [lambda: load_dataset(str(path))]
    else:
        calls = [lambda: extract(path, path.parent / f"{path.name}.out"), lambda: read_whole(path)]
    for call in calls:
        try:
            call()
            print(path.name, "taken")
        except MlbenchError as error:
            print(path.name, "refused:", " ".join(str(error).split())[:300])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print("grown", grown // 1024)
""".replace("ROOM", str(ROOM))


def header(size: int, kind: bytes) -> bytes:
    entry = tarfile.TarInfo("x")
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


def packed_zeros(before: bytes, mebibytes: int) -> bytes:
    """gzip of `before` and many zeros, made in pieces."""
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=6) as file:
        file.write(before)
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
    return made.getvalue()


def zip_of(write_into: Callable[[zipfile.ZipFile], None]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        write_into(archive)
    return made.getvalue()


def lzma_zip() -> bytes:
    """A byte that LZMA wants a dictionary of 3 GiB for."""
    content = bytearray(zip_of(lambda archive: archive.writestr(zipfile.ZipInfo("x"), b"x", zipfile.ZIP_LZMA)))
    place = content.index(b"x\x09\x04\x05\x00") + 6  # name, then version, size and first byte of the properties
    content[place : place + 4] = (3 << 30).to_bytes(4, "little")
    return bytes(content)


def nested(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def files() -> dict[str, bytes]:
    """Hostile files by name, less than two megabytes each, of which most would take more than there is room for."""
    inner = zip_of(lambda archive: archive.writestr("0", bytes(140 << 20)))
    huge = {"scores": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}
    twice = "".join(f'k{n} = "{"x" * 20}"\n' for n in range(2000))
    return {
        "pax.tar.gz": packed_zeros(header(700 << 20, tarfile.XHDTYPE), 160),
        "global.tar.gz": packed_zeros(header(700 << 20, b"g"), 140),
        "name.tar.gz": packed_zeros(header(700 << 20, tarfile.GNUTYPE_LONGNAME), 140),
        "end.tar.gz": packed_zeros(header(0, tarfile.REGTYPE) + bytes(1024), 140),
        "file.tar.gz": packed_zeros(header(140 << 20, tarfile.REGTYPE), 141),
        "flat.zip": inner,
        "lzma.zip": lzma_zip(),
        "folders.zip": zip_of(lambda archive: [archive.writestr("d/" * n, b"") for n in range(100, 600)] and None),
        "predictions-promise.safetensors": nested(json.dumps(huge).encode()),
        "predictions-header.safetensors": (2**63).to_bytes(8, "little") + b"{}",
        "predictions-nested.safetensors": nested(b'{"scores":' * 90_000),
        "predictions-lists.safetensors": nested(b"[" * 900_000),
        "predictions-xz.csv": lzma.compress(bytes(100 << 20)),
        "predictions-bz2.csv": bz2.compress(bytes(100 << 20)),
        "card-dots.toml": b"a" + b".a" * 30_000 + b" = 1\n",
        "card-lists.toml": b"x = " + b"[" * 60_000,
        "card-tables.toml": b"x = " + b"{a = " * 12_000,
        "card-quoted.toml": b"['" + b"'.'" * 15_000 + b"']\n",
        "card-keys.toml": (twice + good_card()).encode()[:60_000],
        "labels-nested.toml": b'id = "x"\nimages = "p"\nlabels = ' + b"[" * 100_000,
    }


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc and limits")
def test_memory_stays_bounded_and_each_is_one_line(tmp_path: Path) -> None:
    """The honest files between them are taken, so the limit is known to let something through."""
    pytest.importorskip("pyarrow", reason="pyarrow, an extra, is not installed")
    hostile = files()
    for name, content in hostile.items():
        assert len(content) < 2 << 20
        (tmp_path / name).write_bytes(content)
    honest = [*write(tmp_path, "safetensors"), *write(tmp_path, "csv"), tmp_path / "honest.tar.gz"]
    honest[-1].write_bytes(packed_zeros(header(10 << 20, tarfile.REGTYPE), 11))
    _, data = data_set()
    reader = READER.replace("IDS", repr(tuple(data.splits["test"].ids))).replace("CLASSES", repr(tuple(data.classes)))
    # Allocation of many small areas by many threads would count as address space.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", reader, *map(str, sorted({*(tmp_path / name for name in hostile), *honest}))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, grown = done.stdout.splitlines()
    told = {line.split()[0]: line.split()[1] for line in lines}
    assert {name for name, outcome in told.items() if outcome == "refused:"} == hostile.keys()
    assert {name for name, outcome in told.items() if outcome == "taken"} == {path.name for path in honest}
    assert int(grown.split()[1]) < ROOM
