"""Published runs by name, and where their test scores lie once they were fetched.

A reference is ``published:METHOD@DATASET[/PROTOCOL][#DRAW]`` or ``published:KEY``. Scores lie in the cache under their
own SHA-256, which the record names: whoever brings others brings nothing that a record would use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mlbench.errors import DataError, UsageError, unknown
from mlbench.paths import cache_dir, published_packs, published_records
from mlbench.store.runs import find_records, run_dir, summarise_records

PREFIX = "published:"
#: The protocol that a reference means where several fit and it names none.
HEADLINE = "single_positive"

Record = Mapping[str, Any]


def find_published(reference: str, folder: Path | None = None) -> dict[str, Any]:
    """The published record that `reference` names, in `folder` [the records that came with mlbench].

    Draw i is seed i and mask i (seed i alone where no mask was drawn); where none is given, the first whose scores are
    in a published pack or were fetched, else the first. Of several versions the last is meant; of several settings
    that were run (tracks, backbones) the one with the most runs.

    Raises
    ------
    UsageError
        For a name that is not published, with the nearest one, or where several runs fit equally well, with their keys.
    """
    root = folder or published_records()
    if root is None:
        raise UsageError(f"{reference}: no published records came with this mlbench (results/runs)")
    text = reference.removeprefix(PREFIX)
    if "@" not in text:
        return _one(reference, find_records(root, key=text)[0] if text else [])
    method, _, rest = text.rpartition("@")
    rest, hashed, draw = rest.partition("#")
    dataset, slash, protocol = rest.partition("/")
    if (hashed and not draw.isascii()) or (hashed and not draw.isdigit()) or (slash and not protocol):
        raise UsageError(f"{reference}: expected published:METHOD@DATASET[/PROTOCOL][#DRAW], as published:llr@scenes#0")
    facts, _ = summarise_records(root)
    facts = _named(facts, "dataset", dataset)
    facts = _named(facts, "method", method)
    protocols = {fact["protocol"] for fact in facts}
    chosen = protocol or (HEADLINE if HEADLINE in protocols else min(protocols) if len(protocols) == 1 else "")
    if not chosen:
        known = ", ".join(sorted(protocols))
        raise UsageError(f"{reference}: published under the protocols {known}: expected {method}@{dataset}/PROTOCOL")
    _named(facts, "protocol", chosen)
    records, _ = find_records(root, dataset=dataset, method=method, protocol=chosen)
    return _drawn(reference, _last_version(records), int(draw) if draw else None)


def find_scores(root: Path, record: Record) -> Path | None:
    """The file of a record's test scores: its run's in the store `root`, else the fetched one; None without either."""
    stored = record["predictions"].get("test")
    if stored is None:
        return None
    places = (run_dir(root, record["key"]) / stored["file"], fetched_scores(stored["sha256"]))
    return next((place for place in places if place.is_file()), None)


def scores_file(root: Path, record: Record) -> Path:
    """As `find_scores`; DataError, which says what brings the scores here, where they are not."""
    found = find_scores(root, record)
    if found is None:
        what = f"the test scores of run {record['key'][:16]} ({record['identity']['method']['name']})"
        raise DataError(f"{what} are not at hand: {fetching(record)}")
    return found


def fetching(record: Record) -> str:
    """What brings a record's test scores here, in words."""
    sha256 = record["predictions"].get("test", {}).get("sha256")
    for name, index in packs().items():
        if any(run["predictions"]["sha256"] == sha256 for run in index["runs"]):
            archive = index["archive"]
            if archive.get("url"):
                return f"`mlbench results fetch {name}` brings them"
            return f"`mlbench results fetch {archive['file']}` brings them, once that file was downloaded"
    return "they stay in the store of the run"


def fetched_scores(sha256: str) -> Path:
    """Where scores of this hash lie in the cache once they were fetched."""
    return cache_dir() / "scores" / f"{sha256}.safetensors"


def read_index(path: Path) -> dict[str, Any]:
    """A committed index of a pack (``results/packs/NAME.json``); DataError if it is none."""
    try:
        return _index(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: cannot read the index of a pack: {error.strerror}") from None


@cache
def _index(path: Path, _: int) -> dict[str, Any]:
    """Read once for all runs that ask for it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"archive": dict(found["archive"]), "runs": list(found["runs"]), **found}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no index of a pack: {type(error).__name__}: {error}") from None


def packs() -> dict[str, dict[str, Any]]:
    """The committed indices of packs by name."""
    folder = published_packs()
    return {path.stem: read_index(path) for path in sorted(folder.glob("*.json"))} if folder else {}


def _named(facts: list[dict[str, Any]], kind: str, name: str) -> list[dict[str, Any]]:
    found = [fact for fact in facts if fact[kind] == name]
    if not found:
        raise unknown(f"published {kind}", name, {str(fact[kind]) for fact in facts})
    return found


def _last_version(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def version(record: Record) -> tuple[int, int]:
        return record["identity"]["harness"], record["identity"]["method"]["version"]

    last = max(map(version, records))
    return [record for record in records if version(record) == last]


def _drawn(reference: str, records: list[dict[str, Any]], draw: int | None) -> dict[str, Any]:
    """The run of `draw` by the settings that have the most runs."""
    drawn = [r for r in records if is_draw(r, r["identity"]["repetition"] if draw is None else draw)]
    if not drawn:
        draws = {r["identity"]["repetition"] for r in records if is_draw(r, r["identity"]["repetition"])}
        known = ", ".join(map(str, sorted(draws)))
        asked = "i" if draw is None else draw
        raise UsageError(f"{reference}: no published run of draw {asked}; there are {known or 'none'}")
    by_setting = by_settings(records)
    most = max(len(by_setting[setting_of(r)]) for r in drawn)
    fit = [r for r in drawn if len(by_setting[setting_of(r)]) == most]
    if draw is None:
        fit = [r for r in fit if _offered(r)] or fit
        first = min(r["identity"]["repetition"] for r in fit)
        fit = [r for r in fit if r["identity"]["repetition"] == first]
    return _one(reference, fit)


def _offered(record: Record) -> bool:
    """Whether a record's test scores were fetched, or are in a published pack."""
    sha256 = record["predictions"].get("test", {}).get("sha256")
    packed = (run["predictions"]["sha256"] for index in packs().values() for run in index["runs"])
    return sha256 is not None and (fetched_scores(sha256).is_file() or sha256 in packed)


def is_draw(record: Record, draw: int) -> bool:
    """Whether a run is of seed `draw` and mask `draw`, or of that seed where no mask was drawn."""
    identity = record["identity"]
    masked = "seed" in identity["mask"] or identity["mask"].get("process") == "unknown"
    return identity["repetition"] == draw and (identity["mask_seed"] == draw or not masked)


def by_settings(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records by what all draws of a row share, in short (`setting_of`)."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(setting_of(record), []).append(record)
    return found


def setting_of(record: Record) -> str:
    """What all draws of a row share, in short."""
    identity = record["identity"]
    shared = [identity[name] for name in ("protocol", "track", "backbone", "precision", "selection", "method", "train")]
    return json.dumps([*shared, identity.get("head"), identity["mask"].get("params")])


def _one(reference: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"{reference}: expected the first characters of a published run's key, or METHOD@DATASET")
    told = ", ".join(f"{r['key'][:12]} ({r['identity']['track']}, {_params(r)})" for r in found[:8])
    raise UsageError(f"{reference}: {len(found)} published runs fit; name one by its key, as published:KEY: {told}")


def _params(record: Record) -> str:
    identity = record["identity"]
    params = ", ".join(f"{name}={value}" for name, value in identity["mask"].get("params", {}).items())
    return ", ".join(filter(None, [identity["backbone"]["name"], params]))
