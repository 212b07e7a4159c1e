"""Does a protocol keep the contract? It is whole, hides labels, counts by definitions that there are, and travels."""

from __future__ import annotations

import numpy as np

from mlbench.annotation import State
from mlbench.conformance.report import Report, Skipped
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import MlbenchError
from mlbench.evaluation.class_groups import groups_for
from mlbench.evaluation.predictions import Predictions
from mlbench.evaluation.scoring import score_predictions
from mlbench.protocol import TRACKS, Protocol, load_protocol, protocol_of
from mlbench.runner.data import make_parts


def check_protocol(name: str) -> Report:
    """Every check on protocol `name`, or on the file of that path; UsageError where it does not validate."""
    protocol = load_protocol(name)
    report = Report(protocol.name)
    report.attempt("", "says what it is and where it is from", lambda: _prose(protocol))
    report.attempt("", "settings resolve on every data set", lambda: _settings(protocol))
    report.attempt("", "hides labels, the same twice", lambda: _hides(protocol))
    report.attempt("", "its metrics can be computed", lambda: _counts(protocol))
    report.attempt("", "a record gives it back", lambda: _travels(protocol))
    return report


def _prose(protocol: Protocol) -> str:
    for key in ("title", "source", "description"):
        if not getattr(protocol, key).strip():
            raise MlbenchError(f"key '{key}' is empty or missing")
    return f"{len(protocol.unverified)} points unverified" if protocol.unverified else ""


def _settings(protocol: Protocol) -> str:
    for dataset in ("elsewhere", *protocol.datasets):
        protocol.annotation_for(dataset)
        protocol.unspecified_for(dataset)
        for track in TRACKS:
            protocol.train_settings(dataset, track, {})
    return f"{len(protocol.datasets)} named"


def _hides(protocol: Protocol) -> str:
    if protocol.annotation.process == "listed":
        raise Skipped("what it shows is a published list, which comes with a data set")
    dataset = tiny_dataset(train=64)
    (parts, mask), (_, again) = (make_parts(dataset, protocol, 0) for _ in range(2))
    if mask.sha256 != again.sha256:
        raise MlbenchError("another mask from the same seed")
    if protocol.selection != "last" and "val" not in parts:
        raise MlbenchError(f"selection = '{protocol.selection}' needs a validation part, and split gives none")
    unknown = float(np.mean(np.asarray(mask.observed) == State.UNKNOWN))
    return f"{mask.process}: {100 * unknown:.0f} % of the tiny data set's labels hidden"


def _counts(protocol: Protocol) -> str:
    dataset = tiny_dataset()
    test, rules = dataset.splits["test"], protocol.metrics
    scores = np.random.default_rng(0).normal(size=test.labels.shape).astype(np.float32)
    predictions = Predictions(scores, "logit", tuple(test.ids), (), dataset.classes)
    groups = groups_for(rules, dataset.splits["train"].labels, dataset.classes) if (rules.groups or 0) <= 4 else ()
    found, _ = score_predictions(
        predictions, test.labels, test.ids, dataset.classes, rules, protocol.unspecified_for(dataset.id), groups
    )
    asked = [rules.headline, *protocol.table.metrics]
    grouped = [f"mAP_G{number}" for number in range(1, (rules.groups or 0) + 1)]
    missing = [metric for metric in asked if metric not in (*found, *grouped)]
    if missing:
        raise MlbenchError(f"metric '{missing[0]}' is none that a run is scored by: {', '.join(found)}")
    return ", ".join(dict.fromkeys(asked))


def _travels(protocol: Protocol) -> None:
    for dataset in ("elsewhere", *protocol.datasets):
        back = protocol_of({"key": "0" * 64, "protocol": protocol.plain(dataset)})
        same = back.sha256 == protocol.sha256 and back.definitions(dataset) == protocol.definitions(dataset)
        if not same or back.annotation_for(dataset) != protocol.annotation_for(dataset):
            raise MlbenchError(f"on '{dataset}', what a record holds is not the same protocol")
