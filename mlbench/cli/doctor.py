"""What `mlbench doctor` and `mlbench env` look at. Nothing is written, and nothing is fetched."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlbench import HARNESS_VERSION, __version__
from mlbench.errors import MlbenchError
from mlbench.grid import grid
from mlbench.paths import cache_dir, store_dir

DISTRIBUTION = "mlbench-multilabel"
#: What a part of mlbench needs beside its dependencies: module or program, how it is got, what is done with it.
EXTRAS = (
    ("ray", "pip install 'mlbench-multilabel[cluster]'", "mlbench sweep --executor ray"),
    ("submitit", "pip install 'mlbench-multilabel[cluster]'", "mlbench sweep --executor slurm"),
    ("optuna", "pip install 'mlbench-multilabel[search]'", "mlbench search"),
    ("pyarrow", "pip install 'mlbench-multilabel[parquet]'", "Parquet tables and predictions"),
    ("timm", "pip install 'mlbench-multilabel[timm]'", "backbones timm:NAME"),
    ("torchmetrics", "pip install 'mlbench-multilabel[bench]'", "benchmarks/metrics.py"),
    ("fiftyone", "pip install fiftyone", "mlbench inspect without --html"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for: `state` is "ok", "missing", or "needed" where mlbench cannot do without it."""

    part: str
    name: str
    state: str
    found: str
    remark: str = ""


def environment() -> dict[str, str]:
    """Versions, hardware and settings for a bug report: no name of a person, machine or folder."""
    import torch  # without it the accelerator is not asked

    from mlbench.provenance import hardware, own_commit, package_versions

    commit, here = own_commit(), hardware()
    told = "from a wheel" if commit["commit"] is None else f"commit {commit['commit'][:12]}"
    names = [_plain(line) for line in importlib.metadata.requires(DISTRIBUTION) or () if "extra ==" not in line]
    versions = package_versions([*names, *(name for name, _, _ in EXTRAS)])
    set_here = [name for name in sorted(os.environ) if name.startswith("MLBENCH_")]
    return {
        "mlbench": f"{__version__} ({told}{', with changes' if commit['dirty'] else ''}), harness {HARNESS_VERSION}",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.machine()}, {platform.libc_ver()[0] or 'libc unknown'} "
        f"{platform.libc_ver()[1]}".rstrip(),
        "processor": f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB",
        "accelerator": f"{here['accelerator']}, CUDA {torch.version.cuda or 'none'}",
        "threads": f"torch {torch.get_num_threads()}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}",
        "set": ", ".join(set_here) or "no MLBENCH_ variable",
        **dict(sorted(versions.items())),
    }


def examine(data_root: Path | None = None, store: Path | None = None) -> list[Finding]:
    """All that `doctor` looks at; with `data_root`, which data sets lie there."""
    return [
        *_packages(),
        *_devices(),
        *_disk(store or store_dir()),
        *_caches(),
        *_datasets(data_root),
        *_weights(),
        *_methods(),
    ]


def findings_wrong(found: Sequence[Finding]) -> list[str]:
    """Names of what mlbench cannot do without and does not have."""
    return [finding.name for finding in found if finding.state == "needed"]


def findings_text(found: Sequence[Finding]) -> str:
    """The findings, a table a part."""
    sections = []
    for part in dict.fromkeys(finding.part for finding in found):
        rows = [
            (finding.name, "" if finding.state == "ok" else finding.state.upper(), finding.found, finding.remark)
            for finding in found
            if finding.part == part
        ]
        table = grid(rows, ["", "", "", ""], "plain", maxcolwidths=[None, None, 40, 60])
        sections.append(f"{part}\n" + "\n".join(f"  {line}".rstrip() for line in table.splitlines() if line.strip()))
    return "\n\n".join(sections)


def _plain(requirement: str) -> str:
    """The distribution's name of a requirement."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _packages() -> Iterator[Finding]:
    yield Finding("versions", "mlbench", "ok", __version__, f"harness {HARNESS_VERSION}")
    yield Finding("versions", "python", "ok", platform.python_version())
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires(DISTRIBUTION) or ():
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            lean = wanted.name == "fiftyone"  # a lean installation goes without
            yield Finding("versions", wanted.name, "missing" if lean else "needed", "", f"pip install '{wanted}'")
            continue
        good = wanted.specifier.contains(version, prereleases=True)
        yield Finding("versions", wanted.name, "ok" if good else "needed", version, "" if good else f"wanted {wanted}")
    for module, how, what in EXTRAS:
        if find_spec(module) is None:
            yield Finding("versions", module, "missing", "", f"for {what}: {how}")


def _devices() -> Iterator[Finding]:
    import torch

    from mlbench.provenance import hardware

    here = hardware()
    yield Finding("devices", "cpu", "ok", f"{here['cores']} cores, {here['memory_gib']} GiB", here["cpu"])
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(number)
        yield Finding("devices", f"cuda:{number}", "ok", f"{about.total_memory / 2**30:.0f} GiB", about.name)
    if not torch.cuda.is_available():
        yield Finding("devices", "cuda", "missing", "", "runs use the processor")
    if "OMP_NUM_THREADS" not in os.environ:
        yield Finding("devices", "threads", "ok", f"torch uses {torch.get_num_threads()}", "OMP_NUM_THREADS is not set")


def _disk(store: Path) -> Iterator[Finding]:
    for name, folder in (("store", store), ("cache", cache_dir())):
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        free = f"{shutil.disk_usage(there).free / 2**30:.1f} GiB free"
        if not os.access(there, os.W_OK):
            yield Finding("disk", name, "needed", free, f"{there} cannot be written")
        else:
            yield Finding("disk", name, "ok", free, f"{folder}" if folder.exists() else f"{folder}, not there yet")


def _caches() -> Iterator[Finding]:
    from mlbench.cache import KINDS, entries

    found = entries()
    for kind, what in KINDS.items():
        sizes = [entry.bytes for entry in found if entry.kind == kind]
        if sizes:
            yield Finding("caches", kind, "ok", f"{sum(sizes) / 2**20:.1f} MiB in {len(sizes)}", what)


def _datasets(root: Path | None) -> Iterator[Finding]:
    from mlbench.acquire.overview import presence
    from mlbench.acquire.sources import load_sources

    yield Finding("data sets", "scenes, scenes-2", "ok", "made here at first use")
    if root is None:
        yield Finding("data sets", "others", "ok", "not looked for", "--data-root FOLDER says where")
        return
    for name, source in load_sources().items():
        there = presence(source, root)
        yield Finding("data sets", name, "ok" if there == "yes" else "missing", there)
    for path in sorted(root.glob("*.toml")):
        yield Finding("data sets", path.name, "ok", "a description", "--dataset FILE.toml")


def _weights() -> Iterator[Finding]:
    from mlbench.models.backbones import BACKBONES
    from mlbench.models.weights import cached_weights

    for name in BACKBONES:
        if name in ("scenes", "scenes-2", "timm"):
            continue
        try:
            path, looked = cached_weights(name)
        except MlbenchError as error:
            yield Finding("weights", name, "missing", "", str(error))
            continue
        if path is not None:
            yield Finding("weights", name, "ok", path.name)
        else:
            yield Finding(
                "weights", name, "missing", "", f"looked for {looked}" if looked else "--weights FILE gives them"
            )


def _methods() -> Iterator[Finding]:
    """What no run of a method could do without here, and what a run has to be given."""
    from mlbench.registry import METHODS, load_method

    by_need: dict[str, list[str]] = {}
    for name in METHODS:
        try:
            method: Any = load_method(name)
        except MlbenchError as error:
            yield Finding("methods", name, "missing", "", str(error))
            continue
        for kind in method.inputs:
            by_need.setdefault(kind, []).append(name)
    try:
        import cv2

        opencv = hasattr(cv2, "ximgproc")
    except ImportError:
        opencv = False
    told = {
        "boxes": ("ok", "a data set with boxes: scenes-2, COCO, VOC, WIDER, yours"),
        "tags": ("ok", "a data set with tags"),
        "vl_scores": ("ok", "--side vl_scores=FILE"),
        "proposals": (
            "ok" if opencv else "missing",
            "OpenCV with its contrib modules"
            + ("" if opencv else ": pip install 'mlbench-multilabel[proposals]', or --set proposals.source=grid"),
        ),
    }
    for kind, names in sorted(by_need.items()):
        state, how = told.get(kind, ("ok", "what its package says"))
        yield Finding("methods", kind, state, how, f"for {', '.join(names)}")
