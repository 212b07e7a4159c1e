"""What stands beside a cached array: whose it is, what decided its content, hashes of its chunks and of the whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.errors import DataError
from mlbench.files import atomic_write

FORMAT = 2


@dataclass(frozen=True)
class Chunk:
    """Rows `start` to `stop` of an array, and the SHA-256 of their bytes."""

    start: int
    stop: int
    sha256: str


@dataclass(frozen=True)
class Sidecar:
    """Hashes of one cached array.

    key : name of the array's file without ending, so that files that were exchanged are found out.
    sha256 : of the whole array's bytes in C order. origin : of the array it was computed from, "" if from none.
    about : all that decided the content (content of the images, rules, versions, ...).
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    chunks: tuple[Chunk, ...]
    origin: str = ""
    about: dict[str, Any] = field(default_factory=dict)


def sidecar_file(path: Path) -> Path:
    return path.with_suffix(".json")


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Keep `sidecar`, with a hash of its own, beside the array at `path`."""
    content = {"format": FORMAT, **asdict(sidecar)}
    atomic_write(sidecar_file(path), _text({**content, "own_sha256": _own_hash(content)}).encode())


def read_sidecar(path: Path) -> Sidecar | None:
    """The sidecar of the array at `path`, None if it has none; DataError if it is damaged or another array's."""
    file = sidecar_file(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("own_sha256") != _own_hash(content) or content.pop("format") != FORMAT:
            raise ValueError("it is not what was written")
        chunks = tuple(parse_chunk(chunk) for chunk in content.pop("chunks"))
        sidecar = Sidecar(shape=tuple(content.pop("shape")), chunks=chunks, **content)
        if not _covered(chunks, sidecar.shape[0]):
            raise ValueError("its chunks leave gaps")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        raise DataError(f"{file}: damaged ({error}); delete it and {path.name}, which is built anew") from None
    if sidecar.key != path.stem:
        raise DataError(f"{file}: belongs to {sidecar.key}.npy; delete it and {path.name}, which is built anew")
    return sidecar


def is_earlier(path: Path) -> bool:
    """Whether the sidecar of the array at `path` is of an earlier format, which no array is opened with any more."""
    try:
        return bool(json.loads(sidecar_file(path).read_text(encoding="utf-8"))["format"] < FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def parse_chunk(raw: dict[str, Any]) -> Chunk:
    """A `Chunk` from its JSON object; TypeError or ValueError if it is none."""
    chunk = Chunk(**raw)
    if not 0 <= chunk.start < chunk.stop:
        raise ValueError(f"rows {chunk.start} to {chunk.stop}")
    return chunk


def plain(about: Any) -> Any:
    """`about` as it comes back from JSON, to be compared with what was kept."""
    return json.loads(_text(about))


def key_of(about: dict[str, Any]) -> str:
    """Name of the array that `about` decides: 32 hex digits."""
    return hashlib.sha256(_text(about).encode()).hexdigest()[:32]


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _own_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(_text(content).encode()).hexdigest()


def _covered(chunks: Sequence[Chunk], rows: int) -> bool:
    starts, stops = [chunk.start for chunk in chunks], [chunk.stop for chunk in chunks]
    return [*starts, rows] == [0, *stops]


def array_digest(rows: np.ndarray) -> str:
    """SHA-256 of the bytes of `rows` in C order."""
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
