"""What is measured beside the columns of the papers' tables, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlbench.metrics.average_precision import average_precision
from mlbench.metrics.calibration import (
    CALIBRATION,
    ClassValues,
    adaptive_calibration_error,
    brier_score,
    expected_calibration_error,
)
from mlbench.metrics.label_metrics import accuracy
from mlbench.metrics.ranking import (
    coverage_error,
    hamming_loss,
    label_ranking_average_precision,
    label_ranking_loss,
    one_error,
    roc_auc,
)
from mlbench.metrics.scores import Ranks, Scores

#: Each measure, and whose it is.
FURTHER: Mapping[str, str] = {
    "accuracy": "mean over classes of the share of right decisions (VAC: test.py, calc_acc_pr_f1)",
    "accuracy-O": "share of right decisions over all entries (VAC: test.py, calc_acc_pr_f1_overall)",
    "accuracy-I": "mean over images of hits by the union of decided and present (VAC: test.py, eval_example)",
    "mA-O": "mA over all entries together (VAC: test.py, calc_mean_acc_overall)",
    "map_macro": "AP weighted by the classes' positives; without classes all positive or all negative (CSL)",
    "hamming_loss": "share of wrong decisions (scikit-learn)",
    "label_ranking_loss": "share of (present, absent) pairs of an image in wrong order (scikit-learn)",
    "coverage_error": "labels from the top until all present ones are there, a number (scikit-learn)",
    "LRAP": "label_ranking_average_precision_score (scikit-learn)",
    "one_error": "share of images whose best label is absent",
    "AUC_macro": "mean over classes of the area under the ROC curve (scikit-learn)",
    "AUC_micro": "area under the ROC curve of all entries together (scikit-learn)",
    **CALIBRATION,
}

#: Those of them, by which the best is the lowest.
LESS_IS_BETTER = frozenset({*CALIBRATION, "hamming_loss", "label_ranking_loss", "coverage_error", "one_error"})

_RANKED: Mapping[str, Callable[..., Any]] = {
    "label_ranking_loss": label_ranking_loss,
    "coverage_error": coverage_error,
    "LRAP": label_ranking_average_precision,
    "one_error": one_error,
    "AUC_macro": lambda *given: roc_auc(*given).macro,
    "AUC_micro": lambda *given: roc_auc(*given).micro,
}
_CALIBRATED: Mapping[str, Callable[..., ClassValues]] = {
    "ECE": expected_calibration_error,
    "ACE": adaptive_calibration_error,
    "Brier": brier_score,
}
_ACCURACIES = {"accuracy": "per_class", "accuracy-O": "overall", "accuracy-I": "per_image", "mA-O": "balanced"}


def further(
    measure: str,
    scores: Scores,
    targets: np.ndarray,
    known: np.ndarray,
    decided: np.ndarray | None,
    flavour: str = "step",
) -> float:
    """`measure`, a name of `FURTHER`, as a fraction (`coverage_error`: a number of labels); NaN where undefined.

    Parameters
    ----------
    scores : Logits, Probabilities or Ranks [N, C].
    targets, known : bool [N, C], True where the class is present, and where its label counts.
    decided : bool [N, C], or None where these scores allow no decisions, which leaves what needs them undefined; so is
        calibration where they are ranks.
    flavour : of the average precision in `map_macro`.
    """
    if measure == "map_macro":
        return map_macro(average_precision(scores, targets, known, flavour), targets, known)
    if measure in _RANKED:
        return float(_RANKED[measure](scores, targets, known))
    if measure in CALIBRATION:
        if isinstance(scores, Ranks):
            return float("nan")
        name, _, over = measure.partition("-")
        values = _CALIBRATED[name](scores, targets, known)
        return values.micro if over == "O" else values.macro
    if decided is None:
        return float("nan")
    if measure == "hamming_loss":
        return hamming_loss(decided, targets, known)
    return float(getattr(accuracy(decided, targets, known), _ACCURACIES[measure]))


def map_macro(ap: np.ndarray, targets: np.ndarray, known: np.ndarray) -> float:
    """Mean of `ap` [C] weighted by the classes' known positives, over the classes that have known negatives too.

    CSL's `map_macro` (src/helper_functions/helper_functions.py:68-118), which other fields call a weighted mean. NaN
    where no class has both. `targets`, `known` : bool [N, C].
    """
    positives, labelled = (targets & known).sum(axis=0), known.sum(axis=0)
    kept = (positives > 0) & (positives < labelled)
    return float((ap[kept] * positives[kept]).sum() / positives[kept].sum()) if kept.any() else float("nan")
