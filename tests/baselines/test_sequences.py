"""`cnn_rnn`, `srel_rnn` and `pla`: what they learn from, what they train, and how paths become scores."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mlbench.annotation.sparse import SparseLabels
from mlbench.baselines.decoders import StateDecoder
from mlbench.conformance.suite import make_request
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.methods.labels import LabelStore
from mlbench.models.heads import Classifier
from mlbench.protocol import load_protocol
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.store import run_dir

NAMES = ["cnn_rnn", "srel_rnn", "pla"]
OBSERVED = np.array([[1, 0, 1, 0], [0, 0, 1, 2], [1, 0, 1, 0], [0, 1, 0, -1]], dtype=np.int8)


class Feature(torch.nn.Identity):
    """A backbone that is not there, of three channels."""

    out_channels = 3


def method_of(name, observed=OBSERVED, track="head", **changes):
    """The method on a task of nothing but labels, [4, 3, 1, 1] features as images."""
    cls = load_method(name)
    task = SimpleNamespace(
        hyper=cls.resolve({"units": 6, "embedding": 5, **changes}),
        num_classes=observed.shape[1],
        labels=LabelStore(observed),
        device=torch.device("cpu"),
        track=track,
        artefacts={},
        backbone=Feature,
    )
    task.classifier = lambda spec: Classifier(Feature(), SimpleHead(3, observed.shape[1]))
    return cls(task)


class SimpleHead(torch.nn.Linear):
    """A linear head on pooled features."""

    def forward(self, features):
        return super().forward(features.mean(dim=(2, 3)))


def batch_of(method):
    torch.manual_seed(5)
    rows = np.arange(len(OBSERVED))
    return SimpleNamespace(inputs=torch.randn(len(rows), 3, 1, 1), labels=method.task.labels.rows(rows))


def last_network(method):
    """The network of the last phase, earlier ones untrained."""
    torch.manual_seed(0)
    network = None
    for phase in method.phases():
        network = method.network(phase)
        method.task.artefacts[phase.name] = network.state_dict()
    return network, phase


def test_frequent_and_rare_labels_come_first_with_ties_by_class_index():
    # Observed positives by class: 2, 1, 3, 0.
    assert method_of("cnn_rnn")._order.tolist() == [2, 0, 1, 3]
    assert method_of("srel_rnn")._order.tolist() == [3, 1, 0, 2]
    ties = np.array([[1, 1, 0, 1], [0, 1, 0, 1]], dtype=np.int8)
    assert method_of("cnn_rnn", ties)._order.tolist() == [1, 3, 0, 2]
    assert method_of("srel_rnn", ties)._order.tolist() == [2, 0, 1, 3]


def test_the_order_of_sparse_labels_needs_no_matrix(monkeypatch):
    monkeypatch.setattr("mlbench.annotation.sparse.MAX_DENSE", 10)  # too many to be made dense
    assert method_of("cnn_rnn", SparseLabels.from_dense(OBSERVED))._order.tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize("name", NAMES)
def test_unspecified_labels_have_no_part_in_the_sequence_loss(name):
    method = method_of(name)
    network, phase = last_network(method)
    batch = batch_of(method)

    def loss(observed):
        method.task.labels = LabelStore(observed)
        batch.labels = method.task.labels.rows(np.arange(4))
        terms = method.training_step(network, batch, SimpleNamespace(phase=phase.name))
        return (terms["sequence"] if isinstance(terms, dict) else terms).item()

    before = loss(OBSERVED)
    unknown = np.where(OBSERVED == 2, 0, OBSERVED).astype(np.int8)
    assert loss(unknown) > before, "one more word competes"
    assert loss(np.where(OBSERVED == -1, 0, OBSERVED).astype(np.int8)) == before, "unknown is as good as negative"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", ["best_path", "marginal"])
def test_scores_rank_every_label_and_the_best_path_decides(name, rule):
    method = method_of(name, beam=64, class_scores=rule, max_length=3)
    network, _ = last_network(method)
    network.eval()
    batch = batch_of(method)
    with torch.no_grad():
        scores, decisions = method.predict(network, batch)
        state = network.start(batch.inputs)
        expected = [by_enumeration(network.decoder, state, row, 4, 3) for row in range(4)]
    assert torch.isfinite(scores).all()
    for row, (best, marginal, path) in enumerate(expected):
        np.testing.assert_allclose(scores[row], best if rule == "best_path" else marginal, rtol=1e-4, atol=1e-5)
        assert set(np.flatnonzero(decisions[row]).tolist()) == set(path)


def by_enumeration(decoder, state, row, classes, longest):
    """Each label's best beginning, all of its beginnings, and the best whole sequence, by walking through them all."""
    ending, complete = {c: [] for c in range(classes)}, {}

    def walk(labels, total, word, at):
        log_probs, at = decoder.step(torch.tensor([word]), at)
        complete[labels] = total + float(log_probs[0, classes])
        if len(labels) == longest:
            return
        for c in set(range(classes)) - set(labels):
            value = total + float(log_probs[0, c])
            ending[c].append(value)
            walk((*labels, c), value, c, at)

    walk((), 0.0, classes + 1, tuple(part[row : row + 1] for part in state))
    best = [max(ending[c]) for c in range(classes)]
    return best, [np.logaddexp.reduce(ending[c]) for c in range(classes)], max(complete, key=complete.get)


@pytest.mark.parametrize("name", NAMES)
def test_paths_have_the_lengths_asked_for(name):
    for least, most in ((3, 0), (0, 1), (2, 2)):
        method = method_of(name, min_length=least, max_length=most)
        network, _ = last_network(method)
        network.eval()
        with torch.no_grad():
            lengths = method.predict(network, batch_of(method)).decisions.sum(dim=1)
        assert lengths.min() >= least
        assert lengths.max() <= (most or 4)


@pytest.mark.parametrize("name", NAMES)
def test_lengths_that_no_sequence_has_are_refused_before_training(name):
    with pytest.raises(UsageError, match="5 to 4 labels out of 4"):
        method_of(name, min_length=5)


@pytest.mark.parametrize("name", ["cnn_rnn", "pla"])
def test_boostlu_is_refused_where_there_are_no_maps(name):
    with pytest.raises(UsageError, match="no class activation maps"):
        method_of(name, **{"head.alpha": 5.0})


def test_lengths_follow_the_data_set():
    method = load_method("cnn_rnn")
    assert method.settings_for("nuswide-official", "full")["min_length"] == 3
    assert method.settings_for("coco2014", "full")["min_length"] == 0


def test_words_start_from_observed_labels_and_joint_training_from_probabilities():
    method = method_of("srel_rnn")
    network, _ = last_network(method)
    seen = []
    network.decoder.start = lambda vector: seen.append(vector) or StateDecoder.start(network.decoder, vector)
    batch = batch_of(method)
    method.training_step(network, batch, SimpleNamespace(phase="words"))
    method.training_step(network, batch, SimpleNamespace(phase="joint"))
    assert torch.equal(seen[0], batch.labels.positive.float())
    assert torch.equal(seen[1], network.concepts(batch.inputs).sigmoid())


# -- whole runs ----------------------------------------------------------------------------------------------------


def tiny_run(name, tmp_path, track, **changes):
    request = make_request(load_method(name), track, tmp_path, tiny_dataset())
    changes = {**request.changes, "units": 8, "embedding": 8, **changes}
    request = replace(request, protocol=load_protocol("full"), changes=changes)
    record = run(request, Options(store=tmp_path / "store", device="cpu", quiet=True))
    return record, run_dir(tmp_path / "store", record["key"])


def test_a_frozen_backbone_stays_and_one_that_is_trained_moves(tmp_path):
    _, first = tiny_run("cnn_rnn", tmp_path, "full", **{"train.epochs": 1})
    _, later = tiny_run("cnn_rnn", tmp_path, "full", **{"train.epochs": 2})
    _, moved = tiny_run("cnn_rnn", tmp_path, "full", frozen_cnn=False, **{"train.epochs": 1})
    start, same, trained = (load_file(folder / "weights.safetensors") for folder in (first, later, moved))
    backbone = [name for name in start if name.startswith("backbone.")]
    assert backbone
    assert all(np.array_equal(start[name], same[name]) for name in backbone)
    assert not all(np.array_equal(start[name], trained[name]) for name in backbone)


def test_the_words_phase_trains_the_decoder_alone(tmp_path):
    record, folder = tiny_run("srel_rnn", tmp_path, "head")
    assert [row["phase"] for row in record["epochs"]] == ["concepts"] * 2 + ["words"] * 2 + ["joint"] * 2
    before, after = (load_file(folder / f"phase-{name}.safetensors") for name in ("concepts", "words"))
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor)
    assert {name.partition(".")[0] for name in after.keys() - before.keys()} == {"decoder"}
    assert {"sequence", "concepts"} <= set(record["epochs"][-1]["log"])


def test_the_encoder_goes_over_into_the_sequences(tmp_path):
    record, folder = tiny_run("pla", tmp_path, "full", **{"train.lr": 1e-9})
    assert {row["phase"] for row in record["epochs"]} == {"encoder", "sequence"}
    encoder, final = load_file(folder / "phase-encoder.safetensors"), load_file(folder / "weights.safetensors")
    shared = [name for name in encoder if name.startswith("backbone.") and name.endswith("weight")]
    assert shared
    for name in shared:
        np.testing.assert_allclose(final[name], encoder[name], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_sequences_are_learned(name, tmp_path):
    record, folder = tiny_run(name, tmp_path, "head", embedding=32, units=16, **{"train.epochs": 20, "train.lr": 1e-2})
    losses = [row["loss"] for row in record["epochs"] if row["phase"] == record["epochs"][-1]["phase"]]
    assert losses[-1] < 0.8 * losses[0]
    found = read_predictions(folder / record["predictions"]["test"]["file"])
    assert found.kind == "rank"
    assert found.decision_rule == "on the most probable path of the beam search"
