"""A run that differs from a finished one in metric definitions alone: its predictions are scored again, not made again.

Definitions are part of a run's identity, and so of its key; what was trained does not depend on them, except that an
epoch selected on validation data is selected by them. Where the same epoch is selected, the finished run's files are
this run's too, and its record says whose they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlbench
from mlbench.errors import DataError, MlbenchError
from mlbench.evaluation.class_groups import groups_for
from mlbench.evaluation.predictions import read_predictions
from mlbench.evaluation.scoring import ap_by_class, observed_map, score_predictions
from mlbench.evaluation.selection import select
from mlbench.files import link_files
from mlbench.locks import locked
from mlbench.metrics import mean_average_precision, scores_of_kind
from mlbench.protocol import Protocol, protocol_of
from mlbench.provenance import utc_text
from mlbench.runner.plan import Run
from mlbench.store import (
    FILTERS,
    RECORD_FILE,
    find_records,
    read_record,
    run_dir,
    seal,
    value_at,
    verify_run,
    write_record,
)

Record = dict[str, Any]
_OWN_FILES = (RECORD_FILE, "lock", "checkpoint.pt")


def rescore_alike(run: Run, root: Path, used: Mapping[str, Record], say: Callable[[str], None]) -> Record | None:
    """The record of `run` from the predictions of a finished run in `root` that was trained alike; None without one.

    `used` are the records of the runs it builds on. The new record is written, with the files of the other run. What
    stands in the way, such as another epoch that these definitions select, is told to `say`.
    """
    for other in _candidates(run, root):
        if not trained_alike(run, used, other, root):
            continue
        title = f"run {other['key'][:16]} (protocol {other['identity']['protocol']})"
        try:
            record = _scored_again(run, root, other)
        except MlbenchError as error:
            say(f"{title} was trained alike, under other metric definitions, but {error}: training anew")
            continue
        folder = run_dir(root, run.key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
        with locked(folder / "lock", wait=False, busy=f"run {run.key[:16]} is being run by another process ({folder})"):
            link_files(run_dir(root, other["key"]), folder, without=_OWN_FILES)
            write_record(root, record, replace=True)
        say(f"{title} was trained alike: its predictions are scored again under these definitions; record {folder}")
        return record
    return None


def training_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of an identity decides what is trained, given the runs it builds on: all but names and definitions."""
    apart = ("protocol", "definitions", "uses")
    kept = {name: value for name, value in identity.items() if name not in apart}
    return kept | {"unspecified": identity["unspecified"]["train"]}


def trained_alike(run: Run, used: Mapping[str, Record], other: Record, root: Path) -> bool:
    """Whether the run of record `other` was trained as `run` is, on the same weights of the runs it builds on."""
    identity = other["identity"]
    if other["key"] == run.key or training_identity(identity) != training_identity(run.identity):
        return False
    if identity["uses"].keys() != used.keys():
        return False
    for name, key in identity["uses"].items():
        path = run_dir(root, key) / RECORD_FILE
        if not path.exists() or (read_record(path)["weights"] or {}) != (used[name]["weights"] or {}):
            return False
    return True


def _candidates(run: Run, root: Path) -> list[Record]:
    """Finished runs in `root` that agree with `run` in all that the index of records knows of their training."""
    alike = {name: value_at(run.identity, place) for name, place in FILTERS.items() if name != "protocol"}
    return find_records(root, **alike)[0] if root.is_dir() else []


def _scored_again(run: Run, root: Path, other: Record) -> Record:
    """The record of `run` with the numbers of the predictions of `other`; MlbenchError where they cannot be its own."""
    verify_run(root, other["key"])
    folder = run_dir(root, other["key"])
    groups = groups_for(run.protocol.metrics, run.dataset.splits["train"].labels, run.dataset.classes)
    results: dict[str, Any] = {}
    per_class: dict[str, Any] = {}
    for name, file in other["predictions"].items():
        part = run.parts[name]
        results[name], classes = score_predictions(
            read_predictions(folder / file["file"], file["sha256"]),
            part.labels,
            part.split.ids,
            run.dataset.classes,
            run.protocol.metrics,
            run.protocol.unspecified_for(run.dataset.id),
            groups,
        )
        per_class = classes if name == "test" else per_class
    found = {name: value for name, value in other["per_class"].items() if name not in ("AP", "F1")}
    provenance = {name: value for name, value in other["provenance"].items() if name != "migrated"}
    origin = provenance.get("rescored", {}).get("from", other["key"])
    rescored = {"from": origin, "at": utc_text(datetime.now(UTC)), "mlbench": mlbench.__version__}
    note = f"nothing was trained: the predictions are those of run {origin}, scored again under other definitions"
    record = {
        **{name: value for name, value in other.items() if name not in ("replications", "measures")},
        "key": run.key,
        "identity": run.identity,
        "protocol": run.protocol.plain(run.dataset.id),
        "definitions": run.protocol.definitions(run.dataset.id),
        "results": results,
        "per_class": per_class | found,
        "epochs": _epochs(run, folder, other),
        "notes": [*other["notes"], note],
        "provenance": provenance | {"rescored": rescored},
    }
    return seal(record)


def _epochs(run: Run, folder: Path, other: Record) -> list[dict[str, Any]]:
    """The epochs of `other` with their numbers under the definitions of `run`; DataError if it selects another one."""
    theirs = protocol_of(other)
    rows: list[dict[str, Any]] = other["epochs"]
    if not rows or _ranks_by(theirs, run.dataset.id) == _ranks_by(run.protocol, run.dataset.id):
        return rows
    chosen, last = other["selected"], rows[-1]["phase"]
    if any(row["phase"] != last for row in rows) and run.selection != "last":
        raise DataError("an earlier phase selected its epoch by them")
    scored = []
    for row in rows:
        numbers: dict[str, dict[str, float | None]] = {"val": {}, "test_sealed": {}}
        for name, kept in (("val", "val"), ("test", "test_sealed")):
            path = folder / "epochs" / f"{row['epoch']:03d}-{name}.safetensors"
            if row["phase"] == last and row.get(kept) and path.exists():
                if _numbers(run, theirs, path, name) != row[kept]:
                    raise DataError(f"{path.name} of its epochs does not give the numbers recorded")
                numbers[kept] = _numbers(run, run.protocol, path, name)
        scored.append({**row, **numbers})
    mine = [row for row in scored if row["phase"] == last]
    if chosen["rule"] != "last":
        if not all(row["val"] for row in mine):
            raise DataError("the validation predictions of its epochs, which say what these select, were not kept")
        if mine[select([row["val"] for row in mine], chosen["rule"])]["epoch"] != chosen["epoch"]:
            raise DataError("these definitions select another epoch")
    return scored


def _ranks_by(protocol: Protocol, dataset: str) -> tuple[str, str, str]:
    """What of the definitions decides the mAP of an epoch."""
    return protocol.metrics.ap, protocol.metrics.empty_class, protocol.unspecified_for(dataset).ap


def _numbers(run: Run, protocol: Protocol, path: Path, name: str) -> dict[str, float | None]:
    """What a record says of part `name` in an epoch, from its predictions at `path`, under `protocol`."""
    predictions, part = read_predictions(path), run.parts[name]
    flavour, empty, rule = _ranks_by(protocol, run.dataset.id)
    ap, known = ap_by_class(scores_of_kind(predictions.kind, predictions.scores), part.labels, rule, flavour)
    found = {"mAP": 100.0 * mean_average_precision(ap, empty, known)}  # type: ignore[arg-type]
    if name == "val":
        found["mAP_observed"] = observed_map(predictions.scores, predictions.kind, part.observed, empty)
    return {key: None if math.isnan(value) else value for key, value in found.items()}
