"""`results pack` and `results fetch`: the test scores of published runs, made into packs and taken in from them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlbench.acquire.download import download
from mlbench.errors import UsageError, unknown
from mlbench.files import atomic_write, sha256_file
from mlbench.paths import published_records, store_dir
from mlbench.repository.archive import LARGEST_PACK, Packed, opened_pack, scratch, write_pack
from mlbench.repository.report import Report
from mlbench.store import find_records
from mlbench.store.published import by_settings, fetched_scores, find_scores, is_draw, packs

Record = dict[str, Any]


def pack(
    to: Path,
    stores: Sequence[Path] = (),
    datasets: Sequence[str] = (),
    protocols: Sequence[str] = (),
    draw: int | None = None,
    index: Path | None = None,
    url: str = "",
    published: Path | None = None,
) -> Report:
    """Write ``TO/DATASET.zip`` for each of `datasets` [all]: published runs whose scores are at hand.

    Parameters
    ----------
    stores : run stores that have the scores; those fetched before count, too.
    protocols : of these protocols alone. draw : of this draw alone [of each row the first that is at hand].
    index : folder that gets ``DATASET.json``, the pack's index, which is small and to be committed [TO].
    url : address under which the archives will lie; the index keeps it, so that `fetch DATASET` finds them.
    published : folder of published records [those that came with mlbench].

    A run's scores go in only where their SHA-256 is the one that the published record names.
    """
    folder = published or published_records()
    if folder is None:
        raise UsageError("no published records came with this mlbench (results/runs)")
    records, problems = find_records(folder, protocol=list(protocols) or None)
    report = Report(problems=list(problems))
    known = sorted({record["identity"]["dataset"]["id"] for record in records})
    for name in datasets or known:
        if name not in known:
            raise unknown("published dataset", name, known)
        own = [r for r in records if r["identity"]["dataset"]["id"] == name]
        runs = []
        for row in by_settings(own).values():
            drawn = sorted((r for r in row if _is_asked(r, draw)), key=lambda r: r["identity"]["repetition"])
            tried = ((record, *_of(stores, record)) for record in drawn)  # no more are hashed than are needed
            found = next(((record, scores) for record, scores, _ in tried if scores), None)
            if found is not None:
                report.count(f"runs of {name}")
                runs.append(found)
            elif drawn:
                _, why = _of(stores, drawn[0])
                report.count(f"runs of {name} {why}")
                report.notes.append(f"{name}: {_named(drawn[0])}: {why}")
        if not runs:
            continue
        about = write_pack(to / f"{name}.zip", runs)
        if url:
            about["archive"]["url"] = f"{url.rstrip('/')}/{name}.zip"
        atomic_write((index or to) / f"{name}.json", (json.dumps(about, indent=1) + "\n").encode("ascii"))
        report.notes.append(f"wrote {to / name}.zip: {len(runs)} runs, {about['archive']['bytes'] / 1e6:.1f} MB")
    return report


def _is_asked(record: Record, draw: int | None) -> bool:
    return is_draw(record, record["identity"]["repetition"] if draw is None else draw)


def fetch(source: str, published: Path | None = None) -> Report:
    """Take the test scores of a pack into the cache: `source` is a file, an address, or the name of a published pack.

    The pack is checked whole first (`opened_pack`). Only scores that a published record names by their hash are kept.
    """
    folder = published or published_records()
    records = find_records(folder)[0] if folder is not None else []
    named = {record["predictions"]["test"]["sha256"] for record in records if "test" in record["predictions"]}
    report = Report()
    with brought(source) as pack_:
        for record in pack_.records:
            sha256 = record["predictions"]["test"]["sha256"]
            target = fetched_scores(sha256)
            if sha256 not in named:
                report.count("left out: no record that is published here names them")
            elif target.exists() and sha256_file(target) == sha256:
                report.count("already here")
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(pack_.scores[record["key"]], target)
                report.count("scores taken in")
    return report


@contextmanager
def brought(source: str) -> Iterator[Packed]:
    """The checked pack of a file, an address, or the name of a published pack."""
    index = packs().get(source)
    if index is None and not source.startswith(("http://", "https://")):
        path = Path(source)
        if not path.exists() and not path.suffix:
            known = ", ".join(packs()) or "none"
            raise UsageError(f"{source}: no such file, and no published pack of this name. Known: {known}")
        with opened_pack(path) as found:
            yield found
        return
    about: dict[str, Any] = index["archive"] if index is not None else {"url": source}
    if not about.get("url"):
        raise UsageError(
            f"{source}: the address of this pack is not known here; download {about['file']} and give the file"
        )
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        path = Path(folder) / "pack.zip"
        checks = {"sha256": about["sha256"]} if "sha256" in about else None
        download(about["url"], path, about.get("bytes"), checks, most=LARGEST_PACK)
        with opened_pack(path) as found:
            yield found


def _of(stores: Sequence[Path], record: Record) -> tuple[Path | None, str]:
    """The file of a record's scores, or why there is none."""
    if "test" not in record["predictions"]:
        return None, "without test scores"
    for store in stores or (store_dir(),):
        path = find_scores(store, record)
        if path is not None and sha256_file(path) == record["predictions"]["test"]["sha256"]:
            return path, ""
    return None, "whose scores are not at hand"


def _named(record: Record) -> str:
    identity = record["identity"]
    return f"{identity['method']['name']}, {identity['protocol']}, {identity['track']}, run {record['key'][:12]}"
