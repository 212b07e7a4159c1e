"""What stands in a cell of a table, and which runs may stand in it together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlbench.datasets.recorded import is_of_miniature
from mlbench.errors import DataError, UsageError, unknown
from mlbench.evaluation.pretraining import PRETRAINING, pretraining_of
from mlbench.metrics import METRICS
from mlbench.report.ties import Replicates, Runs, Ties, column_ties
from mlbench.significance.comparability import (
    annotation_text,
    by_draw,
    head_of,
    keys_text,
    require_one,
    settings_of,
    supervision_of,
)
from mlbench.store import SUBMITTED

Record = Mapping[str, Any]

_REQUIRED = (
    *("protocol", "protocol_sha256", "track", "repetition", "mask_seed", "backbone.name"),
    *("dataset.id", "dataset.version", "dataset.fingerprint", "method.name", "method.supervision"),
)


def check_records(records: Iterable[Mapping[str, Any]]) -> list[Record]:
    """`records` as a list; DataError names a record that lacks a part, UsageError a record given twice."""
    checked: dict[str, Record] = {}
    for number, record in enumerate(records):
        name = f"record {str(record.get('key', f'number {number + 1}'))[:16]}"
        for part, kind in (("key", str), ("identity", Mapping), ("definitions", Mapping), ("results", Mapping)):
            if not isinstance(record.get(part), kind):
                raise DataError(f"{name}: no '{part}'; expected a run record of schema 1")
        for entry in _REQUIRED:
            found: Any = record["identity"]
            for part in entry.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is None:
                raise DataError(f"{name}: no 'identity.{entry}'; expected a run record of schema 1")
        if record["key"] in checked:
            raise UsageError(f"record {record['key'][:16]} is given twice")
        checked[record["key"]] = record
    return list(checked.values())


def method_of(record: Record) -> str:
    """The name of the run's method."""
    return str(record["identity"]["method"]["name"])


def dataset_of(record: Record) -> str:
    """The column of the run: its data set, and that it was a miniature where it was."""
    name = str(record["identity"]["dataset"]["id"])
    return f"{name} (miniature)" if is_of_miniature(record) else name


def _kind(record: Record) -> tuple[str, ...]:
    head = head_of(record)
    return str(record["identity"]["track"]), str(record["identity"]["backbone"]["name"]), *([head] if head else [])


def kinds_of(runs: Sequence[Record]) -> list[tuple[str, ...]]:
    """Tracks, backbones and heads that `runs` differ in, as ("head", "resnet50", "csra") and ("head", "resnet50"), the
    linear head being left out; one empty kind where they do not differ.

    Submitted runs, whose track and backbone are only claimed, make no kind.
    """
    kinds = sorted({_kind(record) for record in runs if not method_of(record).startswith(SUBMITTED)})
    return list(kinds) if len(kinds) > 1 else [()]


def of_kind(runs: Sequence[Record], kind: tuple[str, ...]) -> list[Record]:
    """Those of `runs` that are of a kind, see `kinds_of`; submitted ones are of each."""
    return [r for r in runs if not kind or method_of(r).startswith(SUBMITTED) or _kind(r) == kind]


def value_of(record: Record, metric: str) -> float:
    """A test number as it is shown (percent, but for some measures); NaN where it is undefined or the record has it
    not."""
    value = record["results"]["test"].get(metric)
    if value is None:
        value = record.get("measures", {}).get(metric, {}).get("value")
    return math.nan if value is None else float(value)


class Number(NamedTuple):
    """What numbers of a metric are: their unit, and whether the higher one is the better (sign 1) or not (-1)."""

    unit: str = "percent"
    sign: int = 1


def kind_of_number(metric: str, records: Sequence[Record]) -> Number:
    """UsageError where no record has `metric`, or where it was measured in several ways."""
    if any(metric in record["results"]["test"] for record in records):
        return Number()
    found = {
        (m["unit"], m["better"], m["owner"]) for record in records if (m := record.get("measures", {}).get(metric))
    }
    if not found:
        if metric in METRICS:
            raise UsageError(
                f"no run has been measured by '{metric}': `mlbench results rescore FOLDER --write --metric {metric}` "
                "adds it to the records whose predictions are at hand"
            )
        names = {name for record in records for part in _numbers(record) for name in part}
        raise unknown("metric", metric, {*names, *METRICS})
    if len(found) > 1:
        ways = "; ".join(f"{owner} ({unit}, {better} is better)" for unit, better, owner in sorted(found))
        raise UsageError(
            f"runs were measured by '{metric}' in several ways: {ways}. `mlbench results rescore FOLDER --write "
            f"--metric {metric}` measures them anew"
        )
    ((unit, better, _),) = found
    return Number(unit, 1 if better == "higher" else -1)


def _numbers(record: Record) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return record["results"]["test"], record.get("measures", {})


def cell_of(
    runs: Sequence[Record], method: str, dataset: str, metric: str, settings: Mapping[str, str]
) -> dict[str, Any]:
    """Numbers of one cell; refuses runs that are not repetitions of each other.

    `settings` are the `rows_of` all records there are, to compare the runs that these build on.
    """
    what = f"method '{method}' on '{dataset}'"
    cell: dict[str, Any] = {"method": method, "dataset": dataset, "metric": metric, "n": 0}
    if not runs:
        return cell | {"mean": math.nan, "sd": math.nan, "supervision": "", "pretraining": "", "remark": ""}
    require_one(runs, settings_of, what)
    drawn = by_draw(runs, what)
    values = np.array([value_of(record, metric) for record in drawn.values()])
    first, supervision = runs[0]["identity"], supervision_of(runs[0])
    remarks = [] if supervision == "observed" else [f"supervision: {supervision or 'none'}"]
    if method.startswith(SUBMITTED):
        claimed = f"backbone {first['backbone']['name']}, supervision {supervision}"
        remarks = [f"submitted predictions: scored here, not reproduced, not ranked with our runs; claimed: {claimed}"]
    if len(drawn) < len(runs):
        remarks.append(f"sees no mask: its {len(runs)} runs count as one for each repetition")
    if np.isnan(values).any():
        remarks.append(f"undefined in {np.isnan(values).sum()} of {len(values)} runs")
    used = {name: [r["identity"]["uses"][name] for r in runs] for name in first.get("uses", {})}
    if any(key not in settings for keys in used.values() for key in keys):
        remarks.append("builds on runs that are not among the records: their settings were not compared")
    if len({settings[record["key"]] for record in runs}) > 1:
        names = " and ".join(f"'uses.{name}'" for name in used)
        raise UsageError(
            f"{what} mixes runs whose {names} have different settings (runs {keys_text(r['key'] for r in runs)})"
        )
    return cell | {
        "n": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        "supervision": supervision,
        "pretraining": pretraining_of(runs[0]),
        "remark": "; ".join(remarks),
        "repetitions": " ".join(map(str, sorted({seed for seed, _ in drawn}))),
        "mask_seeds": " ".join(map(str, sorted({mask for _, mask in drawn if mask is not None}))),
        **{name: first[name] for name in ("protocol", "track")},
        "backbone_name": first["backbone"]["name"],
        "precision": first["precision"],
        "annotation": annotation_text(runs[0]),
        "dataset_version": first["dataset"]["version"],
        "dataset_fingerprint": first["dataset"]["fingerprint"],
    }


def tell_pretraining(column: Sequence[dict[str, Any]]) -> None:
    """Mark the cells of a column whose runs rest on more pretraining than others', where that varies."""
    least = min((cell["pretraining"] for cell in column if cell["n"]), key=PRETRAINING.index, default="")
    for cell in column:
        cell["pretrained"] = bool(cell["n"]) and cell["pretraining"] != least
        if cell["pretrained"]:
            cell["remark"] = "; ".join(filter(None, [cell["remark"], f"pretraining: {cell['pretraining']}"]))


def _ranked(cell: Mapping[str, Any]) -> bool:
    """Whether a cell may be the best of its column: reproduced here, from the observed labels only, and with no more
    pretraining than others of the column."""
    return cell["supervision"] == "observed" and not cell["method"].startswith(SUBMITTED) and not cell["pretrained"]


def tie(
    column: Sequence[dict[str, Any]],
    by_method: Mapping[str, Sequence[Record]],
    metric: str,
    sign: int,
    replicates: Replicates | None,
    digits: int,
) -> tuple[list[Runs], Ties]:
    """Give the ranked cells of a column their tie groups, say which are bold; returns the ranked runs by cell, too.

    With `sign` -1 lower is better: the runs returned, and the `replicates`, have values of the other sign.
    """
    own: list[Runs] = []
    for cell in column:
        ranked = by_method[cell["method"]] if _ranked(cell) and not math.isnan(cell["mean"]) else []
        drawn = by_draw(ranked, f"method '{cell['method']}'")
        own.append({draw: (record["key"], sign * value_of(record, metric)) for draw, record in drawn.items()})
    ties = column_ties(own, replicates)
    groups, standing = ties.groups, ties.standing
    shown = [f"{cell['mean']:.{digits}f}" for cell in column]
    best = max(
        (text for text, mine in zip(shown, own, strict=True) if mine), key=lambda text: sign * float(text), default=""
    )
    for cell, group, text, mine in zip(column, groups, shown, own, strict=True):
        cell["tie_group"] = group
        cell["best"] = group == 1 or (bool(mine) and group is None and text == best)
        cell["untested"] = bool(mine) and group is None and (text != best or any(groups))
    for i, cell in enumerate(column):
        cell["chance_best"], cell["rank"] = float(standing.best[i]), float(standing.rank[i])
        cell["rank_low"], cell["rank_high"] = float(standing.low[i]), float(standing.high[i])
    return own, ties
