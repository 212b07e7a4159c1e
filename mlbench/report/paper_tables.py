"""The papers' own tables again: every printed row as it is printed, and below it our runs of the same method."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mlbench.datasets import list_datasets
from mlbench.datasets.recorded import is_of_miniature
from mlbench.errors import DataError, unknown
from mlbench.registry import available
from mlbench.report.captions import Marks, describe_runs
from mlbench.report.cells import Record, cell_of, check_records, kinds_of, of_kind, value_of
from mlbench.report.layouts import Column, Layout, columns_of, load_layouts
from mlbench.report.method_card import level_of
from mlbench.report.render import Cell, Part, Table
from mlbench.report.ties import LEVEL, column_ties
from mlbench.significance.comparability import as_written, by_draw, ranked_with, rows_of
from mlbench.significance.crossed import Draw
from mlbench.significance.describe import spread
from mlbench.significance.where import choose
from mlbench.store.papers import load_published

#: What stands in a cell that is empty in print, or without a run.
EMPTY = (Part("-"),)
#: Which printed row: its label, method and backbone, as in ``results/papers/``.
Place = tuple[str, str, str]
#: A printed row: its label, our method and its backbone ("" where the table does not tell).
_Row = Mapping[Any, Any]


#: What `mlbench.store.papers.EVIDENCE` means.
_EVIDENCE = {
    "paper": "read in the paper's own table",
    "readme": "read in its authors' README",
    "slides": "read in its authors' slides",
    "second_hand": "second hand, read in another paper's table or repository",
}


@dataclass(frozen=True)
class Chosen:
    """What stands in a paper's tables where it is not looked for by method, track and backbone.

    runs : keys of the runs of each printed row. in_place : by data set of the layouts, the one that is run instead.
    reasons : why a row has no run on a data set of the layouts.
    """

    runs: Mapping[Place, Collection[str]]
    in_place: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[tuple[Place, str], str] = field(default_factory=dict)


@dataclass
class _Place:
    """What stands in one cell: the published number, our numbers, and how they compare."""

    cell: dict[str, Any]
    published: dict[str, Any] | None
    remark: str = ""
    rank: tuple[str, ...] = ()
    runs: dict[Draw, float] | None = None


def paper_tables(
    records: Iterable[Mapping[str, Any]],
    paper: str,
    table: str | None = None,
    where: Mapping[str, str] | None = None,
    datasets: Sequence[str] = (),
    chosen: Chosen | None = None,
    miniatures: bool = False,
) -> list[Table]:
    """The tables of `paper` (a file of ``results/papers/``, or "all"), or its one table `table`, with our runs.

    Parameters
    ----------
    records : run records (schema 1); none at all gives the printed tables with empty cells.
    table : a name in ``paper_layouts.toml`` ("wider_ablation"), or as printed ("Table 1").
    where : keep the records whose identity has these values under dotted names, as ``{"track": "head"}``; a record
        that has no such entry where it is a row's (another method's hyperparameter) is kept.
    datasets : further data sets of ours, in columns to the right of the paper's: numbers on other images, under the
        layout's protocol `elsewhere`, shown without a difference.
    chosen : the runs of each row by their keys, data sets in place of others, and why cells are empty.
    miniatures : take runs on miniatures (`mlbench data miniature`) and no others: for rehearsals, whose tables say so.
        Otherwise they are left out and counted, as they only bear the names of the paper's data sets.

    A cell of ours is mean ± sample deviation (ddof 1) over its runs and, where the images are or may be the same and
    the definitions are not known to differ, the difference to the printed number. Ours are scored by the definition of
    the printed number where that is known. Runs whose labels were hidden otherwise than their protocol is written are
    left out and counted. UsageError for an unknown name and for a cell whose runs differ in more than what a repetition
    draws.
    """
    papers = sorted({layout.paper for layout in load_layouts()})
    if paper not in (*papers, "all"):
        raise unknown("paper", paper, (*papers, "all"))
    layouts = [layout for layout in load_layouts() if paper in (layout.paper, "all")]
    if table is not None:
        found = [layout for layout in layouts if table in (layout.name, layout.printed)]
        if not found:
            raise unknown("table", table, [layout.name for layout in layouts], f"paper '{paper}'")
        layouts = found
    every = check_records(records)
    known = {*list_datasets(), *(record["identity"]["dataset"]["id"] for record in every)}
    for dataset in datasets:
        if dataset not in known:
            raise unknown("data set", dataset, known)
    settings = rows_of(every)
    asked = choose(every, where or {}, others=True)
    return [_table(layout, asked, datasets, settings, chosen, miniatures) for layout in layouts]


def our_metric(definition: str, column: Column) -> tuple[str, bool]:
    """Our metric by the definition of a published number, and whether the two may be the same.

    Where the definition is undecidable, it is that of the column; what we have no counterpart of (labels of a decoded
    path, means over images) is held beside it and known to differ.
    """
    kind, _, top = definition.partition("+")
    prefix, stroke, name = column.ours.rpartition("/")
    if top in ("top3_strict", "top3_thresholded"):
        prefix = top
    if name.startswith("F1-C") and kind in ("mean", "hm"):
        name = f"F1-C_{kind}"
    if name == "mAP" and kind == "envelope":
        name = "mAP_envelope"
    return prefix + stroke + name, top != "top3_path" and kind != "hm_image"


def _table(
    layout: Layout,
    every: Sequence[Record],
    datasets: Sequence[str],
    settings: Mapping[str, str],
    chosen: Chosen | None = None,
    miniatures: bool = False,
) -> Table:
    printed = load_published(layout.paper)
    printed = printed[printed["table"] == layout.printed]
    entries = printed.to_dict("records")
    rows = printed[["row", "method", "backbone"]].drop_duplicates().to_dict("records")
    stubs = layout.rows or tuple((str(row["row"]),) for row in rows)
    if len(stubs) != len(rows):
        raise DataError(f"paper_layouts.toml, {layout.name}: {len(stubs)} rows, results/papers has {len(rows)}")
    under = layout.elsewhere or layout.protocol
    extra = [
        Column(metric, dataset, metric, ", ".join([f"{dataset} (not in the paper)", *kind]), protocol=under, kind=kind)
        for dataset in datasets
        for kind in _kinds(every, dataset, under, [str(row["method"]) for row in rows])
        for metric in dict.fromkeys(column.ours for column in layout.columns)
    ]
    columns = [*(columns_of(layout, chosen.in_place) if chosen else layout.columns), *extra]
    asked = {(column.data, column.protocol) for column in columns}
    methods = {str(row["method"]) for row in rows}
    runs = [r for r in every if _dataset_protocol(r) in asked]
    runs = [r for r in runs if chosen is not None or r["identity"]["method"]["name"] in methods]
    other = sum(is_of_miniature(record) != miniatures for record in runs)
    runs = [record for record in runs if is_of_miniature(record) == miniatures]
    left_out = sum(not as_written(record) for record in runs)
    runs = [record for record in runs if as_written(record)]
    marks = Marks()
    grid = []
    for row in rows:
        own, beside = _chosen_runs(runs, row, chosen) if chosen else _runs_of(runs, row, rows)
        numbers = [number for number in entries if all(number[name] == row[name] for name in row)]
        line = [_place(column, row, numbers, own, settings) for column in columns[: len(layout.columns)]]
        if chosen:
            for place, column in zip(line, layout.columns, strict=True):
                place.remark = place.remark or chosen.reasons.get((_which(row), column.data), "")
        grid.append(line + [_place(column, row, numbers, beside, settings) for column in extra])
    for places in zip(*grid, strict=True):
        digits = max((len(p.published["printed"].partition(".")[2]) for p in places if p.published), default=1)
        for place in places:
            place.cell["digits"] = digits
        _rank(places)
    registered = available()
    body: list[tuple[Cell, ...]] = []
    for row, texts, line in zip(rows, stubs, grid, strict=True):
        method = str(row["method"])
        body.append((*((Part(text),) for text in texts), (Part(method),), *(_printed(p, marks) for p in line)))
        blank: list[Cell] = [(Part(""),)] * (len(texts) - 1)
        ours = [_ours(place, column, marks) for place, column in zip(line, columns, strict=True)]
        body.append(((Part("– reproduced"),), *blank, (Part(level_of(method, registered)),), *ours))
    cells = pd.DataFrame([_flat(layout, row, place) for row, line in zip(rows, grid, strict=True) for place in line])
    header = [*((Part(text),) for text in (*layout.stubs, "method, level")), *((Part(c.title),) for c in columns)]
    groups = [*[""] * (len(layout.stubs) + 1), *(column.over for column in columns)]
    over = tuple((text, len(list(same))) for text, same in itertools.groupby(groups)) if any(groups) else ()
    return Table(
        tuple(header),
        tuple(body),
        tuple((mark, text) for text, mark in marks.items()),
        (*_footer(layout, datasets, cells, left_out), *_told_apart(other, miniatures)),
        cells,
        title=f"{'REHEARSAL ON MINIATURES: ' if miniatures else ''}{layout.paper}, {layout.printed}: {layout.title}",
        over=over,
        rules=frozenset(2 * rule for rule in layout.rules),
        stubs=len(layout.stubs) + 1,
    )


def _dataset_protocol(record: Record) -> tuple[str, str]:
    return str(record["identity"]["dataset"]["id"]), str(record["identity"]["protocol"])


def _kinds(runs: Sequence[Record], dataset: str, protocol: str, methods: Sequence[str]) -> list[tuple[str, ...]]:
    here = [r for r in runs if _dataset_protocol(r) == (dataset, protocol) and as_written(r)]
    own = [record for record in here if record["identity"]["method"]["name"] in methods]
    return kinds_of(own)


def _runs_of(runs: Sequence[Record], row: _Row, rows: Sequence[_Row]) -> tuple[list[Record], list[Record]]:
    """The runs of `row`, one of the table's `rows`: on the paper's data sets, and on others.

    A method that stands in several rows, one for each backbone, has in each the runs of that one; runs on a backbone
    of none stand on other data sets in the first.
    """
    own = [record for record in runs if record["identity"]["method"]["name"] == row["method"]]
    same = [other for other in rows if other["method"] == row["method"]]
    if len(same) == 1:
        return own, own

    def on(record: Record, rows: Sequence[_Row]) -> bool:
        return str(record["identity"]["backbone"]["name"]).startswith(tuple(str(row["backbone"]) for row in rows))

    fits = [record for record in own if on(record, [row])]
    if row is not same[0]:
        return fits, fits
    return fits, [record for record in own if on(record, [row]) or not on(record, same)]


def _chosen_runs(runs: Sequence[Record], row: _Row, chosen: Chosen) -> tuple[list[Record], list[Record]]:
    keys = chosen.runs.get(_which(row), ())
    own = [record for record in runs if record["key"] in keys]
    return own, own


def _which(row: _Row) -> Place:
    return str(row["row"]), str(row["method"]), str(row["backbone"])


def _place(
    column: Column, row: _Row, numbers: Sequence[_Row], runs: Sequence[Record], settings: Mapping[str, str]
) -> _Place:
    asked = column.dataset, column.group, column.metric
    found = (dict(n) for n in numbers if (n["dataset"], n["group"], n["metric"]) == asked)
    published: dict[str, Any] | None = next(found, None)
    metric, same = our_metric(published["definition"], column) if published else (column.ours, False)
    same = same and (not column.images or (published or {})["dataset_version"] in column.images)
    made_up = any(is_of_miniature(record) for record in runs)
    same = same and not column.stands_for and not made_up
    runs = [record for record in runs if _dataset_protocol(record) == (column.data, column.protocol)]
    runs = of_kind(runs, column.kind)
    place = {"method": row["method"], "column": ", ".join([column.data, *column.kind])}
    if not runs:
        return _Place({**place, "dataset": column.data, "metric": metric, "n": 0}, published)
    cell = cell_of(runs, str(row["method"]), column.data, metric, settings) | place
    drawn = by_draw(runs, f"method '{row['method']}' on '{column.data}'")
    values = {draw: value_of(record, metric) for draw, record in drawn.items()}
    seeds, masks = sorted({seed for seed, _ in values}), list(dict.fromkeys(mask for _, mask in sorted(values)))
    cell |= {"seeds": len(seeds), "masks": len(masks)}
    if len(values) == len(seeds) * len(masks) > 1 and not math.isnan(cell["mean"]):
        deviations = spread(np.array([[values[s, m] for m in masks] for s in seeds]))
        cell |= {"over_seeds": deviations.over_seeds, "over_masks": deviations.over_masks}
    if published and same:
        cell["difference"] = cell["mean"] - published["value"]
    remarks = [describe_runs(runs), cell["remark"], "" if metric == column.ours else f"scored as {metric}"]
    if column.stands_for:
        remarks.append(f"on {column.data} in place of {column.stands_for}: other images, never held against the print")
    elif made_up:
        remarks.append("on a miniature: never held against the print")
    elif published and not same:
        remarks.append("images or definition known to differ from the printed number's: no difference")
    return _Place(cell, published, "; ".join(filter(None, remarks)), (metric, *ranked_with(runs[0])), values)


def _rank(places: Sequence[_Place]) -> None:
    """Give the places of a column the number of their tie group, each among what may be ranked with it."""
    filled = [place for place in places if place.runs and not math.isnan(place.cell["mean"])]
    for rank in dict.fromkeys(place.rank for place in filled):
        group = [place for place in filled if place.rank == rank]
        numbers = column_ties([{draw: ("", value) for draw, value in (place.runs or {}).items()} for place in group])
        for place, number in zip(group, numbers.groups, strict=True):
            if number is not None:  # one method, or one run each: nothing tells them apart
                place.cell["tie_group"] = number


def _printed(place: _Place, marks: Marks) -> Cell:
    row = place.published
    if row is None:
        return EMPTY
    source = (
        f"published: {row['definition']}, {row['backbone'] or 'backbone not stated'}, images: "
        f"{row['dataset_version']}; {row['selection']}" + (f"; {row['note']}" if row["note"] else "")
    )
    if row["evidence"]:
        source += f"; {_EVIDENCE[row['evidence']]}"
    return (Part(row["printed"], row["bold"] == "bold", marks(source), row["bold"] == "underlined"),)


def _ours(place: _Place, column: Column, marks: Marks) -> Cell:
    cell, digits = place.cell, place.cell["digits"]
    if not cell["n"]:
        return (Part("-", mark=marks(f"no run: {place.remark}")),) if place.remark else EMPTY
    mark = marks(f"ours: {place.remark}")
    if math.isnan(cell["mean"]):
        return (Part("undefined", mark=mark),)
    text = f"{cell['mean']:.{digits}f}"
    if cell["n"] > 1:
        text += f" ± {cell['sd']:.{digits}f}"
    grid = cell["n"] == cell["seeds"] * cell["masks"] > 1
    text += f" ({cell['seeds']}×{cell['masks']})" if grid else f" ({cell['n']})"
    if "difference" in cell:
        text += f", Δ {cell['difference']:+.{digits}f}".replace("-", "−")
    tie = cell.get("tie_group")
    return (Part(text, tie == 1, mark, tie == 2),)


def _flat(layout: Layout, row: _Row, place: _Place) -> dict[str, Any]:
    theirs = place.published or {}
    names = ("group", "definition", "dataset_version", "selection", "note")
    return {
        "paper": layout.paper,
        "table": layout.printed,
        "row": row["row"],
        **{key: value for key, value in place.cell.items() if key != "digits"},
        "published": theirs.get("printed", ""),
        "published_backbone": row["backbone"],
        "published_metric": theirs.get("metric", ""),
        **{f"published_{name}": theirs.get(name, "") for name in names},
    }


def _footer(layout: Layout, datasets: Sequence[str], cells: pd.DataFrame, left_out: int) -> tuple[str, ...]:
    lines = [
        "First line of a row: as printed, bold and underlined where the print is known to be; the marks tell "
        "definition, images and selection. Numbers of other definitions or images stand in one column only because "
        "the paper has them so.",
        f"Second line: our runs under protocol {layout.protocol}, test images, percent: mean ± sample standard "
        "deviation (ddof 1) over the runs; in brackets seeds×masks where each seed met each mask, else the number of "
        "runs; Δ is ours minus printed.",
        "Ours bold: those that may be the best, since no test tells another of the column to be better (runs paired by "
        f"seed and mask, all pairs together at {LEVEL:g}); underlined: the next such group. Only runs of the "
        "same data, protocol, annotation, track, backbone, precision, supervision and definition are ranked together; "
        "a single run is not ranked.",
        "Levels: A faithful; B faithful mechanism, some settings unpublished; C closest mechanism on public parts.",
    ]
    if datasets and layout.elsewhere:
        lines.insert(
            2,
            f"On data sets that are not in the paper: our runs under protocol {layout.elsewhere}; those on a network "
            "that no row of a method is on stand in its first row.",
        )
    if left_out:
        lines.append(f"Left out: {left_out} runs whose labels were hidden otherwise than their protocol is written.")
    if (cells["n"] == 0).any():
        lines.append("A dash in a line of ours: no run.")
    return tuple(lines)


def _told_apart(other: int, miniatures: bool) -> list[str]:
    if miniatures:
        kept = (
            "Rehearsal: our runs are on miniatures, made-up copies of the data sets' layouts, and say nothing of them."
        )
        return [kept, *([f"Left out: {other} runs that are not on a miniature."] if other else [])]
    return [f"Left out: {other} runs on miniatures, which only bear a data set's name."] if other else []
