"""Stores with odd names, on read-only places, on disks that fill up: whole records or none, and then the next."""

from __future__ import annotations

import contextlib
import random
import resource
from collections.abc import Iterator
from pathlib import Path

from hostile import TEXTS, state, told
from on_submissions import submit, write

from mlbench.store import find_records

#: Places where nothing can be written, not even by root.
_READ_ONLY = ("/proc/runs", "/sys/runs", "/dev/null/runs", "/proc/self/mem")
_ODD = [
    *TEXTS,
    "a b",
    "%d",
    "#",
    "?x=1",
    "*",
    "~",
    "-",
    "runs.lock",
    "record.json",
    "caf\udce9",
    "\u4e2d\u6587",
    "d/" * 20,
    "x" * 250,
]


def stores(draw: random.Random, folder: Path) -> str:
    predictions, card = write(folder)
    before = state(folder)
    how = draw.choice(["odd", "odd", "read-only", "full", "full", "file"])
    if how == "read-only":
        outcome = submit(predictions, card, Path(draw.choice(_READ_ONLY)))
        assert outcome == "refused", "wrote where nothing can be written"
        assert state(folder) == before
        return outcome
    if how == "file":
        (folder / "file").write_bytes(b"mine")
        outcome = submit(predictions, card, folder / "file" / draw.choice(["", "runs"]))
        assert (folder / "file").read_bytes() == b"mine"
        return outcome
    name = draw.choice(_ODD).strip("/") if how == "odd" else "runs"
    store = folder / "in" / "side" / name
    if not _usable(store) or ".." in name:
        store = folder / "in" / "side" / "runs"
    with _filling(draw.randrange(0, 4000)) if how == "full" else contextlib.nullcontext():
        outcome = submit(predictions, card, store)
    if outcome == "refused":
        assert how == "full", f"a store that can be written was refused: {name!a}"
        found, problems = find_records(store) if store.exists() else ([], [])
        assert not found, "said that it failed, and left a record"
        assert not problems, f"half a record: {problems}"
        assert submit(predictions, card, store) == "taken", "the next call does not go on"
    (record,), problems = find_records(store)
    assert not problems
    for words in (("list", "runs"), ("show", record["key"][:16]), ("table",)):
        told(*words, "--store", store)
    return outcome


def _usable(store: Path) -> bool:
    """Whether a folder can have this name at all."""
    try:
        store.mkdir(parents=True)
        store.rmdir()
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _filling(room: int) -> Iterator[None]:
    """As on a disk that fills up: what is written of a file beyond `room` bytes fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
