"""`iu`, `iun` and `epr`: losses that take no unknown label as negative."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_checks import SIZES, TYPES, assert_follows, assert_gradient_is_numerical, exact, saturated, uniform
from numpy_losses import (
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    UNSPECIFIED,
    assumed_entries,
    assumed_slopes,
    batch,
    probability,
)

from mlbench.annotation import State
from mlbench.baselines.losses import bce
from mlbench.baselines.observed_only import epr, iu, iun
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request, resolve

STATES = [POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED]
CASES = [*(batch(*size, seed=size[0]) for size in SIZES), saturated(), *(uniform(state) for state in STATES)]
EXPECTED = 1.5


def ignoring(oracle, logits, observed, eps):
    return np.where(np.isin(observed, (POSITIVE, NEGATIVE)), oracle(logits, observed, eps), 0.0)


def regularised(logits, observed, eps):
    """Entries and slopes of `epr`, from the sum over the batch written out row by row."""
    rows, classes = logits.shape
    p = np.where(observed == UNSPECIFIED, 0.0, probability(logits))
    deviation = sum(sum(row) for row in p) / rows - EXPECTED
    entries = np.where(observed == POSITIVE, assumed_entries(logits, observed, eps), 0.0) + deviation**2 / classes**2
    slopes = np.where(observed == POSITIVE, assumed_slopes(logits, observed, eps), 0.0)
    # The deviation stands in each of the rows * classes entries.
    return entries, slopes + rows * classes * 2 * deviation / classes**2 * p * probability(-logits) / rows


@pytest.mark.parametrize("loss", [iu, iun])
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_unknown_labels_are_ignored_and_still_divided_by(loss, dtype, tolerance, eps):
    for logits, observed in CASES:
        logits = exact(logits, dtype)
        entries, slopes = (ignoring(oracle, logits, observed, eps) for oracle in (assumed_entries, assumed_slopes))
        assert_follows(lambda x, y, **k: loss(x, y, eps=eps, **k), entries, slopes, logits, observed, dtype, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_expected_positives_follow_the_formula(dtype, tolerance, eps):
    for logits, observed in CASES:
        logits = exact(logits, dtype)
        entries, slopes = regularised(logits, observed, eps)
        # "sum" is as many times larger than the mean as there are entries.
        closeness = tolerance * (10 if logits.size > 100 else 1) if dtype == torch.float32 else tolerance
        assert_follows(
            lambda x, y, **k: epr(x, y, expected=EXPECTED, eps=eps, **k),
            entries,
            slopes,
            logits,
            observed,
            dtype,
            closeness,
        )


@pytest.mark.parametrize("loss", [iu, iun, lambda x, y, **k: epr(x, y, expected=2.0, **k)])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_gradients_match_finite_differences(loss, eps):
    assert_gradient_is_numerical(lambda x, y: loss(x, y, eps=eps), *batch(3, 5, seed=8, largest=4.0))


def test_with_nothing_unknown_ignoring_it_is_cross_entropy_bit_for_bit():
    logits, observed = (torch.tensor(part) for part in batch(8, 5, seed=3))
    observed[observed == UNKNOWN] = NEGATIVE
    assert torch.equal(iu(logits, observed), bce(logits, observed))


def test_a_batch_without_labels_has_no_loss_and_no_gradient():
    logits = torch.tensor([[50.0, -1.0]], requires_grad=True)
    value = iu(logits, torch.tensor([[0, 2]]))
    assert value == 0
    assert (torch.autograd.grad(value, logits)[0] == 0).all()


def test_deviation_is_squared_after_the_mean_over_the_batch():
    # Images with 0 and 2 predicted positives: 1 in the mean, as expected, though neither image has 1.
    logits = torch.tensor([[-100.0, -100.0], [100.0, 100.0]], dtype=torch.float64)
    nothing = torch.zeros(2, 2, dtype=torch.int8)
    assert epr(logits, nothing, expected=1.0).item() == pytest.approx(0.0, abs=1e-15)
    assert epr(logits, nothing, expected=1.5).item() == pytest.approx(0.5**2 / 2**2, abs=1e-15)


def test_worked_example_of_expected_positives():
    logits = torch.tensor([[0.0, np.log(3), -np.log(3), 0.0]])  # p = 1/2, 3/4, 1/4, 1/2: two positives predicted
    observed = torch.tensor([[1, 0, -1, 2]], dtype=torch.int8)  # the last is not counted: 3/2
    wanted = np.log(2) / 4 + (1.5 - 3.0) ** 2 / 16
    assert epr(logits, observed, expected=3.0).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("expected", [-1.0, math.nan, math.inf])
def test_impossible_expectation_is_refused(expected):
    with pytest.raises(UsageError, match="epr"):
        epr(torch.zeros(1, 2), torch.zeros(1, 2), expected=expected)


# -- the methods ----------------------------------------------------------------------------------------------------


def trained(store, method):
    changes = {"train.batch_size": 32, "train.image_size": 64, "train.lr": 1e-3}
    request = Request("single_positive", method, tiny_dataset(), backbone="scenes", track="full", epochs=1)
    request.changes.update(changes)
    return request, run(request, Options(store=store, device="cpu", quiet=True))


def test_supervision_beyond_the_observed_labels_is_recorded(tmp_path):
    assert load_method("iu").supervision == ("observed",)
    for name, extra in (("iun", "oracle_negatives"), ("epr", "label_count")):
        assert trained(tmp_path, name)[1]["supervision"]["extra"] == [extra]
    assert load_method("epr").batch_global


def test_all_true_negatives_make_the_loss_of_the_negatives_larger(tmp_path):
    request, given = trained(tmp_path, "iun")
    assert (resolve(request).parts["train"].observed != State.NEGATIVE).all()  # single positives: nothing says no
    assert given["epochs"][0]["loss"] > trained(tmp_path, "iu")[1]["epochs"][0]["loss"] + 0.1
