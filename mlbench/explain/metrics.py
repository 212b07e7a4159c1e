"""The definition lens: stored predictions scored under every published definition, and what a definition is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from mlbench.datasets import load_dataset
from mlbench.datasets.recorded import dataset_of, is_data_of
from mlbench.errors import DataError, MlbenchError, UsageError, unknown
from mlbench.evaluation.predictions import Predictions, read_predictions
from mlbench.evaluation.scoring import align, targets_of
from mlbench.grid import collect
from mlbench.metrics import AXES, METRICS, PUBLISHED, Definition, Lens, scores_of_kind, users
from mlbench.paths import store_dir
from mlbench.protocol import Protocol, load_protocol, protocol_of
from mlbench.store import find_run, scores_file
from mlbench.store.papers import PRINTED_AS, load_published

#: The row of this project in the table of definitions.
OURS = "mlbench"
#: Decisions as codes that look at logits write them.
_AS_LOGIT = {"p > 0.5": "p > 0.5, logit > 0", "p >= 0.5": "p >= 0.5, logit >= 0"}
#: The code that made a paper's own rows, and those it marks as copied from SRN.
_CODES = {("vac", ""): "VAC", ("vac", "[67]"): "SRN"}


@dataclass(frozen=True)
class Subject:
    """Predictions to explain: their `lens`, the protocol's own `definition`, and the data set's id."""

    title: str
    lens: Lens
    definition: Definition
    dataset: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Printed:
    """A published number in percent, `definition` as far as its source tells (axes of `known`), and where it stands."""

    value: float
    metric: str
    definition: Definition
    known: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Distance:
    """Published minus ours, in points: ``published - ours = definition + remainder``.

    ours : the metric under our definition. under : lowest and highest under the published one, over the choices its
    source leaves open. anyhow : the same over all published choices. NaN where undefined. All in percent.
    """

    published: float
    ours: float
    under: tuple[float, float]
    anyhow: tuple[float, float]

    @property
    def definition(self) -> tuple[float, float]:
        """What changing our definition for the published one adds to our number: lowest, highest."""
        return self.under[0] - self.ours, self.under[1] - self.ours

    @property
    def remainder(self) -> tuple[float, float]:
        """What the definition does not explain: lowest, highest."""
        return self.published - self.under[1], self.published - self.under[0]

    def text(self) -> str:
        if math.isnan(self.ours) or math.isnan(self.under[0]):
            return f"published {self.published:.2f}; undefined here, so there is no distance to split"
        lowest, highest = (value - self.ours for value in self.anyhow)
        return (
            f"published {self.published:.2f}, ours {self.ours:.2f}: distance {self.published - self.ours:+.2f} = "
            f"definition {_span(self.definition)} and remainder {_span(self.remainder)}; "
            f"ours under any combination of published choices: {_span((lowest, highest))}"
        )


def load_subject(
    run: str,
    store: Path | None = None,
    data_root: Path | None = None,
    protocol: str | None = None,
    dataset: str | None = None,
) -> Subject:
    """The test predictions of run `run` (first characters of its key), or of the predictions file `run`, with labels.

    A file is scored by the definitions of `protocol`, "full" unless given; a run by those of its own unless given.
    """
    root = store or store_dir()
    if Path(run).is_file():
        predictions = read_predictions(run)
        if predictions.meta["split"] != "test":
            raise UsageError(f"{run}: predictions of part '{predictions.meta['split']}', expected those of 'test'")
        data = load_dataset(dataset or predictions.meta["dataset"], data_root)
        rules, name = load_protocol(protocol or "full"), Path(run).name
    else:
        record = find_run(run, root)
        identity = record["identity"]
        predictions = read_predictions(scores_file(root, record), record["predictions"]["test"]["sha256"])
        data = load_dataset(dataset_of(record, dataset), data_root)
        if not is_data_of(data, record):
            raise DataError(f"data set '{data.id}' here is not the one the run was scored on (fingerprints differ)")
        rules = load_protocol(protocol) if protocol else protocol_of(record)
        name = f"{identity['method']['name']}, run {run}"
    test = data.splits["test"]
    order = align(predictions, test.ids, data.classes)
    unspecified = rules.unspecified_for(data.id)
    ap_targets, ap_known = targets_of(test.labels, unspecified.ap)
    targets, known = targets_of(test.labels, unspecified.f1)
    lens = Lens(
        scores_of_kind(predictions.kind, predictions.scores[order]),
        targets,
        known,
        ap_targets,
        ap_known,
        None if predictions.decisions is None else predictions.decisions[order],
        rules.metrics.top_k,
    )
    title = f"{name}: test part of {data.id} ({len(test)} samples, {len(data.classes)} classes), protocol {rules.name}"
    return Subject(title, lens, default_definition(rules, predictions), data.id, tuple(data.classes))


def default_definition(protocol: Protocol, predictions: Predictions) -> Definition:
    """What the protocol's own numbers and the columns of its table count."""
    rules, columns = protocol.metrics, " ".join(protocol.table.metrics)
    return Definition(
        ap=rules.ap,
        empty_ap=rules.empty_class,
        decision=f"p > {rules.decision:g}" if predictions.decisions is None else "own",
        top="strict" if f"top{rules.top_k}_strict" in columns or predictions.kind == "rank" else "thresholded",
        f1_c="hm" if "F1-C_hm" in columns and "F1-C_mean" not in columns else "mean",
    )


def definition_rows(subject: Subject) -> list[dict[str, Any]]:
    """Every metric in percent under our definition and each of `PUBLISHED`; None where undefined."""
    named = {OURS: subject.definition, **PUBLISHED}
    return [{"definition": name, **_row(subject.lens, definition)} for name, definition in named.items()]


def choice_rows(subject: Subject) -> list[dict[str, Any]]:
    """Our definition with one choice changed: an axis and choice a row, only metrics that depend on the axis."""
    lens, rows = subject.lens, []
    for axis, choices in AXES.items():
        taken = getattr(subject.definition, axis)
        for choice in choices if taken in choices else (taken, *choices):
            changed = replace(subject.definition, **{axis: choice})
            values = {m: _percent(lens.value(changed, m)) for m in lens.metrics if choice in lens.axes(m).get(axis, ())}
            ours = {OURS} if choice == taken else set()
            by = ", ".join([*ours, *filter(None, [users(axis, choice)])])
            rows.append({"axis": axis, "choice": _AS_LOGIT.get(choice, choice), "used by": by, **values})
    return rows


def further_rows(subject: Subject) -> list[dict[str, Any]]:
    """Every registered metric under our definition, in percent where that is its unit; one that fails says why."""
    rows: list[dict[str, Any]] = []
    for name in METRICS:
        try:
            value = METRICS[name].shown(subject.lens.value(subject.definition, name))
            shown: Any = "undefined" if value is None else value
            about = METRICS[name].summary
        except MlbenchError as error:
            shown, about = "failed", str(error)
        rows.append({"measure": name, "value": shown, "what it is": about})
    return rows


def checks(subject: Subject) -> list[str]:
    """What the definitions could differ on in these predictions, counted; and the order of the classes."""
    lens = subject.lens
    positives = (lens.targets & lens.known).sum(axis=0)
    lines = [
        f"{int((positives == 0).sum())} of {len(positives)} classes have no positive",
        f"{int((~lens.labelled).sum())} of {len(lens.labelled)} samples have no positive label",
    ]
    if lens.scores.kind != "rank":
        decided = lens.scores.above(0.5)
        at_half = int((lens.scores.at_least(0.5) & ~decided).sum())
        lines.append(f"{int((~decided.any(axis=0)).sum())} classes are never predicted at p > 0.5")
        lines.append(f"{at_half} entries have p = 0.5 exactly")
    if lens.scores.kind == "logit":
        logits = lens.scores.values.astype(np.float32)
        with np.errstate(over="ignore"):
            rounded = np.float32(1) / (np.float32(1) + np.exp(-logits)) > np.float32(0.5)
        lines.append(f"{int((rounded != (logits > 0)).sum())} entries with p > 0.5 in float32 unlike logit > 0")
    change, tied = class_order_change(subject)
    lines.append(
        f"classes in alphabetical order: no metric changes by more than {change:.4f} points "
        f"({tied} samples tie at the edge of their top {lens.k})"
    )
    return lines


def class_order_change(subject: Subject) -> tuple[float, int]:
    """The largest change of any metric, in points, under any named definition, if the classes stood in alphabetical
    order as in MLGCN; and the number of samples that tie at the edge of their top k, the only place it can show."""
    lens, order = subject.lens, np.argsort(np.array(subject.classes, dtype=object), kind="stable")
    values = lens.scores.values
    moved = Lens(
        type(lens.scores)(values[:, order]),
        lens.targets[:, order],
        lens.known[:, order],
        lens.ap_targets[:, order],
        lens.ap_known[:, order],
        None if lens.own is None else lens.own[:, order],
        lens.k,
    )
    definitions = [subject.definition, *PUBLISHED.values()]
    definitions += [replace(definition, top="strict") for definition in definitions]
    pairs = [(lens.value(d, m), moved.value(d, m)) for d in definitions for m in lens.metrics]
    ranked = -np.sort(-values, axis=1)
    tied = int((ranked[:, lens.k - 1] == ranked[:, lens.k]).sum()) if lens.k < values.shape[1] else 0
    return 100.0 * max((abs(a - b) for a, b in pairs if not math.isnan(a)), default=0.0), tied


def printed_number(address: str, metric: str, dataset: str, k: int = 3) -> Printed:
    """The published number at ``PAPER/TABLE/ROW`` for `metric` ("F1-C", "top3/F1-C") on our data set `dataset`.

    A row is called as it is printed, or by the method's registered key. UsageError where there is no such number: one
    of other images is not a distance away.
    """
    parts = address.split("/", 2)
    if len(parts) != 3:
        raise UsageError(f"--published {address}: expected PAPER/TABLE/ROW, as in 'vac/Table 6/ResNet101-ACfs'")
    paper, table, row = parts
    frame = load_published(paper)
    for kind, name, columns in (("table", table, ["table"]), ("row", row, ["row", "method"])):
        chosen = (frame[columns] == name).any(axis=1)
        if not chosen.any():
            raise unknown(kind, name, set(frame[columns[0]]), f"published numbers of '{paper}'")
        frame = frame[chosen]
    printed_as = PRINTED_AS.get(dataset, dataset)
    if printed_as not in set(frame["dataset"]):
        found = ", ".join(sorted(set(frame["dataset"])))
        raise UsageError(f"{address} is of {found}, the predictions are of {dataset}")
    frame = frame[frame["dataset"] == printed_as]
    group, _, name = metric.rpartition("/")
    if group and k != 3:
        raise UsageError(f"--metric {metric}: published top-k columns are top3, the protocol here counts top{k}")
    frame = frame[(frame["group"] == (group or "all")) & (frame["metric"] == name)]
    if len(frame) != 1:
        have = "none" if frame.empty else f"{len(frame)} ({'; '.join(_named(row) for row in frame.to_dict('records'))})"
        raise UsageError(f"{address} has {have} of {metric} on {printed_as}, expected one number")
    return _printed(frame.iloc[0], metric)


def _named(row: Mapping[Any, Any]) -> str:
    return ", ".join(filter(None, (row["row"], row["method"], row["backbone"])))


def _printed(row: pd.Series, metric: str) -> Printed:
    kind, _, top = str(row["definition"]).partition("+")
    cited = str(row["row"])[str(row["row"]).find("[") :] if "[" in str(row["row"]) else ""
    code = _CODES.get((str(row["paper"]), cited))
    said: dict[str, str] = {}
    if kind != "undecidable":
        axis = {"mAP": "ap", "F1-C": "f1_c", "F1-O": "f1_o"}.get(str(row["metric"]))
        said |= {axis: kind} if axis else {}
    if top in ("top3_strict", "top3_thresholded"):
        said["top"] = top.removeprefix("top3_")
    if row["paper"] == "boostlu":
        said["empty_ap"] = "zero"
    base = PUBLISHED[code] if code else Definition()
    known = [field.name for field in fields(Definition)] if code else list(said)
    source = f"{row['paper']} {row['table']}, {row['row']}: {metric} on {row['dataset']} ({row['dataset_version']})"
    source += f"; code of {code}" if code else f"; its source tells {', '.join(said) or 'nothing'} and leaves the rest"
    if top == "top3_path":
        source += "; its labels are those of a decoded path, which no rule here imitates"
    return Printed(float(row["value"]), metric, replace(base, **said), tuple(known), source)


def distance(subject: Subject, printed: Printed) -> Distance:
    """Split the distance between a published number and these predictions; see `Distance`."""
    lens, metric = subject.lens, printed.metric
    ours = lens.value(subject.definition, metric)
    under = lens.range(metric, printed.definition, printed.known)
    low, high = lens.range(metric, subject.definition)
    # "own" and other settings of ours that no paper has count among the choices, too.
    anyhow = (min(low, ours), max(high, ours)) if not math.isnan(low) else (ours, ours)
    return Distance(printed.value, 100 * ours, _both(under), _both(anyhow))


def explain_metrics(
    run: str,
    store: Path | None = None,
    data_root: Path | None = None,
    protocol: str | None = None,
    dataset: str | None = None,
    published: str | None = None,
    value: float | None = None,
    metric: str | None = None,
    definition: str | None = None,
) -> str:
    """The lens as text: all named definitions, each choice alone, what was counted, and the distance if asked for.

    published : ``PAPER/TABLE/ROW``; or value : any number in percent, made under `definition` (a name of `PUBLISHED`)
    if that is known. Both need `metric`.
    """
    if published is not None and value is not None:
        raise UsageError("--published and --value: expected one of them")
    if (metric is None) != (published is None and value is None):
        raise UsageError("--metric goes with --published or --value: one of them is missing")
    if definition is not None and value is None:
        raise UsageError("--definition says how --value was made, which is missing")
    if definition is not None and definition not in PUBLISHED:
        raise unknown("definition", definition, PUBLISHED)
    if value is not None and not 0 <= value <= 100:
        raise UsageError(f"--value {value}: expected a percentage from 0 to 100")
    subject = load_subject(run, store, data_root, protocol, dataset)
    printed = None
    if metric is not None:
        subject.lens.axes(metric)  # refuses an unknown metric before anything is computed
        if published is not None:
            printed = printed_number(published, metric, subject.dataset, subject.lens.k)
        elif value is not None:
            base = PUBLISHED[definition] if definition else Definition()
            known = tuple(asdict(base)) if definition else ()
            printed = Printed(value, metric, base, known, f"{metric} given, definition: {definition or 'not told'}")
    names = ["definition", *subject.lens.metrics]
    choices = ["axis", "choice", "used by", *subject.lens.metrics]
    sections = [
        f"{subject.title}, percent",
        _grid(definition_rows(subject), names),
        "Our definition with one choice changed (empty: the metric does not depend on it):",
        _grid(choice_rows(subject), choices),
        "Other measures, by our decisions; an unknown label is as if its class were not there:",
        _grid(further_rows(subject), ["measure", "value", "what it is"]),
        "\n".join(f"- {line}" for line in checks(subject)),
    ]
    if printed is not None:
        sections.append(f"{printed.source}\n{distance(subject, printed).text()}")
    return "\n\n".join(sections)


def _row(lens: Lens, definition: Definition) -> dict[str, float | str]:
    return {metric: _percent(lens.value(definition, metric)) for metric in lens.metrics}


def _percent(value: float) -> float | str:
    return "undefined" if math.isnan(value) else 100.0 * value


def _both(pair: tuple[float, float]) -> tuple[float, float]:
    return 100.0 * pair[0], 100.0 * pair[1]


def _span(pair: Sequence[float]) -> str:
    low, high = pair
    return f"{low:+.2f}" if high - low < 0.005 else f"from {low:+.2f} to {high:+.2f}"


def _grid(rows: list[dict[str, Any]], header: list[str]) -> str:
    collect(rows)
    cells = [[row.get(name, "") for name in header] for row in rows]
    shown = [[f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row] for row in cells]
    return tabulate(shown, header, tablefmt="github", disable_numparse=True)
