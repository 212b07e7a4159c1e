"""Precision-recall curves, and the images a run ranks best and worst."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from mlbench.annotation import State
from mlbench.evaluation.predictions import Predictions
from mlbench.metrics import average_precision, scores_of_kind
from mlbench.report.at_hand import AtHand
from mlbench.report.site.evidence import evidence, extreme_rows, image_average_precision, precision_at_recall
from mlbench.store import find_records


@pytest.mark.parametrize("seed", range(4))
def test_a_curve_is_the_highest_precision_of_any_threshold_with_that_recall(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 12, 60) / 10.0  # many ties
    present = draw.random(60) < 0.3
    levels = np.array([0.0, 10.0, 33.3, 50.0, 99.0, 100.0])
    precision, recall, _ = precision_recall_curve(present, scores)
    precision = precision[:-1]  # the last point is set to 1 by definition, at no threshold
    expected = [100 * precision[recall[:-1] >= max(level / 100, 1e-9) - 1e-9].max() for level in levels]
    assert precision_at_recall(scores, present, levels) == pytest.approx(expected)


def test_a_curve_of_one_positive_and_of_positives_alone() -> None:
    assert precision_at_recall(np.array([0.1, 0.9, 0.5]), np.array([False, False, True])) == pytest.approx(50.0)
    assert precision_at_recall(np.array([0.1, 0.9]), np.array([True, True])) == pytest.approx(100.0)


def test_the_area_under_a_curve_is_the_envelope_of_average_precision() -> None:
    draw = np.random.default_rng(0)
    scores, present = draw.random(50), draw.random(50) < 0.4
    levels = 100 * np.arange(1, present.sum() + 1) / present.sum()
    expected = average_precision(scores_of_kind("probability", scores[:, None]), present[:, None], flavour="envelope")
    assert precision_at_recall(scores, present, levels).mean() == pytest.approx(100 * expected[0])


def test_images_are_ranked_by_the_average_precision_of_their_labels() -> None:
    draw = np.random.default_rng(1)
    scores = draw.random((6, 5)).astype(np.float32)
    targets = draw.random((6, 5)) < 0.5
    targets[0], targets[1] = False, True
    predictions = Predictions(scores, "probability", tuple("abcdef"), (), tuple("vwxyz"))
    ap = image_average_precision(predictions, scores, targets, np.ones_like(targets))
    assert np.isnan(ap[0])
    expected = [100 * average_precision_score(targets[i], scores[i]) for i in range(1, 6)]
    assert ap[1:] == pytest.approx(expected)


def test_best_and_worst_prefer_images_with_more_labels_and_never_share_one() -> None:
    ap = np.array([100.0, np.nan, 100.0, 20.0, 50.0, 20.0])
    present = np.array([[1, 0], [0, 0], [1, 1], [1, 0], [1, 0], [1, 1]], dtype=bool)
    assert extreme_rows(ap, present, 2) == ([2, 0], [5, 3])
    assert extreme_rows(ap, present, 4) == ([2, 0, 4, 5], [3])


@pytest.fixture
def here(train, tmp_path, monkeypatch):
    """A trained run on the tiny data set, and what is at hand of it."""
    from mlbench.conformance.testing import tiny_dataset

    train("an")
    data = tiny_dataset()
    monkeypatch.setattr("mlbench.report.at_hand.list_datasets", lambda: [data.id])
    monkeypatch.setattr("mlbench.report.at_hand.load_dataset", lambda *given: data)
    (record,), _ = find_records(tmp_path / "runs")
    return record, AtHand(tmp_path / "runs")


def test_a_run_in_its_store_has_curves_and_pictures_only_if_asked(here) -> None:
    record, at_hand = here
    plain = evidence(record, at_hand)
    assert plain.missing == ""
    assert "all labels pooled" in plain.curves
    assert (plain.best, plain.worst) == ((), ())
    shown = evidence(record, at_hand, pictures=True)
    assert shown.best
    assert all(seen.picture.startswith("data:image/jpeg;base64,") for seen in (*shown.best, *shown.worst))
    assert min(seen.ap for seen in shown.best) >= max(seen.ap for seen in shown.worst)
    assert shown.note.startswith("No class activation maps: ")  # a data set made in memory cannot be loaded by name


def test_maps_of_the_network_stand_beside_the_pictures(here, monkeypatch) -> None:
    from mlbench.conformance.testing import tiny_dataset

    monkeypatch.setattr("mlbench.runner.trained.dataset_of", lambda *given: tiny_dataset())
    shown = evidence(*here, pictures=True)
    assert shown.note == ""
    assert all(seen.heat.startswith("data:image/jpeg;base64,") for seen in (*shown.best, *shown.worst))
    assert all(seen.label in seen.present for seen in (*shown.best, *shown.worst))


def test_attention_under_views_is_drawn_for_runs_trained_end_to_end(here, monkeypatch) -> None:
    from mlbench.conformance.testing import tiny_dataset
    from mlbench.report.site.run_pages import run_page

    data = tiny_dataset()
    monkeypatch.setattr("mlbench.runner.trained.dataset_of", lambda *given: data)
    assert evidence(*here).attention == ("", "", "")
    picture, subject, missing = evidence(*here, pictures=True).attention
    assert picture.startswith("data:image/jpeg;base64,")
    assert missing == ""
    label, _, sample = subject.partition(" in test image ")
    test = data.splits["test"]
    present = np.asarray(test.labels)[test.ids.index(sample)] == State.POSITIVE
    assert present[data.classes.index(label)]
    page = run_page(*here, True, None)
    assert f'alt="Class activation maps of {subject}, flipped, original and scaled"' in page
    assert "Does attention follow" not in run_page(*here, False, None)


def test_a_run_on_cached_features_says_why_it_has_no_such_figure(here, monkeypatch) -> None:
    monkeypatch.setattr("mlbench.explain.attention._refusal", lambda record: "track 'head' is fed cached features")
    picture, _, missing = evidence(*here, pictures=True).attention
    assert picture == ""
    assert missing.endswith("track 'head' is fed cached features")


def test_what_is_not_at_hand_is_said(here, tmp_path, monkeypatch) -> None:
    record, _ = here
    assert evidence(record, AtHand(tmp_path / "elsewhere")).missing.startswith("the predictions are not at hand")
    monkeypatch.setattr("mlbench.report.at_hand.list_datasets", list)
    assert "is not at hand: not in the catalogue" in evidence(record, AtHand(tmp_path / "runs")).missing
    (tmp_path / "runs" / record["key"][:16] / "test.safetensors").write_bytes(b"changed")
    assert "the file was changed" in evidence(record, AtHand(tmp_path / "runs")).missing
