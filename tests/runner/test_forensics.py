"""What a method did to unknown labels, counted against the hidden truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mlbench.annotation import State
from mlbench.errors import UsageError
from mlbench.methods import Method, Step
from mlbench.methods.labels import Change, Labels, LabelStore, Note
from mlbench.runner.checkpoint import load_tensors
from mlbench.runner.forensics import Forensics, rates, summary
from mlbench.runner.plan import resolve
from mlbench.store import run_dir

P, N, U, X = State.POSITIVE, State.NEGATIVE, State.UNKNOWN, State.UNSPECIFIED
TRUTH = np.array([[P, P, N], [P, N, U], [N, P, N]], dtype=np.int8)
OBSERVED = np.array([[P, U, U], [U, U, U], [U, U, N]], dtype=np.int8)


class RejectFirst(Method):
    """Leaves out the first class's unknown labels and makes the second's positive for good."""

    name = "reject_first"

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        first = labels.unknown.clone()
        first[:, 1:] = False
        labels.note("rejected", first)
        second = labels.unknown.clone()
        second[:, [c for c in range(second.shape[1]) if c != 1]] = False
        if step.epoch == 2:
            labels.change(second, State.POSITIVE)
        losses = functional.binary_cross_entropy_with_logits(logits, labels.value, reduction="none")
        return losses.masked_fill(first, 0.0).mean()


def test_reports_are_held_against_the_truth_by_class() -> None:
    forensics = Forensics(TRUTH, OBSERVED)
    forensics.add([Note("rejected", np.array([0, 0, 1]), np.array([1, 2, 0]))])
    forensics.add([Note("rejected", np.array([1, 1, 2]), np.array([1, 2, 1]))])
    forensics.add([Note("corrected", np.array([1]), np.array([1]))])
    found = forensics.by_class(LabelStore(OBSERVED))
    # class 0: (1,0) right; class 1: (0,1) and (2,1) right, (1,1) wrong; class 2: (0,2) wrong, (1,2) has no truth.
    assert found["rejected"].tolist() == [[1, 3, 1], [1, 2, 0], [1, 2, 0]]
    assert found["corrected"].tolist() == [[0, 1, 0], [0, 0, 0], [1, 2, 0]]
    assert summary(found)["rejected"] == {"entries": 5, "precision": 60.0, "recall": 100.0}
    assert summary(found)["corrected"] == {"entries": 1, "precision": 0.0, "recall": 0.0}


def test_added_labels_are_judged_by_the_state_they_were_given() -> None:
    labels = LabelStore(OBSERVED)
    rows, classes = np.array([0, 1, 2]), np.array([1, 1, 0])
    labels.apply(Change(rows, classes, np.array([P, N, P], dtype=np.int8), np.array([1.0, 0.2, 1.0], np.float32)), 1)
    found = Forensics(TRUTH, OBSERVED).by_class(labels)
    assert found["added_positive"].tolist() == [[1, 1, 0], [0, 1, 0], [1, 2, 0]]
    assert found["added_negative"].tolist() == [[0, 1, 0], [0, 1, 0], [1, 1, 1]]


def test_nothing_judged_has_no_rate() -> None:
    assert rates(np.array([0, 0, 0])) == {"entries": 0, "precision": None, "recall": None}


def test_counts_survive_a_checkpoint() -> None:
    forensics, again = Forensics(TRUTH, OBSERVED), Forensics(TRUTH, OBSERVED)
    forensics.add([Note("rejected", np.array([0]), np.array([1]))])
    again.load_state_dict(forensics.state_dict())
    for each in (forensics, again):
        each.add([Note("rejected", np.array([2]), np.array([1]))])
    store = LabelStore(OBSERVED)
    assert again.by_class(store)["rejected"].tolist() == forensics.by_class(store)["rejected"].tolist()


def test_an_unknown_kind_of_note_is_refused() -> None:
    labels = LabelStore(OBSERVED).rows(np.arange(3))
    with pytest.raises(UsageError, match=r"kind of note 'reject'.*rejected"):
        labels.note("reject", torch.ones(3, 3, dtype=torch.bool))


def test_the_record_tells_what_was_rejected_and_added(train, tiny_request, tmp_path: Path) -> None:
    record = train(RejectFirst, changes={"train.epochs": 3})
    run = resolve(tiny_request(RejectFirst, changes={"train.epochs": 3}))
    part = run.parts["train"]
    hidden = (part.observed == U) & (part.labels == P)
    judged = (part.observed == U) & np.isin(part.labels, (P, N))
    expected = [100.0 * hidden[:, c].sum() / judged[:, c].sum() for c in range(2)]
    for row in record["epochs"]:
        assert row["forensics"]["rejected"]["entries"] == judged[:, 0].sum()
        assert row["forensics"]["rejected"]["precision"] == pytest.approx(expected[0])
        assert ("added_positive" in row["forensics"]) == (row["epoch"] >= 2)
    last = record["epochs"][-1]["forensics"]["added_positive"]
    assert last["precision"] == pytest.approx(expected[1])
    assert last["recall"] == pytest.approx(100.0 * hidden[:, 1].sum() / hidden.sum())
    name = run.dataset.classes[0]
    assert record["per_class"]["rejected_precision"][name] == pytest.approx(expected[0])
    assert record["per_class"]["rejected_recall"][name] == 100.0
    counts = load_tensors(run_dir(tmp_path / "runs", record["key"]) / "epochs" / "003-forensics.safetensors")
    assert counts["added_positive"][0, 1] == judged[:, 1].sum()


def test_a_stopped_run_counts_the_same(train, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    seen = 0

    def stop() -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise Stop

    with pytest.raises(Stop):
        train(RejectFirst, store=tmp_path / "stopped", checkpoint_seconds=0.0, on_checkpoint=stop)
    resumed = train(RejectFirst, store=tmp_path / "stopped", resume=True)
    whole = train(RejectFirst)
    assert [row["forensics"] for row in resumed["epochs"]] == [row["forensics"] for row in whole["epochs"]]
