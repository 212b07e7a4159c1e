"""`compare`: two runs on the same test images, by a paired bootstrap over the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from mlbench.datasets import Dataset, load_dataset
from mlbench.datasets.recorded import dataset_of, is_data_of
from mlbench.errors import DataError, UsageError
from mlbench.evaluation.predictions import Predictions, read_predictions
from mlbench.evaluation.scoring import align, predicted_of, targets_of
from mlbench.metrics import METRICS, Metric, Sampled, scores_of_kind, threshold, top_k, top_k_thresholded
from mlbench.paths import store_dir
from mlbench.protocol import Protocol, load_protocol, protocol_of
from mlbench.significance.bootstrap import (
    LabelF1,
    MeanAP,
    PairedInterval,
    Statistic,
    paired_interval,
    paired_replicates,
)
from mlbench.significance.comparability import apart_notes, column_of, differing
from mlbench.significance.ties import holm
from mlbench.store import find_run, scores_file

#: How far the mean over draws may lie from the difference itself, in lengths of the interval, without a note.
_OFF_CENTRE = 0.1


@dataclass(frozen=True)
class Comparison:
    """Intervals by metric of the second run minus the first, as fractions, and Holm's adjusted p-values over them."""

    title: str
    intervals: dict[str, PairedInterval]
    adjusted: dict[str, float]
    notes: tuple[str, ...]
    numbers: frozenset[str] = frozenset()  # metrics that are shown as they are, and not in percent

    def rows(self) -> list[dict[str, Any]]:
        """A metric a row: both runs, the difference, its interval (in percent, unless a number as it is), and p."""
        found = []
        for name, seen in self.intervals.items():
            unit = 1 if name in self.numbers else 100
            shown = {
                "first": seen.a,
                "second": seen.b,
                "difference": seen.difference,
                "low": seen.low,
                "high": seen.high,
            }
            row = {"metric": name, **{part: unit * value for part, value in shown.items()}, "p": seen.p}
            found.append({**row, "p_holm": self.adjusted[name], "unit": "percent" if unit == 100 else ""})
        return found

    def text(self) -> str:
        rows = []
        for name, found in self.intervals.items():
            unit = 1 if name in self.numbers else 100
            low, high = unit * found.low, unit * found.high
            rows.append(
                [
                    *(name, f"{unit * found.a:.2f}", f"{unit * found.b:.2f}", f"{unit * found.difference:+.2f}"),
                    *(f"{low:+.2f} to {high:+.2f}", f"{found.p:.3g}", f"{self.adjusted[name]:.3g}"),
                ]
            )
        header = ["metric", "first", "second", "second - first", "interval", "p", "p (Holm)"]
        align_right = ["left"] + ["right"] * (len(header) - 1)
        grid = tabulate(rows, header, "github", disable_numparse=True, colalign=align_right)
        return "\n".join([self.title, "", grid, "", *(f"- {note}" for note in self.notes)])


def compare(
    first: str,
    second: str,
    store: Path | None = None,
    data_root: Path | None = None,
    dataset: str | None = None,
    protocol: str | None = None,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    metrics: Sequence[str] = (),
) -> Comparison:
    """Compare the test predictions of runs `first` and `second`: first characters of their keys, or published runs.

    mAP and F1 under the runs' own protocol, or under `protocol`; `dataset` and `data_root` as for
    `evaluation.rescore.score`; `metrics` are registered ones that are wanted besides. UsageError if the runs were
    scored on other data or under other definitions.
    """
    root, more = store or store_dir(), [METRICS[name] for name in dict.fromkeys(metrics)]
    records = [find_run(run, root) for run in (first, second)]
    identities = [record["identity"] for record in records]
    if records[0]["key"] == records[1]["key"]:
        raise UsageError(f"runs '{first}' and '{second}' are the same run")
    prints = [identity["dataset"]["fingerprint"] for identity in identities]
    if prints[0] != prints[1]:
        names = " and ".join(identity["dataset"]["id"] for identity in identities)
        raise UsageError(f"the runs were tested on other data ({names}; fingerprints differ): no image is shared")
    apart = differing(records, column_of)
    if protocol is None and any(name.startswith("definitions.") for name in apart):
        raise UsageError(
            f"the runs count by other definitions (protocols {identities[0]['protocol']} and "
            f"{identities[1]['protocol']}): say whose with --protocol"
        )
    data = load_dataset(dataset_of(records[0], dataset), data_root)
    if not all(is_data_of(data, record) for record in records):
        raise DataError(f"data set '{data.id}' here is not the one the runs were scored on (fingerprints differ)")
    rules = load_protocol(protocol) if protocol else protocol_of(records[0])
    systems = [statistics_of(_predictions(root, record), data, rules, more) for record in records]
    groups = np.asarray(data.splits["test"].groups)
    values, others = paired_replicates(systems[0], systems[1], groups, replicates, seed)
    shared = [name for name in values if name in others]
    intervals = {name: paired_interval(values[name], others[name], confidence) for name in shared}
    adjusted = dict(zip(shared, holm([found.p for found in intervals.values()]), strict=True))
    titles = [f"{record['identity']['method']['name']} (run {record['key'][:16]})" for record in records]
    notes = _notes(identities, intervals, len(np.unique(groups)), replicates, seed, confidence)
    return Comparison(
        f"{titles[0]} against {titles[1]} on the test part of {data.id}, protocol {rules.name}, percent",
        intervals,
        adjusted,
        (*notes, *apart_notes(records)),
        frozenset(metric.name for metric in more if metric.unit == "number"),
    )


def _predictions(root: Path, record: dict[str, Any]) -> Predictions:
    return read_predictions(scores_file(root, record), record["predictions"]["test"]["sha256"])


def statistics_of(
    predictions: Predictions, data: Dataset, protocol: Protocol, metrics: Sequence[Metric] = ()
) -> list[Statistic]:
    """The metrics of one run under `protocol`, to be taken in many draws; the names are those of a record.

    `metrics` are registered ones that are wanted besides.
    """
    test, rules, unspecified = data.splits["test"], protocol.metrics, protocol.unspecified_for(data.id)
    order = align(predictions, test.ids, data.classes)
    scores = scores_of_kind(predictions.kind, predictions.scores[order])
    decided = {f"top{rules.top_k}_strict/": top_k(scores, rules.top_k)}
    if predictions.kind != "rank":
        decided[""] = threshold(scores, rules.decision)
        decided[f"top{rules.top_k}_thresholded/"] = top_k_thresholded(scores, rules.top_k, rules.decision)
    if predictions.decisions is not None:
        decided[""] = predictions.decisions[order]
    targets, known = targets_of(test.labels, unspecified.f1)
    ap_targets, ap_known = targets_of(test.labels, unspecified.ap)
    mean_ap = MeanAP(scores, ap_targets, ap_known, rules.ap, rules.empty_class)
    found: list[Statistic] = [mean_ap, *(LabelF1(decided[p], targets, known, p) for p in sorted(decided))]
    if metrics:
        predicted = predicted_of(predictions, test.labels, test.ids, data.classes, rules, unspecified)
        found += [Sampled(predicted, metric) for metric in metrics]
    return found


def _notes(
    identities: list[dict[str, Any]],
    intervals: dict[str, PairedInterval],
    images: int,
    replicates: int,
    seed: int,
    confidence: float,
) -> tuple[str, ...]:
    notes = [
        f"{100 * confidence:g} % percentile intervals of the difference over {replicates} paired draws of the {images} "
        f"test images (seed {seed}); p is two-sided, Holm's holds for all the metrics together.",
        "Over the draw of test images only: another training seed or another mask is not in these intervals.",
    ]
    drawn = [(identity["repetition"], identity["mask_seed"]) for identity in identities]
    if drawn[0] != drawn[1]:
        notes.append(f"The runs differ in what was drawn, too: (repetition, mask seed) {drawn[0]} and {drawn[1]}.")
    moved = [
        f"{name} {100 * found.centre:+.2f}"
        for name, found in intervals.items()
        if abs(found.centre - found.difference) > _OFF_CENTRE * (found.high - found.low)
    ]
    if moved:
        notes.append(
            "Classes with few positives lose them all in some draws, which moves these means over draws, and their "
            f"intervals, away from the difference on the test set: {', '.join(moved)}."
        )
    short = {name: found.replicates for name, found in intervals.items() if found.replicates < replicates}
    if short:
        listed = ", ".join(f"{name} in {replicates - count}" for name, count in short.items())
        notes.append(f"Undefined in some draws, which are left out: {listed}.")
    return tuple(notes)
