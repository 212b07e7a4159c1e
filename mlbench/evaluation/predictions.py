"""Predictions: what a run says of every sample, keyed by sample id. The unit of record; metrics come from them.

A file is safetensors: float32 "scores" [N, C], optionally uint8 "decisions" [N, C], and text metadata. The same
content always gives the same bytes, so a file's SHA-256 names its content.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mlbench.errors import DataError, nearest
from mlbench.files import atomic_write
from mlbench.metrics.checks import release, row_blocks

Kind = Literal["logit", "probability", "rank"]
KINDS: tuple[str, ...] = get_args(Kind)

#: What every file says of where it comes from: the run's key, data set id, split, and the epoch selected.
REQUIRED_META = ("key", "dataset", "split", "epoch")

FORMAT = "1"
_LISTS = ("ids", "groups", "classes")
_RESERVED = ("format", "kind", "decision_rule", *_LISTS)
#: Readers refuse a longer header (safetensors' format, "Notes": 100 MB).
_LONGEST_HEADER = 100_000_000
#: Types of the arrays written here, by their names in safetensors.
_MAPPED = {"F32": np.float32, "U8": np.uint8}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores of N samples and C classes, checked.

    Parameters
    ----------
    scores : float32 [N, C], finite; higher means more likely present. Held read-only.
    kind : "logit", "probability" (0 to 1) or "rank" (only the order within a class or sample has meaning).
    ids : N sample ids, unique. Any text.
    groups : N group ids (the image of a sample, where several samples share one); empty means `ids`.
    classes : C class names, unique, in column order.
    decisions : bool [N, C] where the method itself decides which labels are present, else None.
    decision_rule : what `decisions` follow, in words; given exactly where `decisions` are.
    meta : further text by name; a file needs those of `REQUIRED_META`.

    Raises
    ------
    DataError
        If anything above does not hold.
    """

    scores: np.ndarray
    kind: Kind
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    decisions: np.ndarray | None = None
    decision_rule: str | None = None
    meta: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"kind '{self.kind}': expected one of {', '.join(KINDS)}.{nearest(self.kind, KINDS)}")
        put = object.__setattr__
        put(self, "ids", _texts("ids", self.ids))
        put(self, "groups", _texts("groups", self.groups) or self.ids)
        put(self, "classes", _texts("classes", self.classes))
        put(self, "meta", _checked_meta(self.meta))
        shape = (len(self.ids), len(self.classes))
        if 0 in shape:
            raise DataError(f"{shape[0]} ids and {shape[1]} classes: expected at least one of each")
        if len(self.groups) != len(self.ids):
            raise DataError(f"{len(self.groups)} groups for {len(self.ids)} ids")
        _refuse_repeated("id", self.ids)
        _refuse_repeated("class", self.classes)
        put(self, "scores", _matrix("scores", self.scores, np.dtype(np.float32), shape))
        self._check_values()
        if (self.decisions is None) != (self.decision_rule is None):
            raise DataError("decisions and decision_rule belong together: one is given without the other")
        if self.decisions is not None:
            put(self, "decisions", _matrix("decisions", self.decisions, np.dtype(np.bool_), shape))
            _require_text("decision_rule", self.decision_rule)

    def _check_values(self) -> None:
        least, most = _extremes(self.scores)
        if np.isfinite((least, most)).all() and (self.kind != "probability" or (least >= 0 and most <= 1)):
            return
        bad = ~np.isfinite(self.scores)
        expected = "a finite number"
        if self.kind == "probability" and not bad.any():
            bad = (self.scores < 0) | (self.scores > 1)
            expected = "a probability from 0 to 1"
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"score of id {self.ids[row]!r}, class {self.classes[column]!r} is {self.scores[row, column]}: "
            f"expected {expected} ({int(bad.sum())} such scores)"
        )


def write_predictions(path: str | Path, predictions: Predictions) -> str:
    """Write `predictions` in one step and return the SHA-256 of the file, 64 hex digits.

    Raises
    ------
    DataError
        If one of `REQUIRED_META` is missing, or the ids are too long for the format.
    MlbenchError
        If the folder cannot be written (read-only, disk full).
    """
    _require_meta(predictions.meta, str(path))
    digest = hashlib.sha256()

    def hashed() -> Iterator[Any]:
        for piece in _encode(predictions, str(path)):
            digest.update(piece)
            yield piece

    atomic_write(path, hashed())
    return digest.hexdigest()


def read_predictions(path: str | Path, expect_sha256: str | None = None) -> Predictions:
    """Read and check a predictions file; with `expect_sha256`, refuse any other content.

    Scores stay in the file, which is mapped into memory: it may be larger than the memory there is.

    Raises
    ------
    DataError
        Naming the file and what is wrong: missing, cut short, another hash, not predictions, or any check of
        `Predictions`.
    """
    try:
        with open(path, "rb") as file:
            empty = not os.fstat(file.fileno()).st_size
            data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{path}: cannot read predictions: {error.strerror or error}") from None
    if expect_sha256 is not None:
        found = _sha256_of_mapped(data)
        if found != expect_sha256:
            raise DataError(f"{path}: its SHA-256 is {found}, expected {expect_sha256}: the file was changed")
    tensors, metadata = _decode(data, str(path))
    try:
        return _from_parts(tensors, metadata)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _encode(predictions: Predictions, where: str) -> Iterator[Any]:
    """The file in pieces: the header, its keys in a fixed order (safetensors' own writer has none), and the arrays.

    Of these come some rows at a time: few of the scores that lie in a file are in memory.
    """
    arrays = {"scores": ("F32", predictions.scores)}
    metadata = {**predictions.meta, "format": FORMAT, "kind": predictions.kind}
    metadata |= {name: json.dumps(getattr(predictions, name)) for name in _LISTS}
    if predictions.decisions is not None:
        arrays["decisions"] = ("U8", predictions.decisions.view(np.uint8))
        metadata["decision_rule"] = str(predictions.decision_rule)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (kind, array) in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise DataError(
            f"{where}: ids, groups and classes take {len(text)} bytes; the file format has room for {_LONGEST_HEADER}"
        )
    yield len(text).to_bytes(8, "little") + text
    for _, array in arrays.values():
        for rows in row_blocks(array):
            yield array[rows].reshape(-1)
            release(array)


def _extremes(scores: np.ndarray) -> tuple[float, float]:
    """Least and largest score; NaN where any score is. No copy is made."""
    least, most = scores[0, 0], scores[0, 0]
    for rows in row_blocks(scores):
        least, most = np.minimum(least, scores[rows].min()), np.maximum(most, scores[rows].max())
        release(scores)
    return float(least), float(most)


def _sha256_of_mapped(data: bytes | mmap.mmap, size: int = 2**24) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(data), size):
        digest.update(memoryview(data)[start : start + size])
        if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            data.madvise(mmap.MADV_DONTNEED)
    return digest.hexdigest()


def _decode(data: bytes | mmap.mmap, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays, as views of `data` where they are of the types we write, and metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        size = int.from_bytes(data[:8], "little")
        with safe_open(where, framework="np") as file:  # checks the header and that the file ends where it says
            header = json.loads(data[8 : 8 + size])
            tensors = {}
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                entry = header[name]
                if entry["dtype"] in _MAPPED:
                    kind, start = _MAPPED[entry["dtype"]], 8 + size + entry["data_offsets"][0]
                    count = math.prod(entry["shape"])
                    tensors[name] = np.frombuffer(data, kind, count, start).reshape(entry["shape"])
                else:
                    tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: not a whole safetensors file: {reason}") from None
    return tensors, header.get("__metadata__") or {}


def _from_parts(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> Predictions:
    for name in ("format", "kind", *_LISTS):
        if name not in metadata:
            raise DataError(f"metadata '{name}' is missing.{nearest(name, metadata)}")
    if metadata["format"] != FORMAT:
        raise DataError(f"predictions format '{metadata['format']}', expected '{FORMAT}'")
    _require_meta(metadata, "metadata")
    if "scores" not in tensors or not set(tensors) <= {"scores", "decisions"}:
        found = ", ".join(sorted(tensors)) or "none"
        raise DataError(f"tensors found: {found}; expected 'scores' and perhaps 'decisions'")
    decisions = tensors.get("decisions")
    if decisions is not None:
        if decisions.dtype != np.uint8 or decisions.max(initial=0) > 1:
            raise DataError(f"decisions ({decisions.dtype}): expected uint8 zeros and ones")
        decisions = decisions.view(np.bool_)
    lists = {name: _read_list(name, metadata[name]) for name in _LISTS}
    if not lists["groups"]:
        raise DataError("metadata 'groups' is empty")
    return Predictions(
        scores=tensors["scores"],
        kind=metadata["kind"],  # type: ignore[arg-type]
        decisions=decisions,
        decision_rule=metadata.get("decision_rule"),
        meta={name: value for name, value in metadata.items() if name not in _RESERVED},
        **lists,
    )


def _read_list(name: str, text: str) -> tuple[Any, ...]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"metadata '{name}' is not JSON: {error}") from None
    if not isinstance(found, list):
        raise DataError(f"metadata '{name}': expected a JSON list, found a {type(found).__name__}")
    return tuple(found)


def _texts(name: str, values: Sequence[Any]) -> tuple[str, ...]:
    """`values` as a tuple, each a non-empty text that JSON carries unchanged."""
    if isinstance(values, str):
        raise DataError(f"{name}: expected a list of texts, found one text")
    found = tuple(values)
    for number, value in enumerate(found):
        if not isinstance(value, str) or not value:
            raise DataError(f"{name}[{number}] = {value!r}: expected a text that is not empty")
    # Two halves of a surrogate pair, kept apart in Python, would come back as one character.
    if json.loads(json.dumps(found)) != list(found):
        raise DataError(f"{name}: holds a split surrogate pair, which no file can keep")
    return found


def _refuse_repeated(name: str, values: tuple[str, ...]) -> None:
    if len(set(values)) == len(values):
        return
    seen: set[str] = set()
    for row, value in enumerate(values):
        if value in seen:
            raise DataError(f"{name} {value!r} stands twice (again at {row}): expected {name}s to be unique")
        seen.add(value)


def _matrix(name: str, values: np.ndarray, dtype: np.dtype[Any], shape: tuple[int, int]) -> np.ndarray:
    """A contiguous read-only view (or copy) of `values`, which must have exactly this type and shape."""
    if not isinstance(values, np.ndarray) or values.dtype != dtype:
        found = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(f"{name}: expected a {dtype} array, found {found}")
    if values.shape != shape:
        raise DataError(f"{name}: shape {list(values.shape)}, expected {list(shape)} (ids, classes)")
    held = np.require(values, requirements=["C", "A"]).view()
    held.flags.writeable = False
    return held


def _checked_meta(meta: dict[str, str]) -> dict[str, str]:
    for name, value in meta.items():
        if name in _RESERVED:
            raise DataError(f"meta '{name}': this name is set by mlbench")
        _require_text("meta", name)
        _require_text(f"meta '{name}'", value)
    return dict(meta)


def _require_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise DataError(f"{name} = {value!r}: expected a text that is not empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{name} = {value!r}: not valid Unicode") from None


def _require_meta(meta: dict[str, str], where: str) -> None:
    missing = [name for name in REQUIRED_META if name not in meta]
    if missing:
        raise DataError(
            f"{where}: '{missing[0]}' is missing.{nearest(missing[0], meta)} Needed: {', '.join(REQUIRED_META)}"
        )
