"""What is in print about a card's methods: gains, the definitions of its numbers, and the order of the methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from mlbench.report.cards.claims import Card
from mlbench.significance.describe import kendall
from mlbench.store.papers import load_published

#: A printed number with its columns, see `mlbench.store.papers.COLUMNS`.
_Number = Mapping[str, Any]


def published_gains(card: Card, method: str, over: str) -> dict[str, float]:
    """The gain in print, in points: from the card's tables, else from another of the paper that has both.

    By data set, and by data set and backbone where the tables have the two methods on several. A row that does not tell
    its backbone is held against every one. None of a method over itself: by another head, which the tables do not vary.
    """
    if method == over:
        return {}
    found: dict[tuple[str, str], float] = {}
    for table in _tables(card).values():
        for (dataset, ours), (other, theirs) in product(_places(table, method), _places(table, over)):
            if dataset != other or (ours != theirs and ours and theirs):
                continue
            gain = _mean(table, method, dataset, ours) - _mean(table, over, dataset, theirs)
            found.setdefault((dataset, ours or theirs), gain)
    datasets = [dataset for dataset, _ in found]
    return {
        dataset if datasets.count(dataset) == 1 else f"{dataset} {backbone}": gain
        for (dataset, backbone), gain in found.items()
    }


def printed_definitions(card: Card, method: str, over: str) -> tuple[str, str] | None:
    """The definitions by which the first table that has both methods prints their numbers; None where none has."""
    for table in _tables(card).values():
        first = {row["method"]: row["definition"] for row in reversed(table)}
        if method in first and over in first:
            return first[method], first[over]
    return None


def agreement(card: Card, means: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Kendall's tau-b of our order of the methods with the published one, a row for each setting and column.

    means : our numbers, by setting and method.
    """
    columns: dict[str, dict[str, float]] = {}
    for row in _rows(card):
        if row["table"] in card.tables:
            columns.setdefault(row["dataset"], {}).setdefault(row["method"], row["value"])
    table = []
    for (name, ours), (dataset, theirs) in product(means.items(), columns.items()):
        shared = [method for method in ours if method in theirs]
        if len(shared) >= 2:
            tau, p = kendall([ours[m] for m in shared], [theirs[m] for m in shared])
            table.append({"setting": name, "published column": dataset, "methods": len(shared), "tau": tau, "p": p})
    return table


def _rows(card: Card) -> Sequence[_Number]:
    return _chosen(card.paper, card.metric, card.printed_protocols or (card.protocol,))


@cache
def _chosen(paper: str, metric: str, protocols: tuple[str, ...]) -> Sequence[_Number]:
    """The paper's numbers of a metric over all classes, as plain tables, which every claim looks through."""
    rows = load_published(paper)
    chosen = rows[rows["metric"].eq(metric) & rows["protocol"].isin(protocols) & rows["group"].eq("all")]
    return chosen.to_dict("records")  # type: ignore[return-value]


def _tables(card: Card) -> dict[str, list[_Number]]:
    """The numbers by table, those of the card first."""
    tables: dict[str, list[_Number]] = {name: [] for name in card.tables}
    for row in _rows(card):
        tables.setdefault(row["table"], []).append(row)
    return tables


def _places(table: Iterable[_Number], method: str) -> list[tuple[str, str]]:
    """Data sets and backbones that a method has numbers on, sorted."""
    return sorted({(row["dataset"], row["backbone"]) for row in table if row["method"] == method})


def _mean(table: Iterable[_Number], method: str, dataset: str, backbone: str) -> float:
    wanted = method, dataset, backbone
    return float(np.mean([r["value"] for r in table if (r["method"], r["dataset"], r["backbone"]) == wanted]))
