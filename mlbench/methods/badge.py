"""Badges: that a method passed `check-method` on this machine, with the code it stands on as that is now."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlbench
from mlbench.files import atomic_write, sha256_file
from mlbench.paths import cache_dir
from mlbench.registry import METHODS

if TYPE_CHECKING:
    from mlbench.methods import Method

#: What of this package is code: records and protocols that are added say nothing of a method.
_OURS = (".py", ".toml")
_NOT_CODE = {"results", "protocols", "__pycache__"}


def code_sha256(method: type[Method]) -> str:
    """SHA-256 over the method's name, the version of mlbench, and all the code that the method stands on.

    That is every file of the packages that its class and its bases come from, this one among them (what a method
    computes may stand in any module of its package), and of the distribution that registered its name.
    """
    digest = hashlib.sha256(f"{method.name}\0{mlbench.__version__}\0".encode())
    for name, path in sorted({*_package_files(method), *_distribution_files(method.name)}):
        digest.update(f"{name}\0{sha256_file(path)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _package_files(method: type[Method]) -> Iterator[tuple[str, Path]]:
    """Files of the packages of the method's classes, by their names in the package."""
    from mlbench.methods import Method

    tops = {cls.__module__.partition(".")[0] for cls in method.__mro__ if issubclass(cls, Method)}
    for top in tops:
        for folder in getattr(sys.modules.get(top), "__path__", ()):
            yield from _files(top, Path(folder))
    if "mlbench" in tops and (baselines := sys.modules.get("mlbench.baselines")):  # a folder of its own in a checkout
        for folder in baselines.__path__:
            yield from _files("mlbench/baselines", Path(folder))
    for cls in method.__mro__:  # modules outside of packages, and of mixins, whose packages may be anything
        path = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if path and Path(path).is_file():
            yield cls.__module__, Path(path)


def _files(top: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if "__pycache__" in parts or (top == "mlbench" and (parts[0] in _NOT_CODE or path.suffix not in _OURS)):
            continue
        if path.is_file():
            yield f"{top}/{'/'.join(parts)}", path


def _distribution_files(name: str) -> Iterator[tuple[str, Path]]:
    """Files of the distributions, but this one, that register the method `name`, as far as they list them."""
    for point in METHODS.claims().get(name.rpartition(":")[2], ()):
        if point.dist is None or point.value.partition(".")[0] == "mlbench":
            continue
        for file in point.dist.files or ():
            path = Path(str(point.dist.locate_file(file)))
            about = any(part.endswith((".dist-info", ".egg-info", "__pycache__")) for part in file.parts)
            if not about and path.is_file():
                yield file.as_posix(), path


def leave_badge(method: type[Method], outcomes: Iterable[str]) -> None:
    """Keep, in the cache, that `method` passed a suite whose checks ended in `outcomes` (passed, skipped)."""
    counts = Counter(outcomes)
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
