"""Runs trained beside each other: the numbers of each alone, a record each, and no run that suffers from another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlbench.conformance.suite import read_scores
from mlbench.errors import MethodError, MlbenchError, UsageError
from mlbench.methods import Method, Phase
from mlbench.models.heads import PRODUCT, Head, HeadSpec, build_head, convert_head, logits_together
from mlbench.registry import load_method
from mlbench.runner import plan, together
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request, resolve, why_alone
from mlbench.runner.together import run_together
from mlbench.store import find_records, run_dir, verify_run

SPECS = [HeadSpec(), HeadSpec("boostlu", 5.0, 5.0), HeadSpec("cam"), HeadSpec("boostlu", 1.0, 5.0)]


class Stopped(BaseException):
    """Stands for a kill."""


@pytest.fixture(autouse=True)
def methods_here_may_share_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods of this file stand for those that mlbench ships."""
    monkeypatch.setattr(plan, "SHARED_PROCESS", ("mlbench.", __name__))


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., Options]:
    def make(name: str, **given: Any) -> Options:
        return Options(tmp_path / name, device="cpu", quiet=True, **given)

    return make


@pytest.fixture
def on_features(tiny_request: Callable[..., Request]) -> Callable[..., Request]:
    """Return a function that makes the request of a short run on cached features."""

    def make(method: Any = "an", **given: Any) -> Request:
        return tiny_request(method, track="head", **given)

    return make


def scores(store: Path, record: Any) -> np.ndarray:
    if isinstance(record, Exception):
        raise record
    return read_scores(store, record)


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("kind", ["pooled", "maps"])
def test_heads_together_give_the_logits_and_gradients_of_each_alone(kind: str, batch: int) -> None:
    torch.manual_seed(0)
    specs = [HeadSpec(), HeadSpec("boostlu", 1.0, 5.0)] if kind == "pooled" else [SPECS[1], SPECS[2], SPECS[1]]
    heads = [build_head(spec, 8, classes) for spec, classes in zip(specs, (3, 4, 2), strict=False)]
    features = torch.randn(batch, 8, 3, 2)
    logits = logits_together(heads, features)
    torch.autograd.backward([(own.sigmoid() ** 2).sum() for own in logits])
    for head, own in zip(heads, logits, strict=True):
        alone = convert_head(head, head.spec).double()
        alone.zero_grad()
        expected = alone(features.double())
        (expected.sigmoid() ** 2).sum().backward()
        torch.testing.assert_close(own.double(), expected, atol=1e-6, rtol=0)
        assert own.is_contiguous()
        for name, parameter in head.named_parameters():
            wanted = alone.get_parameter(name).grad
            torch.testing.assert_close(parameter.grad.double(), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_one_head_alone_computes_as_its_definition(spec: HeadSpec) -> None:
    torch.manual_seed(0)
    head, features = build_head(spec, 6, 4), torch.randn(3, 6, 2, 2)
    maps = torch.einsum("cd,bdhw->bchw", head.weight, features) + head.bias[:, None, None]
    expected = torch.where(maps > 0, spec.alpha_train * maps, maps).mean(dim=(2, 3))
    torch.testing.assert_close(head(features), expected)


# --- the same numbers -------------------------------------------------------------------------------------------------


def test_runs_together_have_the_keys_and_scores_of_each_alone(on_features: Any, options: Any, tmp_path: Path) -> None:
    methods = ("an", "llr", "llcp", "em", "role", "llr_boostlu")
    requests = [
        on_features(method, seed=seed, mask_seed=mask, changes={"train.epochs": 3})
        for method in methods
        for seed, mask in ((0, 0), (1, 2))
    ]
    requests.append(on_features("an", changes={"train.lr": 0.05, "train.epochs": 2, "train.optimizer": "sgd"}))
    requests.append(on_features("an", mask_seed=5, changes={"train.schedule": "cosine", "train.batch_size": 7}))
    records = run_together(requests, options("together"))
    for request, record in zip(requests, records, strict=True):
        alone = run(request, options("alone"))
        assert isinstance(record, dict)
        assert record["key"] == alone["key"]
        assert record["selected"] == alone["selected"]
        assert verify_run(tmp_path / "together", record["key"]) == record
        found, expected = scores(tmp_path / "together", record), scores(tmp_path / "alone", alone)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
        for own, other in zip(record["epochs"], alone["epochs"], strict=True):
            assert own["loss"] == pytest.approx(other["loss"], abs=1e-5)
            assert own["forensics"] == other["forensics"]
        assert f"trained beside {len(requests) - 1} other runs" in record["notes"][-1]
    assert len(find_records(tmp_path / "together")[0]) == len(requests)


class DrawsInTraining(Method):
    """Draws from the global generator in every step."""

    name = "draws"
    stochastic = True

    def loss(self, logits: Any, labels: Any, step: Any) -> Any:
        return ((logits + torch.randn_like(logits) - labels.positive.float()) ** 2).mean()


def test_random_numbers_of_a_run_are_those_it_draws_alone(on_features: Any, options: Any, tmp_path: Path) -> None:
    requests = [on_features(DrawsInTraining, seed=seed) for seed in (0, 1, 2)]
    for request, record in zip(requests, run_together(requests, options("together")), strict=True):
        alone = run(request, options("alone"))
        found, expected = scores(tmp_path / "together", record), scores(tmp_path / "alone", alone)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


class OwnNetwork(Method):
    """Classifies by a network without a head of ours, in two phases."""

    name = "own_network"

    def phases(self) -> list[Phase]:
        return [Phase("first"), Phase("second", train={"epochs": 1})]

    def network(self, phase: Phase) -> nn.Module:
        torch.manual_seed(len(phase.name))
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(self.task.num_classes))

    def training_step(self, network: nn.Module, batch: Any, step: Any) -> Any:
        return self.loss(network(batch.inputs), batch.labels, step)

    def loss(self, logits: Any, labels: Any, step: Any) -> Any:
        return ((logits - labels.positive.float()) ** 2).mean()

    def predict(self, network: nn.Module, batch: Any) -> Any:
        return network(batch.inputs)


class Initialised(OwnNetwork):
    """As `OwnNetwork`, with its parameters there from the start."""

    name = "initialised"

    def network(self, phase: Phase) -> nn.Module:
        network = super().network(phase)
        network(torch.zeros(1, 64, 8, 8))
        return network


def test_a_network_without_our_head_and_with_phases_trains_beside_others(
    on_features: Any, options: Any, tmp_path: Path
) -> None:
    requests = [on_features("an"), on_features(Initialised), on_features("llr")]
    for request, record in zip(requests, run_together(requests, options("together")), strict=True):
        alone = run(request, options("alone"))
        found, expected = scores(tmp_path / "together", record), scores(tmp_path / "alone", alone)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


# --- what is shared ---------------------------------------------------------------------------------------------------


def test_runs_of_a_seed_are_one_product_in_training_and_all_runs_in_inference(
    on_features: Any, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[bool, set[int]] = {True: set(), False: set()}

    def watched(heads: Any, features: Any) -> Any:
        sizes[torch.is_grad_enabled()].add(len(heads))
        return logits_together(heads, features)

    monkeypatch.setattr(together, "logits_together", watched)
    requests = [on_features("an", seed=seed, mask_seed=mask) for seed in (0, 1) for mask in (0, 1, 2)]
    run_together(requests, options("together"))
    assert sizes == {True: {3}, False: {6}}


def test_products_too_large_are_cut(on_features: Any, options: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(together, "_LARGEST_PRODUCT", 1)
    (record,) = run_together([on_features("llr_boostlu")], options("together"))
    alone = run(on_features("llr_boostlu"), options("alone"))
    assert record["predictions"] == alone["predictions"]
    assert not any("beside" in note for note in record["notes"])


# --- who trains alone -------------------------------------------------------------------------------------------------


def test_what_cannot_be_shared_comes_one_by_one_and_is_said(
    on_features: Any, tiny_request: Any, options: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [on_features("an_boostlu_inference"), tiny_request("an"), on_features("an"), on_features("an")]
    records = run_together(requests, replace(options("together"), quiet=False))
    assert [record["identity"]["track"] for record in records] == ["head", "full", "head", "head"]
    assert records[0]["identity"]["uses"] == {"trained": records[2]["key"]}
    assert records[3] == records[2]
    said = capsys.readouterr().err
    assert "an_boostlu_inference (seed 0) is trained by itself: it builds on another run" in said
    assert "an (seed 0) is trained by itself: on track 'full'" in said
    assert "an (seed 0) is trained by itself: it is asked for twice" in said


def test_on_features_only_runs_built_on_others_are_left_out(on_features: Any) -> None:
    assert not why_alone(resolve(on_features("role"), uses={}))
    assert why_alone(resolve(on_features("an_boostlu_inference"), uses={}))


# --- failures and kills -----------------------------------------------------------------------------------------------


class Fails(Method):
    """Fails in its second epoch."""

    name = "fails"

    def loss(self, logits: Any, labels: Any, step: Any) -> Any:
        if step.epoch == 2:
            raise ValueError("no more")
        return (logits**2).mean()


class NotFinite(Method):
    """Its loss is no number."""

    name = "not_finite"

    def loss(self, logits: Any, labels: Any, step: Any) -> Any:
        return logits.mean() * float("nan")


class WithoutGradient(Method):
    """Its loss does not depend on the network."""

    name = "without_gradient"

    def loss(self, logits: Any, labels: Any, step: Any) -> Any:
        return logits.detach().mean()


def test_a_failing_run_leaves_the_others_their_records(on_features: Any, options: Any, tmp_path: Path) -> None:
    methods = ["an", Fails, NotFinite, WithoutGradient, "llr"]
    requests = [on_features(method, changes={"train.epochs": 3}) for method in methods]
    requests.append(on_features("an", changes={"train.learning_rate": 1.0}))
    records = run_together(requests, options("together"))
    kinds = [type(record) for record in records]
    assert kinds == [dict, MethodError, MlbenchError, MethodError, dict, UsageError]
    assert "method 'fails' failed in training_step (phase 'train'): ValueError: no more" in str(records[1])
    assert "the loss has no gradient" in str(records[3])
    for number in (0, 4):
        alone = run(requests[number], options("alone"))
        found, expected = scores(tmp_path / "together", records[number]), scores(tmp_path / "alone", alone)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert len(find_records(tmp_path / "together")[0]) == 2


@pytest.mark.parametrize("number", [1, 5])
def test_stopped_runs_go_on_from_their_own_checkpoints(
    on_features: Any, options: Any, tmp_path: Path, number: int
) -> None:
    requests = [on_features(method, changes={"train.epochs": 3}) for method in ("an", "llcp", "llr_boostlu")]
    left = [number]

    def stop() -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run_together(requests, options("together", checkpoint_seconds=0.0, on_checkpoint=stop))
    assert threading.active_count() == before
    assert find_records(tmp_path / "together")[0] == []
    records = run_together(requests, options("together", resume=True))
    for request, record in zip(requests, records, strict=True):
        alone = run(request, options("alone"))
        found, expected = scores(tmp_path / "together", record), scores(tmp_path / "alone", alone)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
        assert not (run_dir(tmp_path / "together", alone["key"]) / "checkpoint.pt").exists()


def test_nothing_of_it_stays_in_the_process(on_features: Any, options: Any) -> None:
    before = PRODUCT.get()
    run_together([on_features("an"), on_features("an", seed=1)], options("together"))
    assert PRODUCT.get() is before
    assert isinstance(build_head(HeadSpec(), 4, 2), Head)
    assert load_method("an").tracks == ("head", "full")
