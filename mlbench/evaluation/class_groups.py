"""Groups of classes by how often training images carry them, for means of AP over rare to frequent classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlbench.annotation import State
from mlbench.annotation.sparse import LabelMatrix, count_states
from mlbench.errors import DataError
from mlbench.protocol import MetricRules

#: States that count as an annotation, by the name a protocol gives in ``[metrics] groups_by``.
COUNTED = {"train_annotations": (State.POSITIVE, State.NEGATIVE), "train_positives": (State.POSITIVE,)}


def group_classes(counts: np.ndarray, classes: Sequence[str], n_groups: int) -> tuple[np.ndarray, ...]:
    """Sort classes by ascending count and cut them into groups of equal size, the rarest first.

    Parameters
    ----------
    counts : int [C], annotations of each class. classes : their C names. Equal counts are ordered by name, by code
        point, so that groups do not depend on the order of the columns.
    n_groups : number of groups. Where it does not divide C, each of the first (rarest) ``C % n_groups`` groups has
        one class more: 199 classes make 40, 40, 40, 40, 39.

    Returns
    -------
    int64 class indices of each group, in ascending order of (count, name). DataError for counts and names that do
    not fit, names given twice, or fewer classes than groups.

    Notes
    -----
    Source: facts 4.2 (OpenImages: five groups of 1,000 by ascending number of annotations). The order of ties is
    stated in no paper; it is ours.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(classes),) or len(set(classes)) != len(classes):
        raise DataError(f"groups: counts of shape {list(counts.shape)} for {len(set(classes))} distinct class names")
    if not 1 <= n_groups <= len(classes):
        raise DataError(f"groups: {len(classes)} classes cannot be cut into {n_groups} groups")
    order = sorted(range(len(classes)), key=lambda c: (counts[c], classes[c]))
    return tuple(np.array_split(np.array(order, dtype=np.int64), n_groups))


def groups_for(rules: MetricRules, labels: LabelMatrix, classes: Sequence[str]) -> tuple[np.ndarray, ...]:
    """The groups a protocol asks for, none where it asks for none.

    `labels`, raw states [N, C], are those the source has for its whole training part, not what a mask shows of them:
    so all runs of a protocol on a data set share one grouping.
    """
    if rules.groups is None or rules.groups_by is None:
        return ()
    counts = sum(count_states(labels, state) for state in COUNTED[rules.groups_by])
    return group_classes(np.asarray(counts), classes, rules.groups)
