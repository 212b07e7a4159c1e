"""Cost: operations and parameters against formulas, the student against the plain classifier, the teacher beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mlbench.errors import DataError, UsageError
from mlbench.explain import cost
from mlbench.explain.cost import FEWEST, costs_text, count_flops, count_parameters, measure_costs, time_inference
from mlbench.explain.sides import Side
from mlbench.methods import Batch


def asked(network: nn.Module, inputs: torch.Tensor) -> tuple[Any, Batch]:
    """A stand-in for a deployed run, and a batch for it."""

    def predict(batch: Batch) -> Any:
        with torch.inference_mode():
            return network(batch.inputs)

    model = SimpleNamespace(predict=predict, modules=lambda: nn.ModuleList([network]), device=torch.device("cpu"))
    return model, Batch(inputs, torch.arange(len(inputs)))


def test_operations_of_convolutions_and_products_by_formula() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 6 * 6, 5)).eval()
    assert count_flops(*asked(network, torch.rand(4, 3, 6, 6))) == 2 * (36 * 8 * 3 * 9 + 8 * 36 * 5)


@pytest.mark.parametrize("layer", [nn.LSTM(5, 7), nn.GRU(5, 7)])
def test_recurrent_layers_are_counted(layer: nn.Module) -> None:
    gates = 4 if isinstance(layer, nn.LSTM) else 3
    model, batch = asked(layer.eval(), torch.rand(3, 2, 5))  # 3 steps of 2 sequences
    batch.index = torch.arange(2)
    assert count_flops(model, batch) == 2 * 3 * gates * 7 * (5 + 7)


def test_resnet50_has_the_operations_it_is_known_for() -> None:
    import torchvision

    with torch.device("meta"):  # shapes are enough
        network = torchvision.models.resnet50(weights=None).eval()
        model, batch = asked(network, torch.zeros(1, 3, 224, 224))
    assert count_flops(model, batch) == pytest.approx(2 * 4.09e9, rel=0.001)  # torchvision's table
    assert count_parameters(model, batch) == (25_557_032, 0)


def test_parameters_that_inference_does_not_read_are_told_apart() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(9, 9)
            self.recurrent = nn.LSTM(3, 2)
            self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.recurrent(self.used(inputs))[0]

    model, batch = asked(Partly().eval(), torch.rand(2, 4))
    recurrent = 4 * 2 * (3 + 2) + 2 * 4 * 2
    assert count_parameters(model, batch) == (15 + recurrent, 90 + 5)


def test_runs_take_turns_and_the_first_batches_do_not_count() -> None:
    order: list[str] = []
    models = [
        SimpleNamespace(predict=lambda batch, name=name: order.append(name), device=torch.device("cpu"))
        for name in "ab"
    ]
    batch = Batch(torch.zeros(3, 1), torch.arange(3))
    rates = time_inference(models, [batch, batch], 7)
    assert "".join(order) == "ab" * (7 + cost.WARM_UP)
    assert [rate.shape for rate in rates] == [(7,), (7,)]
    assert all((rate > 0).all() for rate in rates)


def test_a_distilled_student_costs_what_the_plain_classifier_costs(train, reloadable, mlbench, tmp_path: Path) -> None:
    short = {"train.epochs": 1, "proposals.count": 5}
    student = train("kd_wsd", changes={**short, "first.epochs": 1})
    plain = train("bce", changes={"train.epochs": 1})
    keys = [plain["key"][:12], student["key"][:12]]
    bce, kd_wsd, wsddn = measure_costs(keys, tmp_path / "runs", batch_size=4)
    assert (bce.parameters, bce.flops, bce.idle) == (kd_wsd.parameters, kd_wsd.flops, kd_wsd.idle)
    assert (wsddn.name, wsddn.used_by, kd_wsd.used_by) == ("wsddn", ("kd_wsd",), ())
    assert wsddn.parameters > bce.parameters
    assert wsddn.flops > bce.flops
    assert bce.training_s == pytest.approx(sum(phase["seconds"] for phase in plain["phases"]))
    assert bce.training_images_per_s == plain["provenance"]["images_per_s"]
    assert (bce.batch_size, bce.size, bce.runs) == (4, 64, 1)
    low, high = bce.quartiles
    assert 0 < low <= bce.images_per_s <= high
    code, out, err = mlbench("explain", "cost", *keys, "--store", tmp_path / "runs", "--device", "cpu")
    assert code == 0, err
    assert "batches of 16 on cpu" in out
    assert f"{bce.parameters:,}" in out
    assert "| wsddn    | kd_wsd    |" in out


def test_a_frozen_backbone_belongs_to_the_network(train, reloadable, tmp_path: Path) -> None:
    full, head = train("an"), train("an", track="head")
    costs = measure_costs([full["key"], head["key"]], tmp_path / "runs", batch_size=20)  # more than there are pictures
    assert costs[0].parameters == costs[1].parameters
    assert costs[0].flops == costs[1].flops
    text = costs_text([replace(costs[0], quartiles=(1.0, 2.0)), replace(costs[1], idle=7)])
    assert "the frozen backbone is counted" in text
    assert "busy with something else" in text
    assert f"left out: {costs[1].name} 7" in text


def record(key: str, seed: int = 0, **uses: str) -> dict[str, Any]:
    return {"key": key, "identity": {"uses": uses, "method": {"name": key[0]}, "repetition": seed}}


def test_teachers_follow_those_they_taught_once_and_with_all_their_seeds(monkeypatch, tmp_path: Path) -> None:
    teachers = [record("t0"), record("t1", 1)]
    monkeypatch.setattr(cost, "find_records", lambda store: (teachers, []))
    students = [
        Side(name, (record(f"{name}0", teacher="t0"), record(f"{name}1", 1, teacher="t1"))) for name in ("a", "b")
    ]
    found = cost._with_teachers(students, tmp_path)
    assert [(side.name, [r["key"] for r in side.records], users) for side, users in found] == [
        ("a", ["a0", "a1"], ()),
        ("t", ["t0", "t1"], ("a", "b")),
        ("b", ["b0", "b1"], ()),
    ]
    given = Side("t", (teachers[0],))
    assert [side.name for side, _ in cost._with_teachers([students[0], given], tmp_path)] == ["a", "t", "t"]
    monkeypatch.setattr(cost, "find_records", lambda store: ([], []))
    with pytest.raises(DataError, match=r"a builds on run t0 \(teacher\), which is not in the store"):
        cost._with_teachers(students, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"batch_size": 0}, "--batch 0"), ({"repeats": FEWEST - 1}, f"--repeats 6: expected at least {FEWEST}")],
)
def test_too_small_a_batch_and_too_few_repeats_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure_costs([], **given)
