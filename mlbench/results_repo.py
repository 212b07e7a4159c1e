"""`results`: a folder of published records kept right: verified, merged with another, scored again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.paths import store_dir
from mlbench.registry import available, load_method
from mlbench.rescore import differing, score_record
from mlbench.significance.comparability import place_of
from mlbench.store import (
    atomic_write,
    canonical_json,
    find_records,
    is_submitted,
    published_name,
    run_dir,
    run_key,
)
from mlbench.store.schema import dump_record

Record = dict[str, Any]


@dataclass
class Report:
    """What was done, counted, and a line for each problem."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def text(self) -> str:
        done = [f"{number} {what}" for what, number in self.counts.items()] or ["no records"]
        return "\n".join([", ".join(done), *(f"problem: {line}" for line in self.problems)])


def verify(folder: Path, against: Path | None = None) -> Report:
    """Check every record of `folder`, and with `against` (an earlier state of it) that no score moved.

    Every record must validate and stand under the name its content gives it; its method must be registered here with
    code of its version or a later one, or be a submission; two records never share settings, repetition and draw
    under different scores. Against the earlier state: a record of the same settings and versions has the same
    numbers, and none has gone unless one of a later version took its place.
    """
    records, problems = find_records(folder)
    report = Report(problems=list(problems))
    slots: dict[str, Record] = {}
    for record in records:
        report.count("submissions" if is_submitted(record) else "records")
        report.problems += _without_code(record)
        other = slots.setdefault(_slot(record), record)
        if other is not record:
            report.problems.append(f"{_name(record)}: other scores than {_name(other)}, under the same version")
    if against is not None:
        report.problems += _moved(records, *find_records(against))
    return report


def merge(folder: Path, source: Path) -> Report:
    """Copy the records of `source`, a store or a folder of records, into `folder`, all or none.

    A record that is there with the same numbers stays as it is. Broken records, numbers that differ under one key,
    and other scores under one version of a submission are conflicts: they are reported and nothing is copied.
    """
    new, broken = find_records(source)
    old, problems = find_records(folder) if folder.exists() else ([], [])
    report = Report(problems=[*broken, *problems])
    here = {_slot(record): record for record in old}
    copied: dict[str, str] = {}
    for record in new:
        other = here.setdefault(_slot(record), record)
        if other is record:
            report.count("new")
            copied[published_name(record)] = dump_record(record, _name(record))
        elif moved := _differences(other, record):
            report.problems.append(f"{_name(record)}: {moved}; here {other['key'][:12]}, there {record['key'][:12]}")
        else:
            report.count("already there" if canonical_json(other) == canonical_json(record) else "already there, rerun")
    if not report.problems:
        for name, text in copied.items():
            if not atomic_write(folder / name, text.encode("ascii"), replace=False):
                raise DataError(f"{folder / name}: appeared while merging; merge again")
    return report


def rescore(
    folder: Path, store: Path | None = None, dataset: str | None = None, data_root: Path | None = None
) -> Report:
    """Score the records of `folder` again from the predictions that `store` has, and compare the test numbers.

    Records whose predictions or data are not here are counted, not failed. `data_root` holds one data set's files:
    name that data set with `dataset`.
    """
    if data_root is not None and dataset is None:
        raise UsageError("--data-root holds the files of one data set: name it with --dataset")
    root = store or store_dir()
    records, problems = find_records(folder, dataset=dataset)
    report = Report(problems=list(problems))
    for record in records:
        stored = record["predictions"].get("test")
        path = run_dir(root, record["key"]) / stored["file"] if stored else None
        if path is None or not path.exists():
            report.count("without predictions here")
            continue
        try:
            found = score_record(record, path, data_root)
        except UsageError as error:  # a data set that needs files, or that the catalogue does not have
            report.count(f"not scored ({error})")
            continue
        except MlbenchError as error:
            report.problems.append(f"{_name(record)}: {error}")
            continue
        report.count("scored again")
        report.problems += [f"{_name(record)}: {line}" for line in _lines(found.differences)]
    return report


def _name(record: Record) -> str:
    return published_name(record)


def _slot(record: Record) -> str:
    """The run key without what a submitter may not change under one version: the scores."""
    return run_key({name: value for name, value in record["identity"].items() if name != "scores"})


def _without_code(record: Record) -> list[str]:
    method = record["identity"]["method"]
    if is_submitted(record):
        return []
    if method["name"] not in available():
        return [f"{_name(record)}: no code: method '{method['name']}' is not registered here"]
    version = load_method(method["name"]).version
    if method["version"] > version:
        return [f"{_name(record)}: version {method['version']} of '{method['name']}'; the code here is {version}"]
    return []


def _differences(old: Record, new: Record) -> str:
    """What of the numbers of two records of one slot differs, in words; empty if nothing does."""
    lines = []
    for part in ("results", "per_class"):
        for name in sorted(old[part].keys() | new[part].keys()):
            where = f"{part}.{name}"
            lines += _lines(differing(old[part].get(name, {}), new[part].get(name, {})), where)
    if lines:
        return f"scores moved without a version bump: {'; '.join(lines[:3])}{'; ...' if len(lines) > 3 else ''}"
    return "" if old["key"] == new["key"] else "other predictions under the same version"


def _lines(differences: dict[str, tuple[float | None, float | None]], where: str = "results.test") -> list[str]:
    return [f"{where}.{name} {_number(a)} -> {_number(b)}" for name, (a, b) in differences.items()]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"


def _moved(records: list[Record], earlier: list[Record], broken: list[str]) -> list[str]:
    """Problems of `records` against an `earlier` state."""
    lines = [f"earlier state: {problem}" for problem in broken]
    slots = {_slot(record): record for record in records}
    last: dict[str, tuple[int, ...]] = {}
    for record in records:
        last[_line(record)] = max(last.get(_line(record), ()), _versions(record))
    for old in earlier:
        new = slots.get(_slot(old))
        if new is not None:
            moved = _differences(old, new)
            lines += [f"{_name(new)}: {moved}"] if moved else []
        elif last.get(_line(old), ()) <= _versions(old):
            lines.append(f"{_name(old)}: gone, and no record of a later version stands in its place")
    return lines


def _line(record: Record) -> str:
    """What a record says something about, whatever the versions: method, place (`place_of`), repetition, draw."""
    identity = record["identity"]
    return canonical_json([place_of(record), identity["repetition"], identity["mask_seed"]]).decode("ascii")


def _versions(record: Record) -> tuple[int, ...]:
    return record["identity"]["harness"], record["identity"]["method"]["version"]
