"""Two runs compared from their stored predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlbench.conformance.testing import tiny_dataset
from mlbench.datasets import Dataset
from mlbench.errors import DataError, UsageError
from mlbench.evaluation.predictions import Predictions, write_predictions
from mlbench.evaluation.scoring import score_predictions
from mlbench.metrics import Probabilities
from mlbench.protocol import load_protocol
from mlbench.significance import compare as compare_module
from mlbench.significance.bootstrap import paired_bootstrap
from mlbench.significance.compare import compare

IDS = {"a": "a" * 64, "b": "b" * 64}


@pytest.fixture(name="runs")
def stored_runs(tmp_path, monkeypatch):
    """Return a function that stores runs "a" and "b" on the tiny data set, nine test samples of four images."""
    data = tiny_dataset()
    test = data.splits["test"]
    grouped = replace(test, groups=tuple(f"image {i // 2}" for i in range(len(test))))
    data = Dataset(data.id, data.version, data.classes, {**data.splits, "test": grouped})
    records = {}
    monkeypatch.setattr(compare_module, "load_dataset", lambda *given: data)
    monkeypatch.setattr(compare_module, "dataset_of", lambda *given: data.id)
    monkeypatch.setattr(compare_module, "find_run", lambda prefix, root: records[prefix])

    def write(name: str, seed: int, kind: str = "probability", decisions=None, **changes):
        scores = np.random.default_rng(seed).random((len(test), len(data.classes))).astype(np.float32)
        order = np.random.default_rng(seed).permutation(len(test))  # files need not follow the data's order
        predictions = Predictions(
            scores[order],
            kind,
            tuple(np.array(test.ids)[order]),
            tuple(np.array(grouped.groups)[order]),
            data.classes,
            None if decisions is None else decisions[order],
            None if decisions is None else "as told",
            {"key": IDS[name], "dataset": data.id, "split": "test", "epoch": "1"},
        )
        folder = tmp_path / IDS[name][:16]
        folder.mkdir(exist_ok=True)
        sha256 = write_predictions(folder / "test.safetensors", predictions)
        protocol = load_protocol("single_positive")
        unspecified = protocol.unspecified_for(data.id)
        results, _ = score_predictions(predictions, test.labels, test.ids, data.classes, protocol.metrics, unspecified)
        identity = {
            "harness": 2,
            "method": {"name": f"method_{name}"},
            "dataset": {"id": data.id, "fingerprint": data.fingerprint},
            "protocol": "single_positive",
            "repetition": 0,
            "mask_seed": 0,
        }
        records[name] = {
            "key": IDS[name],
            "identity": {**identity, **changes},
            "definitions": {"ap": "step"},
            "results": {"test": results},
            "predictions": {"test": {"file": "test.safetensors", "sha256": sha256}},
        }
        return results, scores, data

    return write


def test_values_are_those_of_the_records(runs, tmp_path) -> None:
    (first, a, data), (second, b, _) = runs("a", 1), runs("b", 2)
    found = compare("a", "b", tmp_path, replicates=30)
    assert {"mAP", "F1-C_mean", "F1-C_hm", "F1-O", "top3_strict/F1-O", "top3_thresholded/F1-C_mean"} <= set(
        found.intervals
    )
    for name, interval in found.intervals.items():
        assert 100 * interval.a == pytest.approx(first[name], abs=1e-9)
        assert 100 * interval.b == pytest.approx(second[name], abs=1e-9)
        assert found.adjusted[name] >= interval.p
    test = data.splits["test"]
    alone = paired_bootstrap(
        *(Probabilities(a), Probabilities(b), np.asarray(test.labels) > 0, None, np.array(test.groups)),
        replicates=30,
        empty_class="zero",
    )
    assert found.intervals["mAP"] == alone


def test_intervals_that_the_draws_move_are_told(runs, tmp_path, monkeypatch) -> None:
    runs("a", 1)
    runs("b", 2)
    interval = compare_module.paired_interval
    monkeypatch.setattr(
        compare_module,
        "paired_interval",
        lambda *given: replace(interval(*given), low=0.1, high=0.3, centre=0.25, b=0.2, a=0),
    )
    text = compare("a", "b", tmp_path, replicates=5).text()
    assert "away from the difference on the test set: mAP +25.00, " in text
    monkeypatch.setattr(compare_module, "_OFF_CENTRE", 0.3)
    assert "away from" not in compare("a", "b", tmp_path, replicates=5).text()


def test_the_text_tells_what_was_drawn_and_what_was_not(runs, tmp_path) -> None:
    runs("a", 1)
    runs("b", 2, repetition=1, mask_seed=1)
    text = compare("a", "b", tmp_path, replicates=20, seed=3).text()
    assert text.startswith("method_a (run aaaaaaaaaaaaaaaa) against method_b (run bbbbbbbbbbbbbbbb)")
    assert "20 paired draws of the 5 test images (seed 3)" in text  # images, not the nine samples
    assert "another training seed or another mask is not in these intervals" in text
    assert "(repetition, mask seed) (0, 0) and (1, 1)" in text


def test_ranks_have_only_metrics_that_need_no_threshold_and_own_decisions_count(runs, tmp_path) -> None:
    runs("a", 1)
    _, _, data = runs("b", 2, kind="rank")
    assert set(compare("a", "b", tmp_path, replicates=5).intervals) == {
        *("mAP", "top3_strict/F1-C_mean", "top3_strict/F1-C_hm", "top3_strict/F1-O")
    }
    truth = np.asarray(data.splits["test"].labels) > 0
    runs("b", 2, kind="rank", decisions=truth)
    found = compare("a", "b", tmp_path, replicates=5)
    assert found.intervals["F1-O"].b == 1.0


def test_runs_that_share_no_ground_are_refused(runs, tmp_path, monkeypatch) -> None:
    runs("a", 1)
    with pytest.raises(UsageError, match="are the same run"):
        compare("a", "a", tmp_path)
    runs("b", 2, dataset={"id": "other", "fingerprint": "0" * 64})
    with pytest.raises(UsageError, match="no image is shared"):
        compare("a", "b", tmp_path)
    runs("b", 2)
    monkeypatch.setattr(compare_module, "load_dataset", lambda *given: tiny_dataset(test=8))
    with pytest.raises(DataError, match="fingerprints differ"):
        compare("a", "b", tmp_path)


def test_other_definitions_need_a_protocol(runs, tmp_path, monkeypatch) -> None:
    runs("a", 1)
    runs("b", 2)
    find = compare_module.find_run
    monkeypatch.setattr(
        compare_module, "find_run", lambda prefix, root: find(prefix, root) | {"definitions": {"ap": prefix}}
    )
    with pytest.raises(UsageError, match="say whose with --protocol"):
        compare("a", "b", tmp_path)
    assert compare("a", "b", tmp_path, protocol="full", replicates=5).intervals["mAP"].replicates == 5


def test_a_rule_that_older_records_do_not_name_is_none(runs, tmp_path, monkeypatch) -> None:
    runs("a", 1)
    runs("b", 2)
    find, newer = compare_module.find_run, {"b": {"definitions": {"ap": "step", "groups": None}}}
    monkeypatch.setattr(compare_module, "find_run", lambda prefix, root: find(prefix, root) | newer.get(prefix, {}))
    assert compare("a", "b", tmp_path, replicates=5).intervals["mAP"].replicates == 5


def test_the_command_prints_the_comparison(runs, tmp_path, mlbench) -> None:
    runs("a", 1)
    runs("b", 2)
    code, out, err = mlbench("compare", "a", "b", "--store", tmp_path, "--replicates", "10")
    assert (code, err) == (0, "")
    assert "| mAP" in out
    code, _, err = mlbench("compare", "a", "b", "--store", tmp_path, "--replicates", "0")
    assert code == 2
    assert "replicates = 0" in err
