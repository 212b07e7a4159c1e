"""`full`, `prior` and `random`: the upper bound and the null controls."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlbench.annotation import State
from mlbench.baselines.reference import log_odds
from mlbench.conformance.testing import tiny_dataset
from mlbench.evaluation.predictions import read_predictions
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request, resolve
from mlbench.store import run_dir

CHANGES = {"train.batch_size": 11, "train.image_size": 64, "train.lr": 1e-3}


def request(method, protocol="single_positive", seed=0):
    dataset = tiny_dataset()
    return Request(protocol, method, dataset, backbone="scenes", track="full", seed=seed, epochs=1, changes=CHANGES)


def scores(store, asked, part="test"):
    record = run(asked, Options(store=store, device="cpu", quiet=True))
    return read_predictions(run_dir(store, record["key"]) / f"{part}.safetensors").scores, record


# -- prior ------------------------------------------------------------------------------------------------------


def test_log_odds_of_a_worked_example():
    observed = np.array([[1, 0, -1, 2], [1, -1, 0, 2], [1, 1, 2, 2], [1, 0, 1, 2]], dtype=np.int8)
    wanted = [4.5 / 0.5, 1.5 / 3.5, 1.5 / 2.5, 0.5 / 0.5]  # (n + 1/2) / (N - n + 1/2) over the rows that count
    np.testing.assert_allclose(log_odds(observed), np.log(wanted), rtol=1e-14)
    assert log_odds(observed).dtype == np.float64


def test_log_odds_are_finite_without_positives_and_without_negatives():
    observed = np.array([[0, 1], [-1, 1]], dtype=np.int8)
    np.testing.assert_allclose(log_odds(observed), [-np.log(5), np.log(5)], rtol=1e-14)


def test_log_odds_are_what_logistic_regression_on_a_constant_learns():
    observed = np.random.RandomState(0).choice([1, 0, -1], (4000, 1), p=[0.2, 0.5, 0.3]).astype(np.int8)
    model = LogisticRegression(fit_intercept=False, C=1e9).fit(np.ones((4000, 1)), observed[:, 0] == 1)
    assert log_odds(observed)[0] == pytest.approx(model.coef_[0, 0], abs=1e-2)


def test_prior_scores_every_image_by_the_log_odds_of_the_observed_labels(tmp_path):
    asked = request("prior")
    observed = resolve(asked).parts["train"].observed
    positive = [sum(int(state) == 1 for state in column) for column in observed.T]
    wanted = [np.log((n + 0.5) / (len(observed) - n + 0.5)) for n in positive]
    found, record = scores(tmp_path, asked)
    np.testing.assert_allclose(found, np.tile(wanted, (len(found), 1)), rtol=1e-6)
    assert record["epochs"] == []
    # A constant score ranks nothing: average precision is the share of positives.
    truth = asked.dataset.splits["test"].labels == State.POSITIVE
    assert record["results"]["test"]["mAP"] == pytest.approx(100 * truth.mean(axis=0).mean(), abs=1e-6)


# -- random -----------------------------------------------------------------------------------------------------


def test_random_repeats_itself_and_differs_between_seeds_rows_and_classes(tmp_path):
    first, _ = scores(tmp_path / "a", request("random"))
    again, _ = scores(tmp_path / "b", request("random"))
    other, _ = scores(tmp_path / "a", request("random", seed=1))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(np.concatenate([first, other]))) == 2 * first.size


# -- full -------------------------------------------------------------------------------------------------------


def test_full_is_an_where_nothing_is_hidden(tmp_path):
    upper, record = scores(tmp_path, request("full", "full"))
    plain, _ = scores(tmp_path, request("an", "full"))
    np.testing.assert_array_equal(upper, plain)
    assert record["supervision"]["extra"] == ["full"]


def test_full_does_not_look_at_what_the_protocol_hides(tmp_path):
    upper, record = scores(tmp_path, request("full", "full"))
    same, hidden = scores(tmp_path, request("full", "single_positive"))
    np.testing.assert_array_equal(upper, same)
    assert record["supervision"]["observed_labels"] == hidden["supervision"]["observed_labels"] == 32 * 4
    plain, _ = scores(tmp_path, request("an", "single_positive"))
    assert np.abs(plain - upper).max() > 1e-4
