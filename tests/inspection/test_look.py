"""What is shown of real runs on a tiny data set: their own scores, masks and maps, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.inspection import look as module
from mlbench.inspection.look import FLAGS, Look, look
from mlbench.runner.trained import reload_run
from mlbench.store import find_run, run_dir


@pytest.fixture(scope="module")
def given(two_runs: dict[str, Any]) -> dict[str, Any]:
    return {"store": two_runs["store"], "dataset": two_runs["dataset"], "device": "cpu"}


@pytest.fixture(scope="module")
def pair(two_runs: dict[str, Any], given: dict[str, Any]) -> Look:
    return look(two_runs["keys"], **given)


def test_the_training_part_shows_the_mask_and_the_truth(pair: Look, two_runs: dict[str, Any]) -> None:
    run = reload_run(find_run(two_runs["keys"][0], two_runs["store"]), None, None, two_runs["dataset"])
    part = run.parts["train"]
    np.testing.assert_array_equal(pair.observed, part.observed)
    np.testing.assert_array_equal(pair.truth, part.labels)
    assert ((pair.observed == State.POSITIVE).sum(axis=1) == 1).all()
    assert (pair.observed == State.UNKNOWN).sum() == 2 * len(part)
    assert tuple(pair.split.ids) == tuple(part.split.ids)
    assert [sight.name for sight in pair.runs] == ["an", "prior"]


def test_training_scores_are_those_of_the_selected_network_and_means_of_its_maps(pair: Look) -> None:
    an = pair.runs[0]
    rows = np.array([3, 0, 7])
    inputs = an.feed.batch("train", rows, None).inputs
    with torch.inference_mode():
        scores = an.network(inputs).logits.numpy()
    np.testing.assert_allclose(an.scores.values[rows], scores, atol=1e-5)
    maps = an.maps("train", rows)
    assert maps is not None
    np.testing.assert_allclose(maps.mean(axis=(2, 3)), scores, atol=1e-4)
    assert pair.runs[1].maps("train", rows) is None
    assert any("prior has no class activation maps" in note for note in pair.notes)


@pytest.mark.parametrize("part", ["val", "test"])
def test_other_parts_show_the_stored_predictions(two_runs: dict[str, Any], given: dict[str, Any], part: str) -> None:
    key = two_runs["keys"][0]
    seen = look([key[:10]], part=part, **given)
    record = find_run(key, two_runs["store"])
    stored = record["predictions"][part]
    predictions = read_predictions(run_dir(two_runs["store"], key) / stored["file"], stored["sha256"])
    assert tuple(predictions.ids) == tuple(seen.split.ids)
    np.testing.assert_array_equal(seen.runs[0].scores.values, predictions.scores)
    assert seen.differ is None
    if part == "test":
        np.testing.assert_array_equal(seen.observed, seen.truth)
        assert not seen.runs[0].found.any()
        assert any("Nothing is hidden of a test part" in note for note in seen.notes)


def test_disagreement_counts_classes_and_their_largest_difference(pair: Look) -> None:
    first, second = pair.runs
    assert pair.differ is not None
    assert pair.difference is not None
    assert first.probability is not None
    assert second.probability is not None
    for row in range(len(pair)):
        otherwise = [bool(a) != bool(b) for a, b in zip(first.decided[row], second.decided[row], strict=True)]
        assert pair.differ[row] == sum(otherwise)
        gaps = [abs(a - b) for a, b in zip(first.probability[row], second.probability[row], strict=True)]
        assert pair.difference[row] == max(gaps)
        assert [("differ" in pair.marks(row, c)) for c in range(3)] == otherwise


def test_rows_come_in_the_order_of_their_most_telling_entry(made: Any) -> None:
    seen = made(30)
    for sight in seen.runs:
        for flag in FLAGS:
            marked = getattr(sight, flag)
            values = sight.scores.values if flag == "found" else sight.observed_loss
            best = {
                row: max(values[row, c] for c in range(4) if marked[row, c]) for row in range(30) if marked[row].any()
            }
            assert list(sight.order(flag)) == sorted(best, key=lambda row: (-best[row], row))
    assert list(seen.disagreeing()) == sorted(
        np.flatnonzero(seen.differ), key=lambda row: (-seen.differ[row], -seen.difference[row], row)
    )
    assert sorted(seen.rows_by_interest(30)) == list(range(30))
    assert list(seen.rows_by_interest(5)) == list(seen.rows_by_interest(30))[:5]
    assert seen.rows_by_interest(1)[0] == seen.runs[0].order("found")[0]


def test_classes_worth_showing_are_marked_then_true_then_decided(made: Any) -> None:
    seen = made(30)
    for row in range(30):
        shown = seen.classes_of(row, 4)
        rank = {}
        for c in range(4):
            positive = State.POSITIVE in (seen.truth[row, c], seen.observed[row, c])
            decided = any(sight.decided[row, c] for sight in seen.runs)
            rank[c] = 3 if seen.marks(row, c) else 2 if positive else 1 if decided else 0
        kept = [c for c in rank if rank[c]]
        expected = sorted(kept, key=lambda c: (-rank[c], -seen.runs[0].scores.values[row, c]))
        assert shown == (expected or [int(seen.runs[0].scores.values[row].argmax())])
        assert seen.classes_of(row, 2) == shown[:2]


def test_what_cannot_be_looked_at_is_told(two_runs: dict[str, Any], given: dict[str, Any]) -> None:
    first, second = two_runs["keys"]
    with pytest.raises(UsageError, match="are the same run"):
        look([first, first], **given)
    with pytest.raises(UsageError, match=r"unknown part 'tests'\. Did you mean 'test'"):
        look([first], part="tests", **given)
    with pytest.raises(UsageError, match="3 runs: expected one, or two to compare"):
        look([first, second, first], **given)
    with pytest.raises(UsageError, match="no run 'zz'"):
        look(["zz"], **given)


def test_a_submission_and_other_images_are_refused(
    two_runs: dict[str, Any], given: dict[str, Any], monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "is_submitted", lambda record: True)
        with pytest.raises(UsageError, match="was submitted as predictions: there is no network"):
            look(two_runs["keys"][:1], **given)
    reload = module.reload_run

    def shorter(record: Any, *rest: Any) -> Any:
        run = reload(record, *rest)
        if record["key"] == two_runs["keys"][1]:
            part = run.parts["train"]
            run = replace(run, parts={**run.parts, "train": replace(part, split=part.split.take(range(5)))})
        return run

    monkeypatch.setattr(module, "reload_run", shorter)
    with pytest.raises(UsageError, match="train parts are not the same images; --part test is the same"):
        look(two_runs["keys"], **given)


def test_scores_that_only_order_have_ap_but_no_loss(made: Any) -> None:
    seen = made(10, kind="rank")
    assert seen.runs[0].loss is None
    assert seen.difference is None
    assert not seen.runs[0].suspect.any()
    assert len(seen.rows_by_interest(10)) == 10
    assert not np.isnan(seen.runs[0].ap[1:]).all()


def test_two_runs_of_one_method_are_told_apart_by_their_keys() -> None:
    from types import SimpleNamespace

    def run(name: str, key: str) -> Any:
        return SimpleNamespace(method=SimpleNamespace(name=name), key=key)

    assert module._names([run("an", "a" * 64), run("an", "b" * 64)]) == ["an_aaaaaaaa", "an_bbbbbbbb"]
    assert module._names([run("their.own-method", "a" * 64)]) == ["their_own_method"]


def test_the_store_is_left_as_it_was(pair: Look, two_runs: dict[str, Any]) -> None:
    names = {
        path.name for path in Path(two_runs["store"]).iterdir() if path.is_dir() and (path / "record.json").exists()
    }
    assert names == {key[:16] for key in two_runs["keys"]}
