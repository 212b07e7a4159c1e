"""Where mlbench keeps what it makes: the cache (may be deleted at any time) and the run store."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path


def cache_dir() -> Path:
    """Folder for data that can be made again: ``$MLBENCH_CACHE`` or ``~/.cache/mlbench``."""
    chosen = os.environ.get("MLBENCH_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mlbench"


def store_dir() -> Path:
    """Folder for runs when ``--store`` is not given: ``$MLBENCH_RUNS`` or ``./runs``."""
    return Path(os.environ.get("MLBENCH_RUNS", "runs"))


def published_records() -> Path | None:
    """The folder of published records that came with mlbench; None where none did, or it cannot be unpacked.

    In a checkout that is ``results/runs``. A wheel has them in one compressed file, which is unpacked into the cache
    when it is first asked for.
    """
    for place in _results():
        if (place / "runs").is_dir():
            return place / "runs"
        if (place / "runs.jsonl.xz").is_file():
            return _unpacked(place / "runs.jsonl.xz")
    return None


def published_packs() -> Path | None:
    """The folder of indices of packs of test scores that came with mlbench; None where there is none."""
    return next((place / "packs" for place in _results() if (place / "packs").is_dir()), None)


def _results() -> list[Path]:
    """The folder `results` of a checkout, or what a wheel has of it."""
    spec = find_spec("mlbench.results")
    return list(map(Path, (spec.submodule_search_locations or ()) if spec else ()))


def _unpacked(packed: Path) -> Path | None:
    """The folder of the records in `packed` (a line for each: file name and text), one for each content of the file."""
    import lzma  # which some builds of Python lack

    raw = packed.read_bytes()
    folder = cache_dir() / "published" / hashlib.sha256(raw).hexdigest()[:16]
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as made:
            for line in lzma.decompress(raw).decode().splitlines():
                name, text = json.loads(line)
                Path(made, "runs", Path(name).name).parent.mkdir(exist_ok=True)
                Path(made, "runs", Path(name).name).write_text(text, encoding="utf-8")
            # Whole or not at all; another process may have been first.
            with suppress(OSError):
                Path(made, "runs").rename(folder)
    except OSError:
        return None
    return folder if folder.is_dir() else None
