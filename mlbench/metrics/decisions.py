"""From scores to yes/no decisions: by threshold, by the k best, or by both."""

from __future__ import annotations

import numpy as np

from mlbench.errors import UsageError, unknown
from mlbench.metrics.checks import row_blocks
from mlbench.metrics.scores import Scores, require_scores


def threshold(scores: Scores, probability: float = 0.5, inclusive: bool = False) -> np.ndarray:
    """Decide for every entry whose probability is greater than `probability` (or, `inclusive`, equal); bool [N, C].

    Strictly greater is the rule of VAC (logit > 0, test.py:162-164), SRN (p > 0.5) and ASL (p > 0.8); MLGCN
    (logit >= 0) and CSRA (p >= 0.5) take equality in. UsageError for Ranks.
    """
    scores = require_scores(scores)
    return scores.at_least(probability) if inclusive else scores.above(probability)


def top_k(scores: Scores, k: int, beyond: str = "refuse") -> np.ndarray:
    """Decide for exactly the `k` highest scores of each image, whatever their level; bool [N, C].

    Ties go to the lower class index. "Top-3" of WARP, of CNN-RNN and SRN on NUS-WIDE, and of Tag-Neighbors.
    UsageError unless 1 <= k <= C; with `beyond` "all", a `k` above C decides for all classes, as codes that cut a
    sorted list do (torch's `topk`, which MLGCN calls, stops).
    """
    values = require_scores(scores).values
    rows, classes = values.shape
    if beyond not in ("refuse", "all"):
        raise unknown("rule for a k above the number of classes", beyond, ("refuse", "all"))
    if beyond == "all" and isinstance(k, int | np.integer) and not isinstance(k, bool) and k > classes > 0:
        k = classes
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= classes:
        raise UsageError(f"top_k: k = {k!r}, expected a whole number from 1 to {classes} (the number of classes)")
    decided = np.zeros((rows, classes), dtype=bool)
    for block in row_blocks(values):
        best = np.argsort(-values[block], axis=1, kind="stable")[:, :k]
        np.put_along_axis(decided[block], best, True, axis=1)
    return decided


def top_k_thresholded(scores: Scores, k: int, probability: float = 0.5) -> np.ndarray:
    """Decide for those of the `k` highest scores whose probability is also above `probability`; bool [N, C].

    "Top-3" of SRN and VAC on COCO (by its author's word, SRN thresholds on COCO only): about 2.1
    labels an image, where strict top-3 gives 3. Never compare the two.
    """
    return top_k(scores, k) & threshold(scores, probability)
