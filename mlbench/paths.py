"""Where mlbench keeps what it makes: the cache (may be deleted at any time) and the run store."""

from __future__ import annotations

import os
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
    """The folder of published records that came with mlbench, ``results/runs``; None where it did not."""
    spec = find_spec("mlbench.results")
    folders = (Path(place) / "runs" for place in (spec.submodule_search_locations or ())) if spec else iter(())
    return next((folder for folder in folders if folder.is_dir()), None)


def published_packs() -> Path | None:
    """The folder of indices of packs of test scores, beside the published records; None where there is none."""
    records = published_records()
    folder = records.parent / "packs" if records is not None else None
    return folder if folder is not None and folder.is_dir() else None
