"""Metrics as pure functions on arrays [N, C] of N images and C classes; every published definition has its own name.

Values are fractions in [0, 1]; tables turn them into per cent.
"""

from __future__ import annotations

from mlbench.metrics.average_precision import (
    EmptyClasses,
    GroupMeans,
    average_precision,
    average_precision_of_known,
    empty_classes,
    group_means,
    mean_average_precision,
)
from mlbench.metrics.calibration import (
    ClassValues,
    Reliability,
    adaptive_calibration_error,
    brier_score,
    expected_calibration_error,
    reliability,
)
from mlbench.metrics.decisions import threshold, top_k, top_k_thresholded
from mlbench.metrics.definitions import AXES, PUBLISHED, ClassMeans, Definition, Lens, class_means, users
from mlbench.metrics.further import map_macro
from mlbench.metrics.label_metrics import (
    Accuracies,
    Counts,
    MeanAccuracy,
    PrecisionRecallF1,
    accuracy,
    harmonic_mean,
    joined,
    mean_accuracy,
    precision_recall_f1,
)
from mlbench.metrics.ranking import (
    AreaUnderCurve,
    coverage_error,
    hamming_loss,
    label_ranking_average_precision,
    label_ranking_loss,
    one_error,
    roc_auc,
)
from mlbench.metrics.registered import METRICS, Metric, Predicted, Sampled
from mlbench.metrics.scores import Logits, Probabilities, Ranks, Scores, scores_of_kind
from mlbench.metrics.streaming import Streaming

__all__ = [
    "AXES",
    "METRICS",
    "PUBLISHED",
    "Accuracies",
    "AreaUnderCurve",
    "ClassMeans",
    "ClassValues",
    "Counts",
    "Definition",
    "EmptyClasses",
    "GroupMeans",
    "Lens",
    "Logits",
    "MeanAccuracy",
    "Metric",
    "PrecisionRecallF1",
    "Predicted",
    "Probabilities",
    "Ranks",
    "Reliability",
    "Sampled",
    "Scores",
    "Streaming",
    "accuracy",
    "adaptive_calibration_error",
    "average_precision",
    "average_precision_of_known",
    "brier_score",
    "class_means",
    "coverage_error",
    "empty_classes",
    "expected_calibration_error",
    "group_means",
    "hamming_loss",
    "harmonic_mean",
    "joined",
    "label_ranking_average_precision",
    "label_ranking_loss",
    "map_macro",
    "mean_accuracy",
    "mean_average_precision",
    "one_error",
    "precision_recall_f1",
    "reliability",
    "roc_auc",
    "scores_of_kind",
    "threshold",
    "top_k",
    "top_k_thresholded",
    "users",
]
