"""Backbones of timm: maps, statistics, weights, image sizes, and whole runs on its smallest networks."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from mlbench.conformance.suite import compare, read_course, run_with_stops
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError, UsageError
from mlbench.inputs.features import feature_recipe
from mlbench.models.backbones import BACKBONES, IMAGENET_MEAN, IMAGENET_STD, build_backbone
from mlbench.models.timm_backbones import Layout, as_maps
from mlbench.runner.checkpoint import save_tensors
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request, resolve
from mlbench.runner.trained import request_of

timm = pytest.importorskip("timm")

#: Map of an image of 160 pixels, mean of the red channel.
SMALLEST = {
    "test_vit": ((64, 10), 0.5),
    "test_convnext": ((64, 5), 0.5),
    "test_resnet": ((96, 5), 0.5),
    "test_efficientnet": ((256, 5), 0.485),
}


def tokens(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.forward_features(images)  # type: ignore[operator]


@pytest.mark.parametrize("name", SMALLEST)
def test_maps_statistics_and_stride_are_the_models_own(name: str) -> None:
    (channels, side), mean = SMALLEST[name]
    entry, trunk = BACKBONES[f"timm:{name}"], build_backbone(f"timm:{name}").eval()
    assert (entry.out_channels, entry.stride) == (channels, 160 // side)
    assert (trunk.out_channels, trunk.stride, trunk.name) == (channels, 160 // side, f"timm:{name}")
    config = timm.data.resolve_model_data_config(timm.create_model(name))
    assert trunk.mean == entry.mean == config["mean"]
    assert trunk.std == entry.std == config["std"]
    assert entry.mean[0] == mean
    assert entry.library == f"timm {timm.__version__}"
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        maps = trunk(images)
        whole = trunk.model.forward_intermediates(  # type: ignore[operator,union-attr]
            images, indices=1, output_fmt="NCHW", intermediates_only=True, norm=True
        )[0]
    assert maps.shape == (2, channels, side, side)
    if name == "test_efficientnet":  # stops before the last convolution
        assert whole.shape[1] != channels
    else:
        torch.testing.assert_close(maps, whole)


def test_a_position_of_a_transformers_map_is_the_token_of_that_patch() -> None:
    trunk = build_backbone("timm:test_vit").eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        maps, every = trunk(images), tokens(trunk.model, images)  # type: ignore[arg-type]
    assert every.shape == (2, 101, 64)  # a class token before 10 x 10 others
    for row, column in ((0, 0), (0, 3), (7, 2)):
        torch.testing.assert_close(maps[:, :, row, column], every[:, 1 + 10 * row + column])


@pytest.mark.parametrize("name", SMALLEST)
def test_every_parameter_that_is_trained_moves_the_maps(name: str) -> None:
    trunk = build_backbone(f"timm:{name}")
    trunk(torch.randn(2, 3, 160, 160)).square().sum().backward()
    without = [key for key, parameter in trunk.named_parameters() if parameter.grad is None]
    assert without == (["model.head.norm.weight", "model.head.norm.bias"] if name == "test_convnext" else [])
    assert not any(trunk.get_parameter(key).requires_grad for key in without)


def test_channels_that_come_last_are_brought_forward() -> None:
    entry = BACKBONES["timm:swin_tiny_patch4_window7_224"]
    assert (entry.out_channels, entry.stride, entry.stages) == (768, 32, ())
    layout = Layout(8, True, 3, 4, 0, True, (), (), IMAGENET_MEAN, IMAGENET_STD, ())
    found = torch.arange(12.0).reshape(1, 2, 2, 3)
    assert torch.equal(as_maps(found, layout)[0, :, 1, 0], found[0, 1, 0])


def test_what_gives_no_map_is_refused_in_a_line() -> None:
    with pytest.raises(UsageError, match=r"'timm:pit_ti_224' cannot be used: .* are no map of the image"):
        build_backbone("timm:pit_ti_224")


def test_a_wrong_name_brings_the_nearest_and_not_all() -> None:
    with pytest.raises(UsageError, match=r"no model 'resnet5O'\. Did you mean 'timm:resnet50'\?") as caught:
        build_backbone("timm:resnet5O")
    assert len(str(caught.value)) < 300
    with pytest.raises(UsageError, match=r"tags of 'test_vit': r160_in1k"):
        build_backbone("timm:test_vit.r16_in1k")
    with pytest.raises(UsageError, match="write timm:NAME"):
        build_backbone("timm")
    assert BACKBONES["timm:test_vit.r160_in1k"].out_channels == 64


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbench.models.timm_backbones import TIMM

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"need the library timm: pip install 'mlbench-multilabel\[timm\]'"):
        TIMM.member("resnet50")
    assert build_backbone("scenes").out_channels == 64


# -- weights ---------------------------------------------------------------------------------------------------------


def test_resnet50_of_torchvision_loads_as_it_is_and_gives_the_same_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    save_tensors(tmp_path / "own.safetensors", network.state_dict(), {})
    ours, theirs = (build_backbone(name, tmp_path / "own.safetensors").eval() for name in ("resnet50", "timm:resnet50"))
    assert "2 classifier tensors left out" in theirs.start.note
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), ours(images), rtol=0, atol=0)


def test_a_file_of_another_package_is_renamed_by_position(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2(weights=None)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    torch.save(network.features.state_dict(), tmp_path / "bare.pth")
    images = torch.randn(1, 3, 96, 96)
    expected = network.eval().features(images).detach()
    for file in ("own", "bare"):
        trunk = build_backbone("timm:mobilenetv2_100", tmp_path / f"{file}.pth").eval()
        assert "renamed by position" in trunk.start.note
        with torch.inference_mode():
            torch.testing.assert_close(trunk(images), expected)


def test_a_file_whose_shapes_come_in_another_order_is_refused(tmp_path: Path) -> None:
    network = torchvision.models.mobilenet_v2(weights=None)
    torch.save(dict(reversed(network.features.state_dict().items())), tmp_path / "odd.pth")
    save_tensors(tmp_path / "without_order.safetensors", network.features.state_dict(), {})
    for name in ("odd.pth", "without_order.safetensors"):
        with pytest.raises(DataError, match="do not fit the network"):
            build_backbone("timm:mobilenetv2_100", tmp_path / name)


def test_a_whole_checkpoint_leaves_its_classifier_out(tmp_path: Path) -> None:
    for name in SMALLEST:
        whole = timm.create_model(name, pretrained=False, num_classes=7).eval()
        save_tensors(tmp_path / f"{name}.safetensors", whole.state_dict(), {})
        trunk = build_backbone(f"timm:{name}", tmp_path / f"{name}.safetensors").eval()
        assert "2 classifier tensors left out" in trunk.start.note
        images = torch.randn(1, 3, 160, 160)
        with torch.inference_mode():
            torch.testing.assert_close(trunk(images).flatten(), as_maps_of(trunk, tokens(whole, images)).flatten())


def as_maps_of(trunk: Any, found: torch.Tensor) -> torch.Tensor:
    return as_maps(found, trunk.layout)


def test_a_norm_of_the_mean_token_becomes_that_of_each(tmp_path: Path) -> None:
    whole = timm.create_model("test_vit", pretrained=False, num_classes=7, global_pool="avg").eval()
    assert "fc_norm.weight" in whole.state_dict()
    nn.init.normal_(whole.fc_norm.weight)
    save_tensors(tmp_path / "mean.safetensors", whole.state_dict(), {})
    trunk = build_backbone("timm:test_vit", tmp_path / "mean.safetensors").eval()
    assert "the norm of the mean token is that of each token" in trunk.start.note
    images = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        expected = whole.fc_norm(tokens(whole, images)[:, 1:]).transpose(1, 2)
        torch.testing.assert_close(trunk(images).flatten(2), expected)


def test_weights_named_as_those_with_other_strides_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "resnet50_keras.safetensors", torchvision.models.resnet50().state_dict(), {})
    with pytest.raises(DataError, match="whose stride sits elsewhere than in 'timm:resnet50'"):
        build_backbone("timm:resnet50", tmp_path / "resnet50_keras.safetensors")


def test_the_librarys_own_cache_is_looked_into_and_nothing_is_loaded_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    seen = []

    def look(repo: str, file: str) -> str | None:
        seen.append((repo, file))
        return str(kept) if kept.is_file() else None

    kept = tmp_path / "model.safetensors"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)
    cached = BACKBONES["timm:test_resnet"].cached
    assert cached is not None
    assert cached() is None
    save_tensors(kept, timm.create_model("test_resnet").state_dict(), {})
    assert cached() == kept
    assert seen == [("timm/test_resnet.r160_in1k", "model.safetensors")] * 2
    assert build_backbone("timm:test_resnet", allow_random=False).start.name == "model.safetensors"


# -- image sizes -----------------------------------------------------------------------------------------------------


def test_a_transformer_is_set_to_the_size_of_the_run() -> None:
    trunk = build_backbone("timm:vit_tiny_patch16_224", image_size=96).eval()
    with torch.inference_mode():
        assert trunk(torch.randn(1, 3, 96, 96)).shape == (1, 192, 6, 6)
        with pytest.raises(UsageError, match=r"is set to images of 96 px and was given 112 px"):
            trunk(torch.randn(1, 3, 112, 112))


def test_the_position_code_is_that_of_the_weights_at_the_new_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    full = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    save_tensors(tmp_path / "vit.safetensors", full.state_dict(), {})
    trunk = build_backbone("timm:vit_tiny_patch16_224", tmp_path / "vit.safetensors", image_size=64).eval()
    full.set_input_size(img_size=64)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = tokens(full, images)[:, 1:].transpose(1, 2)
        torch.testing.assert_close(trunk(images).flatten(2), expected)


def test_a_network_of_one_size_says_so() -> None:
    with pytest.raises(UsageError, match=r"'timm:mixer_s16_224' takes images of 224 px alone"):
        build_backbone("timm:mixer_s16_224", image_size=64)


def test_networks_of_any_size_are_left_alone() -> None:
    trunk = build_backbone("timm:test_resnet", image_size=64).eval()
    with torch.inference_mode():
        assert trunk(torch.randn(1, 3, 64, 96)).shape == (1, 96, 2, 3)


# -- runs ------------------------------------------------------------------------------------------------------------


def ask(name: str, **given: Any) -> Request:
    changes = {"train.epochs": 1, "train.batch_size": 20, "train.image_size": 64, **given.pop("changes", {})}
    given = {"dataset": tiny_dataset(), "track": "full", "backbone": f"timm:{name}", **given}
    return Request("single_positive", "an", changes=changes, **given)


@pytest.mark.parametrize("name", SMALLEST)
def test_a_run_trains_the_network_and_is_found_again(name: str, tmp_path: Path) -> None:
    record = run(ask(name), Options(store=tmp_path, device="cpu", quiet=True))
    assert record["identity"]["backbone"] == {
        "name": f"timm:{name}",
        "weights": "none",
        "library": f"timm {timm.__version__}",
    }
    again = dataclasses.replace(request_of(record, None, dataset="x.toml"), dataset=tiny_dataset())
    assert resolve(again).key == record["key"]


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole = run(ask("test_vit"), Options(store=tmp_path / "whole", device="cpu", quiet=True))
    course, stops = run_with_stops(ask("test_vit"), tmp_path / "stopped", 1)
    assert stops
    for name, values in read_course(tmp_path / "whole", whole).items():
        np.testing.assert_array_equal(course[name], values)


def test_versions_of_timm_are_told_apart_by_runs_and_features(monkeypatch: pytest.MonkeyPatch) -> None:
    key = resolve(ask("test_resnet")).key
    trunk, split = build_backbone("timm:test_resnet"), tiny_dataset().splits["train"]
    recipe = feature_recipe(split, 64, trunk, "x", torch.device("cpu"))
    assert recipe["versions"]["timm"] == timm.__version__
    monkeypatch.setitem(vars(timm), "__version__", "9.9")
    from mlbench.registry import forget

    forget()
    try:
        assert resolve(ask("test_resnet")).key != key
        assert feature_recipe(split, 64, trunk, "x", torch.device("cpu")) != recipe
    finally:
        forget()
    assert "library" not in resolve(ask("x", backbone="scenes")).identity["backbone"]


def test_the_track_head_reads_the_features_of_the_weights_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    save_tensors(tmp_path / "w.safetensors", timm.create_model("test_vit").state_dict(), {})
    asked = ask("test_vit", track="head", weights=tmp_path / "w.safetensors")
    record = run(asked, Options(store=tmp_path, device="cpu", quiet=True))
    assert record["identity"]["track"] == "head"
    assert len(record["identity"]["backbone"]["weights"]) == 64


@pytest.mark.parametrize("method", ["an", "role", "llr_boostlu", "an_boostlu_inference"])
def test_a_network_that_torchvision_has_too_gives_a_method_the_same_numbers(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_tensors(tmp_path / "w.safetensors", torchvision.models.resnet18().state_dict(), {})
    changes = {"train.epochs": 2, "train.batch_size": 11, "train.image_size": 64, "train.lr": 1e-2}
    courses, records = [], []
    for backbone in ("resnet18", "timm:resnet18"):
        given = {"backbone": backbone, "weights": tmp_path / "w.safetensors", "track": "head", "changes": changes}
        asked = Request("single_positive", method, tiny_dataset(), **given)  # type: ignore[arg-type]
        records.append(run(asked, Options(store=tmp_path, device="cpu", quiet=True, keep="epochs")))
        courses.append(read_course(tmp_path, records[-1]))
    compare(*courses, tolerance=0)
    assert records[0]["results"] == records[1]["results"]
    assert records[0]["key"] != records[1]["key"]
