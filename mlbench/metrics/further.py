"""What is measured beside the columns of the papers' tables: our registered metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlbench.metrics.label_metrics import accuracy
from mlbench.metrics.ranking import (
    coverage_error,
    hamming_loss,
    label_ranking_average_precision,
    label_ranking_loss,
    one_error,
    roc_auc,
)
from mlbench.metrics.registered import Metric
from mlbench.metrics.scores import Ranks

Function = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def map_macro(ap: np.ndarray, targets: np.ndarray, known: np.ndarray) -> float:
    """Mean of `ap` [C] weighted by the classes' known positives, over the classes that have known negatives too.

    CSL's `map_macro` (src/helper_functions/helper_functions.py:68-118), which other fields call a weighted mean. NaN
    where no class has both. `targets`, `known` : bool [N, C].
    """
    positives, labelled = (targets & known).sum(axis=0), known.sum(axis=0)
    kept = (positives > 0) & (positives < labelled)
    return float((ap[kept] * positives[kept]).sum() / positives[kept].sum()) if kept.any() else float("nan")


def _ordered(measure: Callable[..., Any]) -> Function:
    """A measure that looks at the order of scores alone."""
    return lambda scores, labels, known: measure(Ranks(scores), labels, known)


def _accuracy(name: str) -> Function:
    return lambda decisions, labels, known: getattr(accuracy(decisions, labels, known), name)


ACCURACY = Metric(
    _accuracy("per_class"),
    "mean over classes of the share of right decisions (VAC: test.py, calc_acc_pr_f1)",
    takes="decisions",
)
ACCURACY_O = Metric(
    _accuracy("overall"),
    "share of right decisions over all entries (VAC: test.py, calc_acc_pr_f1_overall)",
    takes="decisions",
)
ACCURACY_I = Metric(
    _accuracy("per_image"),
    "mean over images of hits by the union of decided and present (VAC: test.py, eval_example)",
    takes="decisions",
)
MA_O = Metric(
    _accuracy("balanced"),
    "mA over all entries together (VAC: test.py, calc_mean_acc_overall)",
    takes="decisions",
)
MAP_MACRO = Metric(
    map_macro, "AP weighted by the classes' positives; without classes all positive or all negative (CSL)", takes="ap"
)
HAMMING_LOSS = Metric(hamming_loss, "share of wrong decisions (scikit-learn)", takes="decisions", better="lower")
LABEL_RANKING_LOSS = Metric(
    _ordered(label_ranking_loss),
    "share of (present, absent) pairs of an image in wrong order (scikit-learn)",
    better="lower",
)
COVERAGE_ERROR = Metric(
    _ordered(coverage_error),
    "labels from the top until all present ones are there, a number (scikit-learn)",
    better="lower",
    unit="number",
    high=float("inf"),
)
LRAP = Metric(_ordered(label_ranking_average_precision), "label_ranking_average_precision_score (scikit-learn)")
ONE_ERROR = Metric(_ordered(one_error), "share of images whose best label is absent", better="lower")
AUC_MACRO = Metric(
    _ordered(lambda *given: roc_auc(*given).macro), "mean over classes of the area under the ROC curve (scikit-learn)"
)
AUC_MICRO = Metric(
    _ordered(lambda *given: roc_auc(*given).micro), "area under the ROC curve of all entries together (scikit-learn)"
)
