"""What a finished run writes down: its predictions, the labels it consumed, and the record that ties them together."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mlbench.annotation import State
from mlbench.annotation.sparse import LabelMatrix, count_states
from mlbench.errors import MlbenchError
from mlbench.evaluation.predictions import Predictions
from mlbench.methods import Phase, Prediction
from mlbench.methods.badge import find_badge
from mlbench.models.backbones import BACKBONES
from mlbench.models.head_choice import HEADS
from mlbench.protocol import PROTOCOLS
from mlbench.provenance import collect_provenance
from mlbench.registry import METHODS
from mlbench.runner.checkpoint import phase_file
from mlbench.runner.plan import Run
from mlbench.runner.scratch import as_array
from mlbench.store import seal


def predictions_of(run: Run, seen: Prediction, name: str, epoch: int) -> Predictions:
    """The predictions of part `name` in `epoch` (0: nothing was trained), keyed by sample id."""
    part = run.parts[name]
    if run.method.decision_rule and seen.decisions is None:
        raise MlbenchError(
            f"method '{run.method.name}' declares decision_rule, but predict gave no decisions in the last phase"
        )
    return Predictions(
        scores=as_array(seen.scores),
        kind=run.method.scores,  # type: ignore[arg-type]  # Predictions checks it
        ids=tuple(part.split.ids),
        groups=tuple(part.split.groups),
        classes=run.dataset.classes,
        decisions=None if seen.decisions is None else as_array(seen.decisions),
        decision_rule=run.method.decision_rule or None,
        meta={"key": run.key, "dataset": run.dataset.id, "split": name, "epoch": str(epoch)},
    )


def start_differences(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note for each way in which the starts of a run differ that may move its last digits, or more."""
    found = []
    for name in ("processes", "threads", "hardware", "git"):
        values = [start[name] for start in starts]
        if any(value != values[0] for value in values):
            shown = ", then ".join(str(v) for v in values) if name in ("processes", "threads") else "see the starts"
            found.append(f"stopped and resumed with other {name}: {shown}")
    return found


def labels_consumed(run: Run, given: LabelMatrix) -> dict[str, Any]:
    """How many labels the run consumed, in training (int8 states `given`) and in choosing the epoch, and what else."""

    def count(states: LabelMatrix) -> int:
        return int(sum(count_states(states, state).sum() for state in (State.POSITIVE, State.NEGATIVE)))

    looked = 0
    if run.selection != "last":
        part = run.parts["val"]
        looked = count(part.labels if run.selection == "clean_val" else part.observed)
    extra = [level for level in run.method.supervision if level != "observed"]
    return {
        "observed_labels": count(given),
        "selection_labels": looked,
        "extra": extra,
        "pretraining": run.pretraining,
    }


def _handed_over(phase: Phase, kept: Mapping[str, str]) -> dict[str, str]:
    name = phase_file(phase)
    return {"file": name, "sha256": kept[name]} if name in kept else {}


def owners_of(run: Run) -> dict[str, str]:
    """The packages, with versions, that register what `run` is made of; people's own files have none."""
    found = {
        "method": METHODS.owner_in_records(run.method.name),
        "dataset": run.dataset.owner,
        "backbone": BACKBONES.owner_in_records(run.backbone),
        "head": HEADS.owner_in_records(run.head.name) if run.head.identity else None,
        "protocol": PROTOCOLS.owner_in_records(run.protocol.name),
    }
    return {kind: str(owner) for kind, owner in found.items() if owner}


@dataclass(frozen=True)
class Outcome:
    """What a run has come to, beside its settings.

    given : the labels it was trained with. phases : its phases. epochs : a row of the record for each epoch trained.
    selected : phase, epoch and rule. results, per_class : numbers in percent, by part and by class. files, weights :
    what it leaves, with hashes. started : of this start; starts : all of them (``mlbench.provenance.start_of``).
    seconds : wall time of all starts. processes, argv : how this one was made. pixels_sha256, side_sha256 : what was
    read. kept : SHA-256 of the files that the run's folder keeps, by name, of which a phase names what it handed over.
    remark : one more note.
    """

    given: LabelMatrix
    phases: Sequence[Phase]
    epochs: Sequence[Mapping[str, Any]]
    selected: Mapping[str, Any]
    results: Mapping[str, Any]
    per_class: Mapping[str, Any]
    files: Mapping[str, Any]
    weights: Mapping[str, str]
    started: datetime.datetime
    seconds: float
    processes: int
    argv: Sequence[str]
    pixels_sha256: Mapping[str, str]
    side_sha256: Mapping[str, str]
    kept: Mapping[str, str] = field(default_factory=dict)
    starts: Sequence[Mapping[str, Any]] = ()
    remark: str = ""


def compose_record(run: Run, outcome: Outcome) -> dict[str, Any]:
    """The record of a finished run, in the shape of ``schema/record.json``."""
    epochs, remark = outcome.epochs, outcome.remark
    trained = sum(row["images_per_s"] * row["seconds"] for row in epochs)
    spent = sum(row["seconds"] for row in epochs)
    badge = find_badge(run.method)
    moved = start_differences(outcome.starts)
    record = {
        "key": run.key,
        "identity": run.identity,
        "protocol": run.protocol.plain(run.dataset.id),
        "definitions": run.protocol.definitions(run.dataset.id),
        "results": outcome.results,
        "per_class": outcome.per_class,
        "selected": outcome.selected,
        "epochs": list(epochs),
        "phases": [
            {
                "name": phase.name,
                "epochs": sum(row["phase"] == phase.name for row in epochs),
                "seconds": sum(row["seconds"] for row in epochs if row["phase"] == phase.name),
                **_handed_over(phase, outcome.kept),
            }
            for phase in outcome.phases
        ],
        "predictions": outcome.files,
        "weights": outcome.weights,
        "supervision": labels_consumed(run, outcome.given),
        "notes": [*run.notes, run.start.note, *moved, *([remark] if remark else [])],
        "provenance": collect_provenance(
            processes=outcome.processes,
            threads=torch.get_num_threads(),
            started=outcome.started,
            seconds=outcome.seconds,
            images_per_s=trained / spent if spent else None,
            argv=outcome.argv,
            pixels_sha256=outcome.pixels_sha256,
            side_sha256=outcome.side_sha256,
            starts=outcome.starts,
        )
        | {"owners": owners_of(run)}
        | ({"conformance": badge} if badge else {}),
    }
    return seal(record)
