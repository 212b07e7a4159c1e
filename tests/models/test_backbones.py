from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from mlbench.errors import DataError, UsageError
from mlbench.models.backbones import BACKBONES, IMAGENET_MEAN, IMAGENET_STD, build_backbone
from mlbench.models.heads import Classifier, HeadSpec, build_head
from mlbench.models.weights import TORCHVISION, StartWeights, find_weights, load_weights
from mlbench.registry import OWN_PACKAGE


def conv_strides(module: nn.Module) -> list[tuple[int, ...]]:
    return [m.stride for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("name", TORCHVISION)
def test_maps_have_the_stated_channels_and_stride(name: str) -> None:
    trunk = build_backbone(name).eval()
    # The networks of `scenes` and `scenes-2` are made for 64 x 64 images; the others take any size.
    height, width = (64, 64) if name.startswith("scenes") else (64, 96)
    with torch.inference_mode():
        maps = trunk(torch.randn(1, 3, height, width))
    assert maps.shape == (1, trunk.out_channels, height // trunk.stride, width // trunk.stride)
    assert maps.dtype == torch.float32
    entry = BACKBONES[name]
    assert (trunk.out_channels, trunk.stride, trunk.mean, trunk.std) == (
        entry.out_channels,
        entry.stride,
        entry.mean,
        entry.std,
    )
    assert trunk.name == name


def test_normalisation_is_imagenets_except_for_scenes() -> None:
    for name, entry in ((name, BACKBONES[name]) for name in TORCHVISION):
        expected = ((0.5,) * 3, (0.25,) * 3) if name.startswith("scenes") else (IMAGENET_MEAN, IMAGENET_STD)
        assert (entry.mean, entry.std) == expected
    preset = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert (tuple(preset.mean), tuple(preset.std)) == (IMAGENET_MEAN, IMAGENET_STD)


def test_every_backbone_says_where_its_weights_come_from() -> None:
    assert {name for name in BACKBONES if BACKBONES.owner(name).package == OWN_PACKAGE} == {*TORCHVISION, "timm"}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_trunks_pool_to_torchvisions_logits(name: str) -> None:
    network = torchvision.models.get_model(name, weights=None).eval()
    trunk = build_backbone(name).eval()
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    trunk.load_state_dict(state)
    head = build_head(HeadSpec(), trunk.out_channels, 1000)
    head.load_state_dict(network.fc.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(Classifier(trunk, head)(images).logits, network(images))


def test_mobilenet_trunk_is_torchvisions_features() -> None:
    network = torchvision.models.mobilenet_v2(weights=None).eval()
    trunk = build_backbone("mobilenet_v2").eval()
    trunk.load_state_dict({k: v for k, v in network.state_dict().items() if k.startswith("features.")})
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(trunk(images), network.features(images))


def test_vgg16_ends_after_conv5_3_and_its_relu() -> None:
    trunk = build_backbone("vgg16")
    layers = list(trunk.features)  # type: ignore[arg-type]
    assert [type(layer) for layer in layers[-2:]] == [nn.Conv2d, nn.ReLU]
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == 13
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in layers) == 4
    with torch.device("meta"):
        full = torchvision.models.vgg16(weights=None)
    assert set(trunk.state_dict()) == {k for k in full.state_dict() if k.startswith("features.")}


def test_vgg16_starts_as_torchvisions_rule_says() -> None:
    for layer in build_backbone("vgg16").features:  # type: ignore[union-attr]
        if isinstance(layer, nn.Conv2d):
            # Kaiming normal over outgoing connections, gain of ReLU: variance 2 / (out channels x 9), bias 0.
            assert layer.weight.std().item() == pytest.approx((2 / (layer.out_channels * 9)) ** 0.5, rel=0.06)
            assert not layer.bias.any()


def test_keras_resnet_moves_the_stride_to_the_first_convolution_and_nothing_else() -> None:
    plain, keras = build_backbone("resnet50"), build_backbone("resnet50-keras")
    assert plain.state_dict().keys() == keras.state_dict().keys()
    different = [
        (name, module.stride, keras.get_submodule(name).stride)
        for name, module in plain.named_modules()
        if isinstance(module, nn.Conv2d) and module.stride != keras.get_submodule(name).stride
    ]
    assert different == [
        (f"{layer}.0.{conv}", before, after)
        for layer in ("layer2", "layer3", "layer4")
        for conv, before, after in (("conv1", (1, 1), (2, 2)), ("conv2", (2, 2), (1, 1)))
    ]
    keras.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.allclose(plain.eval()(images), keras.eval()(images))


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "scenes"])
def test_a_random_start_follows_torchs_seed_and_is_never_silent(name: str) -> None:
    torch.manual_seed(5)
    first = build_backbone(name)
    torch.manual_seed(5)
    second = build_backbone(name)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first.start == StartWeights("random", None, "random start: no weights were given")


def test_trunks_can_be_copied_and_cut() -> None:
    trunk = build_backbone("resnet18").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(trunk)(images), trunk(images))
        assert torch.equal(trunk[-1](trunk[:-1](images)), trunk(images))


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'resnet50'"):
        build_backbone("resnet5O")


def test_without_leave_for_a_random_start_missing_weights_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"backbone 'resnet18': .*no ImageNet weights found .*Give a weights file"):
        build_backbone("resnet18", allow_random=False)


def test_a_given_file_is_loaded_and_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    source = build_backbone("mobilenet_v2")
    torch.save(source.state_dict(), file)
    for given in (file, str(file), find_weights("mobilenet_v2", file)):
        trunk = build_backbone("mobilenet_v2", given)
        assert trunk.start.name == "mine.pth"
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), trunk.parameters(), strict=True))


def photograph(path: Path) -> torch.Tensor:
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    return (images - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)


@pytest.mark.data
@pytest.mark.skipif("MLBENCH_DATA" not in os.environ, reason="MLBENCH_DATA does not name a folder of real data")
def test_keras_weights_recognise_photographs_with_the_right_stride_only() -> None:
    data = Path(os.environ["MLBENCH_DATA"])
    path = data / "weights" / "resnet50_keras_v1_fp16.pth"
    if not path.is_file():
        pytest.skip("MLBENCH_DATA has no Keras ResNet-50 weights")
    file = find_weights("resnet50-keras", path)
    assert file is not None
    right, wrong = build_backbone("resnet50-keras", file).eval(), build_backbone("resnet50").eval()
    load_weights(wrong, file)
    classifier = torch.load(path, weights_only=True)
    head = build_head(HeadSpec(), 2048, 1000)
    head.load_state_dict({"weight": classifier["fc.weight"].float(), "bias": classifier["fc.bias"].float()})
    names = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    expected = {34: "zebra", 81: "airliner", 263: "Indian elephant", 471: "school bus"}
    with torch.inference_mode():
        images = torch.cat([photograph(data / "coco256/images/train2017" / f"{i:012d}.jpg") for i in expected])
        chances = head(right(images)).softmax(dim=1)
        chances_wrong = head(wrong(images)).softmax(dim=1)
    assert [names[i] for i in chances.argmax(dim=1)] == list(expected.values())
    index = [names.index(name) for name in expected.values()]
    rows = range(len(index))
    assert chances[rows, index].mean() > chances_wrong[rows, index].mean() + 0.1
