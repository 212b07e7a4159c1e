"""Whether a data set is what it should be: every image opens, the counts, the hashes."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.datasets.base import Dataset, Split
from mlbench.errors import DataError, MlbenchError
from mlbench.files import atomic_write
from mlbench.grid import grid
from mlbench.inputs.cache import find_cached, find_unusable, open_cached
from mlbench.inputs.duplicates import equal_pictures
from mlbench.inputs.pixels import content_sha256, files_sha256
from mlbench.progress import Reporter
from mlbench.protocol import Protocol, list_protocols, load_protocol
from mlbench.provenance import usable_cores

_CHUNK = 512


@dataclass
class Verification:
    """What was found: a row of facts for each split, problems (none: all is well), and remarks."""

    dataset: str
    fingerprint: str
    parts: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report for people."""
        table = grid(self.parts, headers="keys", tablefmt="simple", intfmt=",")
        lines = [f"{self.dataset}: fingerprint {self.fingerprint}", table, *(f"note: {text}" for text in self.remarks)]
        lines += [f"PROBLEM: {text}" for text in self.problems]
        return "\n".join([*lines, "verified" if not self.problems else f"{len(self.problems)} problems"])


def verify(
    dataset: Dataset,
    root: Path | None = None,
    open_images: bool = True,
    remember: bool = False,
    reporter: Reporter | None = None,
) -> Verification:
    """Check a loaded data set.

    Parameters
    ----------
    dataset : loaded, so its label files are well-formed and its own counts right.
    root : where its files lie; hashes kept there in ``.mlbench`` are compared with those found. None: with nothing.
    open_images : read every image file, compare it with the hash that the fingerprint rests on, and decode it; the
        broken ones are listed, not only the first. What the cache holds of them (pixels at any size, features,
        proposals) is compared with its hashes, byte by byte.
    remember : keep the hashes found in `root`, where nothing is wrong. Without it nothing is written: data may be
        other people's.

    Returns
    -------
    Verification; what is wrong is in its `problems`, nothing is raised for it.
    """
    reporter = reporter or Reporter(quiet=True)
    result = Verification(dataset.id, dataset.hash_images(reporter.counter), remarks=list(dataset.notes))
    contents = {}
    for name, split in dataset.splits.items():
        row: dict[str, Any] = {"part": name, "samples": len(split), "classes": len(dataset.classes)}
        if open_images:
            broken, contents[name] = _open_all(split, reporter, f"opening {name}")
            result.problems += broken
            row |= {"opened": len(split) - len(broken), "content": contents[name][:16]}
        result.parts.append(row)
        if open_images:
            _check_cache(split, name, result)
    if open_images:
        result.remarks += equal_pictures(dataset)
        earlier, damaged = find_unusable()
        result.problems += damaged
        if earlier:
            size = sum(path.stat().st_size for path in earlier)
            result.remarks.append(
                f"{len(earlier)} cached arrays ({size / 1e9:.1f} GB) are of an earlier version and not read any more; "
                f"they may be deleted, the first is {earlier[0]}"
            )
    _check_protocols(dataset, result)
    if root is not None:
        _compare(dataset, contents, root, remember, result)
    return result


def _open_all(split: Split, reporter: Reporter, title: str) -> tuple[list[str], str]:
    """Messages about images that do not open, and a SHA-256 over those of all files (of the pixels, if no files)."""
    images, files = split.images, files_sha256(split)

    def look(row: int) -> tuple[str, str]:
        try:
            pixels = images.load(row)
            return "" if files else hashlib.sha256(pixels.tobytes()).hexdigest(), ""
        except MlbenchError as error:
            return "", str(error)

    advance, content, broken = reporter.counter(title), hashlib.sha256(), []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(split), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(split)))
            for digest, problem in pool.map(look, rows):
                content.update(f"{digest}\n".encode())
                broken += [problem] if problem else []
            advance(rows.stop, len(split))
    return broken, files or content.hexdigest()


def _check_cache(split: Split, part: str, result: Verification) -> None:
    """Every byte of what the cache holds of the images of `split`."""
    for path, sidecar in find_cached(content_sha256(split)):
        size = f" at {sidecar.about['size']} px" if "size" in sidecar.about else ""
        name = f"{path.parent.name} of {part}{size}"
        try:
            open_cached(path).verify()
            result.remarks.append(f"cached {name}: whole, and made of these images")
        except DataError as error:
            result.problems.append(f"cached {name}: {error}")


def compare_decoded(dataset: Dataset, root: Path, remember: bool = False) -> Verification:
    """As `verify`, of nothing but the hashes over the image files, where these were decoded just now."""
    result = Verification(dataset.id, dataset.fingerprint)
    contents = {part: files_sha256(split) for part, split in dataset.splits.items()}
    _compare(dataset, {part: found for part, found in contents.items() if found}, root, remember, result)
    return result


def _check_protocols(dataset: Dataset, result: Verification) -> None:
    """The counts that shipped protocols expect of this data set; of a miniature, that they are its own."""
    if dataset.is_miniature:
        result.remarks.append("a miniature: counts as its own marker has them, not as protocols expect of the data set")
        return
    expecting = 0
    for name in list_protocols():
        protocol = load_protocol(name)
        rules = protocol.datasets.get(dataset.id)
        if rules is None or not rules.expect:
            continue
        expecting += 1
        try:
            protocol.check_counts(dataset.id, part_sizes(dataset, protocol), dataset.version)
        except DataError as error:
            result.problems.append(str(error))
    told = (
        f"counts as {expecting} protocols expect" if expecting else "no protocol says what to expect of this data set"
    )
    result.remarks += [] if expecting and result.problems else [told]


def part_sizes(dataset: Dataset, protocol: Protocol) -> dict[str, int]:
    """Classes and samples of train, val and test after the split of `protocol`."""
    splits, rule = dataset.splits, protocol.split
    sizes = {"classes": len(dataset.classes), "train": len(splits["train"]), "test": len(splits["test"])}
    if "val" in splits and rule.validation.startswith("official"):
        sizes["val"] = len(splits["val"])
    elif rule.validation != "none":
        sizes["val"] = int(np.round(rule.fraction * sizes["train"]))
        sizes["train"] -= sizes["val"]
    return sizes


def _compare(dataset: Dataset, contents: dict[str, str], root: Path, remember: bool, result: Verification) -> None:
    """Compare with what was found here before; with `remember`, keep what is new of it."""
    path = root / ".mlbench" / f"{dataset.id}.json"
    found = {"fingerprint": dataset.fingerprint, **{f"content of {part}": value for part, value in contents.items()}}
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable ({error}); delete it if it is not needed") from None
    outdated = before.get("fingerprint") == dataset.legacy_fingerprint
    if outdated:  # kept before the content of images was part of it
        before["fingerprint"] = found["fingerprint"]
    changed = [key for key in found if before.get(key, found[key]) != found[key]]
    result.problems += [f"{key} is {found[key]}, was {before[key]} before ({path})" for key in changed]
    if before and not changed:
        result.remarks.append("the same as when its hashes were kept here")
    if not before and not remember:
        result.remarks.append("no hashes were kept here to compare with (--remember keeps them)")
    if remember and not result.problems and (outdated or found.keys() - before.keys()):
        try:
            atomic_write(path, json.dumps(before | found, indent=2, sort_keys=True).encode())
        except MlbenchError as error:
            result.remarks.append(f"hashes not kept for the next time: {error}")
