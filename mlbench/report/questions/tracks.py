"""Does the head track predict the order of the full track?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mlbench.grid import grid
from mlbench.report.questions.columns import Column
from mlbench.significance.orders import Estimate, kendall, over_items_and_draws, spearman

METRIC, LEAST = "mAP", 4


@dataclass(frozen=True)
class Agreement:
    """Two columns that differ in track: the rank correlations of the methods they share."""

    head: Column
    full: Column
    methods: tuple[str, ...]
    draws: tuple[int, int]
    tau: Estimate
    tau_draws: Estimate
    rho: Estimate
    p: float
    means: tuple[np.ndarray, np.ndarray]
    best: tuple[str, str]


def agreement(head: Column, full: Column) -> Agreement | None:
    """None where fewer than `LEAST` methods are in both."""
    common = head.values(METRIC).keys() & full.values(METRIC).keys()
    if len(common) < LEAST:
        return None
    blocks = [column.block(METRIC, of=common) for column in (head, full)]
    methods = [name for name in blocks[0][0] if name in blocks[1][0]]
    if len(methods) < LEAST:
        return None
    a, b = (values[0][:, [names.index(name) for name in methods]] for names, _, values in blocks)
    means = a.mean(0), b.mean(0)
    return Agreement(
        head,
        full,
        tuple(methods),
        (len(a), len(b)),
        over_items_and_draws(a, b, kendall),
        over_items_and_draws(a, b, kendall, items=False),
        over_items_and_draws(a, b, spearman),
        float(stats.kendalltau(*means).pvalue),
        means,
        (methods[int(means[0].argmax())], methods[int(means[1].argmax())]),
    )


def pairs_of(columns: Sequence[Column]) -> Iterator[tuple[Column, Column]]:
    """Columns of the head track, each with those of the full track that share protocol, data set and annotation."""
    for head in columns:
        for full in columns:
            same = (head.protocol, head.dataset, head.params) == (full.protocol, full.dataset, full.params)
            if same and (head.track, full.track) == ("head", "full"):
                yield head, full


def report(columns: Sequence[Column]) -> str:
    """The answer as Markdown."""
    pairs = list(pairs_of(columns))
    found = [a for head, full in pairs if (a := agreement(head, full)) is not None]
    lines = ["# Does the head track predict the order of the full track?", ""]
    if not found:
        told = "; ".join(f"{head.title} and {full.title}" for head, full in pairs) or "no data set has both tracks"
        needs = f"it needs {LEAST} methods with runs of both tracks on one data set and protocol"
        return "\n".join([*lines, f"Not answerable with what is published ({told}): {needs}."])
    rows = [
        [
            f"{a.head.dataset}, {a.head.protocol}",
            f"{a.head.backbone} / {a.full.backbone}",
            len(a.methods),
            f"{a.draws[0]} / {a.draws[1]}",
            a.tau.text(),
            a.tau_draws.text(),
            a.rho.text(),
            f"{a.p:.2g}",
            a.best[0] if a.best[0] == a.best[1] else f"{a.best[0]} / {a.best[1]}",
        ]
        for a in found
    ]
    headers = ["data", "backbone, head / full", "methods", "draws", "tau", "tau, these methods", "rho", "p (tau)",
               "best, head / full"]  # fmt: skip
    lines += [
        f"Rank correlation of the methods' mean test {METRIC} on the two tracks: Kendall's tau-b and Spearman's rho. "
        "Intervals (95 %, percentile bootstrap) of *tau* and *rho* are over draws of the methods and of the runs, "
        "those of *tau, these methods* over draws of the runs alone; a track of one draw has no such part, and its "
        "interval is too short. p is of no association (Kendall's test). Where backbones differ, that is part of it.",
        "",
        grid(rows, headers, "github"),
        "",
    ]
    for a in found:
        order, places = np.argsort(-a.means[0]), (-a.means[1]).argsort().argsort() + 1
        listed = ", ".join(f"{a.methods[i]} ({places[i]})" for i in order)
        lines += [
            f"* {a.head.dataset}, {a.head.protocol}: by the head track, with the place by the full one: {listed}."
        ]
    few = [pair for pair in pairs if all((a.head, a.full) != pair for a in found)]
    lines += [
        f"* {head.title}: fewer than {LEAST} of its methods have runs of track {full.track} too; nothing can be said."
        for head, full in few
    ]
    lines += ["", _verdict(found)]
    return "\n".join(lines)


def _verdict(found: Sequence[Agreement]) -> str:
    sure = [a for a in found if a.tau.low > 0]
    told = ", ".join(f"{a.head.dataset} under {a.head.protocol}" for a in sure)
    if len(sure) == len(found):
        return (
            "In each of these the interval of tau is above 0: the head track orders methods as the full track tends to."
        )
    rest = f"; it is on {told}" if sure else ""
    needs = "more methods on both tracks, and more draws of the full one, would tell"
    return f"The interval of tau is not above 0 everywhere{rest}: {needs}."
