"""What stands beside a cached array: hashes of its chunks, of the whole, and of the files it was made from."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.errors import DataError
from mlbench.store.files import atomic_write

FORMAT = 1
#: Chunks hashed again whenever an array is opened.
SAMPLED = 4


@dataclass(frozen=True)
class Chunk:
    """Rows `start` to `stop` of an array: SHA-256 of their bytes, and of each row's source file (none: not a file).

    `hashed_at` : when the sources were hashed, in seconds since 1970; a file modified later is looked at again.
    """

    start: int
    stop: int
    sha256: str
    hashed_at: float
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sidecar:
    """Hashes of one cached array.

    sha256 : of the whole array's bytes in C order. origin : of the array it was computed from, "" if none or unknown.
    completed : True where the hashes were taken later than the build, from an array that had no sidecar.
    about : what decided the content (resize rule, versions, ...).
    """

    shape: tuple[int, ...]
    dtype: str
    sha256: str
    chunks: tuple[Chunk, ...]
    origin: str = ""
    completed: bool = False
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """SHA-256 of each row's source file; empty if the array was not made from files."""
        return [digest for chunk in self.chunks for digest in chunk.sources]


def sidecar_file(path: Path) -> Path:
    return path.with_suffix(".json")


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Keep `sidecar` beside the array at `path`."""
    content = {"format": FORMAT, **asdict(sidecar)}
    atomic_write(sidecar_file(path), json.dumps(content, separators=(",", ":")).encode())


def read_sidecar(path: Path) -> Sidecar | None:
    """The sidecar of the array at `path`, None if it has none; DataError if it is broken or contradicts itself."""
    file = sidecar_file(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        chunks = tuple(parse_chunk(chunk) for chunk in content.pop("chunks"))
        sidecar = Sidecar(shape=tuple(content.pop("shape")), chunks=chunks, **content)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{file}: damaged ({error}); delete it and {path.name}, which is built anew") from None
    if not _covered(chunks, sidecar.shape[0]):
        raise DataError(f"{file}: damaged (its chunks leave gaps); delete it and {path.name}, which is built anew")
    return sidecar


def parse_chunk(raw: dict[str, Any]) -> Chunk:
    """A `Chunk` from its JSON object; TypeError or ValueError if it is none."""
    chunk = Chunk(**{**raw, "sources": tuple(raw.get("sources", ()))})
    if not 0 <= chunk.start < chunk.stop or len(chunk.sources) not in (0, chunk.stop - chunk.start):
        raise ValueError(f"rows {chunk.start} to {chunk.stop} with {len(chunk.sources)} sources")
    return chunk


def _covered(chunks: Sequence[Chunk], rows: int) -> bool:
    starts, stops = [chunk.start for chunk in chunks], [chunk.stop for chunk in chunks]
    return [*starts, rows] == [0, *stops]


def array_digest(rows: np.ndarray) -> str:
    """SHA-256 of the bytes of `rows` in C order."""
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def damaged_chunks(array: np.ndarray, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Those of `chunks` whose rows of `array` are not what was written."""
    return [chunk for chunk in chunks if array_digest(array[chunk.start : chunk.stop]) != chunk.sha256]


def sample(sidecar: Sidecar) -> list[Chunk]:
    """The few chunks that are looked at on opening: always the same ones of the same array."""
    return random.Random(sidecar.sha256).sample(sidecar.chunks, min(SAMPLED, len(sidecar.chunks)))


def refuse_damage(path: Path, array: np.ndarray, chunks: Sequence[Chunk]) -> None:
    """DataError naming the rows if some of `chunks` are damaged.

    Nothing is mended in place: another process may be reading the same rows, and a disk that loses bytes is
    something to be told of.
    """
    damaged = damaged_chunks(array, chunks)
    if damaged:
        rows = ", ".join(f"{chunk.start} to {chunk.stop - 1}" for chunk in damaged[:5])
        more = ", ..." if len(damaged) > 5 else ""
        raise DataError(f"{path}: damaged, rows {rows}{more} are not what was written; delete it, and it is built anew")
