"""Tie groups of a table's column: which methods no test tells from the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.bootstrap import paired_interval, paired_replicates
from mlbench.comparison import Draw, difference_p, tie_groups
from mlbench.errors import MlbenchError
from mlbench.report.at_hand import AtHand

#: Runs of a method by draw: the record's key and the value.
Runs = Mapping[Draw, tuple[str, float]]
#: Values [1 + R] of a metric by run, the test set as it is first; see `paired_replicates`.
Replicates = Mapping[str, np.ndarray]
_SEED = 0


def column_ties(methods: Sequence[Runs], replicates: Replicates | None = None) -> list[int | None]:
    """Tie group of each method, 1 for the best; None for one that was not tested against the best.

    Two methods are told apart where runs paired by draw tell them apart (`difference_p`), and, of runs with
    `replicates`, where the draw of the test images does so too (p of the paired bootstrap, the runs' values averaged
    in each replicate); the larger p counts. Holm's adjustment is over the tests against a group's best.
    """
    means = [float(np.mean([value for _, value in runs.values()])) if runs else math.nan for runs in methods]
    defined = [i for i, mean in enumerate(means) if not math.isnan(mean)]
    groups: list[int | None] = [None] * len(methods)
    if not defined:
        return groups
    best = max(defined, key=lambda i: means[i])
    tested = [i for i in defined if i == best or not math.isnan(_p(methods[best], methods[i], replicates))]
    if len(tested) > 1:
        found = tie_groups(
            [means[i] for i in tested], lambda i, j: _p(methods[tested[i]], methods[tested[j]], replicates)
        )
        for i, group in zip(tested, found, strict=True):
            groups[i] = group
    return groups


def image_replicates(
    records: Iterable[Mapping[str, Any]], root: Path, count: int, data_root: Path | None = None
) -> tuple[Callable[[str], Replicates], list[str]]:
    """`count` draws of the test images for every run whose predictions and data set are at hand.

    Returns a function from a metric to its values by run, and a line for each reason why runs are left out. All runs
    on one data set see the same draws.
    """
    # Imported late: it brings torch, which tables without this test do not need.
    from mlbench.compare import statistics_of
    from mlbench.protocol import protocol_of

    here = AtHand(root, data_root)
    found: dict[str, dict[str, np.ndarray]] = {}
    left_out: dict[str, int] = {}
    for record in records:
        try:
            predictions, data = here.predictions(record), here.dataset(record)
            statistics = statistics_of(predictions, data, protocol_of(record))
            found[record["key"]], _ = paired_replicates(statistics, [], data.splits["test"].groups, count, _SEED)
        except MlbenchError as error:
            left_out[str(error)] = left_out.get(str(error), 0) + 1
    notes = [f"{number} runs: {reason}" for reason, number in left_out.items()]
    return lambda metric: {key: values[metric] for key, values in found.items() if metric in values}, notes


def _p(first: Runs, second: Runs, replicates: Replicates | None) -> float:
    """The larger of the p-values over runs and over test images; NaN where neither can be had."""
    values = [{draw: value for draw, (_, value) in runs.items()} for runs in (first, second)]
    found = [difference_p(*values)]
    keys = [(first[draw][0], second[draw][0]) for draw in sorted(first.keys() & second.keys())]
    if replicates and keys and all(key in replicates for pair in keys for key in pair):
        sides = (np.mean([replicates[pair[side]] for pair in keys], axis=0) for side in (0, 1))
        found.append(paired_interval(*sides).p)
    return max((p for p in found if not math.isnan(p)), default=math.nan)
