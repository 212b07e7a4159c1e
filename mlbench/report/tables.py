"""Tables of our runs: methods by data sets, with the published numbers beside them.

A column holds runs that can be compared and nothing else: what differs is refused, not averaged.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mlbench.datasets import list_datasets
from mlbench.datasets.recorded import is_of_miniature
from mlbench.errors import DataError, UsageError, unknown
from mlbench.evaluation.pretraining import PRETRAINING, pretraining_of
from mlbench.metrics import METRICS
from mlbench.report.power import needed_lines
from mlbench.report.render import MISSING, Cell, Part, Table
from mlbench.report.ties import Replicates, Runs, Ties, column_ties, disorder_line, standing_line
from mlbench.significance.comparability import (
    annotation_text,
    as_written,
    by_draw,
    column_of,
    head_of,
    keys_text,
    require_one,
    require_one_mask_a_seed,
    rows_of,
    settings_of,
    supervision_of,
)
from mlbench.significance.crossed import Draw
from mlbench.significance.where import choose
from mlbench.store import SUBMITTED
from mlbench.store.papers import PRINTED_AS, load_published

Record = Mapping[str, Any]
#: Rows in the papers' order; methods not listed follow by name.
METHOD_ORDER = (
    *("full", "bce", "oracle_negatives", "iun", "iu", "an", "an_boostlu_inference", "wan", "ls", "asl", "focal"),
    *("epr", "role", "role_li", "em", "em_apl", "llr", "llr_boostlu", "llct", "llct_boostlu", "llcp", "llcp_boostlu"),
    *("hill", "splc", "gr", "pu_mlc_loss", "twoway", "zlpr", "poly1", "db", "db_label_count", "spa"),
    *("ignore", "ignore_per_image", "plc", "lac", "l2d", "logicmix", "mixup_pme", "splicemix", "splicemix_cl"),
    *("smile", "mime", "softmax", "csra", "ml_decoder", "q2l"),
    *("vlpl", "gpr", "vl_zero_shot", "scpnet"),
    *("partial_bce", "warp", "cnn_rnn", "curriculum", "imcl", "p_asl"),
    *("wbce", "wbce_t", "wbce_r", "wbce_s", "wbce_f", "wbce_fs", "pc_f", "vac_t", "vac_r", "vac_s", "vac_f", "vac_fs"),
    *("rcnn", "rstar_cnn", "dhc", "ar", "resnet_aug", "srn", "vaa"),
    *("tag_neighbors", "lsep", "srel_rnn", "rmam", "rarlf", "miml_fcn", "miml_fcn_bb", "mcg_cnn_lstm", "rlsd", "kcca"),
    *("wsddn", "kd", "fitnets", "attention_transfer", "kd_wsd", "kd_wsd_code"),
    *("prior", "random"),
)

_REQUIRED = (
    *("protocol", "protocol_sha256", "track", "repetition", "mask_seed", "backbone.name"),
    *("dataset.id", "dataset.version", "dataset.fingerprint", "method.name", "method.supervision"),
)
_GROUP = re.compile(r"G[0-9]+")


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


def build_table(
    records: Iterable[Mapping[str, Any]],
    metric: str | Sequence[str] = "mAP",
    protocol: str | None = None,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    published: bool = True,
    where: Mapping[str, Any] | None = None,
    digits: int = 1,
    replicates: Callable[[str], Replicates] | None = None,
    untested: Sequence[str] = (),
    gap: float | None = None,
) -> Table:
    """Make a table of test values: methods in rows, data sets in columns, mean ± sample deviation over runs.

    Parameters
    ----------
    records : run records (schema 1).
    metric : a name under ``results.test``, such as "mAP" or "top3_strict/F1-O", in percent, or under ``measures`` (a
        registered metric), in its own unit; or several, each with a column a data set.
    protocol, methods, datasets : what to show, in this order; by default all there is, methods as in `METHOD_ORDER`.
        A method or data set without a run is shown as missing.
    published : show the published values of the same method, data set, protocol and metric beside ours, as
        printed, each marked with its source and definition.
    where : keep the records whose identity and definitions have these values under dotted names, as
        ``{"mask.params.keep": 0.1}``; a record that has no such entry where it is a row's (another method's
        hyperparameter) is kept. See `mlbench.significance.where.choose`.
    digits : decimals of our numbers.
    replicates, untested : draws of the test images by metric, and why runs have none, see `image_replicates`. Without,
        tie groups are tested over runs alone.
    gap : also say how many draws would find a difference of so many points to the best, see `needed_lines`.

    Bold are all of our methods that may be the best, see `column_ties`; where nothing could be tested, the best alone.

    A data set whose runs differ in track, backbone or head has a column for each kind, see `kinds_of`. Raises
    UsageError for an unknown name, for no record left, for a column of runs that cannot be compared (`column_of` says
    what they have to share) and for a cell whose runs differ in more than what a repetition draws. Runs that no mask
    decides count as one for each repetition.
    """
    every = check_records(records)
    if not every:
        raise UsageError("no run record to make a table of")
    papers = load_published()
    chosen = choose(every, dict(where or {}) | ({} if protocol is None else {"protocol": protocol}), others=True)
    _known("method", methods, [*METHOD_ORDER, *map(_method, every), *papers["method"]])
    _known("data set", datasets, [*map(_dataset, every), *papers["dataset"], *list_datasets()])
    chosen = [
        record
        for record in chosen
        if (methods is None or _method(record) in methods) and (datasets is None or _dataset(record) in datasets)
    ]
    if not chosen:
        raise UsageError("no run record of the methods and data sets asked for")
    metrics = [metric] if isinstance(metric, str) else list(dict.fromkeys(metric))
    kinds_of_numbers = {name: _kind_of_number(name, chosen) for name in metrics}

    settings = rows_of(every)
    rows = list(dict.fromkeys(methods or sorted(set(map(_method, chosen)), key=_rank)))
    marks = Marks()
    header: list[Cell] = [(Part("method"),)]
    body: list[list[Cell]] = [[(Part(method),)] for method in rows]
    cells: list[dict[str, Any]] = []
    ranked: list[tuple[str, dict[str, dict[Draw, float]]]] = []
    stood: list[tuple[str, Ties]] = []
    shown = list(dict.fromkeys(datasets or sorted(set(map(_dataset, chosen)))))
    on = {dataset: [record for record in chosen if _dataset(record) == dataset] for dataset in shown}
    kinds = [(dataset, kind) for dataset in shown for kind in kinds_of(on[dataset])]
    for (dataset, kind), value in itertools.product(kinds, metrics):
        name = ", ".join([dataset, *kind])
        title = name if len(metrics) == 1 else value if len(kinds) == 1 else f"{name} {value}"
        sign = kinds_of_numbers[value].sign
        runs = of_kind(on[dataset], kind)
        _check_column(runs, dataset)
        by_method: dict[str, list[Record]] = {method: [] for method in rows}
        for record in runs:
            by_method[_method(record)].append(record)
        column = [cell_of(by_method[method], method, dataset, value, settings) for method in rows]
        _tell_pretraining(column)
        for cell in column:
            cell["column"] = name
            if sign < 0:
                cell["better"] = "lower"
        drawn = {key: sign * values for key, values in replicates(value).items()} if replicates else None
        own, ties = _tie(column, by_method, value, sign, drawn, digits)
        stood.append((title, ties))
        ranked.append((title, {m: {d: v for d, (_, v) in mine.items()} for m, mine in zip(rows, own, strict=True)}))
        header.append((Part(title, mark=marks(describe_runs(runs)) if len(runs) else ""),))
        for cell, line in zip(column, body, strict=True):
            line.append(_show(cell, digits, marks))
        under = runs[0]["identity"]["protocol"] if runs else protocol
        beside = published and all(map(as_written, runs))
        theirs = [_published(papers, method, dataset, under, value) if beside else [] for method in rows]
        if any(theirs):
            header.append((Part(f"{title} published"),))
            for cell, line, found in zip(column, body, theirs, strict=True):
                line.append(tuple(Part(r["printed"], r["bold"] == "bold", marks(_source(r))) for r in found))
                cell["published"] = " / ".join(r["printed"] for r in found)
                cell["published_source"] = " / ".join(_source(r) for r in found)
        cells += column
    footer = _footer(kinds_of_numbers, cells, any("published" in c for c in cells), replicates is not None, untested)
    footer += _standing_lines(rows, stood)
    footer += () if gap is None else tuple(needed_lines(ranked, gap))
    notes = tuple((mark, text) for text, mark in marks.items())
    return Table(tuple(header), tuple(map(tuple, body)), notes, footer, pd.DataFrame(cells))


def kinds_of(runs: Sequence[Record]) -> list[tuple[str, ...]]:
    """Tracks, backbones and heads that `runs` differ in, as ("head", "resnet50", "csra") and ("head", "resnet50"), the
    linear head being left out; one empty kind where they do not differ.

    Submitted runs, whose track and backbone are only claimed, make no kind.
    """
    kinds = sorted({_kind(record) for record in runs if not _method(record).startswith(SUBMITTED)})
    return list(kinds) if len(kinds) > 1 else [()]


def of_kind(runs: Sequence[Record], kind: tuple[str, ...]) -> list[Record]:
    """Those of `runs` that are of a kind, see `kinds_of`; submitted ones are of each."""
    return [r for r in runs if not kind or _method(r).startswith(SUBMITTED) or _kind(r) == kind]


def _method(record: Record) -> str:
    return str(record["identity"]["method"]["name"])


def _dataset(record: Record) -> str:
    name = str(record["identity"]["dataset"]["id"])
    return f"{name} (miniature)" if is_of_miniature(record) else name


def _kind(record: Record) -> tuple[str, ...]:
    head = head_of(record)
    return str(record["identity"]["track"]), str(record["identity"]["backbone"]["name"]), *([head] if head else [])


def value_of(record: Record, metric: str) -> float:
    """A test number as it is shown (percent, but for some measures); NaN where it is undefined or the record has it
    not."""
    value = record["results"]["test"].get(metric)
    if value is None:
        value = record.get("measures", {}).get(metric, {}).get("value")
    return math.nan if value is None else float(value)


class _Number(NamedTuple):
    """What numbers of a metric are: their unit, and whether the higher one is the better (sign 1) or not (-1)."""

    unit: str = "percent"
    sign: int = 1


def _kind_of_number(metric: str, records: Sequence[Record]) -> _Number:
    """UsageError where no record has `metric`, or where it was measured in several ways."""
    if any(metric in record["results"]["test"] for record in records):
        return _Number()
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
    return _Number(unit, 1 if better == "higher" else -1)


def _numbers(record: Record) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return record["results"]["test"], record.get("measures", {})


class Marks(dict[str, str]):
    """Footnotes: text to letters, in order of first use; calling it gives a text's letters."""

    def __call__(self, text: str) -> str:
        tens, ones = divmod(len(self), 26)
        return self.setdefault(text, (chr(96 + tens) if tens else "") + chr(97 + ones))


def _rank(method: str) -> tuple[int, str]:
    return (METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER), method)


def _known(kind: str, names: Sequence[str] | None, choices: Iterable[str]) -> None:
    known = set(choices)
    for name in names or ():
        if name not in known:
            raise unknown(kind, name, known)


def _check_column(runs: Sequence[Record], dataset: str) -> None:
    """Refuse a column whose runs are not comparable, or did not see the same masks."""
    require_one(runs, column_of, f"column '{dataset}'")
    require_one_mask_a_seed(runs, f"column '{dataset}'")


def _ranked(cell: Mapping[str, Any]) -> bool:
    """Whether a cell may be the best of its column: reproduced here, from the observed labels only, and with no more
    pretraining than others of the column."""
    return cell["supervision"] == "observed" and not cell["method"].startswith(SUBMITTED) and not cell["pretrained"]


def _tell_pretraining(column: Sequence[dict[str, Any]]) -> None:
    """Mark the cells of a column whose runs rest on more pretraining than others', where that varies."""
    least = min((cell["pretraining"] for cell in column if cell["n"]), key=PRETRAINING.index, default="")
    for cell in column:
        cell["pretrained"] = bool(cell["n"]) and cell["pretraining"] != least
        if cell["pretrained"]:
            cell["remark"] = "; ".join(filter(None, [cell["remark"], f"pretraining: {cell['pretraining']}"]))


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


def _tie(
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


def _standing_lines(methods: Sequence[str], columns: Sequence[tuple[str, Ties]]) -> tuple[str, ...]:
    """Footer lines on the chance of being the best, and on groups that are not in the order of the means."""
    chances = [line for title, ties in columns if (line := standing_line(title, methods, ties))]
    odd = [f"{title}: {line}" for title, ties in columns if (line := disorder_line(methods, ties))]
    lines = [f"Chance of being the best of its column (mean rank, with its 95 % interval). {'. '.join(chances)}."]
    return (*(lines if chances else ()), *(f"Groups against the order of means, {line}." for line in odd))


def _show(cell: Mapping[str, Any], digits: int, marks: Marks) -> Cell:
    if not cell["n"]:
        return ()
    text = "undefined"
    if not math.isnan(cell["mean"]):
        spread = f" ± {cell['sd']:.{digits}f}" if cell["n"] > 1 else ""
        text = f"{cell['mean']:.{digits}f}{spread} ({cell['n']})"
    return (Part(text, cell["best"], marks(cell["remark"]) if cell["remark"] else ""),)


def describe_runs(runs: Sequence[Record]) -> str:
    """What the runs of a column share, in words."""
    # Of submissions, track and backbone are not known: a column is described by our own runs where it has any.
    first = next((record for record in runs if not _method(record).startswith(SUBMITTED)), runs[0])
    identity, own = first["identity"], column_of(first)
    named = {name.removeprefix("definitions."): text for name, text in own.items() if name.startswith("definitions.")}
    annotation = annotation_text(first)
    if not as_written(first):
        annotation += " (not as the protocol is written)"
    return (
        f"{identity['dataset']['id']} version {identity['dataset']['version']} (fingerprint "
        f"{identity['dataset']['fingerprint'][:12]}), protocol {identity['protocol']} "
        f"({identity['protocol_sha256'][:12]}), annotation {annotation}, track {identity['track']}, backbone "
        f"{identity['backbone']['name']}, {identity['precision']}; definitions: "
        f"{', '.join(f'{name} {text}' for name, text in named.items())}"
    )


def _published(
    papers: pd.DataFrame, method: str, dataset: str, protocol: str | None, metric: str
) -> list[dict[str, Any]]:
    """Rows of the published tables for one cell; a number that stands in several tables is taken once."""
    group, _, name = metric.rpartition("/")
    name, _, detail = name.partition("_")
    groups = ["top3"] if group.startswith("top3") else [detail] if _GROUP.fullmatch(detail) else ["all", "All"]
    printed = papers["dataset"] == PRINTED_AS.get(dataset, dataset)
    found = papers[(papers["method"] == method) & printed & (papers["metric"] == name)]
    found = found[found["group"].isin(groups)]
    if protocol is not None:
        found = found[found["protocol"] == protocol]
    return found.drop_duplicates(["printed", "backbone", "definition"]).to_dict("records")  # type: ignore[return-value]


def _source(row: Mapping[str, Any]) -> str:
    backbone = row["backbone"] or "backbone not stated"
    return (
        f"published in {row['paper']}, {row['table']}: {row['metric']} {row['definition']}, {backbone}, "
        f"images: {row['dataset_version']}; {row['selection']}" + (f"; {row['note']}" if row["note"] else "")
    )


def _footer(
    metrics: Mapping[str, _Number],
    cells: Sequence[Mapping[str, Any]],
    published: bool,
    images: bool,
    reasons: Sequence[str],
) -> tuple[str, ...]:
    filled = [c for c in cells if c["n"] and c["metric"] == next(iter(metrics))]
    draws = {(c["repetitions"], c["mask_seeds"]) for c in filled}
    listed = "; ".join(
        f"repetitions {r} {f'with mask seeds {m}' if m else 'that see no mask'}" for r, m in sorted(draws)
    )
    lines = [
        f"{_units(metrics)}: mean ± sample standard deviation (ddof 1) over the runs, whose "
        "number stands in brackets; one run shows no deviation.",
        f"Runs: {sum(c['n'] for c in filled)}; {listed}" + (" (not the same in all cells)." if len(draws) > 1 else "."),
        "Bold: of our methods that were given the observed labels only, those that may be the best: no test tells "
        "another of the column to be better (paired by repetition and mask, effects of both allowed for"
        f"{' and the draw of the test images' if images else ''}; all pairs together at 0.05)."
        + ("" if images else " The draw of the test images is not tested."),
    ]
    untested: dict[str, list[str]] = {}
    for cell in cells:
        if cell["untested"]:
            untested.setdefault(cell["dataset"], []).append(cell["method"])
    if untested:
        listed = "; ".join(f"on {data}: {', '.join(dict.fromkeys(names))}" for data, names in untested.items())
        lines.append(f"Not tested, for want of two runs in common: {listed}.")
    lines += [f"Not tested on draws of the test images: {reason}." for reason in reasons]
    if published:
        lines.append(
            "Published values stand as printed, bold where the print is known to be; their marks tell the source."
        )
    if not all(c["n"] for c in cells):
        lines.append(f"{MISSING} : no run.")
    return tuple(lines)


def _units(metrics: Mapping[str, _Number]) -> str:
    """The metrics with their units, and which of them are better where they are lower."""
    names = {unit: [name for name, kind in metrics.items() if kind.unit == unit] for unit in ("percent", "number")}
    shown = {"percent": "on test images, percent", "number": "on test images, a number"}
    said = [f"{', '.join(found)} {shown[unit]}" for unit, found in names.items() if found]
    lower = [name for name, kind in metrics.items() if kind.sign < 0]
    return "; ".join(said) + (f" (lower is better: {', '.join(lower)})" if lower else "")
