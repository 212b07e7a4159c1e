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
from mlbench.metrics.decisions import threshold, top_k, top_k_thresholded
from mlbench.metrics.definitions import AXES, PUBLISHED, ClassMeans, Definition, Lens, class_means, users
from mlbench.metrics.label_metrics import (
    Counts,
    MeanAccuracy,
    PrecisionRecallF1,
    harmonic_mean,
    joined,
    mean_accuracy,
    precision_recall_f1,
)
from mlbench.metrics.scores import Logits, Probabilities, Ranks, Scores, scores_of_kind
from mlbench.metrics.streaming import Streaming

__all__ = [
    "AXES",
    "PUBLISHED",
    "ClassMeans",
    "Counts",
    "Definition",
    "EmptyClasses",
    "GroupMeans",
    "Lens",
    "Logits",
    "MeanAccuracy",
    "PrecisionRecallF1",
    "Probabilities",
    "Ranks",
    "Scores",
    "Streaming",
    "average_precision",
    "average_precision_of_known",
    "class_means",
    "empty_classes",
    "group_means",
    "harmonic_mean",
    "joined",
    "mean_accuracy",
    "mean_average_precision",
    "precision_recall_f1",
    "scores_of_kind",
    "threshold",
    "top_k",
    "top_k_thresholded",
    "users",
]
