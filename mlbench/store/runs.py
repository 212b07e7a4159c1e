"""Runs in a store: one folder each, ``<root>/<key[:16]>``, with its record, predictions and weights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlbench.canonical import canonical_json
from mlbench.errors import DataError, UsageError, unknown
from mlbench.files import atomic_write, reason, sha256_file
from mlbench.store.index import Entry, entries, read_text
from mlbench.store.journal import overlaid
from mlbench.store.schema import dump_record, parse_record

RECORD_FILE = "record.json"
#: Bytes: records come from strangers, too, and those of 20,000 classes have 4 MB.
LARGEST_RECORD = 2**26
#: How the method's name of a submission begins; the schema keeps it for them.
SUBMITTED = "submitted/"

#: What `find_records` selects by: where each stands in the identity.
FILTERS = {
    "protocol": ("protocol",),
    "dataset": ("dataset", "id"),
    "dataset_version": ("dataset", "version"),
    "mask": ("mask", "process"),
    "track": ("track",),
    "backbone": ("backbone", "name"),
    "method": ("method", "name"),
    "method_version": ("method", "version"),
    "precision": ("precision",),
    "selection": ("selection",),
    "repetition": ("repetition",),
    "mask_seed": ("mask_seed",),
}


def run_dir(root: str | Path, key: str) -> Path:
    """The folder of run `key` (64 hex digits) in the store `root`; it need not exist."""
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise UsageError(f"run key '{key}': expected 64 hexadecimal digits")
    return Path(root) / key[:16]


def write_record(root: str | Path, record: dict[str, Any], *, replace: bool = False) -> Path:
    """Check `record` and write it, which marks its run as complete. Returns the record's path.

    Every file the record names must already lie in the run's folder with the hash given. The same record again
    changes nothing.

    Raises
    ------
    DataError
        If the record breaks the schema, its key is not that of its identity, a file is missing or differs, or
        another record of this run is there already and `replace` is False.
    MlbenchError
        If the folder cannot be written (read-only, disk full); nothing is left behind then.
    """
    text = dump_record(record, f"record {str(record.get('key'))[:16]}")
    folder = run_dir(root, record["key"])
    _require_files(folder, record)
    _write_json(folder / RECORD_FILE, text, replace)
    return folder / RECORD_FILE


def read_record(path: str | Path) -> dict[str, Any]:
    """Read and check the record at `path`; DataError names the file and what is wrong with it."""
    path = Path(path)
    try:
        if (size := path.stat().st_size) > LARGEST_RECORD:
            raise DataError(f"{path}: {size:,} bytes; a record has at most {LARGEST_RECORD:,}")
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the record: {reason(error)}") from None
    return parse_record(raw, str(path))


def find_records(root: str | Path, **filters: object) -> tuple[list[dict[str, Any]], list[str]]:
    """All complete runs under `root` that match, and a line for each record that could not be used.

    `root` is a store or a folder of published records (``results/runs``). Folders without a record are runs that
    are not done; files that do not end in ``.json`` are left alone.

    Parameters
    ----------
    filters : names of `FILTERS`, or ``key`` (its first digits). A value may be a list, tuple or set of which any
        matches; None matches everything. Numbers may be given as text.

    Returns
    -------
    (records, problems) : records ordered by file name; problems as "path: reason".

    Raises
    ------
    UsageError
        For a filter that does not exist.
    DataError
        If `root` is no folder.
    """
    found, problems = _matching(Path(root), filters)
    return [_content(entry) for entry in found], problems


def summarise_records(root: str | Path, **filters: object) -> tuple[list[dict[str, Any]], list[str]]:
    """As `find_records`, with what a list shows of each record in place of the whole: no record that was checked before
    is read again.

    Returns
    -------
    (summaries, problems) : a summary has ``key``, the names of `FILTERS` with the identity's values, ``metric`` (the
    headline metric), ``value`` (its test value, in percent or None), ``started`` and ``seconds``.
    """
    found, problems = _matching(Path(root), filters)
    return [entry.facts for entry in found], problems


def _matching(root: Path, filters: Mapping[str, object]) -> tuple[list[Entry], list[str]]:
    for name in filters:
        if name != "key" and name not in FILTERS:
            raise unknown("filter", name, (*FILTERS, "key"))
    wanted = {name: _texts(value) for name, value in filters.items() if value is not None}
    found = entries(root, _record_paths(root), _facts)
    good = [entry for entry in found if not entry.problem]
    problems = [entry.problem for entry in found if entry.problem]
    return [e for e in good if all(_matches(e.facts, name, values) for name, values in wanted.items())], problems


def _content(entry: Entry) -> dict[str, Any]:
    """The record of an `entry`, checked again if its file is no longer the one that was."""
    raw = read_text(entry)
    return read_record(entry.path) if raw is None else dict(json.loads(raw))


def _facts(path: Path) -> dict[str, Any]:
    """Check the record at `path`, its name too, and tell what its summary holds."""
    record = read_record(path)
    expected = record["key"][:16] if path.name == RECORD_FILE else published_name(record)
    found = path.parent.name if path.name == RECORD_FILE else path.name
    if found != expected:
        raise DataError(f"{path}: this record belongs under the name '{expected}'")
    headline = str(record["definitions"].get("headline", "mAP"))
    started, seconds = record["provenance"]["started"], record["provenance"].get("seconds")
    value = record["results"]["test"].get(headline)
    shown = {"metric": headline, "value": value, "started": started, "seconds": seconds}
    about = {name: value_at(record["identity"], place) for name, place in FILTERS.items()}
    return {"key": record["key"], **about, **shown}


def verify_run(root: str | Path, key: str) -> dict[str, Any]:
    """Check the record of run `key` and the hash of every file it names; return the record.

    Raises
    ------
    DataError
        Naming every file that is missing or differs, or the fault of the record itself.
    """
    folder = run_dir(root, key)
    record = read_record(folder / RECORD_FILE)
    if record["key"] != key:
        raise DataError(f"{folder / RECORD_FILE}: is the record of run {record['key']}, expected {key}")
    _require_files(folder, record)
    return record


def publish_record(root: str | Path, key: str, results_dir: str | Path, *, replace: bool = False) -> Path:
    """Verify run `key` and copy its record, without arrays, to ``<results_dir>/runs``. Returns the copy's path.

    Raises
    ------
    DataError
        If the run does not verify, or another record of it is published already and `replace` is False.
    MlbenchError
        If the folder cannot be written.
    """
    record = verify_run(root, key)
    path = Path(results_dir) / "runs" / published_name(record)
    _write_json(path, dump_record(record, str(path)), replace)
    return path


def is_submitted(record: dict[str, Any]) -> bool:
    """Whether the record's predictions were submitted and only scored here, not reproduced."""
    return str(record["identity"]["method"]["name"]).startswith(SUBMITTED)


def published_name(record: dict[str, Any]) -> str:
    """``<method>__<dataset>__<protocol>__<key[:12]>.json``, other characters than letters, digits, ._+- as "-"."""
    identity = record["identity"]
    names = (identity["method"]["name"], identity["dataset"]["id"], identity["protocol"])
    return "__".join([*(re.sub(r"[^A-Za-z0-9._+-]+", "-", name) for name in names), record["key"][:12]]) + ".json"


def _write_json(path: Path, text: str, replace: bool) -> None:
    """Write a record's text; an existing other record is an error unless `replace`."""
    if atomic_write(path, text.encode("ascii"), replace=replace):
        return
    old, new = read_record(path), json.loads(text)
    names = sorted({*old, *new} - {"content_sha256"})
    differ = [name for name in names if canonical_json(old.get(name)) != canonical_json(new.get(name))]
    if differ:
        raise DataError(f"{path}: another record of this run is already there (differs in: {', '.join(differ)})")


def _record_paths(root: Path) -> Iterator[Path]:
    try:
        listed = overlaid(root, root.iterdir())
    except OSError as error:
        raise DataError(f"{root}: cannot list runs: {reason(error)}") from None
    for entry in listed:
        if entry.is_dir():
            if _present(entry / RECORD_FILE):
                yield entry / RECORD_FILE
        elif entry.suffix == ".json" and not entry.name.startswith("."):
            yield entry


def _present(path: Path) -> bool:
    """Whether `path` may exist; True where the system will not say, so that reading it reports why."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _texts(value: object) -> set[str]:
    several = isinstance(value, Collection) and not isinstance(value, str)
    return {str(item) for item in value} if several else {str(value)}  # type: ignore[attr-defined]


def _matches(facts: Mapping[str, Any], name: str, values: set[str]) -> bool:
    if name == "key":
        return any(facts["key"].startswith(value) for value in values)
    return str(facts[name]) in values


def value_at(identity: Mapping[str, Any], place: Sequence[str]) -> Any:
    """What stands in `identity` at a place of `FILTERS`; None where there is nothing."""
    found: Any = identity
    for part in place:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _require_files(folder: Path, record: dict[str, Any]) -> None:
    """DataError listing the files named by `record` that are missing from `folder` or have another hash."""
    handed = [phase for phase in record["phases"] if "file" in phase]
    named = [*record["predictions"].values(), *([record["weights"]] if record["weights"] else []), *handed]
    problems = []
    for entry in named:
        try:
            found = sha256_file(folder / entry["file"])
        except DataError as error:
            problems.append(str(error).removeprefix(f"{folder}{os.sep}"))
            continue
        if found != entry["sha256"]:
            problems.append(f"{entry['file']}: its SHA-256 is {found}, the record says {entry['sha256']}")
    if problems:
        raise DataError(f"{folder}: {'; '.join(problems)}")
