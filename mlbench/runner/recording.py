"""What a finished run writes down: its predictions, the labels it consumed, and the record that ties them together."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mlbench.annotation import State
from mlbench.annotation.sparse import LabelMatrix, count_states
from mlbench.errors import MlbenchError
from mlbench.evaluation.predictions import Predictions
from mlbench.methods import Phase, Prediction
from mlbench.methods.badge import find_badge
from mlbench.provenance import collect_provenance
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
    """How many labels the run consumed: in training (int8 states `given`), and in choosing the epoch."""

    def count(states: LabelMatrix) -> int:
        return int(sum(count_states(states, state).sum() for state in (State.POSITIVE, State.NEGATIVE)))

    looked = 0
    if run.selection != "last":
        part = run.parts["val"]
        looked = count(part.labels if run.selection == "clean_val" else part.observed)
    extra = [level for level in run.method.supervision if level != "observed"]
    return {"observed_labels": count(given), "selection_labels": looked, "extra": extra}


def compose_record(
    run: Run,
    given: LabelMatrix,
    phases: Sequence[Phase],
    epochs: list[dict[str, Any]],
    selected: dict[str, Any],
    *,
    results: dict[str, Any],
    per_class: dict[str, Any],
    files: dict[str, Any],
    weights: dict[str, str],
    started: datetime.datetime,
    seconds: float,
    processes: int,
    argv: Sequence[str],
    pixels_sha256: Mapping[str, str],
    side_sha256: Mapping[str, str],
    starts: Sequence[Mapping[str, Any]] = (),
    remark: str = "",
) -> dict[str, Any]:
    """The record of a finished run, in the shape of ``schema/record.json``.

    `starts` are all starts of the run (``mlbench.provenance.start_of``), where it was stopped and resumed.
    """
    trained = sum(row["images_per_s"] * row["seconds"] for row in epochs)
    spent = sum(row["seconds"] for row in epochs)
    badge = find_badge(run.method)
    moved = start_differences(starts)
    record = {
        "key": run.key,
        "identity": run.identity,
        "protocol": run.protocol.plain(run.dataset.id),
        "definitions": run.protocol.definitions(run.dataset.id),
        "results": results,
        "per_class": per_class,
        "selected": selected,
        "epochs": epochs,
        "phases": [
            {
                "name": phase.name,
                "epochs": sum(row["phase"] == phase.name for row in epochs),
                "seconds": sum(row["seconds"] for row in epochs if row["phase"] == phase.name),
            }
            for phase in phases
        ],
        "predictions": files,
        "weights": weights,
        "supervision": labels_consumed(run, given),
        "notes": [*run.notes, run.start.note, *moved, *([remark] if remark else [])],
        "provenance": collect_provenance(
            processes=processes,
            threads=torch.get_num_threads(),
            started=started,
            seconds=seconds,
            images_per_s=trained / spent if spent else None,
            argv=argv,
            pixels_sha256=pixels_sha256,
            side_sha256=side_sha256,
            starts=starts,
        )
        | ({"conformance": badge} if badge else {}),
    }
    return seal(record)
