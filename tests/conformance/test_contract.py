"""The contract carries methods of every kind, in one process and in two, stopped, killed and resumed."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional

from mlbench import registry
from mlbench.annotation import State
from mlbench.conformance import suite as conformance
from mlbench.conformance.suite import (
    Course,
    _declarations,
    check_method,
    compare,
    make_request,
    read_course,
    run_with_stops,
    with_sgd,
)
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import MlbenchError, UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.methods import Batch, Hyper, Method, Phase, Step
from mlbench.methods.labels import Change, Labels, LabelStore
from mlbench.protocol import load_protocol
from mlbench.registry import load_method
from mlbench.runner.checkpoint import load_checkpoint
from mlbench.runner.execute import Options, run
from mlbench.runner.feed import Feed
from mlbench.runner.loop import epoch_order
from mlbench.runner.plan import Request, resolve, used_requests
from mlbench.runner.task import RunTask
from mlbench.runner.world import World, leave
from mlbench.seeds import id_hashes
from mlbench.store import read_record, run_dir

METHODS = {
    "try_llcp": "LargeLossCorrection",
    "try_role_li": "OnlineEstimation",
    "try_vac_fs": "AttentionConsistency",
    "try_kd_wsd": "DetectionDistillation",
    "try_lsep": "PairwiseRanking",
    "try_cnn_rnn": "LabelSequence",
    "try_apl": "Relabelling",
}
HELPERS = {
    "try_wsddn": "WeakDetector",
    "try_counting": "Counting",
    "try_forgetful": "Forgetful",
    "try_summed": "Summed",
}
PHASES = {"try_role_li": {"linear", "finetune"}, "try_kd_wsd": {"features", "predictions"}}
PHASES |= {"try_lsep": {"ranking", "thresholds"}}
SETTINGS = '[try_lsep.elsewhere]\nsource = "nowhere"\n"train.lr" = 0.5\n[try_lsep.elsewhere.full]\n"train.epochs" = 3\n'

Checkpoints = list[dict[str, Any]]


def request_of(name: str, folder: Path) -> Request:
    """A short run; the label sequences get full labels, so that they have more than one."""
    request = with_sgd(make_request(load_method(name), "full", folder, tiny_dataset()))
    return replace(request, protocol=load_protocol("full")) if name == "try_cnn_rnn" else request


def run_watched(request: Request, store: Path) -> tuple[dict[str, Any], Checkpoints]:
    """Run to the end; the record, and every checkpoint of this run (not of those it uses)."""
    seen: Checkpoints = []
    key = resolve(request).key
    path = run_dir(store, key) / "checkpoint.pt"

    def look() -> None:
        if path.exists():
            seen.append(load_checkpoint(path, key))

    options = Options(store=store, device="cpu", quiet=True, checkpoint_seconds=0.0, on_checkpoint=look)
    return run(request, options), seen


# -- the plugin, and processes that know it -----------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install throwaway.py as a distribution with entry points; new processes find it too."""
    folder = tmp_path_factory.mktemp("site-packages")
    shutil.copy(Path(__file__).with_name("throwaway.py"), folder / "throwaway_plugin.py")
    (folder / "throwaway_plugin.toml").write_text(SETTINGS)
    about = folder / "throwaway_plugin-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: throwaway-plugin\nVersion: 0.1\n")
    points = [f"{name} = throwaway_plugin:{cls}\n" for name, cls in {**METHODS, **HELPERS}.items()]
    (about / "entry_points.txt").write_text("[mlbench.methods]\n" + "".join(points))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        registry.forget()
        yield folder
    registry.forget()


@pytest.fixture(scope="module")
def processes(plugin: Path) -> Any:
    """Where new processes come from: forked from a clean one, so that torch is imported once and not by each."""
    context = multiprocessing.get_context("forkserver")
    imports = ["torch._dynamo", "torch.distributed.tensor", "mlbench.conformance.suite", "mlbench.runner.execute"]
    context.set_forkserver_preload([*imports, "throwaway_plugin"])
    return context


def one_of_two(rank: int, port: int, folder: Path, cache: str) -> None:
    """Every method, whole and with stops; process 0 tells where the stops were and what the label store logged."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"OMP_NUM_THREADS": "1", "MLBENCH_CACHE": cache}
    torch.set_num_threads(1)
    stops: dict[str, list[tuple[str, int]]] = {}
    run_watched(request_of("try_summed", folder), folder / "whole")
    for name in METHODS:
        request = request_of(name, folder)
        _, seen = run_watched(request, folder / "whole")
        key = resolve(request).key
        path = run_dir(folder / "stopped", key) / "checkpoint.pt"

        def look(path: Path = path, key: str = key, name: str = name) -> None:
            if rank == 0 and path.exists():
                saved = load_checkpoint(path, key)
                stops.setdefault(name, []).append((saved["phase"], saved["loop"]["position"]["batch"]))

        run_with_stops(request, folder / "stopped", 3, look)
        if rank == 0:
            torch.save(seen[-1]["loop"]["labels"], folder / f"{name}-labels.pt")
    if rank == 0:
        (folder / "stops.json").write_text(json.dumps(stops))
    leave()


@dataclass
class Alone:
    """What one process made of each method."""

    folder: Path
    records: dict[str, dict[str, Any]]
    checkpoints: dict[str, Checkpoints]

    @property
    def store(self) -> Path:
        return self.folder / "runs"

    def course(self, name: str) -> Course:
        return read_course(self.store, self.records[name])

    def tensors(self, name: str, file: str) -> dict[str, np.ndarray]:
        return load_file(run_dir(self.store, self.records[name]["key"]) / f"{file}.safetensors")

    def predictions(self, name: str) -> Any:
        return read_predictions(run_dir(self.store, self.records[name]["key"]) / "test.safetensors")


@pytest.fixture(scope="module")
def alone(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    found = Alone(tmp_path_factory.mktemp("alone"), {}, {})
    for name in [*METHODS, "try_summed"]:
        found.records[name], found.checkpoints[name] = run_watched(request_of(name, found.folder), found.store)
    return found


@pytest.fixture(scope="module")
def pair(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes did what `one_of_two` says."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        processes.Process(target=one_of_two, args=(rank, port, folder, os.environ["MLBENCH_CACHE"]))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 600
    while any(worker.exitcode is None for worker in workers) and not any(worker.exitcode for worker in workers):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for worker in workers:
        if worker.exitcode is None:  # the other one failed, and this one would wait for it
            worker.kill()
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0], "a process failed; see its output"
    return folder


def course_of(name: str, store: Path) -> Course:
    key = resolve(request_of(name, store.parent)).key
    return read_course(store, read_record(run_dir(store, key) / "record.json"))


# -- every method -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*METHODS, "try_wsddn", "try_counting"])
def test_a_method_of_any_kind_passes_the_conformance_suite(name: str) -> None:
    report = check_method(name, processes=False)
    assert report.passed, report.text()
    skipped = {check for _, check, outcome, _ in report.rows if outcome == "skipped"}
    assert skipped == ({"sees no hidden label"} if name == "try_role_li" else set())


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_what_one_process_trains(name: str, alone: Alone, pair: Path) -> None:
    compare(alone.course(name), course_of(name, pair / "whole"), 1e-5)


def test_a_sum_declared_as_a_mean_is_found_by_two_processes(alone: Alone, pair: Path) -> None:
    with pytest.raises(MlbenchError, match="differ by"):
        compare(alone.course("try_summed"), course_of("try_summed", pair / "whole"), 1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_stopped_again_and_again_reach_the_same_bits(name: str, pair: Path) -> None:
    compare(course_of(name, pair / "whole"), course_of(name, pair / "stopped"), 0.0)
    stops = json.loads((pair / "stops.json").read_text())[name]
    assert {phase for phase, _ in stops} >= PHASES.get(name, {"train"}), "a phase without a stop proves nothing"
    assert {batch for _, batch in stops} & {1, 2}, "no stop within an epoch"


def test_a_method_that_forgets_in_its_second_phase_does_not_conform() -> None:
    report = check_method("try_forgetful", processes=False)
    failed = {check for _, check, outcome, _ in report.rows if outcome == "FAILED"}
    assert failed == {"stopped and resumed, same bits"}, report.text()


class Peeking(Method):
    """Learns the labels of the test images by heart, or takes what it does from those of the validation images."""

    part = "test"

    def loss(self, logits: Tensor, labels: Labels, step: Step) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, labels.positive.to(logits.dtype))

    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        scores = network(batch.inputs).logits
        truth = torch.from_numpy(np.asarray(self.task._run.parts[self.part].labels) == 1).to(scores.dtype)
        if self.part == "test":
            return scores + truth[batch.index] if batch.part == "test" else scores
        return scores * (1 + truth.mean(0))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_method_that_looks_at_labels_of_other_parts_does_not_conform(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat = type("Cheat", (Peeking,), {"name": "cheat", "part": part, "__doc__": "Looks.", "tracks": ("full",)})
    monkeypatch.setattr(conformance, "load_method", lambda name: cheat)
    report = check_method("cheat", processes=False)
    failed = {check for _, check, outcome, _ in report.rows if outcome == "FAILED"}
    assert failed == {"needs no validation or test label"}, report.text()


# -- llcp: labels changed in a step -------------------------------------------------------------------------------


def labels_changed(alone: Alone, name: str) -> dict[str, np.ndarray]:
    saved = alone.checkpoints[name][-1]["loop"]["labels"]
    return {name: tensor.numpy() for name, tensor in saved.items()}


def test_the_log_holds_every_label_change_once_in_the_order_of_the_steps(alone: Alone) -> None:
    log, part = labels_changed(alone, "try_llcp"), resolve(request_of("try_llcp", alone.folder)).parts["train"]
    # Batches of 11, 11 and 10 images with 4 classes; 5 % of the entries, rounded up: 3, 3 and 2 from epoch 2 on.
    assert log["epoch"].tolist() == [2] * 8 + [3] * 8 + [4] * 8
    assert [row["log"]["pseudo_labels"] for row in alone.records["try_llcp"]["epochs"]] == [0, 8, 16, 24]
    assert (log["state"] == State.POSITIVE).all()
    assert (log["value"] == 1).all()
    assert len(set(zip(log["row"], log["class"], strict=True))) == 24, "a permanent positive was chosen again"
    assert (part.observed[log["row"], log["class"]] == State.UNKNOWN).all()
    for epoch in (2, 3, 4):
        order = epoch_order(id_hashes(part.split.ids), ("tiny", 0, epoch))
        rows = log["row"][log["epoch"] == epoch]
        assert set(rows[:3]) <= set(order[:11])
        assert set(rows[3:6]) <= set(order[11:22])
        assert set(rows[6:]) <= set(order[22:])


@pytest.mark.parametrize("method", ["try_llcp", "try_apl"])
def test_two_processes_log_the_changes_that_one_process_logs(method: str, alone: Alone, pair: Path) -> None:
    theirs = torch.load(pair / f"{method}-labels.pt", weights_only=True)
    for name, values in labels_changed(alone, method).items():
        np.testing.assert_allclose(theirs[name].numpy(), values, rtol=0, atol=1e-6 if name == "value" else 0)


def test_changes_made_by_row_and_after_an_epoch_are_logged_with_their_values(alone: Alone) -> None:
    log = labels_changed(alone, "try_apl")
    assert alone.records["try_apl"]["epochs"][-1]["log"]["pseudo_labels"] > 32
    # Two entries of each class after epochs 1 and 2; those after the last epoch are in no checkpoint. In epoch 2 one
    # of each image, as long as an unknown one is left.
    softly = log["state"] == State.NEGATIVE
    assert log["epoch"][softly].tolist() == [1] * 8 + [2] * 8
    assert ((log["value"][softly] > 0) & (log["value"][softly] < 1)).all()
    assert (log["epoch"][~softly] == 2).all()
    assert len(set(log["row"][~softly])) == (~softly).sum() == 32
    assert (log["value"][~softly] == 0.75).all()


def test_a_log_is_replayed_in_its_order_though_epochs_are_counted_anew_in_each_phase() -> None:
    store = LabelStore(np.zeros((2, 2), dtype=np.int8))
    one = np.array([1])

    def write(epoch: int, state: State, value: float) -> None:
        store.apply(Change(one, one, np.array([state], np.int8), np.array([value], np.float32)), epoch)

    write(2, State.POSITIVE, 1.0)
    write(1, State.NEGATIVE, 0.25)  # the first epoch of the next phase
    again = LabelStore(store.observed)
    again.load_state_dict(store.state_dict())
    assert (again.state == store.state).all()
    assert again.value[1, 1] == 0.25
    assert [epoch for epoch, _ in again.log] == [2, 1]


def train_llcp(folder: Path, cache: str, told: Any) -> None:
    """Go on with the run, telling `told` of each checkpoint."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MLBENCH_CACHE": cache}
    torch.set_num_threads(1)
    options = Options(
        store=folder / "runs",
        resume=True,
        device="cpu",
        quiet=True,
        checkpoint_seconds=0.0,
        on_checkpoint=lambda: told.send("checkpoint"),
    )
    run(request_of("try_llcp", folder), options)


def test_labels_changed_before_a_sigkill_are_there_after_it(processes: Any, alone: Alone, tmp_path: Path) -> None:
    kills, chance = 0, random.Random()
    while not list(tmp_path.glob("runs/*/record.json")):
        ours, theirs = processes.Pipe(duplex=False)
        worker = processes.Process(target=train_llcp, args=(tmp_path, os.environ["MLBENCH_CACHE"], theirs))
        worker.start()
        theirs.close()
        try:
            for _ in range(chance.randint(2, 4)):
                ours.recv()
            time.sleep(chance.uniform(0, 0.03))
            worker.kill()
        except EOFError:  # it came to its end before the kill
            pass
        worker.join()
        assert worker.exitcode in (0, -9)
        kills += worker.exitcode == -9
        assert kills < 50
    assert kills >= 2
    record = read_record(next(tmp_path.glob("runs/*/record.json")))
    assert record["predictions"] == alone.records["try_llcp"]["predictions"]
    compare(alone.course("try_llcp"), read_course(tmp_path / "runs", record), 0.0)


def test_forgetting_the_changed_labels_would_be_seen(
    alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LabelStore, "load_state_dict", lambda self, saved: None)
    course, stops = run_with_stops(request_of("try_llcp", tmp_path), tmp_path / "runs", 6)
    assert stops
    with pytest.raises(MlbenchError, match="differ"):
        compare(alone.course("try_llcp"), course, 0.0)


# -- role_li: state of each sample, pooled features, two phases ---------------------------------------------------


@pytest.fixture(scope="module")
def with_adam(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], Checkpoints]:
    """What phase 1 of `try_role_li` hands over, and the checkpoints, with Adam."""
    folder = tmp_path_factory.mktemp("adam")
    record, seen = run_watched(make_request(load_method("try_role_li"), "full", folder, tiny_dataset()), folder)
    return load_file(run_dir(folder, record["key"]) / "phase-linear.safetensors"), seen


def test_the_state_has_ten_times_the_rate_and_moves_in_rows_outside_the_batch(alone: Alone, with_adam: Any) -> None:
    _, checkpoints = with_adam
    for saved in checkpoints:
        rates = {group["role"]: group["lr"] for group in saved["loop"]["optimizer"]["param_groups"]}
        both = {"head": 1e-2, "state": 1e-2}  # the protocol's factor of the head stays in force
        assert rates == (both if saved["phase"] == "linear" else {"backbone": 1e-3, **both})
    part = resolve(request_of("try_role_li", alone.folder)).parts["train"]
    order = epoch_order(id_hashes(part.split.ids), ("tiny", 0, 1))
    first, second = (saved["loop"]["network"]["state.logits"] for saved in checkpoints[:2])
    moved = (first != second).any(dim=1).numpy()
    assert moved[order[:22]].all(), "dense Adam moves every row that ever had a gradient"
    assert not moved[order[22:]].any()


def test_head_and_state_are_handed_over(with_adam: Any) -> None:
    handed, checkpoints = with_adam
    assert set(handed) == {"head.weight", "head.bias", "state.logits"}
    begun = next(saved for saved in checkpoints if saved["phase"] == "finetune")
    for name, tensor in handed.items():
        step = np.abs(begun["loop"]["network"][name].numpy() - tensor).max()
        assert 0 < step <= 1.01e-2, "the first step of Adam goes as far as the rate"


def test_the_count_of_labels_is_given_only_where_declared(alone: Alone) -> None:
    part = resolve(request_of("try_role_li", alone.folder)).parts["train"]
    assert task_of("try_role_li", alone.folder).label_count == (part.labels == State.POSITIVE).sum() / 32
    assert alone.records["try_role_li"]["supervision"]["extra"] == ["label_count"]
    with pytest.raises(MlbenchError, match="without declaring"):
        _ = task_of("try_llcp", alone.folder).label_count


class LooksBack(Method):
    """Looks at its own predictions on the training part after each epoch on pooled features."""

    name = "looks_back"
    seen: list[torch.Size] = []

    def phases(self):
        return [Phase("train", source="pooled")]

    def network(self, phase):
        return self.task.classifier(self.head_spec(), self.task.feature_width())

    def loss(self, logits, labels, step):
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.positive.float())

    def after_epoch(self, network, step):
        self.seen.append(self.task.predict(network).shape)


def test_a_look_back_in_a_pooled_phase_is_at_pooled_features(train: Any) -> None:
    LooksBack.seen.clear()
    train(LooksBack)
    assert LooksBack.seen == [(32, 4), (32, 4)]


# -- vac_fs: views ------------------------------------------------------------------------------------------------


def task_of(name: str, folder: Path) -> RunTask:
    resolved, world = resolve(request_of(name, folder)), World("cpu")
    return RunTask(resolved, world, Feed(resolved, world.device))


def test_four_views_of_an_image_come_in_one_batch_and_only_in_training(tmp_path: Path) -> None:
    task = task_of("try_vac_fs", tmp_path)
    task.begin(Phase(train={"augment": ()}))
    index = np.array([5, 3])
    batch = task._feed.batch("train", index, 1)
    shapes = {name: tuple(view.shape) for name, view in batch.views.items()}
    large, small = (2, 3, 64, 64), (2, 3, 48, 48)
    assert shapes == {"large": large, "large_flipped": large, "small": small, "small_flipped": small}
    assert torch.equal(batch.views["large"].flip(-1), batch.views["large_flipped"])
    plain = task._feed.batch("train", index, None)
    assert torch.equal(plain.inputs, batch.inputs), "the phase has switched augmentation off"
    assert not plain.views
    # As the protocol has it, about half of the images are mirrored.
    task.begin(Phase())
    mirrored = [
        (task._feed.batch("train", np.arange(32), e).inputs != task._feed.batch("train", np.arange(32), None).inputs)
        .flatten(1)
        .any(dim=1)
        .float()
        .mean()
        for e in (1, 2)
    ]
    assert all(0.2 < share < 0.8 for share in mirrored)


def test_each_loss_term_is_logged_and_their_sum_is_the_loss(alone: Alone) -> None:
    for row in alone.records["try_vac_fs"]["epochs"]:
        terms = {name: value for name, value in row["log"].items() if name != "pseudo_labels"}
        assert set(terms) == {"classification", "flip_large", "flip_small", "scale"}
        assert all(value > 0 for value in terms.values())
        assert row["loss"] == pytest.approx(sum(terms.values()), rel=1e-12)


# -- kd_wsd: a teacher, side inputs, other sizes -------------------------------------------------------------------


def test_the_teacher_is_trained_once_and_found_again_by_its_key(alone: Alone) -> None:
    record = alone.records["try_kd_wsd"]
    key = record["identity"]["uses"]["teacher"]
    teacher = read_record(run_dir(alone.store, key) / "record.json")
    assert teacher["identity"]["method"]["name"] == "try_wsddn"
    options = Options(store=alone.store, device="cpu", quiet=True, again=True)
    again = run(request_of("try_kd_wsd", alone.folder), options)
    assert again["predictions"] == record["predictions"]
    assert again["provenance"]["started"] != record["provenance"]["started"]
    assert read_record(run_dir(alone.store, key) / "record.json") == teacher


def test_a_run_that_is_used_has_the_track_of_the_run_that_uses_it(alone: Alone) -> None:
    request = replace(request_of("try_kd_wsd", alone.folder), track=None, epochs=7, changes={"train.lr": 0.25})
    used = used_requests(resolve(request))["teacher"]
    assert used.track == "full"
    assert (resolve(used).train.epochs, resolve(used).train.lr) == (7, 0.25)


def test_only_the_backbone_learns_features_and_everything_learns_predictions(alone: Alone) -> None:
    stages: dict[str, Checkpoints] = {"features": [], "predictions": []}
    for saved in alone.checkpoints["try_kd_wsd"]:
        stages[saved["phase"]].append(saved["loop"]["network"])

    def changed(networks: Checkpoints) -> set[str]:
        return {n.partition(".")[0] for n in networks[0] if not torch.equal(networks[0][n], networks[-1][n])}

    assert changed(stages["features"]) == {"backbone"}
    assert changed(stages["predictions"]) == {"backbone", "head"}


def test_a_phase_has_its_own_image_size_in_training_and_in_inference(tmp_path: Path) -> None:
    task = task_of("try_kd_wsd", tmp_path)
    task.begin(Phase(train={"image_size": 48}))
    batch = task._feed.batch("train", np.array([0, 4]), 1)
    assert {name: view.shape[-1] for name, view in batch.views.items()} == {"student": 48, "teacher": 64}
    assert task._feed.batch("test", np.array([0]), None).inputs.shape == (1, 3, 48, 48)
    assert batch.side["window_grid"].shape == (2, 9, 4)
    assert batch.side["window_grid"].device == task.device
    assert not torch.equal(*batch.side["window_grid"]), "each row has its own windows"


def test_pooled_features_follow_the_size_of_the_phase(tmp_path: Path) -> None:
    task = task_of("try_role_li", tmp_path)
    seen = []
    for size in (64, 32):
        task.begin(Phase(train={"image_size": size}, source="pooled"))
        seen.append(task._feed.batch("train", np.arange(4), 1, source="pooled").inputs)
    assert seen[0].shape == seen[1].shape == (4, 64, 1, 1)
    assert not torch.equal(*seen)


class TakesBoxes(Method):
    """Takes ground-truth boxes."""

    name = "takes_boxes"
    inputs = ("boxes",)


class SaysThatItTakesBoxes(TakesBoxes):
    """Takes ground-truth boxes and declares it."""

    supervision = ("observed", "boxes")


def test_ground_truth_boxes_are_for_those_who_declare_them_and_for_training(tiny_request: Any) -> None:
    device = torch.device("cpu")
    with pytest.raises(MlbenchError, match="takes boxes, which tell the labels, without declaring it"):
        Feed(resolve(tiny_request(TakesBoxes)), device)
    resolved = resolve(tiny_request(SaysThatItTakesBoxes))
    feed = Feed(resolved, device)
    row = 3
    boxes = feed.batch("train", np.array([row]), 1).side["boxes"][0]
    assert set(boxes[:, 0].tolist()) == set(np.flatnonzero(resolved.parts["train"].labels[row] == 1).tolist())
    assert [len(found) for found in feed.batch("test", np.arange(3), None).side["boxes"]] == [0, 0, 0]


# -- lsep and cnn_rnn: decisions and ranks -------------------------------------------------------------------------


def test_learned_decisions_are_stored_with_their_rule(alone: Alone) -> None:
    found = alone.predictions("try_lsep")
    assert found.decision_rule == "score above the learned threshold of its class"
    assert found.kind == "logit"
    assert found.decisions.any()
    assert not found.decisions.all()
    assert (found.decisions != (found.scores > 0)).any(), "these thresholds could as well be 0"


def test_thresholds_are_learned_on_frozen_scores(alone: Alone) -> None:
    handed, final = alone.tensors("try_lsep", "phase-ranking"), alone.tensors("try_lsep", "weights")
    assert {name.partition(".")[0] for name in final.keys() - handed.keys()} == {"decision"}
    for name, tensor in handed.items():
        np.testing.assert_array_equal(final[name], tensor)
    assert alone.records["try_lsep"]["selected"] == {"phase": "thresholds", "epoch": 2, "rule": "last"}


def test_decisions_that_are_not_declared_or_do_not_come_are_an_error(train: Any) -> None:
    ranking = load_method("try_lsep")
    with pytest.raises(MlbenchError, match="declares no decision_rule"):
        train(type("Undeclared", (ranking,), {"__doc__": "x", "decision_rule": ""}))
    with pytest.raises(MlbenchError, match="gave no decisions in the last phase"):
        train(type("Undecided", (ranking,), {"__doc__": "x", "predict": Method.predict}))


def test_labels_on_the_path_stand_before_all_others_in_the_order_of_the_path(alone: Alone) -> None:
    found = alone.predictions("try_cnn_rnn")
    assert found.kind == "rank"
    assert (found.scores[found.decisions] >= 1).all()
    assert (found.scores[~found.decisions] < 1).all()
    lengths = found.decisions.sum(axis=1)
    assert lengths.max() >= 2, "no path with two labels"
    for scores, length in zip(found.scores, lengths, strict=True):
        assert sorted(scores[scores >= 1], reverse=True) == [4 - place for place in range(length)]


# -- what an author may get wrong ----------------------------------------------------------------------------------


def test_settings_lie_beside_a_module_that_is_in_no_package() -> None:
    method = load_method("try_lsep")
    assert method.settings_for("elsewhere", "full") == {"train.lr": 0.5, "train.epochs": 3}
    assert method.settings_for("elsewhere", "head") == {"train.lr": 0.5}
    assert method.settings_for("tiny", "full") == {}


def test_declared_settings_that_are_not_installed_are_an_error(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = load_method("try_lsep")
    monkeypatch.setattr(method, "settings_file", "gone.toml")
    message = (
        r"method 'try_lsep': its settings_file 'gone.toml' is not installed beside module throwaway_plugin: make it"
    )
    with pytest.raises(MlbenchError, match=message):
        method.settings_for("tiny", "full")
    (plugin / "broken.toml").write_text("[")
    monkeypatch.setattr(method, "settings_file", "broken.toml")
    with pytest.raises(MlbenchError, match=r"broken.toml: not valid TOML"):
        method.settings_for("tiny", "full")


def test_a_class_elsewhere_inherits_the_settings_file_with_its_place() -> None:
    class Heir(load_method("try_lsep")):
        """In another module than what it is of."""

    assert Heir.settings_for("elsewhere", "head") == {"train.lr": 0.5}


def test_settings_that_are_kept_and_not_declared_do_not_conform(monkeypatch: pytest.MonkeyPatch) -> None:
    method = load_method("try_lsep")
    _declarations(method)
    monkeypatch.setattr(method, "settings_file", "")
    with pytest.raises(
        MlbenchError, match=r"throwaway_plugin.toml, which a wheel may lack unseen: declare settings_file"
    ):
        _declarations(method)


def test_settings_in_a_package_are_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept_in_package"
    (folder / "inner").mkdir(parents=True)
    for part in (folder, folder / "inner"):
        (part / "__init__.py").write_text("")
    (folder / "inner" / "mine.py").write_text(
        "from mlbench.methods import Method\nclass Mine(Method):\n    name = 'mine'\n    settings_file = 'kept.toml'\n"
    )
    (folder / "inner" / "kept.toml").write_text('[mine.tiny]\n"train.lr" = 0.25\n')
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("kept_in_package.inner.mine").Mine
    assert mine.settings_for("tiny", "full") == {"train.lr": 0.25}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "poled"}, "phase 'train': unknown source 'poled'. Did you mean 'pooled'"),
        ({"selection": "clean_val"}, "phase 'train': unknown selection 'clean_val'"),
    ],
)
def test_a_phase_refuses_a_source_or_selection_that_does_not_exist(fields: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Phase(**fields)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (Phase(roles=("head", "stat")), "unknown role 'stat'"),
        (Phase(train={"epoch": 3}), "unknown training setting 'epoch'. Did you mean 'epochs'"),
        (Phase(train={"accumulate": 2}), "gradient accumulation"),
        (Phase("teacher"), "two phases, or a phase and a used method, of one name"),
    ],
)
def test_a_phase_that_cannot_be_trained_is_refused(train: Any, phase: Phase, message: str) -> None:
    uses = load_method("try_kd_wsd").uses if phase.name == "teacher" else {}
    body = {"__doc__": "x", "phases": lambda self: [phase], "uses": uses}
    with pytest.raises(MlbenchError, match=message):
        train(type("Wrong", (load_method("try_llcp"),), body))


def test_the_plugin_came_through_its_entry_points(plugin: Path) -> None:
    assert Path(sys.modules[load_method("try_llcp").__module__].__file__ or "").parent == plugin


def test_a_wide_layer_is_narrow_in_the_suite_and_its_width_is_checked(tmp_path: Path) -> None:
    wide, narrow = load_method("l2d"), make_request(load_method("l2d"), "full", tmp_path, tiny_dataset())
    assert wide.default_head == "ml_decoder"
    assert dict(resolve(narrow).head.hyper)["width"] == 64

    class Wide(Method):
        """A method whose tiny width is none."""

        tracks = ("full",)
        hyperparameters = {"units": Hyper(512, "units", low=1, tiny=0)}

    with pytest.raises(UsageError, match="units = 0: expected at least 1"):
        _declarations(Wide)
