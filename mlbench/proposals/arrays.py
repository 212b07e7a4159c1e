"""Proposals of a split as one cached array: found in parallel once, resumable, verified, memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mlbench.datasets.base import Split
from mlbench.errors import DataError, UsageError, nearest
from mlbench.images.cache import Advance, Recipe, array_sha256, cached_array
from mlbench.images.decode import first_few
from mlbench.images.pixels import check_sources, file_digests
from mlbench.images.sidecar import read_sidecar
from mlbench.paths import cache_dir
from mlbench.proposals.grid import GRID_RULE, window_grid
from mlbench.proposals.selective_search import SEARCH_RULE, opencv, selective_search
from mlbench.provenance import usable_cores
from mlbench.seeds import id_hashes

#: Finds the proposals of one image: ``find(image, key)`` gives float [m, 5] of an image uint8 [H, W, 3]; `key` (of the
#: sample id) seeds what is drawn.
Find = Callable[[np.ndarray, int], np.ndarray]

#: What can be computed when it is needed, with the rule that decides the boxes (part of a run's identity).
SOURCES: dict[str, tuple[Find, str]] = {
    "selective_search": (selective_search, SEARCH_RULE),
    "grid": (window_grid, GRID_RULE),
}

_ROWS_AT_ONCE = 32

#: Boxes of an image that are stored at least: runs with fewer take the best of them, and nothing is computed again.
_STORED = 500


class Regions(NamedTuple):
    """Boxes [B, R, 4] (shares of width and height), scores [B, R], and which of them are proposals, bool [B, R]."""

    boxes: Tensor
    scores: Tensor
    valid: Tensor


def split_proposals(proposals: Tensor) -> Regions:
    """Boxes, scores and validity of proposals float [B, R, 5]."""
    boxes = proposals[..., :4]
    return Regions(boxes, proposals[..., 4], (boxes[..., 2:] > boxes[..., :2]).all(dim=-1))


def pack(found: np.ndarray, count: int, where: str = "proposals") -> np.ndarray:
    """The `count` best of the boxes `found` [m, 5], best first and filled up with zeros: float32 [count, 5].

    Raises
    ------
    DataError : a number that is not finite, a box without area or outside the image, or no box at all.
    """
    found = np.asarray(found, dtype=np.float32).reshape(-1, 5)
    if not len(found):
        raise DataError(f"{where}: no box; expected at least one")
    x1, y1, x2, y2, _ = found.T
    wrong = ~np.isfinite(found).all(axis=1) | (x2 <= x1) | (y2 <= y1)
    wrong |= (found[:, :4].min(axis=1) < 0) | (found[:, :4].max(axis=1) > 1)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        first = [round(float(value), 4) for value in found[at]]
        raise DataError(
            f"{where}: {int(wrong.sum())} of {len(found)} boxes are not x1 < x2, y1 < y2 inside the image with a "
            f"finite score; the first is number {at + 1}, {first} in shares of the image"
        )
    best = np.argsort(-found[:, 4], kind="stable")[:count]
    packed = np.zeros((count, 5), dtype=np.float32)
    packed[: len(best)] = found[best]
    return packed


def load_proposals(split: Split, source: str, count: int, advance: Advance | None = None) -> np.ndarray:
    """The `count` proposals of each image of `split`: float32 [N, count, 5], memory-mapped from the cache.

    `source` is one of `SOURCES`, computed now if it is not in the cache, or the name of an import.

    Raises
    ------
    UsageError : `count` below 1; no such source, and nothing was imported under this name.
    DataError : an image cannot be decoded, the cache is damaged, or images changed under the same names and sizes.
    """
    _check_count(count)
    if source not in SOURCES:
        return _open_import(split, source, count)
    return compute_proposals(split, SOURCES[source][0], _about(source, count), advance)[:, :count]


def proposals_sha256(split: Split, source: str, count: int) -> str:
    """SHA-256 of the boxes that `load_proposals` has cached, of which a run takes the first `count` of each image."""
    path = _file(split, _about(source, count))
    return array_sha256(path, np.load(path, mmap_mode="r"))


def compute_proposals(split: Split, find: Find, about: Mapping[str, Any], advance: Advance | None = None) -> np.ndarray:
    """The array of ``find`` on each image of `split`; `about` (with "count") says all that decides its content."""
    path, count = _file(split, about), int(about["count"])
    keys = id_hashes(split.ids)

    def one(row: int) -> np.ndarray:
        return pack(find(split.images.load(row), int(keys[row])), count, split.ids[row])

    def fill(start: int, stop: int) -> np.ndarray:
        # OpenCV gives the interpreter lock back while it works, so threads are enough.
        with ThreadPoolExecutor(usable_cores()) as pool:
            return np.stack(list(pool.map(one, range(start, stop))))

    recipe = Recipe(fill, lambda start, stop: file_digests(split.images, range(start, stop)), about=dict(about))
    array = cached_array(path, (len(split), count, 5), np.float32, recipe, _ROWS_AT_ONCE, advance)
    check_sources(split, path, everything=False)
    return array


def import_proposals(split: Split, found: Mapping[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """Keep proposals computed elsewhere under `name`, so that ``--set proposals.source=NAME`` uses them.

    Parameters
    ----------
    found : boxes float [m, 5] (shares of width and height, score) by sample id, as the readers of
        `mlbench.proposals.readers` give them; other ids than those of `split` are left alone.
    count : how many of an image are kept, the best by score.

    Returns
    -------
    float32 [N, count, 5], memory-mapped.

    Raises
    ------
    UsageError : `name` is that of a computed source, or other boxes stand under it.
    DataError : samples without boxes, or boxes that are none (`pack`).
    """
    _check_count(count)
    if name in SOURCES:
        raise UsageError(f"proposals cannot be imported as '{name}': that is computed. Choose another name")
    missing = [sample for sample in split.ids if sample not in found]
    if missing:
        raise DataError(f"proposals '{name}': {len(missing)} of {len(split)} images have none: {first_few(missing)}")
    about = _about(name, count)
    path = _file(split, about)
    packed = np.stack([pack(found[sample], count, sample) for sample in split.ids])
    recipe = Recipe(lambda start, stop: packed[start:stop], about=about)
    array = cached_array(path, packed.shape, np.float32, recipe, _ROWS_AT_ONCE)
    if not np.array_equal(array, packed):
        raise UsageError(f"proposals '{name}' with {count} an image are there already and differ; choose another name")
    return array


def proposals_identity(splits: Mapping[str, Split], source: str, count: int) -> dict[str, Any]:
    """What decides the proposals: the rule of a computed source, or the SHA-256 of each split's imported boxes."""
    _check_count(count)
    if source in SOURCES:
        return {"source": source, "count": count, "rule": SOURCES[source][1]}
    hashes = {}
    for name, split in sorted(splits.items()):
        array = _open_import(split, source, count, f" of part '{name}'")
        hashes[name] = array_sha256(_file(split, _about(source, count)), array)
    return {"source": source, "count": count, "sha256": hashes}


def _open_import(split: Split, name: str, count: int, where: str = "") -> np.ndarray:
    path = _file(split, _about(name, count))
    if not path.exists():
        imported = _imported(split)
        raise UsageError(
            f"proposals.source = '{name}': computed are {', '.join(SOURCES)}, and no proposals of the images{where} "
            f"were imported under this name with {count} an image (imported of them: "
            f"{', '.join(f'{other} with {number}' for other, number in imported) or 'none'})."
            f"{nearest(name, {*SOURCES, *(other for other, _ in imported)} - {name})} "
            "`python -m mlbench.proposals --help` tells how to import, or to find edge boxes"
        )
    nothing = Recipe(lambda start, stop: np.zeros((0, 5), np.float32))
    return cached_array(path, (len(split), count, 5), np.float32, nothing)


def _imported(split: Split) -> list[tuple[str, int]]:
    """Names and numbers of boxes of all imports of the images of `split`."""
    found = []
    for path in (cache_dir() / "proposals").glob("*.json"):
        sidecar = read_sidecar(path.with_suffix(".npy"))
        about = sidecar.about if sidecar else {}
        if about.get("source") not in (None, *SOURCES) and _file(split, about).stem == path.stem:
            found.append((str(about["source"]), int(about["count"])))
    return sorted(found)


def _about(source: str, count: int) -> dict[str, Any]:
    """What decides the boxes of `source`, and how many are stored of an image."""
    if source not in SOURCES:
        return {"source": source, "count": count}
    about: dict[str, Any] = {"source": source, "rule": SOURCES[source][1], "count": max(count, _STORED)}
    return about | {"opencv": opencv().__version__} if source == "selective_search" else about


def _check_count(count: int) -> None:
    if count < 1:
        raise UsageError(f"proposals.count = {count}: expected at least 1")


def _file(split: Split, about: Mapping[str, Any]) -> Path:
    """Named by all that the boxes depend on: ids, file names and sizes, and `about`."""
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for row, sample in enumerate(split.ids):
        digest.update(f"\n{sample}\0{split.images.describe(row)}".encode())
    return cache_dir() / "proposals" / f"{digest.hexdigest()[:32]}.npy"
