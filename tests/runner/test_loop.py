"""The training loop: parameter groups, schedules, frozen roles, accumulation, and what stops a run."""

from __future__ import annotations

import gc
import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mlbench.conformance.suite import compare, read_course, read_scores, run_with_stops
from mlbench.errors import MlbenchError, UsageError
from mlbench.methods import Method, Phase, Step
from mlbench.methods.labels import Labels
from mlbench.registry import load_method
from mlbench.runner import execute
from mlbench.runner.evaluate import evaluating
from mlbench.runner.feed import Feed
from mlbench.runner.loop import (
    PhaseLoop,
    StepModule,
    epoch_order,
    freeze_other_roles,
    make_optimizer,
    make_scheduler,
    set_training_mode,
)
from mlbench.runner.plan import resolve
from mlbench.runner.task import RunTask
from mlbench.runner.world import World
from mlbench.seeds import id_hashes
from mlbench.settings import TrainSettings


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"epochs": 4, "batch_size": 2, "lr": 0.1, "image_size": 8, **changes})


class Network(nn.Module):
    """A trunk with BatchNorm, a head, and a state: three roles."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.state = nn.Embedding(5, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).mean(dim=(2, 3)))


# --- parameter groups -------------------------------------------------------------------------------------------------


def test_each_role_is_a_group_with_its_own_rate() -> None:
    network = Network()
    optimizer = make_optimizer(network, settings(lr=0.01, lr_multipliers={"head": 10.0, "state": 0.5}))
    rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"backbone": 0.01, "head": 0.1, "state": 0.005})
    members = {group["role"]: {id(p) for p in group["params"]} for group in optimizer.param_groups}
    assert members == {name: {id(p) for p in part.parameters()} for name, part in network.named_children()}


@pytest.mark.parametrize(
    ("name", "kind", "defaults"),
    [
        ("adam", torch.optim.Adam, {"weight_decay": 0.25}),
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.25}),
        ("sgd", torch.optim.SGD, {"weight_decay": 0.25, "momentum": 0.7, "nesterov": False}),
        ("rmsprop", torch.optim.RMSprop, {"weight_decay": 0.25, "momentum": 0.7}),
    ],
)
def test_the_optimiser_asked_for_gets_decay_and_momentum(name: str, kind: type, defaults: dict[str, float]) -> None:
    optimizer = make_optimizer(Network(), settings(optimizer=name, weight_decay=0.25, momentum=0.7))
    assert type(optimizer) is kind
    assert {key: optimizer.defaults[key] for key in defaults} == defaults


def test_frozen_roles_are_in_no_group_and_none_at_all_is_an_error() -> None:
    network = Network()
    freeze_other_roles(network, ("head",))
    assert [group["role"] for group in make_optimizer(network, settings()).param_groups] == ["head"]
    network = Network()
    freeze_other_roles(network, None)
    assert len(make_optimizer(network, settings()).param_groups) == 3
    freeze_other_roles(network, ())
    with pytest.raises(UsageError, match="no trainable parameter"):
        make_optimizer(network, settings())


def test_frozen_roles_keep_parameters_and_batchnorm_statistics() -> None:
    network = Network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    freeze_other_roles(network, ("head",))
    optimizer = make_optimizer(network, settings())
    set_training_mode(network, ("head",))
    network(torch.randn(6, 3, 2, 2)).sum().backward()
    optimizer.step()
    after = network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}
    set_training_mode(network, None)
    network(torch.randn(6, 3, 2, 2))
    assert not torch.equal(before["backbone.1.running_mean"], network.state_dict()["backbone.1.running_mean"])


# --- schedules --------------------------------------------------------------------------------------------------------


def rates(steps: int, **changes: Any) -> dict[str, list[float]]:
    """By role, the rate at each of the ``epochs * steps`` optimiser steps."""
    chosen = settings(lr_multipliers={"head": 10.0}, **changes)
    optimizer = make_optimizer(Network(), chosen)
    scheduler = make_scheduler(optimizer, chosen, steps)
    found: dict[str, list[float]] = {group["role"]: [] for group in optimizer.param_groups}
    for _ in range(chosen.epochs * steps):
        for group in optimizer.param_groups:
            found[group["role"]].append(group["lr"])
        optimizer.step()
        scheduler.step()
    return found


def half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def one_cycle(peak: float, total: int, warmup: float) -> list[float]:
    """From a 25th up to the peak, then down to a 250,000th, each a half cosine (Smith & Topin; PyTorch's defaults)."""
    top = warmup * total - 1
    up = [half_cosine(peak / 25, peak, t / top) for t in range(total) if t <= top]
    down = [half_cosine(peak, peak / 25e4, (t - top) / (total - 1 - top)) for t in range(total) if t > top]
    return up + down


def test_constant_rate() -> None:
    found = rates(3)
    assert found["backbone"] == [0.1] * 12
    assert found["head"] == [1.0] * 12


def test_step_schedule_drops_after_whole_epochs() -> None:
    found = rates(2, epochs=5, schedule="step", step_every=2, step_factor=0.5)
    assert found["backbone"] == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.025] * 2)
    assert found["head"] == pytest.approx([1.0] * 4 + [0.5] * 4 + [0.25] * 2)


def test_cosine_schedule_falls_to_nothing_over_all_steps() -> None:
    found = rates(5, epochs=2, schedule="cosine")
    assert found["backbone"] == pytest.approx([half_cosine(0.1, 0.0, t / 10) for t in range(10)])
    assert found["head"] == pytest.approx([half_cosine(1.0, 0.0, t / 10) for t in range(10)])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("warmup", [0.2, 0.3])
def test_one_cycle_rises_and_falls(optimizer: str, warmup: float) -> None:
    found = rates(5, schedule="one_cycle", warmup=warmup, optimizer=optimizer)
    assert found["backbone"] == pytest.approx(one_cycle(0.1, 20, warmup))
    assert found["head"] == pytest.approx(one_cycle(1.0, 20, warmup))


def test_one_cycle_moves_the_momentum_against_the_rate() -> None:
    chosen = settings(schedule="one_cycle", optimizer="sgd", momentum=0.5)
    optimizer = make_optimizer(Network(), chosen)
    scheduler = make_scheduler(optimizer, chosen, 5)
    found = []
    for _ in range(20):
        found.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    assert found[0] == pytest.approx(0.95)
    assert min(found) == pytest.approx(0.85)
    assert found[-1] == pytest.approx(0.95)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.3), (2, 0.5), (10, 0.1), (10, 0.05)])
def test_one_cycle_without_a_step_to_warm_up_is_refused(steps: int, warmup: float) -> None:
    with pytest.raises(UsageError, match=rf"train.warmup = {warmup} of {steps} steps"):
        rates(steps, epochs=1, schedule="one_cycle", warmup=warmup)


# --- order ------------------------------------------------------------------------------------------------------------

IDS = tuple(f"sample {i}" for i in range(50))


def test_the_order_of_an_epoch_is_a_permutation_fixed_by_data_repetition_and_epoch() -> None:
    order = epoch_order(id_hashes(IDS), ("data", 0, 1))
    assert sorted(order.tolist()) == list(range(50))
    assert (order == epoch_order(id_hashes(IDS), ("data", 0, 1))).all()
    others = [epoch_order(id_hashes(IDS), names) for names in (("data", 0, 2), ("data", 1, 1), ("other", 0, 1))]
    assert all((order != other).any() for other in others)


def test_samples_keep_their_relative_order_whatever_the_rows_and_the_company() -> None:
    whole = [IDS[row] for row in epoch_order(id_hashes(IDS), ("data", 0, 1))]
    some = IDS[40:10:-3]
    assert [some[row] for row in epoch_order(id_hashes(some), ("data", 0, 1))] == [
        name for name in whole if name in some
    ]


# --- steps ------------------------------------------------------------------------------------------------------------


def phase_loop(request: Any) -> PhaseLoop:
    run = resolve(request)
    world = World("cpu")
    feed = Feed(run, world.device)
    task = RunTask(run, world, feed)
    method = run.method(task)
    task.bind(method)
    (phase,) = method.phases()
    return PhaseLoop(task, method, phase, method.network(phase), world, feed)


@pytest.mark.parametrize("accumulate", [2, 3, 40])
def test_accumulated_steps_train_as_whole_batches_do(train, tmp_path, accumulate: int) -> None:
    whole = train()
    parts = train(changes={"train.accumulate": accumulate})
    assert whole["key"] != parts["key"]
    assert parts["epochs"][0]["loss"] == pytest.approx(whole["epochs"][0]["loss"], abs=1e-5)
    scores = [read_scores(tmp_path / "runs", record) for record in (whole, parts)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-4)


class SumLoss(load_method("an")):  # type: ignore[misc]
    """AN, summed over the batch."""

    reduction = "sum"

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return 0.01 * nn.functional.binary_cross_entropy_with_logits(logits, labels.positive.float(), reduction="sum")


def test_accumulating_a_summed_loss_adds_the_parts_up(train, tmp_path) -> None:
    """By plain descent: Adam does not look at the size of a gradient, and makes much of its last digits."""
    plain = {"train.optimizer": "sgd", "train.momentum": 0.0, "train.lr": 0.1}
    changes = [{**plain, "train.accumulate": n} for n in (1, 3)] + [{**plain, "train.lr": 0.1 / 3}]
    scores = [read_scores(tmp_path / "runs", train(SumLoss, changes=change)) for change in changes]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-4)
    assert np.abs(scores[0] - scores[2]).max() > 0.01  # what a mean over the parts would do


def test_a_loss_across_the_whole_batch_refuses_accumulation(tiny_request) -> None:
    with pytest.raises(UsageError, match=r"method 'llr' looks across the whole batch.*train.accumulate = 2"):
        resolve(tiny_request("llr", changes={"train.accumulate": 2}))


def test_the_loss_of_an_epoch_is_the_mean_over_images(tiny_request) -> None:
    """With rate so small that nothing moves: 32 rows in batches of 11, 11 and 10."""
    loop = phase_loop(tiny_request(changes={"train.lr": 1e-30, "train.augment": []}))
    row = loop.run_epoch(lambda: False, lambda: None, lambda count: None)
    batch = loop.feed.batch("train", np.arange(32), None)
    labels = loop.task.labels.rows(np.arange(32))
    with torch.no_grad():
        expected = loop.method.loss(loop.network(batch.inputs).logits.double(), labels, None)
    assert row["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert row["log"]["pseudo_labels"] == 0


def test_methods_of_one_repetition_start_from_the_same_weights(tiny_request) -> None:
    states = [phase_loop(tiny_request(name)).network.state_dict() for name in ("an", "llr", "llr_boostlu", "full")]
    other = phase_loop(tiny_request("an", seed=1)).network.state_dict()
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)
    assert any(not torch.equal(other[name], states[0][name]) for name in other)


class TwoTerms(Method):
    """A loss of two named terms, one of which becomes NaN."""

    poison = math.nan

    def training_step(self, network: nn.Module, batch: Any, step: Step) -> dict[str, Tensor]:
        logits = network(batch.inputs).logits
        last = step.step == step.steps - 1
        return {"fit": logits.square().mean(), "extra": logits.mean() * (self.poison if last else 1.0)}


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_without_a_record(train, tmp_path, poison: float) -> None:
    method = type("Poisoned", (TwoTerms,), {"poison": poison, "name": "poisoned"})
    with pytest.raises(MlbenchError, match=r"^extra of method 'poisoned' is not finite in epoch 2 of phase 'train'"):
        train(method)
    assert not list((tmp_path / "runs").rglob("record.json"))


def test_each_term_of_a_loss_is_logged_and_their_sum_is_the_loss(train) -> None:
    record = train(type("Sound", (TwoTerms,), {"poison": 2.0, "name": "sound"}))
    for row in record["epochs"]:
        assert row["loss"] == pytest.approx(row["log"]["fit"] + row["log"]["extra"])


def test_a_phase_that_names_an_unknown_training_setting_is_refused(train) -> None:
    class Typo(Method):
        """Wrong."""

        name = "typo"

        def phases(self) -> list[Phase]:
            return [Phase(train={"epoch": 1})]

    with pytest.raises(UsageError, match=r"phase 'train': unknown training setting 'epoch'. Did you mean 'epochs'"):
        train(Typo)


def test_a_method_without_a_loss_says_so(train) -> None:
    class Bare(Method):
        """Nothing."""

        name = "bare"

    with pytest.raises(UsageError, match="method 'bare' defines neither loss nor training_step"):
        train(Bare)


# --- what is frozen stays frozen --------------------------------------------------------------------------------------


class LooksAround(Method):
    """Trains the head over a frozen trunk with BatchNorm, and looks at training images after every step."""

    name = "looks_around"
    tracks = ("full",)
    looks = True
    modes: ClassVar[list[bool]] = []
    networks: ClassVar[list[Any]] = []

    def phases(self) -> list[Phase]:
        return [Phase("early", roles=("head",), selection="last"), Phase("late", roles=("head",))]

    def network(self, phase: Phase) -> nn.Module:
        torch.manual_seed(3)
        network = Network()
        network.head = nn.Linear(4, self.task.num_classes)
        network.state.requires_grad_(False)  # by the method, in no role of its own
        self.networks.append(network)
        return network

    def training_step(self, network: nn.Module, batch: Any, step: Step) -> Tensor:
        logits = network(batch.inputs)
        return nn.functional.binary_cross_entropy_with_logits(logits, batch.labels.positive.to(logits.dtype))

    def predict(self, network: nn.Module, batch: Any) -> Tensor:
        return network(batch.inputs)

    def after_step(self, network: nn.Module, step: Step) -> None:
        if self.looks:
            self.task.look(network, np.arange(3), lambda network, batch: network(batch.inputs))
            self.task.predict(network)
        self.modes.append(network.backbone.training)


def test_a_pass_over_the_data_leaves_frozen_roles_frozen(train, tiny_request, tmp_path) -> None:
    blind = type("Blind", (LooksAround,), {"looks": False})
    records = [train(method, store=tmp_path / method.__name__) for method in (LooksAround, blind)]
    assert not any(LooksAround.modes)
    assert records[0]["predictions"] == records[1]["predictions"]
    course, stops = run_with_stops(tiny_request(LooksAround), tmp_path / "stopped", 5)
    assert stops
    compare(read_course(tmp_path / "LooksAround", records[0]), course, 0.0)


def test_freezing_never_undoes_what_the_method_froze_and_is_undone_after_the_phase(train) -> None:
    LooksAround.networks.clear()
    train(LooksAround)
    first = LooksAround.networks[0]
    assert not first.state.weight.requires_grad
    assert all(parameter.requires_grad for parameter in (*first.backbone.parameters(), *first.head.parameters()))
    network = Network()
    network.backbone.requires_grad_(False)
    assert freeze_other_roles(network, None) == []
    assert {group["role"] for group in make_optimizer(network, settings()).param_groups} == {"head", "state"}
    assert freeze_other_roles(network, ("backbone", "head")) == [network.state.weight]


def test_modules_in_other_modes_than_the_whole_come_back_in_theirs() -> None:
    network = Network().train()
    network.backbone.eval()

    def look() -> None:
        with evaluating(network, World("cpu")):
            assert not network.head.training
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        look()
    assert (network.training, network.head.training, network.backbone.training) == (True, True, False)
    assert not network.backbone[1].training


def test_what_trained_a_phase_is_let_go_of(train, monkeypatch) -> None:
    alive = []
    real = execute.Execution._record

    def record(self: Any, *given: Any) -> Any:
        alive.append(sum(isinstance(each, StepModule) for each in gc.get_objects()))
        return real(self, *given)

    monkeypatch.setattr(execute.Execution, "_record", record)
    train("curriculum", changes={"rounds": 3, "train.epochs": 3})
    assert alive[-1] <= 1  # that of the last phase, until its cycles are collected
