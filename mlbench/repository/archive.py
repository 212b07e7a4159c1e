"""A pack: records and the test scores they name, in one zip that is checked whole before anything of it is used.

``index.json`` says what is in it, ``records/NAME.json`` are the records, and ``scores/SHA256.safetensors`` the files of
scores as the runs wrote them (float32, so that every metric is the record's own). The same runs give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.acquire.archives import CHUNK, Limits, Member, opened
from mlbench.errors import DataError, MlbenchError
from mlbench.evaluation.predictions import read_predictions
from mlbench.files import atomic_write, file_blocks, reason, sha256_file
from mlbench.foreign.files import parse_json, short
from mlbench.paths import cache_dir
from mlbench.store import published_name
from mlbench.store.runs import LARGEST_RECORD
from mlbench.store.schema import dump_record, parse_record

FORMAT = 1
INDEX = "index.json"
#: What a pack may hold. Scores hardly shrink, records to a seventh; constant ones (the method `prior`) to nothing.
LIMITS = Limits(files=40_001, ratio=40, harmless=64 << 20, depth=2)
#: Bytes of an index, and of a pack as a whole.
LARGEST_INDEX, LARGEST_PACK = 2**24, 2**31

Record = dict[str, Any]


@dataclass(frozen=True)
class Packed:
    """A checked pack: its records, each with the file of its test scores, which lasts as long as the pack is open."""

    records: list[Record]
    scores: dict[str, Path]
    sha256: str


def entry_of(record: Record, size: int) -> dict[str, Any]:
    """What an index says of a run whose scores have `size` bytes."""
    identity, sha256 = record["identity"], record["predictions"]["test"]["sha256"]
    return {
        "key": record["key"],
        "method": identity["method"]["name"],
        "version": identity["method"]["version"],
        "protocol": identity["protocol"],
        "dataset": identity["dataset"]["id"],
        "track": identity["track"],
        "seed": identity["repetition"],
        "mask": identity["mask_seed"],
        "record": f"records/{published_name(record)}",
        "predictions": {"file": f"scores/{sha256}.safetensors", "sha256": sha256, "bytes": size},
    }


def write_pack(path: Path, runs: Iterable[tuple[Record, Path]]) -> dict[str, Any]:
    """Write `runs`, records and the files of their test scores, as a pack. Returns its index, which names the archive.

    DataError where a file is not the one that its record names.
    """
    kept = sorted(runs, key=lambda run: published_name(run[0]))
    entries: list[dict[str, Any]] = []
    files: dict[str, bytes | Path] = {}
    for record, scores in kept:
        named = record["predictions"]["test"]["sha256"]
        if (found := sha256_file(scores)) != named:
            raise DataError(f"{scores}: its SHA-256 is {found}, the record says {named}")
        entries.append(entry_of(record, scores.stat().st_size))
        files[entries[-1]["record"]] = dump_record(record, published_name(record)).encode("ascii")
        files[entries[-1]["predictions"]["file"]] = scores
    index = {"format": FORMAT, "runs": entries}
    text = json.dumps(index, indent=1).encode("ascii")
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        growing = Path(folder) / path.name
        with zipfile.ZipFile(growing, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, content in [(INDEX, text), *files.items()]:
                # No time of its own: the same runs give the same bytes.
                member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
                with archive.open(member, "w", force_zip64=True) as packed:
                    for block in [content] if isinstance(content, bytes) else file_blocks(content):
                        packed.write(block)
        atomic_write(path, file_blocks(growing))
    about = {"file": path.name, "sha256": sha256_file(path), "bytes": path.stat().st_size}
    return {"format": FORMAT, "archive": about, "runs": entries}


@contextmanager
def opened_pack(path: Path) -> Iterator[Packed]:
    """The pack at `path`, after all of it was checked; its scores lie in a folder of their own meanwhile.

    Raises
    ------
    DataError
        For an archive that is broken or holds more than a pack may, a record that breaks the schema, its key or the
        hash of its content, scores of another hash than their record names, and an index that says anything else.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such pack")
    if path.suffix != ".zip":
        raise DataError(f"{path}: a pack is a .zip file")
    if (size := path.stat().st_size) > LARGEST_PACK:
        raise DataError(f"{path}: {size:,} bytes; a pack has at most {LARGEST_PACK:,}")
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        try:
            with opened(path, LIMITS) as members:
                records, scores = _checked(path, {str(m.path): m for m in members if not m.is_folder}, Path(folder))
        except OSError as error:
            raise MlbenchError(f"{path}: cannot unpack it: {reason(error)}") from None
        yield Packed(records, scores, sha256_file(path))


def _checked(path: Path, members: dict[str, Member], folder: Path) -> tuple[list[Record], dict[str, Path]]:
    index = _index(path, members)
    wanted = {INDEX, *(name for run in index for name in (run["record"], run["predictions"]["file"]))}
    for name in members.keys() ^ wanted:
        what = "is not in its index" if name in members else "is in its index, and missing"
        raise DataError(f"{path}: {short(name)} {what}")
    records, scores = [], {}
    for run in index:
        where = f"{path}: {run['record']}"
        record = parse_record(_read(members[run["record"]], LARGEST_RECORD, where), where)
        stored = record["predictions"].get("test")
        if stored is None or run != entry_of(record, members[run["predictions"]["file"]].size):
            raise DataError(f"{where}: the index of the pack says other things of this record than it says itself")
        target = folder / stored["sha256"]
        if not target.exists():
            _unpack(members[run["predictions"]["file"]], target, stored["sha256"], where)
        _require_test(target, record, where)
        records.append(record)
        scores[record["key"]] = target
    if len(scores) != len(records):
        raise DataError(f"{path}: a run stands twice in its index")
    return records, scores


def _index(path: Path, members: Mapping[str, Member]) -> Sequence[dict[str, Any]]:
    if INDEX not in members:
        raise DataError(f"{path}: is no pack of runs: it has no {INDEX}")
    where = f"{path}: {INDEX}"
    try:
        index = parse_json(_read(members[INDEX], LARGEST_INDEX, where))
    except ValueError as error:
        raise DataError(f"{where}: is no index of a pack: {short(str(error))}") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise DataError(f"{where}: is no index of a pack of format {FORMAT}")
    runs = index.get("runs")
    plain = isinstance(runs, list) and all(
        isinstance(run, dict)
        and isinstance(run.get("record"), str)
        and isinstance(run.get("predictions"), dict)
        and isinstance(run["predictions"].get("file"), str)
        for run in runs
    )
    if not plain or not runs:
        raise DataError(f"{where}: is no index of a pack: expected 'runs', each with its record and its predictions")
    return list(runs)


def _read(member: Member, most: int, where: str) -> bytes:
    if member.size > most:
        raise DataError(f"{where}: {member.size:,} bytes, expected at most {most:,}")
    with member.open() as packed:
        return packed.read(most + 1)[: most + 1]


def _unpack(member: Member, target: Path, sha256: str, where: str) -> None:
    """Write a member's bytes to `target`; DataError unless they have this hash."""
    digest = hashlib.sha256()
    with member.open() as packed, open(target, "xb") as file:
        while chunk := packed.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise DataError(f"{where}: its scores have SHA-256 {digest.hexdigest()}, the record says {sha256}")


def _require_test(scores: Path, record: Record, where: str) -> None:
    """DataError unless the file holds scores of the test part that the record is about."""
    try:
        found = read_predictions(scores)
    except DataError as error:
        raise DataError(f"{where}: its scores: {str(error).removeprefix(f'{scores}: ')}") from None
    identity = record["identity"]
    says = {"dataset": found.meta["dataset"], "split": found.meta["split"], "samples": len(found.ids)}
    expected = {"dataset": identity["dataset"]["id"], "split": "test", "samples": identity["split"]["test"]}
    if "scores" in identity:  # of a submission, whose scores are part of what it is
        says["content"] = hashlib.sha256(np.ascontiguousarray(found.scores).tobytes()).hexdigest()
        expected["content"] = identity["scores"].get("sha256")
    for name, value in expected.items():
        if says[name] != value:
            raise DataError(f"{where}: its scores say {name} = {short(says[name])}, expected {short(value)}")


def scratch() -> Path:
    """Where packs are put together and taken apart: on the disk that the scores stay on."""
    folder = cache_dir() / "packs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MlbenchError(f"{folder}: cannot write: {reason(error)}") from None
    return folder
