"""`results`: a folder of published records kept right: verified, merged with another, scored again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlbench.canonical import canonical_json
from mlbench.datasets import load_dataset
from mlbench.errors import MlbenchError, UsageError
from mlbench.evaluation.consistency import contradictions
from mlbench.evaluation.rescore import Rescored, differing, score_record
from mlbench.metrics import METRICS
from mlbench.paths import store_dir
from mlbench.protocol import protocol_of
from mlbench.registry import available, load_method
from mlbench.repository.packs import brought
from mlbench.repository.report import Report
from mlbench.significance.comparability import place_of
from mlbench.store import find_records, is_submitted, published_name, run_key, seal, write_record
from mlbench.store.journal import change_together, finish
from mlbench.store.published import find_scores
from mlbench.store.replications import predictions_of, same_circumstances, spread_text, with_replications
from mlbench.store.schema import dump_record

Record = dict[str, Any]


def verify(folder: Path, against: Path | None = None) -> Report:
    """Check every record of `folder`, and with `against` (an earlier state of it) that no score moved.

    Every record must validate and stand under the name its content gives it; what it says twice must agree (the
    selected epoch's numbers, means over classes, its protocol); its method must be registered here with code of its
    version or a later one, or be a submission; two records never share settings, repetition and draw under different
    scores. Against the earlier state: a record of the same settings and versions has the same numbers, and none has
    gone unless one of a later version took its place.
    """
    finish(folder)
    records, problems = find_records(folder)
    report = Report(problems=list(problems))
    slots: dict[str, Record] = {}
    for record in records:
        report.count("submissions" if is_submitted(record) else "records")
        report.problems += _without_code(record)
        report.problems += [f"{_name(record)}: {line}" for line in (*contradictions(record), *_of_its_protocol(record))]
        if record.get("replications"):
            report.notes.append(f"{_name(record)}: replicated, {spread_text(record)}")
        other = slots.setdefault(_slot(record), record)
        if other is not record:
            report.problems.append(f"{_name(record)}: other scores than {_name(other)}, under the same version")
    if against is not None:
        report.problems += _moved(records, *find_records(against))
    return report


def merge(folder: Path, source: Path | str, dataset: str | None = None, data_root: Path | None = None) -> Report:
    """Bring the records of `source`, a store, a folder of records or a pack, into `folder`, all or none.

    Of a pack (a ``.zip``, an address, see `mlbench.repository.archive`) every hash is checked, each record must be of
    the protocol it holds, and is scored again from its scores where its data set is at hand: `dataset` and `data_root`
    as for `rescore`. Numbers that are not those of the scores are conflicts.

    A record that is there with the same numbers stays as it is. A rerun of its key under other circumstances (threads,
    processes, machine, libraries) is a replication: the record that is there stays and lists it. Broken records,
    records that contradict themselves, numbers that differ under one key and the same circumstances or predictions,
    and other scores under one version of a submission are conflicts: they are reported and nothing is changed. A
    process that is killed leaves the old folder or the new one (`mlbench.store.journal`).
    """
    if str(source).startswith(("http://", "https://")) or Path(source).suffix == ".zip":
        with brought(str(source)) as pack:
            report = Report()
            own = dataset and (load_dataset(dataset, data_root).id if dataset.endswith(".toml") else dataset)
            for record in pack.records:
                given = (dataset, data_root) if record["identity"]["dataset"]["id"] == own else (None, None)
                report.problems += [f"{_name(record)}: {line}" for line in _of_its_protocol(record)]
                _score_again(report, record, pack.scores[record["key"]], *given)
            return _merged(folder, pack.records, [], report)
    return _merged(folder, *find_records(source), Report())


def _score_again(
    report: Report,
    record: Record,
    path: Path,
    dataset: str | None,
    data_root: Path | None,
    metrics: Sequence[str] = (),
) -> Rescored | None:
    """Score a record from its file of scores, where its data set is at hand; differences are problems."""
    try:
        found = score_record(record, path, data_root, dataset=dataset, metrics=metrics)
    except UsageError as error:  # a data set that needs files, or that the catalogue does not have
        report.count(f"not scored ({error})")
        return None
    except MlbenchError as error:
        report.problems.append(f"{_name(record)}: {error}")
        return None
    report.count("scored again")
    report.problems += [f"{_name(record)}: {line}" for line in _lines(found.differences)]
    return found


def _merged(folder: Path, new: Sequence[Record], broken: Sequence[str], report: Report) -> Report:
    """`merge` of the records `new`."""
    old, problems = find_records(folder) if folder.exists() else ([], [])
    report.problems += [*broken, *problems]
    here = {_slot(record): record for record in old}
    brought = {key for record in old for key in record["provenance"].get("migrated", {}).get("from", [])}
    changed: dict[str, Record] = {}
    for record in new:
        name = _name(record)
        report.problems += [f"{name}: {line}" for line in contradictions(record)]
        if record["key"] in brought:
            report.count("already there, brought over from an earlier harness")
            continue
        other = here.setdefault(_slot(record), record)
        if other is record:
            report.count("new")
            changed[name] = record
        elif _is_replication(other, record):
            if other["schema"] == 1:
                report.problems.append(
                    f"{name}: a rerun under other circumstances; the record that is there is of schema 1 and cannot "
                    "list it: `mlbench results migrate` brings it over first"
                )
                continue
            both = with_replications(other, [record])
            report.count("already there, replicated" if both == other else "replications")
            report.notes.append(f"{name}: replicated, {spread_text(both)}")
            if both != other:
                here[_slot(record)] = changed[name] = both
        elif moved := _differences(other, record):
            report.problems.append(f"{name}: {moved}; here {other['key'][:12]}, there {record['key'][:12]}")
        elif wanted := {name: m for name, m in _measures(record).items() if name not in _measures(other)}:
            report.count("already there, with new measures")
            both = seal({**other, "measures": dict(sorted((_measures(other) | wanted).items()))})
            here[_slot(record)] = changed[_name(other)] = both
        else:
            report.count("already there" if canonical_json(other) == canonical_json(record) else "already there, rerun")
    if not report.problems:
        texts = {name: dump_record(record, name).encode("ascii") for name, record in changed.items()}
        change_together(folder, texts)
    return report


def rescore(
    folder: Path,
    store: Path | None = None,
    dataset: str | None = None,
    data_root: Path | None = None,
    metrics: Sequence[str] = (),
    write: bool = False,
    advance: Callable[[int, int], None] | None = None,
) -> Report:
    """Score the records of `folder` again from the predictions that `store` has, and compare the test numbers.

    Records whose predictions or data are not here are counted, not failed. `data_root` holds one data set's files:
    name that data set with `dataset`, as it is loaded (a description's path, too). `metrics` are registered ones to
    measure besides; with `write` they are put into the records whose numbers are those of their predictions, all or
    none. ``advance(done, total)`` is told of records.
    """
    if write and not metrics:
        raise UsageError("--write adds metrics to the records: name them with --metric")
    for name in metrics:
        METRICS[name]
    if data_root is not None and dataset is None:
        raise UsageError("--data-root holds the files of one data set: name it with --dataset")
    root = store or store_dir()
    own = dataset and load_dataset(dataset, data_root).id if str(dataset).endswith(".toml") else dataset
    records, problems = find_records(folder, dataset=own)
    report = Report(problems=list(problems))
    changed: list[Record] = []
    for number, record in enumerate(records):
        if advance is not None and number:
            advance(number, len(records))
        path = find_scores(root, record)
        if path is None:
            report.count("without predictions here")
            continue
        found = _score_again(report, record, path, dataset, data_root, metrics)
        if found is None:
            continue
        if not write:
            report.notes += [f"{_name(record)}: {name} {_number(m['value'])}" for name, m in found.measures.items()]
        elif not found.differences and record.get("measures", {}) != (new := _measures(record) | found.measures):
            changed.append(seal({**record, "measures": dict(sorted(new.items()))}))
    if changed and not report.problems:
        _write(folder, changed)
        report.counts["records with new measures"] = len(changed)
    return report


def _measures(record: Record) -> dict[str, Any]:
    return dict(record.get("measures", {}))


def _write(folder: Path, records: Sequence[Record]) -> None:
    """Replace `records` where they stand: in a folder of records all at once, in a store each in its own folder."""
    published = [record for record in records if (folder / _name(record)).exists()]
    if published:
        change_together(folder, {_name(r): dump_record(r, _name(r)).encode("ascii") for r in published})
    for record in records:
        if record not in published:
            write_record(folder, record, replace=True)


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


def _of_its_protocol(record: Record) -> list[str]:
    """Where a record's identity and definitions are not those of the protocol it holds."""
    if "protocol" not in record:
        return []
    identity, protocol = record["identity"], protocol_of(record)
    own = {
        "protocol": protocol.name,
        "protocol_sha256": protocol.sha256,
        "definitions": protocol.counted,
    }
    lines = [f"identity.{name} is not that of its protocol" for name, value in own.items() if identity[name] != value]
    if record["definitions"] != protocol.definitions(identity["dataset"]["id"]):
        lines.append("its definitions are not those of its protocol")
    return lines


def _is_replication(old: Record, new: Record) -> bool:
    """Whether `new` is a rerun of the key of `old` that may differ from it by rounding."""
    if old["key"] != new["key"] or is_submitted(new) or predictions_of(old) == predictions_of(new):
        return False
    listed = {entry["predictions"] for entry in old.get("replications", [])}
    return predictions_of(new) in listed or not same_circumstances(old, new)


def _differences(old: Record, new: Record) -> str:
    """What of the numbers of two records of one slot differs, in words; empty if nothing does."""
    lines = []
    for part in ("results", "per_class"):
        for name in sorted(old[part].keys() | new[part].keys()):
            where = f"{part}.{name}"
            lines += _lines(differing(old[part].get(name, {}), new[part].get(name, {})), where)
    if lines:
        return f"scores moved without a version bump: {'; '.join(lines[:3])}{'; ...' if len(lines) > 3 else ''}"
    known = old["key"] == new["key"] or old["key"] in new["provenance"].get("migrated", {}).get("from", [])
    return "" if known else "other predictions under the same version"


def _lines(differences: dict[str, tuple[float | None, float | None]], where: str = "results.test") -> list[str]:
    return [f"{where}.{name} {_number(a)} -> {_number(b)}" for name, (a, b) in differences.items()]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"


def _moved(records: list[Record], earlier: list[Record], broken: list[str]) -> list[str]:
    """Problems of `records` against an `earlier` state."""
    lines = [f"earlier state: {problem}" for problem in broken]
    slots = {_slot(record): record for record in records}
    for record in records:
        slots |= dict.fromkeys(record["provenance"].get("migrated", {}).get("from", []), record)
    last: dict[str, tuple[int, ...]] = {}
    for record in records:
        last[_line(record)] = max(last.get(_line(record), ()), _versions(record))
    for old in earlier:
        new = slots.get(_slot(old)) or slots.get(old["key"])
        if new is not None:
            kept = [new["results"]["test"], *(entry["results"] for entry in new.get("replications", []))]
            if predictions_of(old) != predictions_of(new) and any(
                not differing(numbers, old["results"]["test"]) for numbers in kept[1:]
            ):
                continue
            moved = _differences(old, new)
            if moved and _is_replication(old, new):
                moved = "replaced by a rerun under other circumstances; `results merge` keeps both"
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
