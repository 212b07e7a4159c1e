"""How much do the definitions of metrics move the order of methods?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mlbench.grid import grid
from mlbench.report.questions.columns import Column, shape_text
from mlbench.significance.orders import Estimate, kendall, percentiles

#: Pairs of definitions: of one quantity, and at the end of two.
PAIRS = (
    ("mAP_step", "mAP_envelope"),
    ("mAP_step", "mAP_11point"),
    ("F1-C_mean", "F1-C_hm"),
    ("F1-O", "top3_thresholded/F1-O"),
    ("top3_thresholded/F1-O", "top3_strict/F1-O"),
    ("F1-C_mean", "F1-O"),
    ("mAP_step", "F1-C_mean"),
)
#: Fewer methods have no order worth the name.
LEAST = 5
_DETAILED = 3


@dataclass(frozen=True)
class Moved:
    """The order of a column's methods under two definitions."""

    column: Column
    pair: tuple[str, str]
    methods: int
    draws: int
    tau: Estimate
    swapped: int
    farthest: tuple[str, int]
    best: tuple[str, str]

    @property
    def pairs(self) -> int:
        return self.methods * (self.methods - 1) // 2


def moved(column: Column, pair: tuple[str, str]) -> Moved | None:
    """How `pair` of definitions orders the methods of `column`, by their means over common draws; None for too few.

    The interval is over draws of the runs; methods that change places are those of which one is ahead under the first
    definition and the other under the second.
    """
    methods, draws, values = column.block(*pair)
    if len(methods) < LEAST:
        return None
    first, second = values
    random = np.random.default_rng(0).multinomial(len(draws), np.full(len(draws), 1 / len(draws)), 2000) / len(draws)
    drawn = kendall(random @ first, random @ second)  # the same runs under both definitions
    ends = percentiles(drawn) if len(draws) > 1 else (math.nan, math.nan)
    a, b = first.mean(0), second.mean(0)
    i, j = np.triu_indices(len(methods), 1)
    ranks = [(-values).argsort(kind="stable").argsort() for values in (a, b)]
    moves = ranks[0] - ranks[1]
    far = int(np.abs(moves).argmax())
    return Moved(
        column,
        pair,
        len(methods),
        len(draws),
        Estimate(float(kendall(a, b)), *ends),
        int((np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) < 0).sum()),
        (methods[far], int(moves[far])),
        (methods[int(a.argmax())], methods[int(b.argmax())]),
    )


def halves(column: Column, metric: str, most: int = 200) -> Estimate | None:
    """Tau between the orders by two disjoint halves of the draws, averaged over divisions; None for fewer than four."""
    methods, draws, (values,) = column.block(metric)
    half = len(draws) // 2
    if half < 2 or len(methods) < LEAST:
        return None
    splits = list(combinations(range(len(draws)), half))
    chosen = np.random.default_rng(0).permutation(len(splits))[:most]
    taus = []
    for number in chosen:
        one = list(splits[number])
        other = [draw for draw in range(len(draws)) if draw not in one][:half]
        taus.append(float(kendall(values[one].mean(0), values[other].mean(0))))
    return Estimate(float(np.mean(taus)))


def report(columns: Sequence[Column]) -> str:
    """The answer as Markdown."""
    found = [m for column in columns for pair in PAIRS if (m := moved(column, pair)) is not None]
    lines = ["# How much do the definitions of metrics move the order of methods?", ""]
    if not found:
        return "\n".join([*lines, f"Not answerable: no column has {LEAST} methods with a draw in common."])
    rows = []
    for pair in PAIRS:
        of = [m for m in found if m.pair == pair]
        if of:
            taus = sorted(m.tau.value for m in of)
            changed = sum(m.best[0] != m.best[1] for m in of)
            share = sum(m.swapped for m in of) / sum(m.pairs for m in of)
            rows.append(
                [*pair, len(of), f"{np.median(taus):.2f}", f"{taus[0]:.2f} to {taus[-1]:.2f}", f"{100 * share:.1f} %",
                 f"{changed} of {len(of)}"]
            )  # fmt: skip
    headers = ["first", "second", "columns", "tau, median", "least to most", "pairs that swap", "another best"]
    lines += [
        "Methods are ordered by their means over the draws that all of them have, once under each of two definitions "
        "of the same runs. Tau is Kendall's tau-b: 1 where no pair of methods changes places, 0 where as many do as do "
        "not.",
        "",
        grid(rows, headers, "github"),
        "",
        "## The largest columns",
        "",
        "Intervals (95 %) are over draws of the runs; a column of one draw has none.",
        "",
    ]
    for column in columns[:_DETAILED]:
        of = [m for m in found if m.column is column]
        if not of:
            continue
        details = [
            [
                *m.pair,
                m.tau.text(),
                f"{m.swapped} of {m.pairs}",
                f"{m.farthest[0]} {m.farthest[1]:+d}" if m.farthest[1] else "none",
                m.best[0] if m.best[0] == m.best[1] else f"{m.best[0]}, then {m.best[1]}",
            ]
            for m in of
        ]
        lines += [
            f"### {column.title}: {shape_text(of[0].methods, of[0].draws)}",
            "",
            grid(details, ["first", "second", "tau", "pairs that swap", "farthest move (places)", "best"], "github"),
            "",
        ]
        noise = halves(column, "mAP_step")
        if noise is not None:
            lines += [
                "For comparison, what other draws do: tau between the orders of mAP_step by two halves of the draws "
                f"is {noise.value:.2f} in the mean over divisions (each half has half the draws, so that this is less "
                "than two whole sets of draws would have).",
                "",
            ]
    lines += [
        "Records hold these definitions. Other choices (the reading of classes without a positive, strict thresholds) "
        "need the scores: `mlbench explain metrics published:METHOD@DATASET` has them for one run.",
    ]
    return "\n".join(lines)
