"""Where mlbench keeps what it makes: the cache (may be deleted at any time) and the run store."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Folder for data that can be made again: ``$MLBENCH_CACHE`` or ``~/.cache/mlbench``."""
    chosen = os.environ.get("MLBENCH_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mlbench"


def store_dir() -> Path:
    """Folder for runs when ``--output`` is not given: ``$MLBENCH_RUNS`` or ``./runs``."""
    return Path(os.environ.get("MLBENCH_RUNS", "runs"))
