"""Tie groups of a table's column: which methods may be the best, and which no test tells apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from mlbench.errors import MlbenchError
from mlbench.report.at_hand import AtHand
from mlbench.significance.bootstrap import paired_replicates
from mlbench.significance.crossed import Draw, Gaps, gaps
from mlbench.significance.ties import Standing, adjusted, out_of_order, standing, tie_groups

#: Runs of a method by draw: the record's key and the value.
Runs = Mapping[Draw, tuple[str, float]]
#: Values [1 + R] of a metric in percent by run, the test set as it is first; see `paired_replicates`.
Replicates = Mapping[str, np.ndarray]
#: Family-wise error of a column's groups.
LEVEL = 0.05
_SEED = 0


@dataclass(frozen=True)
class Ties:
    """What tells the methods of a column apart; entries by method, in the order given.

    Attributes
    ----------
    groups : number of the tie group, 1 for those that may be the best; None for a method that was not tested.
    standing : chance of being the best and mean rank with its interval.
    disorder : (i, j), i having the higher mean and the worse group.
    gaps : what was tested.
    """

    groups: list[int | None]
    standing: Standing
    disorder: list[tuple[int, int]]
    gaps: Gaps


def column_ties(methods: Sequence[Runs], replicates: Replicates | None = None) -> Ties:
    """`Ties` of a column of methods, each given as its runs.

    The gap of two methods is tested over the runs they have in common, see `mlbench.significance.crossed`; where both
    have `replicates`, the variance over draws of the test images (the runs' values averaged in each replicate) is
    added to that over the runs. The p-values of all pairs are adjusted together. Where no two methods have two runs in
    common, the test images alone are counted.
    """
    values = [{draw: value for draw, (_, value) in runs.items()} for runs in methods]
    images = _image_variance(methods, replicates or {})
    found = gaps(values, images=np.nan_to_num(images))
    if np.isnan(found.gap).all() and np.isfinite(images).any():
        found = _over_images(values, images)
    groups = tie_groups(found.gap, adjusted(found.p) < LEVEL)
    means = [float(np.mean(list(runs.values()))) if runs else math.nan for runs in values]
    return Ties(groups, standing(found), out_of_order(means, groups), found)


def standing_line(title: str, methods: Sequence[str], ties: Ties, most: int = 5) -> str:
    """The likeliest best methods of a column in words, with mean ranks; empty where nothing was tested."""
    best = ties.standing.best
    order = [i for i in np.argsort(-np.nan_to_num(best), kind="stable") if best[i] >= 0.005]
    if not order:
        return ""
    said = [
        f"{methods[i]} {100 * best[i]:.0f} % (rank {ties.standing.rank[i]:.1f}, {ties.standing.low[i]:.0f} to "
        f"{ties.standing.high[i]:.0f})"
        for i in order[:most]
    ]
    left = 1 - sum(best[i] for i in order[:most])
    more = f"; all others together {100 * left:.0f} %" if left >= 0.005 else ""
    return f"{title}: {', '.join(said)}{more}"


def disorder_line(methods: Sequence[str], ties: Ties) -> str:
    """Why a method with a higher mean stands in a worse group; empty where none does."""
    pairs = [f"{methods[i]} (below {methods[j]})" for i, j in ties.disorder]
    if not pairs:
        return ""
    return (
        f"{', '.join(pairs)}: in a worse group than a method of lower mean, whose gap to the best is less certain for "
        "want of runs or for their spread"
    )


def image_replicates(
    records: Iterable[Mapping[str, Any]],
    root: Path,
    count: int,
    data_root: Path | None = None,
    metrics: Sequence[str] = (),
) -> tuple[Callable[[str], Replicates], list[str]]:
    """`count` draws of the test images for every run whose predictions and data set are at hand.

    Returns a function from a metric to its values by run, and a line for each reason why runs are left out. All runs
    on one data set see the same draws. Those of `metrics` that are registered are drawn besides.
    """
    # Imported late: it brings torch, which tables without this test do not need.
    from mlbench.metrics import METRICS
    from mlbench.protocol import protocol_of
    from mlbench.significance.compare import statistics_of

    here = AtHand(root, data_root)
    more = [METRICS[name] for name in metrics if name in METRICS]
    plain = {metric.name for metric in more if metric.unit == "number"}
    found: dict[str, dict[str, np.ndarray]] = {}
    left_out: dict[str, int] = {}
    for record in records:
        try:
            predictions, data = here.predictions(record), here.dataset(record)
            statistics = statistics_of(predictions, data, protocol_of(record), more)
            values, _ = paired_replicates(statistics, [], data.splits["test"].groups, count, _SEED)
            found[record["key"]] = {name: (1 if name in plain else 100) * drawn for name, drawn in values.items()}
        except MlbenchError as error:
            left_out[str(error)] = left_out.get(str(error), 0) + 1
    notes = [f"{number} runs: {reason}" for reason, number in left_out.items()]
    return lambda metric: {key: values[metric] for key, values in found.items() if metric in values}, notes


def _image_variance(methods: Sequence[Runs], replicates: Replicates) -> np.ndarray:
    """Variance [K, K] of each gap over draws of the test images; NaN where a run of either method has no replicates."""
    drawn = [
        np.mean([replicates[key][1:] for key, _ in runs.values()], axis=0)
        if runs and all(key in replicates for key, _ in runs.values())
        else None
        for runs in methods
    ]
    variance = np.full((len(methods), len(methods)), math.nan)
    for (i, first), (j, second) in itertools.combinations(enumerate(drawn), 2):
        if first is not None and second is not None:
            variance[i, j] = variance[j, i] = np.nanvar(first - second, ddof=1)
    return variance


def _over_images(values: Sequence[Mapping[Draw, float]], images: np.ndarray) -> Gaps:
    """`Gaps` of methods with a run each in common, over the draw of the test images alone."""
    count = len(values)
    gap = np.full((count, count), math.nan)
    for i, j in itertools.permutations(range(count), 2):
        common = sorted(values[i].keys() & values[j].keys(), key=str)
        if common and np.isfinite(images[i, j]):
            gap[i, j] = np.mean([values[i][draw] - values[j][draw] for draw in common])
    error = np.sqrt(images)
    half = 1.96 * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.ndtr(-np.abs(gap) / error)
    p = np.where(gap == 0, 1.0, p)
    return Gaps(gap, gap - half, gap + half, p, np.full(gap.shape, math.nan), np.isfinite(gap).astype(np.int64))
