"""Groups of classes: sizes, ties, what is counted, and their numbers in a run's record."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mlbench.annotation import State
from mlbench.annotation.sparse import SparseLabels
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError
from mlbench.evaluation import rescore
from mlbench.evaluation.class_groups import group_classes, groups_for
from mlbench.evaluation.predictions import Predictions
from mlbench.evaluation.scoring import score_predictions
from mlbench.protocol import MetricRules, Unspecified, load_protocol
from mlbench.store import read_record, run_dir

P, N, U = (int(s) for s in (State.POSITIVE, State.NEGATIVE, State.UNKNOWN))


def names(n: int) -> tuple[str, ...]:
    return tuple(f"class {c:04d}" for c in range(n))


@pytest.mark.parametrize(
    ("n_classes", "n_groups", "sizes"),
    [(5000, 5, [1000] * 5), (199, 5, [40, 40, 40, 40, 39]), (7, 3, [3, 2, 2]), (3, 3, [1, 1, 1]), (4, 1, [4])],
)
def test_groups_are_of_equal_size_and_the_rarest_have_the_remainder(n_classes, n_groups, sizes) -> None:
    counts = np.random.default_rng(0).permutation(n_classes)
    groups = group_classes(counts, names(n_classes), n_groups)
    assert [len(group) for group in groups] == sizes
    assert np.concatenate(groups).tolist() == np.argsort(counts).tolist()


def test_ties_are_ordered_by_name_whatever_the_order_of_the_columns() -> None:
    counts = np.array([5, 1, 5, 5, 1, 9])
    classes = ("f", "b", "a", "d", "c", "e")
    groups = group_classes(counts, classes, 3)
    assert [[classes[c] for c in group] for group in groups] == [["b", "c"], ["a", "d"], ["f", "e"]]
    order = np.array([3, 0, 5, 1, 4, 2])
    again = group_classes(counts[order], [classes[c] for c in order], 3)
    assert [[classes[order[c]] for c in group] for group in again] == [["b", "c"], ["a", "d"], ["f", "e"]]


@pytest.mark.parametrize(
    ("counts", "classes", "n_groups", "message"),
    [
        (np.zeros(3), ("a", "b"), 2, r"counts of shape \[3\] for 2 distinct"),
        (np.zeros(2), ("a", "a"), 2, r"counts of shape \[2\] for 1 distinct"),
        (np.zeros(2), ("a", "b"), 3, "2 classes cannot be cut into 3 groups"),
        (np.zeros(2), ("a", "b"), 0, "2 classes cannot be cut into 0 groups"),
    ],
)
def test_counts_and_names_that_do_not_fit_are_refused(counts, classes, n_groups, message) -> None:
    with pytest.raises(DataError, match=message):
        group_classes(counts, classes, n_groups)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_protocol_counts_annotations_of_both_signs_or_positives_alone(sparse: bool) -> None:
    dense = np.array([[P, N, U], [P, N, U], [U, N, P]], dtype=np.int8)
    labels = SparseLabels.from_dense(dense) if sparse else dense
    by = {
        counted: [group.tolist() for group in groups_for(MetricRules(groups=3, groups_by=counted), labels, "abc")]
        for counted in ("train_annotations", "train_positives")
    }
    assert by == {"train_annotations": [[2], [0], [1]], "train_positives": [[1], [2], [0]]}
    assert groups_for(MetricRules(), labels, "abc") == ()


@pytest.mark.parametrize("empty_class", ["zero", "skip", "zero_if_known"])
def test_group_means_in_the_results_equal_means_over_their_classes(empty_class: str) -> None:
    draw = np.random.default_rng(3)
    labels = np.where(draw.random((40, 6)) < 0.3, P, N).astype(np.int8)
    labels[:, 2] = N  # known, no positive
    labels[:, 4] = U  # nothing known
    labels[draw.random((40, 6)) < 0.2] = U
    scores = draw.normal(size=(40, 6)).astype(np.float32)
    ids = tuple(map(str, range(40)))
    meta = {"key": "k", "dataset": "d", "split": "test", "epoch": "1"}
    given = Predictions(scores=scores, kind="logit", ids=ids, groups=(), classes=names(6), meta=meta)
    groups = (np.array([2, 0, 4]), np.array([1]), np.array([3, 5]))
    rules = MetricRules(empty_class=empty_class)
    results, _ = score_predictions(given, labels, ids, names(6), rules, Unspecified(), groups)

    def expected(chosen) -> float:
        values = []
        for c in chosen:
            known = labels[:, c] != U
            if (labels[known, c] == P).any():
                values.append(100 * average_precision_score(labels[known, c] == P, scores[known, c]))
            elif empty_class == "zero" or (empty_class == "zero_if_known" and known.any()):
                values.append(0.0)
        return float(np.mean(values))

    for number, group in enumerate(groups, start=1):
        assert results[f"mAP_G{number}"] == pytest.approx(expected(group))
    assert results["mAP"] == pytest.approx(expected(range(6)))
    plain, _ = score_predictions(given, labels, ids, names(6), rules, Unspecified())
    assert plain == {name: value for name, value in results.items() if "_G" not in name}


def test_a_run_records_its_groups_with_their_definition_and_scores_the_same_again(train, tmp_path, monkeypatch) -> None:
    shipped = load_protocol("groups")
    protocol = replace(shipped, metrics=replace(shipped.metrics, groups=2), train=load_protocol("full").train)
    record = train(protocol=protocol)
    test = record["results"]["test"]
    assert record["definitions"]["groups"] == 2
    assert record["definitions"]["groups_by"] == "train_positives"
    assert read_record(run_dir(tmp_path / "runs", record["key"]) / "record.json") == record
    data = tiny_dataset()
    counted = Counter(data.classes[c] for c in np.nonzero(data.splits["train"].labels == P)[1])
    rarest = sorted(data.classes, key=lambda name: (counted[name], name))
    half = -(-len(rarest) // 2)
    ap = record["per_class"]["AP"]
    assert test["mAP_G1"] == pytest.approx(np.mean([ap[name] or 0.0 for name in rarest[:half]]))
    assert test["mAP_G2"] == pytest.approx(np.mean([ap[name] or 0.0 for name in rarest[half:]]))
    monkeypatch.setattr(rescore, "load_dataset", lambda *given: data)
    monkeypatch.setattr(rescore, "load_protocol", lambda name: protocol)
    again = rescore.score(record["key"], tmp_path / "runs", dataset="any.toml")
    assert again.differences == {}
    assert again.results["mAP_G1"] == test["mAP_G1"]


def test_a_run_without_groups_has_none_in_its_record(train) -> None:
    record = train()
    assert not any(name.startswith("mAP_G") for name in record["results"]["test"])
    assert record["definitions"]["groups"] is None
