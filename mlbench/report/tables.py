"""Tables of our runs: methods by data sets, with the published numbers beside them.

A column holds runs that can be compared and nothing else: what differs is refused, not averaged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mlbench.datasets import list_datasets
from mlbench.errors import UsageError, unknown
from mlbench.report.captions import (
    Marks,
    cell_text,
    describe_runs,
    footer_lines,
    published_of,
    source_text,
    standing_lines,
)
from mlbench.report.cells import (
    Record,
    cell_of,
    check_records,
    dataset_of,
    kind_of_number,
    kinds_of,
    method_of,
    of_kind,
    tell_pretraining,
    tie,
)
from mlbench.report.power import needed_lines
from mlbench.report.render import Cell, Part, Table
from mlbench.report.ties import Replicates, Ties
from mlbench.significance.comparability import (
    as_written,
    column_of,
    require_one,
    require_one_mask_a_seed,
    rows_of,
)
from mlbench.significance.crossed import Draw
from mlbench.significance.where import choose
from mlbench.store.papers import load_published

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
    _known("method", methods, [*METHOD_ORDER, *map(method_of, every), *papers["method"]])
    _known("data set", datasets, [*map(dataset_of, every), *papers["dataset"], *list_datasets()])
    chosen = [
        record
        for record in chosen
        if (methods is None or method_of(record) in methods) and (datasets is None or dataset_of(record) in datasets)
    ]
    if not chosen:
        raise UsageError("no run record of the methods and data sets asked for")
    metrics = [metric] if isinstance(metric, str) else list(dict.fromkeys(metric))
    kinds_of_numbers = {name: kind_of_number(name, chosen) for name in metrics}

    settings = rows_of(every)
    rows = list(dict.fromkeys(methods or sorted(set(map(method_of, chosen)), key=_rank)))
    marks = Marks()
    header: list[Cell] = [(Part("method"),)]
    body: list[list[Cell]] = [[(Part(method),)] for method in rows]
    cells: list[dict[str, Any]] = []
    ranked: list[tuple[str, dict[str, dict[Draw, float]]]] = []
    stood: list[tuple[str, Ties]] = []
    shown = list(dict.fromkeys(datasets or sorted(set(map(dataset_of, chosen)))))
    on = {dataset: [record for record in chosen if dataset_of(record) == dataset] for dataset in shown}
    kinds = [(dataset, kind) for dataset in shown for kind in kinds_of(on[dataset])]
    for (dataset, kind), value in itertools.product(kinds, metrics):
        name = ", ".join([dataset, *kind])
        title = name if len(metrics) == 1 else value if len(kinds) == 1 else f"{name} {value}"
        sign = kinds_of_numbers[value].sign
        runs = of_kind(on[dataset], kind)
        _check_column(runs, dataset)
        by_method: dict[str, list[Record]] = {method: [] for method in rows}
        for record in runs:
            by_method[method_of(record)].append(record)
        column = [cell_of(by_method[method], method, dataset, value, settings) for method in rows]
        tell_pretraining(column)
        for cell in column:
            cell["column"] = name
            if sign < 0:
                cell["better"] = "lower"
        drawn = {key: sign * values for key, values in replicates(value).items()} if replicates else None
        own, ties = tie(column, by_method, value, sign, drawn, digits)
        stood.append((title, ties))
        ranked.append((title, {m: {d: v for d, (_, v) in mine.items()} for m, mine in zip(rows, own, strict=True)}))
        header.append((Part(title, mark=marks(describe_runs(runs)) if len(runs) else ""),))
        for cell, line in zip(column, body, strict=True):
            line.append(cell_text(cell, digits, marks))
        under = runs[0]["identity"]["protocol"] if runs else protocol
        beside = published and all(map(as_written, runs))
        theirs = [published_of(papers, method, dataset, under, value) if beside else [] for method in rows]
        if any(theirs):
            header.append((Part(f"{title} published"),))
            for cell, line, found in zip(column, body, theirs, strict=True):
                line.append(tuple(Part(r["printed"], r["bold"] == "bold", marks(source_text(r))) for r in found))
                cell["published"] = " / ".join(r["printed"] for r in found)
                cell["published_source"] = " / ".join(source_text(r) for r in found)
        cells += column
    footer = footer_lines(
        kinds_of_numbers, cells, any("published" in c for c in cells), replicates is not None, untested
    )
    footer += standing_lines(rows, stood)
    footer += () if gap is None else tuple(needed_lines(ranked, gap))
    notes = tuple((mark, text) for text, mark in marks.items())
    return Table(tuple(header), tuple(map(tuple, body)), notes, footer, pd.DataFrame(cells))


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
