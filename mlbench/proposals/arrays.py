"""Proposals of a split as one cached array: found in parallel once, resumable, verified, memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mlbench.annotation import hash_ids
from mlbench.datasets.base import Split
from mlbench.errors import DataError, UsageError, nearest
from mlbench.images.decode import first_few
from mlbench.inputs.cache import Advance, Recipe, cache_file, cached_array, find_cached, open_cached
from mlbench.inputs.checked import CheckedArray
from mlbench.inputs.pixels import content_sha256, decoding
from mlbench.inputs.sidecar import array_digest
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


def load_proposals(split: Split, source: str, count: int, advance: Advance | None = None) -> CheckedArray:
    """The `count` proposals of each image of `split`: float32 [N, count, 5], memory-mapped from the cache.

    `source` is one of `SOURCES`, computed now if it is not in the cache, or a name that `import_proposals` or
    `compute_proposals` has kept.

    Raises
    ------
    UsageError : `count` below 1; no such source, and nothing is kept under this name.
    DataError : an image cannot be decoded or has changed since its file was hashed, or the cache is damaged.
    """
    _check_count(count)
    if source not in SOURCES:
        return _open_named(split, source, count)
    find, rule = SOURCES[source]
    about = {"source": source, "rule": rule, "count": max(count, _STORED)}
    if source == "selective_search":
        about["opencv"] = opencv().__version__
    about |= _of_images(split) | decoding()
    return _compute(split, find, about, cache_file("proposals", about), advance).first(count)


def proposals_sha256(split: Split, source: str, count: int) -> str:
    """SHA-256 of the boxes that `load_proposals` has cached, of which a run takes the first `count` of each image.

    All of them are hashed again: DataError if one byte is another than what was written.
    """
    array = load_proposals(split, source, count)
    array.verify()
    return array.sha256


def compute_proposals(
    split: Split, find: Find, name: str, count: int, rule: Mapping[str, Any], advance: Advance | None = None
) -> CheckedArray:
    """Keep the boxes of `find` under `name`, so that ``--set proposals.source=NAME`` uses them.

    Parameters
    ----------
    rule : all that decides what `find` gives (method, its parameters, hash of its model, version of its library).

    Raises
    ------
    UsageError : `name` is that of a computed source, boxes made by another rule stand under it, or `rule` is empty.
    """
    _check_name(name, count)
    if not rule:
        raise UsageError(f"proposals '{name}': nothing says what they are computed by (`rule` is empty)")
    path = _named_file(split, name, count)
    about = {"source": name, "count": count, "rule": dict(rule)} | _of_images(split) | decoding()
    if path.exists():
        kept = open_cached(path).about
        if kept != about:
            raise UsageError(
                f"proposals '{name}' with {count} an image are there already, made by another rule "
                f"({kept.get('rule')}, now {dict(rule)}); choose another name, or delete {path}"
            )
    return _compute(split, find, about, path, advance)


def _compute(
    split: Split, find: Find, about: dict[str, Any], path: Path, advance: Advance | None = None
) -> CheckedArray:
    """The array of ``find`` on each image of `split`; `about` (with "count") says all that decides its content."""
    count, keys = int(about["count"]), id_hashes(split.ids)

    def one(row: int) -> np.ndarray:
        return pack(find(split.images.load(row), int(keys[row])), count, split.ids[row])

    def fill(start: int, stop: int) -> np.ndarray:
        # OpenCV gives the interpreter lock back while it works, so threads are enough.
        with ThreadPoolExecutor(usable_cores()) as pool:
            return np.stack(list(pool.map(one, range(start, stop))))

    return cached_array(path, (len(split), count, 5), np.float32, Recipe(fill, about), _ROWS_AT_ONCE, advance)


def import_proposals(split: Split, found: Mapping[str, np.ndarray], name: str, count: int) -> CheckedArray:
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
    _check_name(name, count)
    missing = [sample for sample in split.ids if sample not in found]
    if missing:
        raise DataError(f"proposals '{name}': {len(missing)} of {len(split)} images have none: {first_few(missing)}")
    packed = np.stack([pack(found[sample], count, sample) for sample in split.ids])
    about = {"source": name, "count": count, "rule": "imported", "sha256": array_digest(packed)} | _of_images(split)
    path = _named_file(split, name, count)
    if path.exists() and open_cached(path).about != about:
        raise UsageError(f"proposals '{name}' with {count} an image are there already and differ; choose another name")
    recipe = Recipe(lambda start, stop: packed[start:stop], about)
    return cached_array(path, packed.shape, np.float32, recipe, _ROWS_AT_ONCE)


def proposals_identity(splits: Mapping[str, Split], source: str, count: int) -> dict[str, Any]:
    """What decides the proposals: the rule of a computed source, or the SHA-256 of each split's imported boxes."""
    _check_count(count)
    if source in SOURCES:
        return {"source": source, "count": count, "rule": SOURCES[source][1]}
    hashes = {}
    for name, split in sorted(splits.items()):
        hashes[name] = _open_named(split, source, count, f" of part '{name}'").sha256
    return {"source": source, "count": count, "sha256": hashes}


def _open_named(split: Split, name: str, count: int, where: str = "") -> CheckedArray:
    path = _named_file(split, name, count)
    if not path.exists():
        kept = _named(split)
        raise UsageError(
            f"proposals.source = '{name}': computed are {', '.join(SOURCES)}, and no proposals of the images{where} "
            f"were imported under this name with {count} an image (imported of them: "
            f"{', '.join(f'{other} with {number}' for other, number in kept) or 'none'})."
            f"{nearest(name, {*SOURCES, *(other for other, _ in kept)} - {name})} "
            "`python -m mlbench.proposals --help` tells how to import, or to find edge boxes"
        )
    array = open_cached(path)
    of_images = _of_images(split)
    if array.shape != (len(split), count, 5) or array.about | of_images != array.about:
        raise DataError(f"{path}: not the proposals of these images; delete it, and import them again")
    return array


def _named(split: Split) -> list[tuple[str, int]]:
    """Names and numbers of boxes of all that is kept under a name for the images of `split`."""
    ids, found = hash_ids(split.ids), []
    for path, sidecar in find_cached(content_sha256(split)):
        about = sidecar.about
        if path.parent.name == "proposals" and about["source"] not in SOURCES and about["ids"] == ids:
            found.append((str(about["source"]), int(about["count"])))
    return sorted(found)


def _of_images(split: Split) -> dict[str, str]:
    """The images that boxes are of; sample ids seed what is drawn."""
    return {"content": content_sha256(split), "ids": hash_ids(split.ids)}


def _named_file(split: Split, name: str, count: int) -> Path:
    return cache_file("proposals", {"source": name, "count": count} | _of_images(split))


def _check_name(name: str, count: int) -> None:
    _check_count(count)
    if name in SOURCES:
        raise UsageError(f"proposals cannot be imported as '{name}': that is computed. Choose another name")


def _check_count(count: int) -> None:
    if count < 1:
        raise UsageError(f"proposals.count = {count}: expected at least 1")
