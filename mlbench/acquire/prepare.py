"""A data set made ready: fetched, unpacked, indexed, verified, decoded once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlbench.acquire.archives import is_archive
from mlbench.acquire.download import Patience, check_file, download, megabytes
from mlbench.acquire.extract import extract, merge
from mlbench.acquire.sources import Source, SourceFile, find_source, missing_by_hand, tell_by_hand
from mlbench.acquire.verify import Verification, compare_decoded, verify
from mlbench.datasets import Dataset, load_dataset
from mlbench.datasets.miniature import find_marker
from mlbench.errors import DataError, UsageError
from mlbench.files import atomic_write, sha256_file
from mlbench.locks import locked
from mlbench.progress import Reporter
from mlbench.protocol import load_protocol

#: Folder under the root for what belongs to mlbench: what was unpacked, and half-unpacked archives.
OWN = ".mlbench"


@dataclass(frozen=True)
class Options:
    """How to prepare: `mirror`, base URL instead of the official one; `images` False for labels alone; `size`, side of
    the cached images (None: the size of protocol ``full``, 0: no cache); `patience` with the server."""

    mirror: str | None = None
    images: bool = True
    size: int | None = None
    patience: Patience | None = None


def prepare(name: str, root: Path, options: Options | None = None, reporter: Reporter | None = None) -> str:
    """Fetch, unpack, index and verify a data set in the folder `root`, and decode its images into the cache.

    What is there already is not fetched again, and an interrupted call goes on where it was. A data set without known
    files to fetch (a description of your own, the embedded one) is only indexed, verified and decoded.

    Returns
    -------
    What was done, for people. UsageError for an unknown name, DataError for what must be fetched by hand (once all
    else is there) and for data that are not what they should be.
    """
    options, reporter = options or Options(), reporter or Reporter(quiet=True)
    if options.size is not None and options.size < 0:
        raise UsageError(f"--size {options.size}: expected pixels, or 0 for no cache")
    if find_marker(root) is not None:
        raise UsageError(f"{root}: a miniature; prepare the data set in a folder of its own")
    lines: list[str] = []
    source = find_source(name)
    if source is not None:
        lines += _acquire(source, root, options, reporter)
        absent = [file.name for file in source.files if not file.present(root)]
        if not options.images and (absent or missing_by_hand(source, root, pictures=True)):
            return "\n".join([*lines, f"{name}: labels only; without its pictures it is not indexed"])
    dataset = load_dataset(name, root)
    size = _cache_size(dataset, options)
    # Decoding for the cache opens every image; without it, verification does.
    # Only a folder that was filled here is written into.
    filled_here = source is not None
    report = verify(dataset, root, options.images and not size, remember=filled_here, reporter=reporter)
    lines.append(report.text())
    _refuse(name, report)
    if size:
        lines.append(_decode(dataset, size, reporter))
        _refuse(name, compare_decoded(dataset, root, remember=filled_here))
    return "\n".join(lines)


def _refuse(name: str, report: Verification) -> None:
    if report.problems:
        raise DataError(f"{name}: {len(report.problems)} problems: {'; '.join(report.problems[:5])}")


def _cache_size(dataset: Dataset, options: Options) -> int:
    if not options.images or options.size == 0:
        return 0
    return options.size or load_protocol("full").train_settings(dataset.id, "full", {}).image_size


def _decode(dataset: Dataset, size: int, reporter: Reporter) -> str:
    from mlbench.inputs.on_the_fly import warning
    from mlbench.inputs.pixels import load_pixels

    for part, split in dataset.splits.items():
        if told := warning(split, size):
            reporter.say(f"note: {told}")
        try:
            load_pixels(split, size, reporter.counter(f"decoding {part}"))
        except DataError as error:
            raise DataError(f"{error} (`mlbench data verify` lists all broken images)") from None
    total = sum(len(split) for split in dataset.splits.values())
    return f"decoded: {total:,} images at {size} x {size}, in the cache"


def _acquire(source: Source, root: Path, options: Options, reporter: Reporter) -> list[str]:
    """Fetch and unpack what is not there; returns a line for each archive."""
    lines = []
    (root / OWN).mkdir(parents=True, exist_ok=True)
    with locked(root / OWN / "lock", wait=False, busy=f"{root}: another `mlbench data prepare` is at work there"):
        by_hand = missing_by_hand(source, root, options.images)
        if by_hand:
            reporter.say(str(tell_by_hand(source, by_hand, root)))
        for file in source.files:
            lines.append(_get(file, root, options, reporter))
        for item in source.by_hand:
            if item.is_archive and (options.images or not item.file.pictures) and item not in by_hand:
                lines.append(_get(item.file, root, options, reporter))
    if by_hand:
        raise tell_by_hand(source, by_hand, root)
    return lines


def _get(file: SourceFile, root: Path, options: Options, reporter: Reporter) -> str:
    """One archive fetched (if it has an address) and unpacked; says what was done."""
    halves = [root / OWN / f"{file.name}.{state}" for state in ("unpacking", "unpacked")]
    begun = any(half.exists() for half in halves)
    if not begun and file.present(root):
        return f"{file.name}: there already"
    if file.pictures and not options.images:
        return f"{file.name}: left out (pictures)"
    archive = root / "downloads" / file.name
    vouched = " and ".join(file.checksums) or "no published checksum: could not be verified"
    if not halves[1].exists():
        if file.url is None:
            vouched = check_file(archive, file.size, file.checksums)
        else:
            tell = megabytes(reporter.counter(f"fetching {file.name}", unit="MB"))
            url = file.address(options.mirror)
            vouched = download(url, archive, file.size, file.checksums, tell, options.patience)
    _unpack(archive, root, file.folder, reporter)
    if not file.present(root):
        raise DataError(f"{archive}: unpacked, but there is no {file.holds[0]}: not the archive it should be")
    _remember(root, file.name, {"checked": vouched} | ({"sha256": sha256_file(archive)} if archive.exists() else {}))
    return f"{file.name}: fetched and unpacked ({vouched})"


def _unpack(archive: Path, root: Path, folder: str, reporter: Reporter) -> None:
    """Unpack beside the data, and move it to its place only when it is whole."""
    if not is_archive(archive.name):
        raise UsageError(f"{archive}: expected a .zip, .tar, .tar.gz or .tgz")
    half, whole = (root / OWN / f"{archive.name}.{state}" for state in ("unpacking", "unpacked"))
    if not whole.exists():
        try:
            extract(archive, half, advance=megabytes(reporter.counter(f"unpacking {archive.name}", unit="MB")))
        except DataError:
            shutil.rmtree(half, ignore_errors=True)
            raise
        half.rename(whole)
    own_folder = not folder or (whole / folder).is_dir()
    merge(whole, root if own_folder else root / folder)


def _remember(root: Path, archive: str, facts: Mapping[str, Any]) -> None:
    """Note in ``ROOT/.mlbench/archives.json`` what was unpacked here."""
    path = root / OWN / "archives.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable ({error}); delete it if it is not needed") from None
    atomic_write(path, json.dumps(known | {archive: facts}, indent=2, sort_keys=True).encode())
