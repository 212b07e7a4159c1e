"""Which classes gain: with their frequency, their size in the picture, and the company they keep?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlbench.annotation.states import State
from mlbench.datasets import Dataset
from mlbench.datasets.base import size_of
from mlbench.errors import MlbenchError
from mlbench.grid import grid
from mlbench.report.questions.columns import Column
from mlbench.significance.crossed import Draw
from mlbench.significance.orders import Estimate, over_items, percentiles, spearman

BASE, LEAST = "an", 8
Record = Mapping[str, Any]
Find = Callable[[Record], Dataset]


@dataclass(frozen=True)
class Traits:
    """What is known of each class: positives in training, mean share of the picture of its boxes, mean number of other
    classes in pictures that have it; NaN where it is not. float [C] each, None where the data set does not tell.
    """

    classes: tuple[str, ...]
    frequency: np.ndarray
    size: np.ndarray | None
    company: np.ndarray


def traits_of(data: Dataset) -> Traits:
    """The `Traits` of a data set's classes, from all labels of its training part (which methods do not see)."""
    train = data.splits["train"]
    present = np.asarray(train.labels) == State.POSITIVE
    count = present.sum(0).astype(np.float64)
    others = present.sum(1, keepdims=True) - present
    with np.errstate(invalid="ignore", divide="ignore"):
        company = (others * present).sum(0) / np.where(count == 0, np.nan, count)
    return Traits(tuple(data.classes), count, _sizes(data), company)


def gains_of(column: Column, method: str) -> tuple[dict[str, float], int]:
    """Mean gain in AP of each class over `BASE`, in points, and the draws they have in common."""
    own, base = column.methods[method], column.methods[BASE]
    pairs = _paired(own, base)
    names = [name for name, value in pairs[0][0]["per_class"]["AP"].items() if value is not None] if pairs else []
    found = {}
    for name in names:
        values = [(a["per_class"]["AP"].get(name), b["per_class"]["AP"].get(name)) for a, b in pairs]
        if all(x is not None and y is not None for x, y in values):
            found[name] = float(np.mean([x - y for x, y in values]))
    return found, len(pairs)


def thirds(gain: np.ndarray, frequency: np.ndarray, replicates: int = 2000) -> list[Estimate]:
    """Mean gain of the rare, the middle and the frequent third of the classes; intervals over draws of the classes."""
    order = np.argsort(frequency, kind="stable")
    random = np.random.default_rng(0)
    found = []
    for part in np.array_split(gain[order], 3):
        drawn = part[random.integers(len(part), size=(replicates, len(part)))].mean(1)
        found.append(Estimate(float(part.mean()), *percentiles(drawn)))
    return found


def report(columns: Sequence[Column], find: Find) -> str:
    """The answer as Markdown; `find` gives the data set of a record, or raises MlbenchError."""
    lines = ["# Which classes gain?", ""]
    told = [
        f"Gain in AP of each class over `{BASE}`, in points, averaged over common draws, held against what is known of "
        "the class in all training labels: *frequency*, how many pictures have it; *size*, what share of the picture "
        "its boxes take; *company*, how many other classes its pictures have. Rho is Spearman's; intervals (95 %) are "
        "over draws of the classes, as if these were drawn from many. Frequency, size and company go together, so that "
        "no rho is the effect of one alone. Of each data set and track the column with the most runs.",
        "",
    ]
    missing, parts, seen = [], [], set()
    for column in columns:
        others = [name for name in column.methods if name != BASE]
        place = column.dataset, column.track
        if BASE not in column.methods or len(others) < 3 or place in seen:
            continue  # of each data set and track the column with the most runs
        seen.add(place)
        record = next(iter(column.methods[BASE].values()))
        try:
            data = find(record)
        except MlbenchError as error:
            missing.append(f"{column.title}: {error}")
            continue
        if len(data.classes) >= LEAST:
            parts += _part(column, others, traits_of(data))
    if parts:
        lines += told + parts
    if missing:
        lines += ["## Not answerable here", "", "Their labels are not at hand (`--data NAME=PLACE` says where):", ""]
        lines += [f"* {line}" for line in missing]
    if not parts and not missing:
        lines += [f"Not answerable: it needs `{BASE}` and three other methods in one column."]
    return "\n".join(lines)


def _part(column: Column, methods: Sequence[str], traits: Traits) -> list[str]:
    place = {name: number for number, name in enumerate(traits.classes)}
    rows, number = [], set()
    for method in methods:
        gains, draws = gains_of(column, method)
        if not gains:
            continue
        number.add(draws)
        at = [place[name] for name in gains]
        values = np.array(list(gains.values()))
        rows.append(
            [
                method,
                f"{values.mean():+.1f}",
                *(part.text("+.1f") for part in thirds(values, traits.frequency[at])),
                over_items(values, traits.frequency[at], spearman, 1000).text("+.2f"),
                _rho(values, traits.company[at]),
                _rho(values, traits.size[at]) if traits.size is not None else "no boxes",
            ]
        )
    rows.sort(key=lambda row: -float(row[1]))
    headers = ["method", "all", "rare third", "middle", "frequent third", "rho, frequency", "rho, company", "rho, size"]
    few, many = (int(np.quantile(traits.frequency, share)) for share in (1 / 3, 2 / 3))
    return [
        f"## {column.title}",
        "",
        f"{len(traits.classes)} classes; thirds at {few} and {many} training pictures; "
        f"{' to '.join(map(str, sorted({min(number), max(number)})))} draws a method.",
        "",
        grid(rows, headers, "github"),
        "",
    ]


def _rho(values: np.ndarray, trait: np.ndarray) -> str:
    known = np.isfinite(trait)
    return over_items(values[known], trait[known], spearman, 1000).text("+.2f")


def _sizes(data: Dataset) -> np.ndarray | None:
    """Mean share of the picture that the boxes of each class take, in training; None where there are no boxes."""
    train = data.splits["train"]
    if train.boxes is None or not len(train.boxes):
        return None
    rows, kinds = train.boxes[:, 0].astype(int), train.boxes[:, 1].astype(int)
    areas = (train.boxes[:, 4] - train.boxes[:, 2]) * (train.boxes[:, 5] - train.boxes[:, 3])
    found = np.full(len(data.classes), np.nan)
    whole = {int(row): float(np.prod(size_of(train.images, int(row)))) for row in np.unique(rows)}
    share = areas / np.array([whole[int(row)] for row in rows])
    for kind in np.unique(kinds):
        found[kind] = share[kinds == kind].mean()
    return found


def _paired(own: Mapping[Draw, Record], base: Mapping[Draw, Record]) -> list[tuple[Record, Record]]:
    """Runs of the two with one draw; a method that sees no mask goes with each of the other's of its seed."""
    exact = [(own[draw], base[draw]) for draw in own if draw in base]
    if exact:
        return exact
    return [(a, b) for (seed, mask), a in own.items() for (s, m), b in base.items() if s == seed and None in (mask, m)]
