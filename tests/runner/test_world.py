"""One, two and three processes give the same scores and train the same network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlbench.conformance.suite import make_request, read_scores
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.methods import Batch, Phase
from mlbench.metrics import Logits, Streaming, average_precision, precision_recall_f1
from mlbench.registry import load_method
from mlbench.runner.checkpoint import load_tensors
from mlbench.runner.evaluate import predict_part
from mlbench.runner.execute import Options, run
from mlbench.runner.feed import Feed
from mlbench.runner.plan import Request, resolve
from mlbench.runner.processes import in_several
from mlbench.runner.task import RunTask
from mlbench.runner.world import World, leave
from mlbench.store import run_dir

#: Test rows that neither 2 nor 3 processes share out evenly, and fewer rows than processes.
TEST_SIZES = (1, 7, 10)
METHODS = ("an", "llr")
#: A recipe whose parts look at gradients and weights of all processes, and at images. With SGD: Adam divides by the
#: gradient's size, and so hides a wrong norm and blows up rounding.
RECIPE = {
    **{"train.ema": 0.8, "train.clip_norm": 0.3, "train.warmup_steps": 2, "train.cutout": 0.5, "train.randaugment": 2},
    **{"train.optimizer": "sgd", "train.momentum": 0.0, "train.lr": 0.02},
}
#: Of seven images and three classes, with ties.
SCORES = np.round(np.random.default_rng(0).normal(size=(7, 3)), 1).astype(np.float32)
TARGETS = np.random.default_rng(1).random((7, 3)) < 0.5


def request_of(name: str, folder: Path, test: int = 7) -> Request:
    """32 training rows in batches of 31: the last batch has one row, so that most processes have none."""
    request = make_request(load_method(name), "full", folder, tiny_dataset(test=test))
    return replace(request, changes={**request.changes, "train.batch_size": 31})


class Normed(load_method("an")):  # type: ignore[misc]
    """AN on a network with BatchNorm: each process updates its running statistics from its own rows."""

    name = "normed"

    def network(self, phase: Phase) -> torch.nn.Module:
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(3, 8, 5, stride=4), torch.nn.BatchNorm2d(8, momentum=0.5), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4))

    def training_step(self, network: torch.nn.Module, batch: Batch, step: Any) -> torch.Tensor:
        return self.loss(network(batch.inputs), batch.labels, step)

    def predict(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return network(batch.inputs)

    def after_step(self, network: torch.nn.Module, step: Any) -> None:
        self.task.look(network, np.arange(6), lambda network, batch: network(batch.inputs))


def normed(folder: Path) -> Request:
    request = make_request(Normed, "full", folder, tiny_dataset(test=7))
    return replace(request, changes={**request.changes, "train.batch_size": 9, "train.lr": 0.02, "train.ema": 0.5})


def with_recipe(folder: Path) -> Request:
    request = request_of("an", folder)
    return replace(request, changes={**request.changes, **RECIPE})


def work(folder: Path, out: Path) -> None:
    """What every process does: scores of an untrained network, then a whole run of each method."""
    world = World("cpu")
    out.mkdir(parents=True, exist_ok=True)
    for size in TEST_SIZES:
        resolved = resolve(request_of("an", folder, size))
        feed = Feed(resolved, world.device)
        method = resolved.method(RunTask(resolved, world, feed))
        network = method.network(method.phases()[0])
        seen = predict_part(network, method.predict, feed, "test", world)
        np.save(out / f"scores-{size}-rank{world.rank}.npy", seen.scores.numpy())
    # Each process counts its rows only, or has none; merged, the metrics are those of all rows.
    for size in (1, 7):
        rows, _ = world.share(np.arange(size))
        seen = Streaming()
        if len(rows):
            seen.add(Logits(SCORES[rows]), SCORES[rows] > 0, TARGETS[rows])
        whole = Streaming()
        for each in world.gather_items([seen], replicated=False):
            whole.merge(each)
        f1 = whole.precision_recall_f1().F1
        np.save(out / f"metrics-{size}-rank{world.rank}.npy", np.stack([whole.average_precision(), f1]))
    # Each process knows its rows only; joined they are in order, and the gradient is that of the own rows.
    rows, sizes = world.share(np.arange(7))
    mine = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    whole = world.gather(mine if len(rows) else torch.zeros(1, requires_grad=True), sizes)
    (whole**2).sum().backward()
    np.save(out / f"gathered-rank{world.rank}.npy", whole.detach().numpy())
    np.save(out / f"gradient-rank{world.rank}.npy", mine.grad.numpy() - 2 * rows)
    for name in METHODS:
        run(request_of(name, folder), Options(store=out / "runs", device="cpu", quiet=True, checkpoint_seconds=0.0))
    for request in (normed(folder), with_recipe(folder)):
        run(request, Options(store=out / "runs", device="cpu", quiet=True))


def one_process(rank: int, folder: Path) -> None:
    work(folder, folder / "out")
    leave()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes."""
    folder = tmp_path_factory.mktemp("alone")
    work(folder, folder / "out")
    return folder / "out"


@pytest.fixture(scope="module", params=[2, 3])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """What several processes write, and how many they are."""
    folder = tmp_path_factory.mktemp("several")
    in_several(one_process, request.param, folder)
    return folder / "out", request.param


@pytest.mark.parametrize("size", TEST_SIZES)
def test_every_process_holds_the_scores_that_one_process_computes(several, alone: Path, size: int) -> None:
    out, processes = several
    expected = np.load(alone / f"scores-{size}-rank0.npy")
    assert expected.shape == (size, 4)
    for rank in range(processes):
        np.testing.assert_allclose(np.load(out / f"scores-{size}-rank{rank}.npy"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*METHODS, "a recipe"])
def test_training_gives_the_network_that_one_process_trains(several, alone: Path, name: str, tmp_path: Path) -> None:
    out, processes = several
    key = resolve(with_recipe(tmp_path) if name == "a recipe" else request_of(name, tmp_path)).key
    record = {"key": key, "predictions": {"test": {"file": "test.safetensors"}}}
    expected = read_scores(alone / "runs", record)
    np.testing.assert_allclose(read_scores(out / "runs", record), expected, rtol=1e-5, atol=1e-5)
    assert not list((out / "runs").glob("*/checkpoint.pt")), f"{processes} processes left a checkpoint behind"


def test_several_processes_score_by_the_running_statistics_that_are_saved(several, tmp_path: Path) -> None:
    out, _ = several
    resolved = resolve(normed(tmp_path))
    stored = run_dir(out / "runs", resolved.key)
    world = World("cpu")
    feed = Feed(resolved, world.device)
    method = resolved.method(RunTask(resolved, world, feed))
    network = method.network(method.phases()[0])
    network.load_state_dict(load_tensors(stored / "weights.safetensors"))
    for part in ("val", "test"):
        expected = predict_part(network, method.predict, feed, part, world).scores.numpy()
        np.testing.assert_allclose(read_predictions(stored / f"{part}.safetensors").scores, expected, atol=1e-5, rtol=0)


def test_gathered_rows_stand_in_order_and_carry_the_gradient_of_the_own_rows(several) -> None:
    out, processes = several
    for rank in range(processes):
        assert np.load(out / f"gathered-rank{rank}.npy").tolist() == list(range(7))
        assert (np.load(out / f"gradient-rank{rank}.npy") == 0).all()


@pytest.mark.parametrize("size", [1, 7])
def test_merged_metrics_are_those_of_all_rows_to_the_bit(several, size: int) -> None:
    out, processes = several
    scores, targets = SCORES[:size], TARGETS[:size]
    f1 = precision_recall_f1(scores > 0, targets).F1
    for rank in range(processes):
        ap, found = np.load(out / f"metrics-{size}-rank{rank}.npy")
        np.testing.assert_array_equal(ap, average_precision(Logits(scores), targets))
        np.testing.assert_array_equal(found, f1)


def test_one_process_gathers_what_it_has_without_padding() -> None:
    world = World("cpu")
    rows, sizes = world.share(np.arange(5))
    assert rows.tolist() == list(range(5))
    assert sizes == [5]
    padded = torch.arange(8.0, requires_grad=True)
    assert world.gather(padded, sizes).tolist() == list(range(5))
    assert world.agree({"a": 1}) == {"a": 1}


def test_a_row_that_is_predicted_twice_or_not_at_all_is_an_error(tmp_path: Path) -> None:
    resolved = resolve(request_of("an", tmp_path))
    world = World("cpu")
    feed = Feed(resolved, world.device)
    network = torch.nn.Identity()

    def scores(factor: float, extra: int = 0):
        def predict(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
            return torch.full((len(batch.index) + extra, 4), factor)

        return predict

    assert predict_part(network, scores(1.0), feed, "test", world).scores.shape == (7, 4)
    from mlbench.errors import MlbenchError

    with pytest.raises(MlbenchError, match="not finite for test"):
        predict_part(network, scores(float("nan")), feed, "test", world)
    with pytest.raises(MlbenchError, match=r"shape \[6, 4\] for test, expected \[7, 4\]"):
        predict_part(network, scores(1.0, extra=-1), feed, "test", world)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "--device tpu: expected auto, cpu or cuda"),
        ({"precision": "fp8"}, "--precision fp8: expected fp32 or bf16"),
    ],
)
def test_a_device_or_precision_that_does_not_exist_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        World(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_without_a_device_is_refused() -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        World("cuda")
