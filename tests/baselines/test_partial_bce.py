"""`partial_bce`: three weightings of the known labels' cross-entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import SIZES, TYPES, assert_follows, assert_gradient_is_numerical, exact, saturated, uniform
from numpy_losses import NEGATIVE, POSITIVE, UNKNOWN, UNSPECIFIED, assumed_entries, assumed_slopes, batch

from mlbench.baselines import partial_bce as partial_bce_module
from mlbench.baselines.observed_only import iu
from mlbench.baselines.partial_bce import NORMALIZATIONS, known_weight, partial_bce
from mlbench.errors import UsageError

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]
CASES = [*(batch(*size, seed=size[0]) for size in SIZES), saturated(), *(uniform(state) for state in STATES)]


def settings_of(normalization):
    proportion = {"proportion": 0.3} if normalization == "dataset_proportion" else {}
    return {"normalization": normalization, **proportion}


def oracle(logits, observed, normalization, a=-4.45, b=5.45, gamma=1.0):
    """Entries and slopes, image by image."""
    entries, slopes = assumed_entries(logits, observed, 0.0), assumed_slopes(logits, observed, 0.0)
    for row, labels in enumerate(observed):
        known = [label in (POSITIVE, NEGATIVE) for label in labels]
        count, classes = sum(known), len(labels)
        weight = {
            "image_share": a * (count / classes) ** gamma + b,
            "dataset_proportion": (a * 0.3**gamma + b) * classes / max(count, 1),
            "known_count": 1 + 1 / (1 + count),
        }[normalization]
        for parts in (entries, slopes):
            parts[row] = np.where(known, weight * parts[row], 0.0)
    return entries, slopes


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_values_and_gradients_follow_the_formula(dtype, tolerance, normalization):
    for logits, observed in CASES:
        logits = exact(logits, dtype)
        assert_follows(
            lambda x, y, **k: partial_bce(x, y, **settings_of(normalization), **k),
            *oracle(logits, observed, normalization),
            logits,
            observed,
            dtype,
            tolerance,
        )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradients_match_finite_differences(normalization):
    logits, observed = batch(4, 5, seed=8, largest=4.0)
    assert_gradient_is_numerical(lambda x, y: partial_bce(x, y, **settings_of(normalization)), logits, observed)


def test_the_published_weights():
    assert known_weight(torch.tensor([1.0, 0.1, 0.0])).tolist() == pytest.approx([1.0, 5.005, 5.45])


def test_worked_examples():
    logits = torch.zeros(2, 4, dtype=torch.float64)
    observed = torch.tensor([[1, -1, 0, 0], [0, 0, 0, 0]], dtype=torch.int8)
    log2 = math.log(2)
    image = (-4.45 / 2 + 5.45) / 4 * 2 * log2
    assert partial_bce(logits, observed).item() == pytest.approx(image / 2)
    mean = (-4.45 * 0.25 + 5.45) * log2
    found = partial_bce(logits, observed, normalization="dataset_proportion", proportion=0.25)
    assert found.item() == pytest.approx(mean / 2)
    found = partial_bce(logits, observed, normalization="known_count", reduction="sum")
    assert found.item() == pytest.approx(2 * log2 * (1 + 1 / 3))


def test_with_all_labels_known_the_paper_s_loss_is_cross_entropy():
    logits, _ = (torch.tensor(part) for part in batch(6, 5, seed=3))
    full = torch.where(torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.3, 1, -1)
    np.testing.assert_allclose(
        partial_bce(logits, full, reduction="none"), iu(logits, full, reduction="none"), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"normalization": "image_shar"}, "Did you mean 'image_share'"),
        ({"normalization": "dataset_proportion"}, "proportion"),
        ({"proportion": 0.5}, "proportion"),
        ({"normalization": "dataset_proportion", "proportion": 1.5}, "proportion"),
        ({"gamma": -1.0}, "gamma"),
        ({"alpha": math.nan}, "alpha"),
        ({"alpha": -6.0}, "below 0"),
    ],
)
def test_impossible_settings_are_refused(wrong, said):
    with pytest.raises(UsageError, match=said):
        partial_bce(torch.zeros(1, 2), torch.zeros(1, 2), **wrong)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_each_normalisation_trains_to_numbers_of_its_own(train, normalization):
    record = train("partial_bce", changes={"normalization": normalization, "train.epochs": 1})
    assert record["identity"]["method"]["hyperparameters"]["normalization"] == normalization
    assert record["epochs"][0]["loss"] > 0


def test_the_known_labels_are_counted_once_and_not_in_every_step(train, monkeypatch):
    counted = []
    plain = partial_bce_module.count_states
    monkeypatch.setattr(
        partial_bce_module, "count_states", lambda labels, state: counted.append(state) or plain(labels, state)
    )
    train("partial_bce", changes={"train.epochs": 2, "normalization": "dataset_proportion"})
    assert sorted(counted) == [NEGATIVE, POSITIVE]


def test_the_share_of_known_labels_is_that_of_the_observed_training_labels(train):
    # Single positives of 4 classes: every image has one known label, so that both shares are 1/4.
    plain = train("partial_bce", changes={"train.epochs": 1})
    other = train("partial_bce", changes={"train.epochs": 1, "normalization": "dataset_proportion"})
    assert other["epochs"][0]["loss"] == pytest.approx(4 * plain["epochs"][0]["loss"], rel=0.2)
