"""The distillation family: losses against loops in float64, stages that hand over, one teacher for all."""

from __future__ import annotations

import hashlib
import shutil
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlbench.baselines import distillation
from mlbench.baselines.distillation import ReleasedDistillation
from mlbench.baselines.distillation_losses import (
    attention_loss,
    hint_loss,
    kd_loss,
    keep_regions,
    label_loss,
    prediction_loss,
    region_loss,
    soft_label_loss,
)
from mlbench.baselines.wsddn import Detector
from mlbench.conformance.suite import compare, read_course, run_with_stops
from mlbench.errors import DataError, UsageError
from mlbench.methods import Batch
from mlbench.models.backbones import BACKBONES, build_backbone
from mlbench.models.weights import TORCHVISION
from mlbench.proposals import load_proposals, split_proposals
from mlbench.registry import load_method
from mlbench.report.paper_tables import load_layouts
from mlbench.runner.checkpoint import load_checkpoint, load_tensors
from mlbench.runner.plan import resolve, used_requests
from mlbench.store import find_records, run_dir

NAMES = ("kd", "fitnets", "attention_transfer", "kd_wsd", "kd_wsd_code")


def draw(*shape: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    return spread * np.random.RandomState(seed).randn(*shape)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def cross_entropy(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    return q * np.logaddexp(0, -x) + (1 - q) * np.logaddexp(0, x)


LOGITS = [draw(3, 4), np.array([[50.0, -50.0, 0.0], [-50.0, 50.0, 50.0]]), draw(1, 2, seed=4)]


@pytest.mark.parametrize("z", LOGITS)
def test_losses_of_predictions_by_hand_with_their_slopes(z: np.ndarray) -> None:
    q = np.random.RandomState(1).rand(*z.shape)
    q.flat[0], q.flat[-1] = 0.0, 1.0
    count = len(z)
    p = sigmoid(z / 5)
    cases = [
        (lambda x, t: prediction_loss(x, t, temperature=5.0), ((q - p) ** 2).sum() / 2, (p - q) * p * (1 - p) / 5),
        (lambda x, t: soft_label_loss(x, t, 0.2), cross_entropy(z / 5, q).sum(), (p - q) / 5),
        (lambda x, t: kd_loss(x, t, temperature=5.0), 25 * cross_entropy(z / 5, q).sum(), 5 * (p - q)),
    ]
    for loss, value, slope in cases:
        x, teacher = torch.tensor(z, requires_grad=True), torch.tensor(q, requires_grad=True)
        found = loss(x, teacher)
        assert found.item() == pytest.approx(value / count, rel=1e-12)
        gradient, none = torch.autograd.grad(found, [x, teacher], allow_unused=True)
        np.testing.assert_allclose(gradient.numpy(), slope / count, rtol=1e-10, atol=1e-14)
        assert none is None


def test_the_learned_scale_gets_a_gradient_a_class() -> None:
    z, q = torch.tensor(draw(3, 4)), torch.tensor(np.random.RandomState(1).rand(3, 4))
    scale = torch.full((4,), 0.2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_label_loss(z, q, scale), scale)
    np.testing.assert_allclose(gradient.numpy(), ((sigmoid(0.2 * z.numpy()) - q.numpy()) * z.numpy()).sum(0) / 3)


def test_label_loss_is_a_mean_over_images_of_sums_over_classes() -> None:
    z, observed = draw(3, 4), np.array([[1, 0, -1, 2], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=np.int8)
    wanted = np.where(observed == 2, 0, cross_entropy(z, observed == 1)).sum() / 3
    assert label_loss(torch.tensor(z), torch.tensor(observed)).item() == pytest.approx(wanted)


def test_region_loss_by_loops() -> None:
    theirs, ours, weights = draw(3, 4, 2, 2, 2), draw(3, 4, 2, 2, 2, seed=1), np.random.RandomState(2).rand(3, 4)
    kept = np.array([[True] * 4, [True, False, False, False], [False] * 4])
    total, slope = 0.0, np.zeros_like(ours)
    for n in range(3):
        for r in np.flatnonzero(kept[n]):
            difference = weights[n, r] * (ours[n, r] - theirs[n, r])
            total += (difference**2).sum() / kept[n].sum() / 6
            slope[n, r] = weights[n, r] * difference / kept[n].sum() / 3
    x, teacher = torch.tensor(ours, requires_grad=True), torch.tensor(theirs, requires_grad=True)
    found = region_loss(teacher, x, torch.tensor(weights), torch.tensor(kept))
    assert found.item() == pytest.approx(total, rel=1e-12)
    gradient, none = torch.autograd.grad(found, [x, teacher], allow_unused=True)
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-10)
    assert none is None


def test_the_released_code_compares_weighted_features_of_all_regions_by_image() -> None:
    def trunk() -> Any:
        layer: Any = nn.Conv2d(3, 4, 1)
        layer.out_channels = 4
        return layer

    teacher = Detector(trunk(), 2, cells=1, hidden=5, dropout=0.0, score_scale=1.0, score_bias=0.0).eval()
    student = nn.ModuleDict(
        {"backbone": trunk(), "hidden": Detector(trunk(), 2, cells=1, hidden=5, dropout=0.0).hidden}
    )
    method = ReleasedDistillation.__new__(ReleasedDistillation)
    method.__dict__["teacher"] = teacher
    images, proposals = torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 5)
    proposals[0] = torch.tensor([[0, 0, 1, 1, 0.9], [0, 0, 0.5, 0.5, 0.5], [0.5, 0, 1, 1, 0.2]])
    proposals[1, 0] = torch.tensor([0, 0.25, 1, 1, 0.7])  # one region against three

    def loss(rows: slice) -> float:
        batch = Batch(images[rows], torch.arange(2)[rows], side={"proposals": proposals[rows]})
        batch.views = {"student": images[rows], "teacher": images[rows]}
        network = SimpleNamespace(backbone=student["backbone"], hidden=student["hidden"])
        return float(method.features(network, batch).detach())

    by_image = []
    for row in range(2):
        regions = split_proposals(proposals[row : row + 1, : 3 - 2 * row])
        features = [
            owner.hidden(
                teacher.weighted(owner.backbone(images[row : row + 1]), regions.boxes, regions.scores).flatten(2)
            )
            for owner in (teacher, SimpleNamespace(**student))
        ]
        by_image.append(float((features[0] - features[1]).detach().square().sum()) / (3 - 2 * row) / 2)
    assert [loss(slice(0, 1)), loss(slice(1, 2))] == pytest.approx(by_image)
    assert loss(slice(0, 2)) == pytest.approx(sum(by_image) / 2)  # so pieces of a batch add up to the whole
    assert not teacher.training


def test_hint_loss_by_hand() -> None:
    theirs, ours = draw(2, 3, 4, 4), draw(2, 3, 2, 2, seed=1)
    small = theirs.reshape(2, 3, 2, 2, 2, 2).mean(axis=(3, 5))
    x = torch.tensor(ours, requires_grad=True)
    found = hint_loss(torch.tensor(theirs), x)
    assert found.item() == pytest.approx(((small - ours) ** 2).sum() / 4)
    (gradient,) = torch.autograd.grad(found, x)
    np.testing.assert_allclose(gradient.numpy(), (ours - small) / 2)


def test_attention_loss_by_hand() -> None:
    pairs = [(draw(2, 3, 4, 4), draw(2, 5, 2, 2, seed=1)), (draw(2, 3, 2, 2, seed=2), draw(2, 3, 2, 2, seed=3))]
    total = 0.0
    for theirs, ours in pairs:
        if theirs.shape[-1] == 4:
            theirs = theirs.reshape(2, 3, 2, 2, 2, 2).mean(axis=(3, 5))
        first, second = ((maps**2).mean(axis=1).reshape(2, -1) for maps in (theirs, ours))
        first, second = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in (first, second))
        total += ((first - second) ** 2).mean()
    theirs, ours = ([torch.tensor(pair[side]) for pair in pairs] for side in (0, 1))
    assert attention_loss(theirs, ours).item() == pytest.approx(total, rel=1e-12)
    assert attention_loss(ours, ours).item() == 0.0
    moved = [each.requires_grad_() for each in ours]
    assert torch.autograd.gradcheck(lambda *maps: attention_loss(theirs, maps), moved)
    dark = torch.zeros(1, 2, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(attention_loss([torch.ones(1, 2, 2, 2)], [dark]), dark)
    assert torch.isfinite(gradient).all()


def test_the_best_regions_that_do_not_overlap_are_kept() -> None:
    boxes = [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 1]]
    proposals = torch.tensor([[[*box, 1.0] for box in boxes]] * 2)
    proposals[1, 1:] = 0
    scores = torch.tensor([[[0.1, 0.3], [0.0, 0.4], [0.2, 0.2], [0.1, 0.0]]] * 2)
    index, weights, kept = keep_regions(scores, split_proposals(proposals), count=3)
    assert index[0].tolist() == [1, 2, 3]  # the first overlaps the second by 0.8
    np.testing.assert_allclose(weights[0].numpy(), [1, 0.5, 0.25])
    assert kept.tolist() == [[True] * 3, [True, False, False]]
    assert weights[1].tolist() == [1.0, 0.0, 0.0]
    index, weights, _ = keep_regions(scores, split_proposals(proposals), count=9, over="sum", iou=0.9)
    assert sorted(index[0].tolist()) == [0, 1, 2, 3]
    np.testing.assert_allclose(sorted(weights[0].numpy()), [0.25, 1, 1, 1])
    with pytest.raises(UsageError, match="max"):
        keep_regions(scores, split_proposals(proposals), over="mean")


def test_wrong_arguments_are_refused() -> None:
    two, three = torch.zeros(2, 2), torch.zeros(2, 3)
    for loss in (prediction_loss, soft_label_loss, kd_loss):
        with pytest.raises(UsageError, match=r"expected \[N, C\]"):
            loss(two, three)
    for loss in (prediction_loss, kd_loss):
        with pytest.raises(UsageError, match="above 0"):
            loss(two, two, temperature=0.0)
    with pytest.raises(UsageError, match="region loss"):
        region_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.bool))
    with pytest.raises(UsageError, match="as many channels"):
        hint_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(UsageError, match="at least one"):
        attention_loss([], [])


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_attention_is_taken_from_three_stages_of_every_backbone(name: str) -> None:
    trunk = build_backbone(name).eval()
    with torch.no_grad():
        output, maps = distillation.stage_maps(trunk, BACKBONES[name].stages, lambda: trunk(torch.rand(1, 3, 64, 64)))
    assert len(maps) == 3
    torch.testing.assert_close(maps[-1], output)
    assert [a.shape[-1] >= b.shape[-1] for a, b in pairwise(maps)] == [True, True]


def test_all_students_have_the_same_teacher(tiny_request: Any) -> None:
    requests = {name: tiny_request(name) for name in NAMES}
    keys = {resolve(used_requests(resolve(request))["teacher"]).key for request in requests.values()}
    assert keys == {resolve(tiny_request("wsddn")).key}
    smaller = resolve(
        tiny_request("kd_wsd", changes={"proposals.count": 5, "teacher.epochs": 1, "teacher.image_size": 32})
    )
    teacher = resolve(used_requests(smaller)["teacher"])
    assert (teacher.hyper["proposals.count"], teacher.train.epochs, teacher.train.image_size) == (5, 1, 32)
    assert smaller.train.epochs == 2
    assert smaller.inputs == teacher.inputs


def test_published_teacher_settings_reach_the_students() -> None:
    columns = [column for table in load_layouts() if table.paper == "kd_wsd" for column in table.columns]
    datasets = {"coco2014", *(column.data for column in columns)}
    assert datasets == {"coco2014", "coco2014-all", "nuswide-random150k"}
    for dataset in datasets:
        teacher = load_method("wsddn").settings_for(dataset, "full")
        assert (teacher["cells"], teacher["hidden"], teacher["pooling"], teacher["scales"]) == (7, 4096, "max", True)
        assert (teacher["score_scale"], teacher["score_bias"]) == (1.0, 0.0)
        assert (teacher["train.image_size"], teacher["train.lr"]) == (672, 5e-5)
        for name in NAMES:
            found = load_method(name).settings_for(dataset, "full")
            assert (found["teacher.image_size"], found["proposals.count"]) == (672, 500)
            assert "train.image_size" not in found
        assert load_method("kd_wsd_code").settings_for(dataset, "full")["train.batch_size"] == 28


@pytest.mark.parametrize(("name", "extra"), [("kd_wsd", {"adaptation"}), ("kd_wsd_code", {"hidden"})])
def test_stages_hand_over_and_the_student_is_plain(name: str, extra: set[str], tmp_path: Any, train: Any) -> None:
    record = train(name, changes={"first.epochs": 1, "teacher.image_size": 32})
    assert [(row["name"], row["epochs"]) for row in record["phases"]] == [("features", 1), ("predictions", 2)]
    handed = load_tensors(run_dir(tmp_path / "runs", record["key"]) / "phase-features.safetensors")
    final = load_tensors(run_dir(tmp_path / "runs", record["key"]) / "weights.safetensors")
    roles = {key.partition(".")[0] for key in handed}, {key.partition(".")[0] for key in final}
    assert roles == (
        {"backbone", "head"} | extra,
        {"backbone", "head"} | ({"scale"} if name == "kd_wsd_code" else set()),
    )
    records, _ = find_records(tmp_path / "runs")
    assert {found["identity"]["method"]["name"] for found in records} == {name, "wsddn"}
    plain = train("bce")
    weights = load_tensors(run_dir(tmp_path / "runs", plain["key"]) / "weights.safetensors")
    assert {k: v.shape for k, v in final.items() if k != "scale"} == {k: v.shape for k, v in weights.items()}


def test_a_single_stage_can_be_asked_for(train: Any, tiny_request: Any) -> None:
    one = {"train.epochs": 1}
    first = train("kd_wsd", changes={**one, "stages": "features"})
    assert {row["phase"]: set(row["log"]) for row in first["epochs"]} == {
        "features": {"features", "pseudo_labels"},
        "predictions": {"labels", "pseudo_labels"},
    }
    second = train("kd_wsd", changes={**one, "stages": "predictions"})
    assert {row["phase"]: set(row["log"]) for row in second["epochs"]} == {
        "predictions": {"labels", "imitation", "pseudo_labels"}
    }


def test_the_student_is_evaluated_without_proposals(train: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from mlbench.runner import side

    train("wsddn", changes={"train.epochs": 1})
    asked: list[str] = []
    entry = side.SIDE_INPUTS["proposals"]

    def make(run: Any, part: Any, advance: Any) -> Any:
        asked.append(part.name)
        return entry.make(run, part, advance)

    monkeypatch.setitem(side.SIDE_INPUTS, "proposals", side.SideInput(make, entry.identity, entry.mirror))
    train("kd", changes={"train.epochs": 1})
    assert asked == ["train"]


def test_a_finished_student_does_not_ask_for_its_teacher(train: Any, tmp_path: Any) -> None:
    one = {"train.epochs": 1}
    record, teacher = train("kd", changes=one), run_dir(tmp_path / "runs", train("wsddn", changes=one)["key"])
    (teacher / "weights.safetensors").unlink()
    with pytest.raises(
        DataError, match=r"weights of 'wsddn' \(run .*\), which 'fitnets' uses, are not there; .*--again"
    ):
        train("fitnets", changes=one)
    shutil.rmtree(teacher)
    assert train("kd", changes=one) == record
    assert not teacher.exists()


def test_only_training_images_are_kept_at_the_teachers_size(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbench.runner.probe import Probe

    record = train("wsddn", changes={"train.image_size": 32, "train.epochs": 1})
    asked, load = [], Probe.open_pixels
    monkeypatch.setattr(
        Probe,
        "open_pixels",
        lambda self, split, side, *rest: asked.append((len(split), side)) or load(self, split, side, *rest),
    )
    train("kd", changes={"teacher.image_size": 32, "teacher.epochs": 1, "train.epochs": 1})
    split = record["identity"]["split"]
    assert {side for count, side in asked if count == split["test"]} == {64}
    assert {side for count, side in asked if count == split["train"]} >= {32, 64}


def test_records_tell_the_boxes_that_were_read(train: Any, tiny_request: Any) -> None:
    record = train("kd", changes={"train.epochs": 1})
    split = resolve(tiny_request("wsddn")).dataset.splits["train"]
    boxes = np.ascontiguousarray(load_proposals(split, "grid", 500))
    assert record["provenance"]["side_sha256"] == {"train@proposals": hashlib.sha256(boxes.tobytes()).hexdigest()}


@pytest.mark.parametrize("name", ["kd_wsd", "kd_wsd_code"])
def test_a_run_stopped_in_the_teacher_and_in_each_stage_ends_with_the_same_bits(
    name: str, tmp_path: Any, train: Any, tiny_request: Any
) -> None:
    changes = {"train.epochs": 1, "train.augment": ["flip"]}
    whole = read_course(tmp_path / "runs", train(name, changes=changes))
    stages = set()

    def look() -> None:
        for path in (tmp_path / "stopped").glob("**/checkpoint.pt"):
            stages.add(load_checkpoint(path, None)["phase"])

    course, stops = run_with_stops(tiny_request(name, changes=changes), tmp_path / "stopped", 3, look)
    compare(whole, course, 0.0)
    assert stages == {"train", "features", "predictions"}
    assert stops >= 3
