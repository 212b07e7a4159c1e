"""Where and how a run was made: versions, own commit, hardware, command. It decides no number of the run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlbench

#: Packages whose versions a record states.
PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "numpy",
    "pandas",
    "scikit-learn",
    "pillow",
    "safetensors",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)

#: What decides numbers in our own checkout; a changed page of documentation does not make a run "dirty".
_CODE = ("mlbench", "baselines", "protocols", "pyproject.toml")

# Begins a path of a machine: a URL, "~user/", "/", "\\server", "C:\", "./" or "../".
_START = r"(?:[A-Za-z][\w+.-]*://|~[\w.-]*[\\/]|/|\\\\|[A-Za-z]:[\\/]|\.{1,2}[\\/])"
# A path runs to a quote, to a separator that another path follows, or to the end: it may hold spaces.
_PATH = re.compile(rf"(?:(?<![\w.~\\/])|(?<=^-\w)){_START}[^\"']*?(?=[\"']|[,:;=\s]+{_START}|$)", re.DOTALL)


def collect_provenance(
    *,
    started: datetime,
    seconds: float,
    processes: int = 1,
    threads: int | None = None,
    images_per_s: float | None = None,
    argv: Sequence[str] | None = None,
    pixels_sha256: Mapping[str, str] | None = None,
    side_sha256: Mapping[str, str] | None = None,
    starts: Sequence[Mapping[str, Any]] = (),
    packages: Iterable[str] = PACKAGES,
) -> dict[str, Any]:
    """The "provenance" part of a record, collected in the process that calls.

    Parameters
    ----------
    started : when the run began, with its time zone; recorded in UTC to the second.
    seconds : wall time of the run.
    processes : how many processes trained.
    threads : threads of each process; by default what torch uses if it is loaded, else the usable cores.
    images_per_s : training images a second, over all processes.
    argv : the command, by default ``sys.argv``; recorded by `shorten_argv`.
    pixels_sha256 : hashes of the pixels read, by split (``split@side`` where `side` is not the run's image size).
    side_sha256 : hashes of the side inputs read that are computed or imported (proposals), by ``split@kind``.
    starts : every start of the run, as `start_of` describes them; by default this one alone.
    packages : distributions whose versions to state; those not installed are left out.
    """
    if started.tzinfo is None:
        raise ValueError("started: expected a time with its zone")
    threads = threads or _torch_threads() or usable_cores()
    return {
        "mlbench": mlbench.__version__,
        "git": own_commit(),
        "python": platform.python_version(),
        "packages": package_versions(packages),
        "hardware": hardware(),
        "threads": threads,
        "processes": processes,
        "started": utc_text(started),
        "starts": [dict(start) for start in starts] or [start_of(processes, started, threads)],
        "seconds": round(seconds, 3),
        "images_per_s": None if images_per_s is None else round(images_per_s, 3),
        "peak_memory_mib": peak_memory_mib(),
        "command": shorten_argv(sys.argv if argv is None else argv),
        "pixels_sha256": dict(pixels_sha256 or {}),
    } | ({"side_sha256": dict(side_sha256)} if side_sha256 else {})


def start_of(processes: int, started: datetime, threads: int | None = None) -> dict[str, Any]:
    """One start of a run, for ``provenance.starts``: when, by how many processes and threads, on which machine and
    code.

    A run that was stopped and resumed has several; what keeps a run's state keeps these with it, and gives all of them
    to `collect_provenance`.
    """
    return {
        "started": utc_text(started),
        "processes": processes,
        "threads": threads or _torch_threads() or usable_cores(),
        "hardware": hardware(),
        "git": own_commit(),
    }


def utc_text(time: datetime) -> str:
    """A time with its zone as a record states it, in UTC to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def usable_cores() -> int:
    """Processor cores this process may run on (its affinity, which batch systems set), at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def peak_memory_mib() -> float | None:
    """Largest resident memory this process has had, in MiB; children are not counted. None where unknown."""
    # Linux hands getrusage's peak on to a program started by fork and exec: it may be the launcher's, not ours.
    own = re.search(r"^VmHWM:\s*(\d+) kB$", _read_text("/proc/self/status"), re.MULTILINE)
    if own:
        return round(int(own.group(1)) / 2**10, 1)
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # getrusage(2): bytes on macOS, kilobytes elsewhere.
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def shorten_argv(argv: Sequence[str]) -> str:
    """One line for `argv` with the machine's paths and URLs reduced to their last part.

    >>> shorten_argv(["/opt/bin/mlbench", "run", "--weights=/home/ann/w/net.pt", "--set", "lr=1/3"])
    'mlbench run --weights=net.pt --set lr=1/3'
    """
    words = [_PATH.sub(_last_part, word) for word in argv]
    if words and words[0] == "__main__.py":  # python -m mlbench
        words[0] = "mlbench"
    return shlex.join(words)


def _last_part(path: re.Match[str]) -> str:
    parts = [part for part in re.split(r"[\\/]+", path.group()) if part]
    return parts[-1] if parts else "/"


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones of `packages`, from their metadata; nothing is imported."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def own_commit(package: Path | None = None) -> dict[str, Any]:
    """``{"commit", "dirty"}`` of the checkout mlbench runs from; both None where it was installed from a wheel.

    Only the folder that holds the package counts, and only if it is itself a checkout that tracks the package: a
    virtual environment inside somebody's repository is not ours, nor is the folder a person works in. Methods and
    protocols have to be that checkout's: with another source tree on PYTHONPATH they are still the installed ones, and
    no commit names both. `dirty` looks at code and protocols, untracked files included.

    Parameters
    ----------
    package : the package's folder, by default mlbench's own.
    """
    unknown: dict[str, Any] = {"commit": None, "dirty": None}
    if package is None:
        package = Path(mlbench.__file__).resolve().parent
        if any(_folder(f"mlbench.{part}") != package.parent / part for part in ("baselines", "protocols")):
            return unknown
    folder = package.parent
    if not (folder / ".git").exists():
        return unknown
    if _git(folder, "ls-files", "--error-unmatch", "--", f"{package.name}/__init__.py") is None:
        return unknown
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=normal", "--", *_CODE)
    if commit is None or changes is None:
        return unknown
    return {"commit": commit, "dirty": bool(changes)}


def _folder(package: str) -> Path | None:
    """Where a package of ours is imported from."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).resolve().parent if spec is not None and spec.origin is not None else None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None if there is no git or it refuses."""
    # A git hook or a tool may have set these to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def hardware() -> dict[str, Any]:
    """Processor model, usable cores, memory of the machine in GiB, and accelerator ("none" where there is none)."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "accelerator": _accelerator(),
    }


def _cpu_name() -> str:
    named = re.search(r"^model name\s*:\s*(\S.*?)\s*$", _read_text("/proc/cpuinfo"), re.MULTILINE)
    return named.group(1) if named else platform.processor() or platform.machine() or "unknown"


def _read_text(path: str) -> str:
    """A file of the system, or nothing where the system has no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _accelerator() -> str:
    # A process that has not loaded torch has not used an accelerator either.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "none"
    return str(torch.cuda.get_device_name())


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())
