"""Tables of our runs: methods by data sets, with the published numbers beside them.

A column holds runs that can be compared and nothing else: what differs is refused, not averaged.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlbench.datasets import list_datasets
from mlbench.errors import DataError, UsageError, unknown
from mlbench.report.power import needed_lines
from mlbench.report.published import PRINTED_AS, load_published
from mlbench.report.render import MISSING, Cell, Part, Table
from mlbench.report.ties import Replicates, Runs, Ties, column_ties, disorder_line, standing_line
from mlbench.significance.crossed import Draw
from mlbench.store import SUBMITTED

#: Rows in the papers' order; methods not listed follow by name.
METHOD_ORDER = (
    *("full", "bce", "oracle_negatives", "iun", "iu", "an", "an_boostlu_inference", "wan", "ls", "asl", "focal"),
    *("epr", "role", "role_li", "em", "em_apl", "llr", "llr_boostlu", "llct", "llct_boostlu", "llcp", "llcp_boostlu"),
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
#: What all runs of a table column share: the columns of the frame that begin so.
_COLUMN = ("harness", "protocol", "dataset.", "track", "backbone.", "definitions.")
#: What of these is known of submitted predictions; the rest is claimed.
_KNOWN_OF_SUBMITTED = ("harness", "protocol", "dataset.", "definitions.")
#: What runs of one cell may differ in: what a repetition draws anew.
_DRAWN = ("key", "repetition", "mask_seed", "mask.seed", "mask.sha256", "split.seed", "split.sha256", "scores.sha256")
_RESULT = "results.test."
_GROUP = re.compile(r"G[0-9]+")


def records_to_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Flatten run records to one row each.

    Columns: ``key``; the identity's entries under dotted names (``track``, ``dataset.version``,
    ``method.hyperparameters.delta``); ``definitions.*``; ``results.<split>.<metric>`` (float, percent, NaN where
    undefined). Lists are JSON text. DataError names a record that lacks a part, UsageError a record given twice.
    """
    rows = []
    for number, record in enumerate(records):
        name = f"record {str(record.get('key', f'number {number + 1}'))[:16]}"
        for part, kind in (("key", str), ("identity", Mapping), ("definitions", Mapping), ("results", Mapping)):
            if not isinstance(record.get(part), kind):
                raise DataError(f"{name}: no '{part}'; expected a run record of schema 1")
        row = {"key": record["key"]} | _flat(record["identity"])
        for column in _REQUIRED:
            if row.get(column) is None:
                raise DataError(f"{name}: no 'identity.{column}'; expected a run record of schema 1")
        row |= _flat({part: record[part] for part in ("definitions", "results")})
        rows.append(row)
    frame = pd.DataFrame(rows, dtype=object)
    if rows and frame["key"].duplicated().any():
        raise UsageError(f"record {frame['key'][frame['key'].duplicated()].iloc[0][:16]} is given twice")
    numbers = [c for c in frame if str(c).startswith("results.")]
    return frame.astype(dict.fromkeys(numbers, float))


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
    metric : a name under ``results.test``, such as "mAP" or "top3_strict/F1-O", or several, each with a column a data
        set; values are percentages.
    protocol, methods, datasets : what to show, in this order; by default all there is, methods as in `METHOD_ORDER`.
        A method or data set without a run is shown as missing.
    published : show the published values of the same method, data set, protocol and metric beside ours, as
        printed, each marked with its source and definition.
    where : keep the records whose `records_to_frame` columns have these values, as ``{"track": "head"}``; a record
        that has no such entry (another method's hyperparameter) is kept.
    digits : decimals of our numbers.
    replicates, untested : draws of the test images by metric, and why runs have none, see `image_replicates`. Without,
        tie groups are tested over runs alone.
    gap : also say how many draws would find a difference of so many points to the best, see `needed_lines`.

    Bold are all of our methods that may be the best, see `column_ties`; where nothing could be tested, the best alone.

    A data set whose runs differ in track or backbone has a column for each kind, see `kinds_of`. Raises UsageError for
    an unknown name, for no record left, for a column that mixes data set versions, protocols, definitions or weights,
    and for a cell whose runs differ in more than what a repetition draws.
    """
    every = records_to_frame(records)
    if every.empty:
        raise UsageError("no run record to make a table of")
    papers = load_published()
    frame = _select(every, protocol, where)
    _known("method", methods, [*METHOD_ORDER, *every["method.name"], *papers["method"]])
    _known("data set", datasets, [*every["dataset.id"], *papers["dataset"], *list_datasets()])
    if methods is not None:
        frame = frame[frame["method.name"].isin(methods)]
    if datasets is not None:
        frame = frame[frame["dataset.id"].isin(datasets)]
    if frame.empty:
        raise UsageError("no run record of the methods and data sets asked for")
    metrics = [metric] if isinstance(metric, str) else list(dict.fromkeys(metric))
    _known("metric", metrics, [c.removeprefix(_RESULT) for c in map(str, frame) if c.startswith(_RESULT)])

    lineage = lineage_of(every)
    rows = list(dict.fromkeys(methods or sorted(set(frame["method.name"]), key=_rank)))
    marks = Marks()
    header: list[Cell] = [(Part("method"),)]
    body: list[list[Cell]] = [[(Part(method),)] for method in rows]
    cells: list[dict[str, Any]] = []
    ranked: list[tuple[str, dict[str, dict[Draw, float]]]] = []
    stood: list[tuple[str, Ties]] = []
    shown = list(dict.fromkeys(datasets or sorted(set(frame["dataset.id"]))))
    kinds = [(dataset, kind) for dataset in shown for kind in kinds_of(frame[frame["dataset.id"] == dataset])]
    for (dataset, kind), value in itertools.product(kinds, metrics):
        name = ", ".join([dataset, *kind])
        title = name if len(metrics) == 1 else value if len(kinds) == 1 else f"{name} {value}"
        runs = of_kind(frame[frame["dataset.id"] == dataset], kind)
        _check_column(runs, dataset)
        column = [cell_of(runs[runs["method.name"] == method], method, dataset, value, lineage) for method in rows]
        for cell in column:
            cell["column"] = name
        own, ties = _tie(column, runs, value, replicates(value) if replicates else None, digits)
        stood.append((title, ties))
        ranked.append((title, {m: {d: v for d, (_, v) in mine.items()} for m, mine in zip(rows, own, strict=True)}))
        header.append((Part(title, mark=marks(describe_runs(runs)) if len(runs) else ""),))
        for cell, line in zip(column, body, strict=True):
            line.append(_show(cell, digits, marks))
        under = runs["protocol"].iloc[0] if len(runs) else protocol
        theirs = [_published(papers, method, dataset, under, value) if published else [] for method in rows]
        if any(theirs):
            header.append((Part(f"{title} published"),))
            for cell, line, found in zip(column, body, theirs, strict=True):
                line.append(tuple(Part(r["printed"], r["bold"] == "bold", marks(_source(r))) for r in found))
                cell["published"] = " / ".join(r["printed"] for r in found)
                cell["published_source"] = " / ".join(_source(r) for r in found)
        cells += column
    footer = _footer(metrics, cells, any("published" in c for c in cells), replicates is not None, untested)
    footer += _standing_lines(rows, stood)
    footer += () if gap is None else tuple(needed_lines(ranked, gap))
    notes = tuple((mark, text) for text, mark in marks.items())
    return Table(tuple(header), tuple(map(tuple, body)), notes, footer, pd.DataFrame(cells))


def kinds_of(runs: pd.DataFrame) -> list[tuple[str, ...]]:
    """Tracks and backbones that `runs` differ in, as ("head", "resnet50"); one empty kind where they do not.

    Submitted runs, whose track and backbone are only claimed, make no kind.
    """
    own = runs[~runs["method.name"].str.startswith(SUBMITTED)]
    kinds = sorted(set(zip(own["track"].map(str), own["backbone.name"].map(str), strict=True)))
    return list(kinds) if len(kinds) > 1 else [()]


def of_kind(runs: pd.DataFrame, kind: tuple[str, ...]) -> pd.DataFrame:
    """The rows of `runs` that are of a kind, see `kinds_of`; submitted ones are of each."""
    if not kind:
        return runs
    track, backbone = kind
    submitted = runs["method.name"].str.startswith(SUBMITTED)
    return runs[submitted | ((runs["track"].map(str) == track) & (runs["backbone.name"].map(str) == backbone))]


class Marks(dict[str, str]):
    """Footnotes: text to letters, in order of first use; calling it gives a text's letters."""

    def __call__(self, text: str) -> str:
        tens, ones = divmod(len(self), 26)
        return self.setdefault(text, (chr(96 + tens) if tens else "") + chr(97 + ones))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            flat |= _flat(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(entry) if isinstance(entry, list | tuple) else entry
    return flat


def _rank(method: str) -> tuple[int, str]:
    return (METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER), method)


def _known(kind: str, names: Sequence[str] | None, choices: Iterable[str]) -> None:
    known = set(choices)
    for name in names or ():
        if name not in known:
            raise unknown(kind, name, known)


def text_of(value: Any) -> str:
    """A setting as text; what is null and what older records do not have are one."""
    return "none" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _supervision(value: str) -> str:
    return "+".join(json.loads(value)) if value.startswith("[") else value


def _select(frame: pd.DataFrame, protocol: str | None, where: Mapping[str, Any] | None) -> pd.DataFrame:
    for column, value in (dict(where or {}) | ({} if protocol is None else {"protocol": protocol})).items():
        if column not in frame:
            raise unknown("column", column, frame.columns, "where")
        texts = frame[column].map(text_of)
        if text_of(value) not in set(texts):
            raise unknown(f"value of '{column}'", text_of(value), set(texts), "no such run left")
        frame = frame[(texts == text_of(value)) | frame[column].isna()]
    return frame


def _keys(keys: Iterable[str]) -> str:
    short = [key[:16] for key in keys]
    return ", ".join(short[:3]) + (f" and {len(short) - 3} more" if len(short) > 3 else "")


def _refuse_mixed(runs: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise UsageError if any of `columns` has more than one value."""
    problems, option = [], ""
    for column in columns:
        groups = {str(text): keys for text, keys in runs.groupby(runs[column].map(text_of))["key"]}
        if len(groups) > 1:
            listed = " | ".join(f"{text} (runs {_keys(keys)})" for text, keys in groups.items())
            problems.append(f"{column}: {listed}")
            option = option or repr({column: next(iter(groups))})
    if problems:
        raise UsageError(
            f"{what} mixes runs that differ in {'; '.join(problems)}. Keep one kind with where={option}, on the "
            "command line with --protocol, --track or --backbone"
        )


def _check_column(runs: pd.DataFrame, dataset: str) -> None:
    """Refuse a column whose runs are not comparable, or did not see the same masks."""
    submitted = runs["method.name"].str.startswith(SUBMITTED)
    if submitted.any():
        _refuse_mixed(runs, [c for c in map(str, runs) if c.startswith(_KNOWN_OF_SUBMITTED)], f"column '{dataset}'")
        runs = runs[~submitted]
    _refuse_mixed(runs, [c for c in map(str, runs) if c.startswith(_COLUMN)], f"column '{dataset}'")
    observed = runs[runs["method.supervision"].map(_supervision) == "observed"]
    masks = [c for c in ("mask.sha256",) if c in runs]
    for (repetition, seed), same in observed.groupby(["repetition", "mask_seed"]):
        _refuse_mixed(same, masks, f"column '{dataset}', repetition {repetition}, mask seed {seed}")


def _ranked(cell: Mapping[str, Any]) -> bool:
    """Whether a cell may be the best of its column: reproduced here, from the observed labels only."""
    return cell["supervision"] == "observed" and not cell["method"].startswith(SUBMITTED)


def _settings(frame: pd.DataFrame) -> list[str]:
    """The identity's columns that the runs of a cell must share."""
    return [c for c in map(str, frame) if c not in _DRAWN and not c.startswith(("uses.", "results.", "definitions."))]


def lineage_of(frame: pd.DataFrame) -> dict[str, str]:
    """Settings of each run by key, to compare the runs that other runs build on."""
    rows = frame[_settings(frame)].map(text_of).to_dict("records")
    return {key: json.dumps(row) for key, row in zip(frame["key"], rows, strict=True)}


def cell_of(runs: pd.DataFrame, method: str, dataset: str, metric: str, lineage: Mapping[str, str]) -> dict[str, Any]:
    """Numbers of one cell; refuses runs that are not repetitions of each other."""
    what = f"method '{method}' on '{dataset}'"
    cell: dict[str, Any] = {"method": method, "dataset": dataset, "metric": metric, "n": len(runs)}
    if runs.empty:
        return cell | {"mean": math.nan, "sd": math.nan, "supervision": "", "remark": ""}
    _refuse_mixed(runs, _settings(runs), what)
    twice = runs[runs.duplicated(["repetition", "mask_seed"], keep=False)]
    if len(twice):
        raise UsageError(f"{what} has several runs of one repetition and mask seed ({_keys(twice['key'])})")
    first, values = runs.iloc[0], runs[_RESULT + metric]
    supervision = _supervision(first["method.supervision"])
    remarks = [] if supervision == "observed" else [f"supervision: {supervision or 'none'}"]
    if method.startswith(SUBMITTED):
        claimed = f"backbone {first['backbone.name']}, supervision {supervision}"
        remarks = [f"submitted predictions: scored here, not reproduced, not ranked with our runs; claimed: {claimed}"]
    if values.isna().any():
        remarks.append(f"undefined in {values.isna().sum()} of {len(runs)} runs")
    for column in (c for c in map(str, runs) if c.startswith("uses.")):
        settings = {lineage.get(key) for key in runs[column].dropna()}
        if None in settings:
            remarks.append("builds on runs that are not among the records: their settings were not compared")
        if len(settings - {None}) > 1:
            raise UsageError(f"{what} mixes runs whose '{column}' have different settings (runs {_keys(runs['key'])})")
    return cell | {
        "mean": values.mean(skipna=False),
        "sd": values.std(ddof=1, skipna=False),
        "supervision": supervision,
        "remark": "; ".join(remarks),
        "repetitions": " ".join(map(text_of, sorted(set(runs["repetition"])))),
        "mask_seeds": " ".join(map(text_of, sorted(set(runs["mask_seed"])))),
        **{c.replace(".", "_"): first[c] for c in ("protocol", "track", "backbone.name", "dataset.version")},
        "dataset_fingerprint": first["dataset.fingerprint"],
    }


def _tie(
    column: Sequence[dict[str, Any]], runs: pd.DataFrame, metric: str, replicates: Replicates | None, digits: int
) -> tuple[list[Runs], Ties]:
    """Give the ranked cells of a column their tie groups, say which are bold; returns the ranked runs by cell, too."""
    own: list[Runs] = []
    for cell in column:
        mine = (
            runs[runs["method.name"] == cell["method"]] if _ranked(cell) and not math.isnan(cell["mean"]) else runs[:0]
        )
        draws = zip(mine["repetition"], mine["mask_seed"], mine["key"], mine[_RESULT + metric], strict=True)
        own.append({(seed, mask): (key, float(value)) for seed, mask, key, value in draws})
    ties = column_ties(own, replicates)
    groups, standing = ties.groups, ties.standing
    shown = [f"{cell['mean']:.{digits}f}" for cell in column]
    best = max((text for text, mine in zip(shown, own, strict=True) if mine), key=float, default="")
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


def describe_runs(runs: pd.DataFrame) -> str:
    # Of submissions, track and backbone are not known: a column is described by our own runs where it has any.
    first = runs.iloc[int(np.argmin(runs["method.name"].str.startswith(SUBMITTED)))]
    named = {c.removeprefix("definitions."): text_of(first[c]) for c in map(str, runs) if c.startswith("definitions.")}
    scored = [f"{name} {value}" for name, value in named.items() if value != "none"]
    return (
        f"{first['dataset.id']} version {first['dataset.version']} (fingerprint {first['dataset.fingerprint'][:12]}), "
        f"protocol {first['protocol']} ({first['protocol_sha256'][:12]}), track {first['track']}, "
        f"backbone {first['backbone.name']}; definitions: {', '.join(scored)}"
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
    metrics: Sequence[str], cells: Sequence[Mapping[str, Any]], published: bool, images: bool, reasons: Sequence[str]
) -> tuple[str, ...]:
    filled = [c for c in cells if c["n"] and c["metric"] == metrics[0]]
    draws = {(c["repetitions"], c["mask_seeds"]) for c in filled}
    listed = "; ".join(f"repetitions {r} with mask seeds {m}" for r, m in sorted(draws))
    lines = [
        f"{', '.join(metrics)} on test images, percent: mean ± sample standard deviation (ddof 1) over the runs, whose "
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
