"""Good submissions: scored here, recorded as submitted, shown as such, never ranked with our runs."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.evaluation.predictions import read_predictions
from mlbench.inputs.duplicates import equal_pictures
from mlbench.report.tables import build_table
from mlbench.store import all_runs, find_records, is_submitted, verify_run
from mlbench.store.schema import refit


def only(store: Path) -> dict[str, Any]:
    records, problems = find_records(store)
    assert problems == []
    (record,) = records
    return record


def reproduced(record: dict[str, Any], mean: float) -> dict[str, Any]:
    """A record of a run of ours with the same rules and data as the submission `record`, with mAP `mean`."""
    ours = copy.deepcopy(record)
    ours["identity"]["method"]["name"] = "an"
    ours["identity"] |= {"track": "full", "backbone": {"name": "resnet50", "weights": "none"}}
    ours["identity"]["mask"] = {"process": "single_positive", "sha256": "ab" * 32}
    del ours["identity"]["scores"], ours["provenance"]["kind"], ours["provenance"]["submission"]
    ours["supervision"] |= {"observed_labels": 6, "selection_labels": 0}
    ours["results"]["test"]["mAP"] = mean
    return refit(ours)


@pytest.mark.parametrize("form", ["csv", "safetensors", "parquet"])
def test_every_format_gives_the_same_record_scored_here(form, desk, send, dataset: Dataset) -> None:
    code, out, err = send(getattr(desk, f"write_{form}")())
    assert (code, err) == (0, "")
    assert "submitted/their_method version 1 taken: mAP " in out
    record = only(desk.store)
    truth = np.asarray(dataset.splits["test"].labels) == 1
    by_hand = [average_precision_score(truth[:, c], desk.scores[:, c]) for c in range(3)]
    assert record["results"]["test"]["mAP"] == pytest.approx(100 * np.mean(by_hand), abs=1e-9)
    assert record["identity"]["scores"]["sha256"] == hashlib.sha256(desk.scores.tobytes()).hexdigest()
    assert record["provenance"]["kind"] == "predictions"
    assert is_submitted(record)
    verify_run(desk.store, record["key"])
    stored = read_predictions(desk.store / record["key"][:16] / "test.safetensors")
    np.testing.assert_array_equal(stored.scores, desk.scores)
    assert stored.ids == tuple(desk.ids)


def test_shuffled_ids_are_aligned_by_id(desk, send) -> None:
    header, *rows = desk.rows()
    random.Random(0).shuffle(rows)
    assert send(desk.write_csv([header, *rows]))[0] == 0
    assert only(desk.store)["identity"]["scores"]["sha256"] == hashlib.sha256(desk.scores.tobytes()).hexdigest()


def test_lines_may_end_as_on_windows_and_names_may_be_quoted(desk, send) -> None:
    rows = [[f'"{row[0]}"', *row[1:]] for row in desk.rows()]
    assert send(desk.write_csv(rows, end="\r\n"))[0] == 0


def test_a_predictions_file_of_mlbench_is_itself_a_submission(desk, send) -> None:
    send(desk.write_csv())
    record = only(desk.store)
    own = desk.store / record["key"][:16] / "test.safetensors"
    code, out, _ = send(own)
    assert code == 0
    assert "was submitted before" in out


def test_reported_numbers_are_kept_beside_ours_and_never_believed(desk, send) -> None:
    text = desk.write_card().read_text() + "[reported]\nmAP = 99.5\nthing = 1\n"
    code, out, _ = send(desk.write_safetensors(), desk.write_card(text))
    assert code == 0
    record = only(desk.store)
    ours = record["results"]["test"]["mAP"]
    assert ours < 80
    assert f"Reported mAP 99.5; {ours:.2f} here." in record["notes"]
    assert "Reported thing 1; not computed here." in out


def test_the_same_again_changes_nothing(desk, send) -> None:
    path = desk.write_csv()
    assert send(path)[0] == 0
    before = {p: p.read_bytes() for p in desk.store.rglob("*") if p.is_file()}
    assert "was submitted before" in send(path)[1]
    assert {p: p.read_bytes() for p in desk.store.rglob("*") if p.is_file()} == before


def test_other_scores_need_another_version_seed_or_mask_seed(desk, send) -> None:
    assert send(desk.write_safetensors())[0] == 0
    desk.scores = desk.scores[::-1].copy()
    code, _, err = send(desk.write_safetensors())
    assert code == 1
    assert "raise the card's version to 2" in err
    assert send(desk.write_safetensors(), None, "--seed", 1)[0] == 0
    assert send(desk.write_safetensors(), desk.write_card(version=2))[0] == 0
    assert len(find_records(desk.store)[0]) == 3


def test_an_earlier_version_again_is_known_whatever_came_after_it(desk, send) -> None:
    """Records are found in the order of their keys, which is any."""
    first = desk.scores
    for seed in range(4):
        versions = {}
        for version in (1, 2, 3):
            desk.scores = first[np.random.default_rng(10 * seed + version).permutation(len(first))]
            versions[version] = desk.scores
            assert send(desk.write_safetensors(), desk.write_card(version=version), "--seed", seed)[0] == 0
        for version, scores in versions.items():
            desk.scores = scores
            code, out, err = send(desk.write_safetensors(), desk.write_card(version=version), "--seed", seed)
            assert (code, err) == (0, "")
            assert f"version {version} was submitted before" in out
        desk.scores = versions[3]
        code, _, err = send(desk.write_safetensors(), desk.write_card(version=2), "--seed", seed)
        assert code == 1
        assert "version 3 is in the store with other scores" in err
        assert "to 4" in err


def test_one_changed_card_under_one_version_is_refused(desk, send) -> None:
    assert send(desk.write_csv())[0] == 0
    code, _, err = send(desk.write_csv(), desk.write_card(title="Another title"))
    assert code == 1
    assert "was submitted with another card: raise its version" in err


def test_a_few_ties_are_taken_and_noted(desk, send) -> None:
    desk.scores[1, 0] = desk.scores[0, 0]
    assert send(desk.write_csv())[0] == 0
    assert "2 scores (0.56 %) equal that of another sample of their class." in only(desk.store)["notes"]


def test_submissions_are_scored_again_from_the_store(desk, send, mlbench) -> None:
    send(desk.write_csv())
    key = only(desk.store)["key"]
    code, out, _ = mlbench("score", key[:12], "--dataset", desk.described, "--store", desk.store)
    assert code == 0
    assert "record says" not in out


def test_lists_and_tables_mark_submissions(desk, send, mlbench) -> None:
    send(desk.write_csv())
    key = only(desk.store)["key"]
    assert "submitted/their_method" in mlbench("list", "runs", "--store", desk.store)[1]
    assert "submitted predictions: scored here, not reproduced" in mlbench("show", key[:9], "--store", desk.store)[1]
    for form in ("markdown", "latex"):
        code, out, _ = mlbench("table", "--store", desk.store, "--format", form)
        assert code == 0
        assert "not ranked with our runs" in out
    with pytest.raises(Exception, match="no finished run"):
        all_runs(desk.store)


@pytest.mark.parametrize("mean", [1.0, 99.0])
def test_a_table_never_ranks_a_submission_with_our_runs(desk, send, mean) -> None:
    send(desk.write_csv())
    record = only(desk.store)
    cells = build_table([record, reproduced(record, mean)], published=False).cells.set_index("method")
    assert cells.loc["an", "best"]
    assert not cells.loc["submitted/their_method", "best"]


def test_a_table_takes_the_last_version_of_a_submission(desk, send, mlbench) -> None:
    send(desk.write_csv())
    desk.scores = desk.scores[::-1].copy()
    send(desk.write_csv(), desk.write_card(version=2))
    code, out, err = mlbench("table", "--store", desk.store, "--format", "csv")
    assert (code, err) == (0, "")
    (latest,) = (r for r in find_records(desk.store)[0] if r["identity"]["method"]["version"] == 2)
    assert str(latest["results"]["test"]["mAP"])[:8] in out


def test_a_run_cannot_pass_for_a_submission_nor_a_submission_for_a_run(desk, send) -> None:
    from mlbench.errors import DataError
    from mlbench.store import write_record

    send(desk.write_csv())
    record = only(desk.store)
    named = copy.deepcopy(record)
    del named["provenance"]["kind"], named["provenance"]["submission"]
    named["supervision"] |= {"observed_labels": 6, "selection_labels": 0}
    with pytest.raises(DataError, match=r"identity\.method\.name: 'submitted/their_method' does not match"):
        write_record(desk.store, named, replace=True)
    unnamed = copy.deepcopy(record)
    unnamed["identity"]["method"]["name"] = "an"
    unnamed = refit(unnamed)
    with pytest.raises(DataError, match=r"identity\.method\.name: 'an' does not match"):
        write_record(desk.store, unnamed)


def test_nothing_of_the_machine_or_the_file_name_enters_the_record(desk, send) -> None:
    path = desk.write_csv().rename(desk.folder / "<b>$x$.csv")
    assert send(path)[0] == 0
    text = json.dumps(only(desk.store))
    assert str(desk.folder) not in text
    assert "<b>" not in text


def _probabilities(scores: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-scores.astype(np.float64)))).astype(np.float32)


@pytest.mark.parametrize("times", [1, 100])
def test_probabilities_called_logits_are_refused(desk, send, times: int) -> None:
    send(desk.write_safetensors())
    logits = only(desk.store)["results"]["test"]
    path = desk.write_safetensors(times * _probabilities(desk.scores))
    code, _, err = send(path, desk.write_card(version=2))
    assert code == 1
    assert 'the card says kind = "logit"' in err
    assert 'kind = "probability"' in err
    if times == 1:
        assert send(path, desk.write_card(version=2, kind="probability"))[0] == 0
        (same,) = (r for r in find_records(desk.store)[0] if r["identity"]["scores"]["kind"] == "probability")
        for name in ("mAP", "F1-O", "F1-C_mean"):
            assert same["results"]["test"][name] == pytest.approx(logits[name])


def test_scores_that_look_like_another_kind_are_noted(desk, send) -> None:
    shares = np.exp(desk.scores) / np.exp(desk.scores).sum(axis=1, keepdims=True)
    assert "add up to 1" in send(desk.write_safetensors(shares), desk.write_card(kind="probability"))[1]
    assert "No logit is above 0" in send(desk.write_safetensors(np.log(shares)), desk.write_card(version=2))[1]


def test_the_record_keeps_what_is_odd_about_the_data(desk, send) -> None:
    folder = shutil.copytree(desk.described.parent, desk.folder / "odd")
    labels = (folder / "labels.csv").read_text().splitlines()
    labels[-1] = labels[-1].rpartition(",")[0] + ",red"
    labels[-2] = labels[-2].rpartition(",")[0] + ",Blue"
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    shutil.copy(folder / "pictures" / "000.png", folder / "pictures" / "125.png")
    desk.described = folder / "mine.toml"
    data = load_dataset(str(desk.described))
    desk.classes = list(data.classes)
    desk.scores = np.random.default_rng(4).normal(size=(len(desk.ids), len(data.classes))).astype(np.float32)
    code, out, err = send(desk.write_csv(), desk.write_card(dataset_fingerprint=data.fingerprint))
    assert code == 0, err
    odd = [*data.notes, *equal_pictures(data)]
    assert len(odd) == 3  # of the class, of its absence from test, of the picture
    assert set(odd) <= set(only(desk.store)["notes"])
    assert all(note in out for note in odd)
