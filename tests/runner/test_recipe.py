"""Recipes: moving averages, clipping, warm-up, decay and rates by depth: nothing where off, what they say where on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlbench.conformance.suite import compare, read_course, run_with_stops
from mlbench.errors import UsageError
from mlbench.models.backbones import build_backbone
from mlbench.models.stages import stage_of, stages
from mlbench.runner.average import WeightAverage
from mlbench.runner.checkpoint import load_tensors
from mlbench.runner.loop import freeze_stages, make_optimizer, make_scheduler, set_training_mode
from mlbench.runner.plan import resolve
from mlbench.runner.trained import reload_run, request_of
from mlbench.settings import RECIPE_DEFAULTS, Recipe, TrainSettings, named_settings, to_plain
from mlbench.store import run_dir

ALL: dict[str, Any] = {
    **{"ema": 0.9, "clip_norm": 0.5, "warmup_steps": 3, "decayed": "weights", "weight_decay": 0.1},
    **{"frozen_stages": 1, "layer_rate": 0.5, "crop": [0.5, 1.0], "randaugment": 2, "jitter": [0.4, 0.4, 0.4, 0.1]},
    **{"cutout": 0.5, "ema_scored": "better"},
}


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"epochs": 4, "batch_size": 2, "lr": 0.1, "image_size": 8, **changes})


def train_changes(**changes: Any) -> dict[str, Any]:
    return {f"train.{name}": value for name, value in changes.items()}


class Network(nn.Module):
    """A trunk of two stages with a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        first, second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.backbone = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), second)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).mean(dim=(2, 3)))


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_recipe_that_is_not_asked_for_is_in_no_identity(tiny_request) -> None:
    plain = resolve(tiny_request("an"))
    assert not RECIPE_DEFAULTS.keys() & plain.identity["train"].keys()
    spelled = {f"train.{name}": value for name, value in RECIPE_DEFAULTS.items()}
    assert resolve(tiny_request("an", changes=spelled)).key == plain.key
    changed = resolve(tiny_request("an", changes=train_changes(ema=0.9)))
    assert changed.identity["train"] == plain.identity["train"] | {"ema": 0.9}


@pytest.mark.parametrize(
    "idle", [{"ema_scored": "better"}, {"randaugment_magnitude": 3}, {"jitter_chance": 0.1}, {"jitter": [0, 0, 0, 0]}]
)
def test_what_has_no_effect_moves_no_key(idle: dict[str, Any]) -> None:
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in idle.items()}
    assert named_settings(settings(**given)) == named_settings(settings())


def test_cached_features_have_no_recipe_for_images_or_for_a_backbone(tiny_request) -> None:
    on_images = {
        key: value for key, value in ALL.items() if key not in ("ema", "ema_scored", "clip_norm", "warmup_steps")
    }
    del on_images["decayed"], on_images["weight_decay"]
    assert (
        resolve(tiny_request("an", track="head", changes=train_changes(**on_images))).key
        == resolve(tiny_request("an", track="head")).key
    )
    assert resolve(tiny_request("an", changes=train_changes(**on_images))).key != resolve(tiny_request("an")).key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("ema", value) for value in (-0.1, 1.0, math.nan)],
        *[("clip_norm", value) for value in (-1.0, math.inf)],
        *[("layer_rate", value) for value in (0.0, 1.1)],
        *[("crop", value) for value in ((0.5,), (0.9, 0.5), (0.0, 1.0), (0.5, 1.5))],
        *[("jitter", value) for value in ((0.4, 0.4, 0.4), (0.4, 0.4, 0.4, 0.6), (-0.1, 0, 0, 0))],
        *[
            ("warmup_steps", -1),
            ("frozen_stages", -1),
            ("randaugment", -1),
            ("randaugment_magnitude", 31),
            ("cutout", 2),
        ],
    ],
)
def test_values_that_mean_nothing_are_refused(key: str, value: Any) -> None:
    others = {"randaugment": 1} if key == "randaugment_magnitude" else {}
    with pytest.raises(UsageError, match=key):
        settings(**{**others, key: value})


def test_warm_up_steps_do_not_go_with_one_cycle() -> None:
    with pytest.raises(UsageError, match="one_cycle has a rise of its own"):
        settings(schedule="one_cycle", warmup_steps=3)


def test_boxes_do_not_follow_what_is_moved(tiny_request) -> None:
    with pytest.raises(UsageError, match="do not follow"):
        resolve(tiny_request("miml_fcn_bb", changes=train_changes(randaugment=2)))
    resolve(tiny_request("miml_fcn_bb", changes=train_changes(cutout=0.5)))


# --- the moving average -----------------------------------------------------------------------------------------------


def test_the_average_follows_its_formula_and_shows_itself_for_a_while() -> None:
    torch.manual_seed(0)
    network = Network()
    average = WeightAverage(network, 0.75)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(3):
        network(torch.randn(6, 3, 2, 2))  # moves the running statistics
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update()
        for name, value in network.state_dict().items():
            mean = 0.75 * expected[name] + 0.25 * value if value.is_floating_point() else value
            expected[name] = mean.clone()
    own = {name: value.clone() for name, value in network.state_dict().items()}
    with average.shown():
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, expected[name])
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    assert int(average.values["backbone.1.num_batches_tracked"]) == 3


@pytest.mark.parametrize("scored", ["average", "better"])
def test_a_run_with_everything_is_stopped_and_goes_on_to_the_same_bits(train, tiny_request, tmp_path, scored) -> None:
    changes = train_changes(**{**ALL, "ema_scored": scored})
    record = train("llr", changes=changes)
    course, stops = run_with_stops(tiny_request("llr", changes=changes), tmp_path / "stopped", 1)
    assert stops >= 5
    compare(read_course(tmp_path / "runs", record), course, 0.0)


def test_the_average_is_scored_and_kept_in_place_of_the_weights(train, tmp_path) -> None:
    """With one epoch and a constant gradient direction nothing is needed but the two sets of weights."""
    given = train_changes(epochs=1, optimizer="sgd", lr=0.01)
    plain = train("an", changes=given)
    averaged = train("an", changes=given | train_changes(ema=0.5))
    still = train("an", changes=given | train_changes(ema=0.999999))
    weights = [load_tensors(run_dir(tmp_path / "runs", record["key"]) / "weights.safetensors") for record in (plain, averaged, still)]  # fmt: skip # noqa: E501
    assert all(not torch.equal(weights[0][name], weights[1][name]) for name in ("head.weight", "head.bias"))
    for name, value in weights[0].items():  # between where it began and where it came to
        low, high = torch.minimum(value, weights[2][name]), torch.maximum(value, weights[2][name])
        assert ((weights[1][name] - low).abs() < (high - low).abs().max() + 1e-6).all()
    assert plain["predictions"] != averaged["predictions"]
    assert plain["epochs"][0]["loss"] == averaged["epochs"][0]["loss"]  # training is as it was


def test_the_better_of_average_and_weights_is_scored(train) -> None:
    changes = train_changes(epochs=3, lr=0.02)
    record = train("an", changes=changes | train_changes(ema=0.9, ema_scored="better"))
    plain = train("an", changes=changes)
    averaged = train("an", changes=changes | train_changes(ema=0.9))
    rows = zip(record["epochs"], plain["epochs"], averaged["epochs"], strict=True)
    for row, own, mean in rows:
        assert row["log"]["val mAP of the weights"] == own["val"]["mAP"]
        assert row["log"]["val mAP of the average"] == mean["val"]["mAP"]
        better = mean if mean["val"]["mAP"] > own["val"]["mAP"] else own
        assert row["val"] == better["val"]
        assert row["test_sealed"] == better["test_sealed"]


def test_a_record_with_a_recipe_leads_to_its_run_again(train, tiny_request) -> None:
    changes = train_changes(**ALL)
    record = train("an", changes=changes)
    dataset = tiny_request().dataset
    given = request_of(record, None, None, "scenes")
    assert given.changes["train.ema"] == 0.9
    assert given.changes["train.layer_rate"] == 0.5
    plain = train("an")
    assert request_of(plain, None, None, "scenes").changes["train.ema"] == 0.0  # though a protocol may set it since
    assert resolve(tiny_request("an", changes=given.changes)).key == record["key"]
    assert dataset is not None
    assert callable(reload_run)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_gradients_are_clipped_to_their_norm_together(train, tmp_path) -> None:
    """One step of plain SGD moves the weights by the rate times the norm of the gradient."""
    given = train_changes(epochs=1, optimizer="sgd", momentum=0.0, lr=0.5, batch_size=32, lr_multipliers={})
    moved = []
    start = load_tensors(run_dir(tmp_path / "runs", train("an", changes=given | train_changes(lr=1e-12))["key"]) / "weights.safetensors")  # fmt: skip # noqa: E501
    for norm in (0.0, 1e-3, 1e6):
        record = train("an", changes=given | train_changes(clip_norm=norm))
        end = load_tensors(run_dir(tmp_path / "runs", record["key"]) / "weights.safetensors")
        moved.append(math.sqrt(sum(float((end[name] - start[name]).double().square().sum()) for name in start)))
    assert moved[1] == pytest.approx(0.5e-3, rel=1e-2)
    assert moved[0] == pytest.approx(moved[2], rel=1e-6)
    assert moved[0] > 10 * moved[1]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_the_rate_rises_evenly_to_that_of_the_schedule(schedule: str) -> None:
    def rates(**changes: Any) -> list[float]:
        chosen = settings(schedule=schedule, step_every=2, **changes)
        optimizer = make_optimizer(Network(), chosen)
        scheduler, found = make_scheduler(optimizer, chosen, 5), []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    plain, rising = rates(), rates(warmup_steps=4)
    assert rising == pytest.approx([min(1, (k + 1) / 4) * rate for k, rate in enumerate(plain)])


def test_norms_and_biases_are_spared_by_weight_decay() -> None:
    network = Network()
    optimizer = make_optimizer(network, settings(decayed="weights", weight_decay=0.5, optimizer="adamw"))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert decay[id(parameter)] == (0.5 if name.endswith("weight") and "1." not in name else 0.0), name


def test_stages_nearer_to_the_image_learn_slower() -> None:
    network = Network()
    optimizer = make_optimizer(network, settings(layer_rate=0.5, lr_multipliers={"head": 10.0}))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in network.named_parameters()}
    first, second = 0.1 * 0.25, 0.1 * 0.5
    wanted = {"backbone.0": first, "backbone.1": first, "backbone.3": second, "head": 1.0}
    assert found == pytest.approx({name: wanted[name.rpartition(".")[0]] for name in found})


def test_frozen_stages_keep_weights_and_statistics() -> None:
    network = Network()
    frozen = freeze_stages(network, 1)
    assert {id(p) for p in frozen} == {id(p) for p in network.backbone[:2].parameters()}
    set_training_mode(network, None, 1)
    assert [module.training for module in network.backbone] == [False, False, True, True]
    assert freeze_stages(network, 2) == list(network.backbone[3].parameters())
    with pytest.raises(UsageError, match="has 2 stages"):
        freeze_stages(network, 3)
    assert freeze_stages(nn.Linear(2, 2), 3) == []  # a network without a backbone


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [("resnet18", 5, ["conv1", "bn1"]), ("vgg16", 13, ["features.0"]), ("mobilenet_v2", 19, ["features.0"])],
)
def test_backbones_have_their_stages(name: str, count: int, first: list[str]) -> None:
    backbone = build_backbone(name)
    of = stages(backbone)
    assert len(of) == count
    assert of[0] == first
    places = [stage_of(parameter, of) for parameter, _ in backbone.named_parameters()]
    assert places == sorted(places)
    assert set(places) == set(range(count))


def test_every_setting_of_a_recipe_is_described() -> None:
    described = Recipe.__doc__ or ""
    assert all(f"{name} : " in described for name in to_plain(Recipe()))


def test_a_protocol_may_ask_for_a_recipe(tiny_request, tmp_path: Path) -> None:
    path = tmp_path / "modern.toml"
    path.write_text('extends = "single_positive"\nname = "modern"\n[train]\nema = 0.9997\ncutout = 0.5\n')
    run = resolve(tiny_request("an", protocol=str(path)))
    assert (run.train.ema, run.train.cutout) == (0.9997, 0.5)
    assert run.identity["train"]["ema"] == 0.9997
