"""Badges: that a method passed `check-method` on this machine, with the files of its class as they are now."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlbench
from mlbench.paths import cache_dir
from mlbench.store import atomic_write

if TYPE_CHECKING:
    from mlbench.conformance import Report
    from mlbench.methods import Method


def code_sha256(method: type[Method]) -> str:
    """SHA-256 over the method's name, the version of mlbench, and the source files of its class and all its bases."""
    digest = hashlib.sha256(f"{method.name}\0{mlbench.__version__}\0".encode())
    modules = {cls.__module__ for cls in method.__mro__} - {"builtins"}
    for name in sorted(modules):
        path = getattr(sys.modules.get(name), "__file__", None)
        digest.update(name.encode() + b"\0" + (Path(path).read_bytes() if path else b"") + b"\0")
    return digest.hexdigest()


def leave_badge(method: type[Method], report: Report) -> None:
    """Keep, in the cache, that `method` passed `report`."""
    counts = Counter(outcome for _, _, outcome, _ in report.rows)
    badge = {
        "code_sha256": code_sha256(method),
        "passed": counts["passed"],
        "skipped": counts["skipped"],
        "checked": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    atomic_write(_path(badge["code_sha256"]), json.dumps(badge).encode("ascii"))


def find_badge(method: type[Method]) -> dict[str, Any] | None:
    """The badge of `method` as its code is now, or None."""
    code = code_sha256(method)
    try:
        badge = json.loads(_path(code).read_bytes())
    except (OSError, ValueError):
        return None
    return badge if isinstance(badge, dict) and badge.get("code_sha256") == code else None


def _path(code: object) -> Path:
    return cache_dir() / "checked" / f"{code}.json"
