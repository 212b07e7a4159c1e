"""`score`: a run's numbers computed again from its stored predictions, never from what its record says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlbench.datasets import Dataset, load_dataset
from mlbench.datasets.recorded import dataset_of, is_data_of
from mlbench.errors import DataError
from mlbench.evaluation.class_groups import groups_for
from mlbench.evaluation.predictions import read_predictions
from mlbench.evaluation.scoring import predicted_of, score_predictions
from mlbench.metrics import METRICS, Metric
from mlbench.paths import store_dir
from mlbench.protocol import Protocol, load_protocol, protocol_of
from mlbench.store import find_run, scores_file


@dataclass(frozen=True)
class Rescored:
    """Numbers on the test part, in percent, and those of the record that differ by more than rounding.

    `measures` are the registered metrics asked for, as a record holds them.
    """

    title: str
    results: dict[str, float | None]
    differences: dict[str, tuple[float | None, float | None]]
    measures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """A metric a row: value, its unit, whether the record says something else, and then what."""
        plain = {name: {"value": value, "unit": "percent"} for name, value in self.results.items()}
        plain |= {name: {"value": found["value"], "unit": found["unit"]} for name, found in self.measures.items()}
        nothing = (None, None)
        return [
            {
                "metric": name,
                **row,
                "differs": name in self.differences,
                "recorded": self.differences.get(name, nothing)[1],
            }
            for name, row in plain.items()
        ]

    def text(self) -> str:
        lines = [self.title]
        for name, value in self.results.items():
            shown = "undefined" if value is None else f"{value:.4f}"
            mark = f"   record says {self.differences[name][1]}" if name in self.differences else ""
            lines.append(f"  {name:32} {shown:>10}{mark}")
        for name, found in self.measures.items():
            shown = "undefined" if found["value"] is None else f"{found['value']:.4f}"
            mark = f"   record says {self.differences[name][1]}" if name in self.differences else ""
            lines.append(f"  {name:32} {shown:>10} {found['unit']}, {found['better']} is better{mark}")
        return "\n".join(lines)


def score(
    run: str,
    store: Path | None = None,
    data_root: Path | None = None,
    protocol: str | None = None,
    dataset: str | None = None,
    metrics: Sequence[str] = (),
) -> Rescored:
    """Score run `run` (first characters of its key) again from its test predictions.

    `dataset` names the data set where the catalogue does not have it (the path of its description), and `data_root`
    the folder of its files. With `protocol`, that protocol's definitions are applied instead, and nothing is compared.
    `metrics` are registered ones that are wanted besides.
    """
    root = store or store_dir()
    record = find_run(run, root)
    return score_record(record, scores_file(root, record), data_root, protocol, dataset, metrics)


def score_record(
    record: dict[str, Any],
    path: Path,
    data_root: Path | None = None,
    protocol: str | None = None,
    dataset: str | None = None,
    metrics: Sequence[str] = (),
) -> Rescored:
    """Score the test predictions at `path`, which must be those `record` names by hash; arguments as for `score`."""
    asked = [METRICS[name] for name in dict.fromkeys(metrics)]  # refuses an unknown one before anything is read
    data = load_dataset(dataset_of(record, dataset), data_root)
    if not is_data_of(data, record):
        raise DataError(f"data set '{data.id}' here is not the one the run was scored on (fingerprints differ)")
    rules = load_protocol(protocol) if protocol else protocol_of(record)
    results = score_on(record, path, data, rules)
    measures = measures_on(record, path, data, rules, asked) if asked else {}
    differences = {} if protocol else differing(results, record["results"]["test"])
    if not protocol:
        kept = record.get("measures", {})
        both = [{name: of[name]["value"] for name in measures if name in kept} for of in (measures, kept)]
        differences |= differing(*both)
    title = f"{record['identity']['method']['name']} on {data.id} ({rules.name}), run {record['key'][:16]}, percent"
    return Rescored(title, results, differences, measures)


def score_on(record: dict[str, Any], path: Path, data: Dataset, rules: Protocol) -> dict[str, float | None]:
    """Numbers of the test predictions at `path`, which must be those `record` names by hash, on `data`, in percent."""
    predictions = read_predictions(path, record["predictions"]["test"]["sha256"])
    test = data.splits["test"]
    unspecified = rules.unspecified_for(data.id)
    groups = groups_for(rules.metrics, data.splits["train"].labels, data.classes)
    results, _ = score_predictions(predictions, test.labels, test.ids, data.classes, rules.metrics, unspecified, groups)
    return results


def measures_on(
    record: dict[str, Any], path: Path, data: Dataset, rules: Protocol, metrics: Sequence[Metric]
) -> dict[str, dict[str, Any]]:
    """The registered `metrics` of the test predictions at `path` on `data`, as a record holds them."""
    predictions = read_predictions(path, record["predictions"]["test"]["sha256"])
    test, unspecified = data.splits["test"], rules.unspecified_for(data.id)
    predicted = predicted_of(predictions, test.labels, test.ids, data.classes, rules.metrics, unspecified)
    return {
        metric.name: {
            "value": metric.shown(predicted.measure(metric)),
            "unit": metric.unit,
            "better": metric.better,
            "owner": str(METRICS.owner_in_records(metric.name)),
        }
        for metric in metrics
    }


Numbers = Mapping[str, float | None]


def differing(a: Numbers, b: Numbers) -> dict[str, tuple[float | None, float | None]]:
    """Numbers by name that are not the same in `a` and `b`, but for rounding: (that of `a`, that of `b`)."""
    found = {}
    for name in a.keys() | b.keys():
        new, old = a.get(name), b.get(name)
        if (new is None) != (old is None) or (new is not None and old is not None and abs(new - old) > 1e-9):
            found[name] = (new, old)
    return dict(sorted(found.items()))
