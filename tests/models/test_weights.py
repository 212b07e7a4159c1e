from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mlbench.errors import DataError, UsageError
from mlbench.models.weights import TORCHVISION, StartWeights, WeightsFile, find_weights, hub_name, load_weights

State = dict[str, Any]


class Tiny(nn.Sequential):
    """A trunk small enough to write many files of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache folder for weights, empty."""
    monkeypatch.delenv("TORCH_HUB", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def tiny_state() -> State:
    torch.manual_seed(1)
    state = Tiny().state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    return state


def found(path: Path, backbone: str = "resnet18") -> WeightsFile:
    file = find_weights(backbone, path)
    assert file is not None
    return file


def load(tmp_path: Path, state: Any, module: nn.Module | None = None) -> StartWeights:
    torch.save(state, tmp_path / "given.pth")
    return load_weights(module or Tiny(), found(tmp_path / "given.pth"))


# -- finding ---------------------------------------------------------------------------------------------------------


def test_names_in_the_hub_cache_are_those_of_version_one() -> None:
    assert {name: hub_name(name) for name in TORCHVISION} == {
        "resnet18": "resnet18-f37072fd.pth",
        "resnet34": "resnet34-b627a593.pth",
        "resnet50": "resnet50-0676ba61.pth",
        "resnet101": "resnet101-63fe2227.pth",
        "vgg16": "vgg16-397923af.pth",
        "mobilenet_v2": "mobilenet_v2-b0353104.pth",
        "resnet50-keras": None,
        "scenes": None,
        "scenes-2": None,
    }


def test_an_empty_cache_gives_none_and_a_note_without_a_path(hub: Path) -> None:
    assert find_weights("resnet50") is None
    start = StartWeights.of("resnet50", None)
    assert (start.name, start.sha256) == ("random", None)
    assert start.note == ("random start: no ImageNet weights found (looked in checkpoints for resnet50-0676ba61.pth)")


@pytest.mark.parametrize("backbone", ["scenes", "scenes-2", "resnet50-keras"])
def test_backbones_without_a_torchvision_file_find_none_and_say_so(hub: Path, backbone: str) -> None:
    (hub / "resnet50-0676ba61.pth").write_bytes(b"never looked at")
    assert find_weights(backbone) is None
    assert StartWeights.of(backbone, None).note.startswith("random start: ")


def test_only_version_one_is_taken_from_the_cache(hub: Path) -> None:
    torch.save(tiny_state(), hub / "resnet50-11ad3fa6.pth")
    assert find_weights("resnet50") is None


def put_under_torchvisions_name(folder: Path, monkeypatch: pytest.MonkeyPatch, architecture: str = "resnet18") -> Path:
    """Save a small file under a name in torchvision's manner and make it the expected one."""
    import mlbench.models.weights as weights

    file = folder / "x.pth"
    torch.save(tiny_state(), file)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    named = file.rename(folder / f"{architecture}-{sha[:8]}.pth")
    monkeypatch.setattr(weights, "hub_name", lambda backbone: named.name)
    return named


def test_the_cached_file_is_found_checked_and_recorded(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = put_under_torchvisions_name(hub, monkeypatch)
    file = find_weights("resnet18")
    assert file is not None
    assert file.path == named
    assert file.sha256 == hashlib.sha256(named.read_bytes()).hexdigest()
    assert StartWeights.of("resnet18", file) == StartWeights(named.name, file.sha256, "torchvision IMAGENET1K_V1")


def test_a_given_file_goes_before_the_cache(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_under_torchvisions_name(hub, monkeypatch)
    torch.save(tiny_state(), tmp_path / "mine.pth")
    assert found(tmp_path / "mine.pth").path == tmp_path / "mine.pth"


def test_a_broken_download_is_noticed_by_the_hash_in_its_name(hub: Path) -> None:
    torch.save(tiny_state(), hub / "resnet18-f37072fd.pth")
    with pytest.raises(DataError, match="expected f37072fd"):
        find_weights("resnet18")


def test_another_version_of_torchvisions_is_used_when_given_but_noted(tmp_path: Path) -> None:
    torch.save(tiny_state(), tmp_path / "x.pth")
    sha = hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()
    named = (tmp_path / "x.pth").rename(tmp_path / f"resnet50-{sha[:8]}.pth")
    assert found(named, "resnet50").note == "torchvision, but not IMAGENET1K_V1"


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("resnet50-keras", "resnet50-0676ba61.pth"),
        ("resnet34", "resnet18-f37072fd.pth"),
        ("resnet50", "resnet50_keras_v1_fp16.pth"),
    ],
)
def test_a_file_named_for_another_backbone_is_refused(tmp_path: Path, backbone: str, name: str) -> None:
    # The two ResNet-50 have the same keys and shapes: nothing else would notice.
    torch.save(tiny_state(), tmp_path / name)
    with pytest.raises(DataError, match="named as"):
        find_weights(backbone, tmp_path / name)


def test_digits_at_the_end_of_any_other_name_mean_nothing(tmp_path: Path) -> None:
    torch.save(tiny_state(), tmp_path / "our_run-20240131.pth")
    assert found(tmp_path / "our_run-20240131.pth").note == "local file"


def test_a_missing_file_a_folder_and_another_type_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such weights file"):
        find_weights("resnet18", tmp_path / "none.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(DataError, match="no such weights file"):
        find_weights("resnet18", tmp_path / "folder.pth")
    with pytest.raises(UsageError, match="expected a weights file with the ending"):
        find_weights("resnet18", tmp_path / "weights.h5")


def test_an_unknown_backbone_is_an_error() -> None:
    with pytest.raises(UsageError, match="Did you mean 'vgg16'"):
        find_weights("vgg-16")


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_both_file_types_load_exactly_and_are_recorded(tmp_path: Path, ending: str) -> None:
    state, path, module = tiny_state(), tmp_path / f"given.{ending}", Tiny()
    if ending == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    start = load_weights(module, found(path))
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert start == StartWeights(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), "local file")
    assert module.start == start


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in tiny_state().items()}
    module = Tiny()
    load(tmp_path, state, module)
    assert module.conv.weight.dtype == torch.float32
    assert torch.equal(module.conv.weight, state["conv.weight"].float())
    assert module.bn.num_batches_tracked.dtype == torch.int64


def test_the_classifier_is_left_out_and_counted(tmp_path: Path) -> None:
    extra = {"fc.weight": torch.ones(2, 4), "fc.bias": torch.ones(2), "classifier.1.weight": torch.ones(1)}
    assert load(tmp_path, tiny_state() | extra).note == "local file; 3 classifier tensors left out"


def test_a_classifier_of_the_module_itself_is_loaded(tmp_path: Path) -> None:
    module = nn.ModuleDict({"fc": nn.Linear(2, 2)})
    state = {"fc.weight": torch.full((2, 2), 7.0), "fc.bias": torch.zeros(2)}
    assert load(tmp_path, state, module).note == "local file"
    assert module.state_dict()["fc.weight"].eq(7).all()


def test_counters_of_batchnorm_may_be_missing(tmp_path: Path) -> None:
    state = {k: v for k, v in tiny_state().items() if not k.endswith("num_batches_tracked")}
    load(tmp_path, state)


def without_running_mean(state: State) -> State:
    return {k: v for k, v in state.items() if k != "bn.running_mean"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_running_mean, "missing: bn.running_mean"),
        (lambda s: s | {"layer9.weight": torch.ones(1)}, "unexpected: layer9.weight"),
        (lambda s: s | {"bn.weight": torch.ones(5)}, r"wrong shape: bn.weight \[5\], expected \[4\]"),
        (lambda s: s | {"bn.weight": torch.ones(1)}, "wrong shape: bn.weight"),
        (lambda s: s | {"bn.weight": torch.ones(4, dtype=torch.int8)}, "wrong type: bn.weight torch.int8"),
        (lambda s: s | {"bn.bias": torch.tensor([1, 2, float("nan"), 4])}, "not finite: bn.bias"),
        (lambda s: s | {"bn.bias": torch.full((4,), float("inf")).half()}, "not finite: bn.bias"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "missing: conv.weight, bn.weight, bn.bias and 2 more"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_keys_named(
    tmp_path: Path, change: Callable[[State], State], message: str
) -> None:
    module = Tiny()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, change(tiny_state()), module)
    assert "given.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [
        {},
        [torch.zeros(1)],
        torch.zeros(3),
        {"state_dict": {"conv.weight": torch.zeros(1)}},
        {3: torch.zeros(1)},
        {"conv.weight": torch.eye(3).to_sparse()},
        {"conv.weight": torch.empty(3, device="meta")},
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_a_file_that_holds_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(DataError, match="expected tensors by key"):
        load(tmp_path, content)


class Evil:
    """Makes a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("environment", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}])
@pytest.mark.parametrize("writer", ["torch", "legacy", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], writer: str
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    content = tiny_state() | {"evil": Evil(tmp_path / "ran")}
    if writer == "pickle":
        (tmp_path / "evil.pth").write_bytes(pickle.dumps({"evil": Evil(tmp_path / "ran")}, protocol=2))
    else:
        torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(DataError, match="no code in a file is run"):
        load_weights(Tiny(), found(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("writer", ["torch", "legacy", "safetensors"])
def test_a_truncated_file_is_an_error_of_one_line(tmp_path: Path, writer: str, share: float) -> None:
    path = tmp_path / ("cut.safetensors" if writer == "safetensors" else "cut.pth")
    if writer == "safetensors":
        save_file(tiny_state(), path)
    else:
        torch.save(tiny_state(), path, _use_new_zipfile_serialization=writer == "torch")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"cut short|damaged") as caught:
        load_weights(Tiny(), found(path))
    assert "\n" not in str(caught.value)


def test_a_saved_web_page_is_refused(tmp_path: Path) -> None:
    for name in ("page.pth", "page.safetensors"):
        (tmp_path / name).write_bytes(b"<html>404 not found</html>")
        with pytest.raises(DataError, match=name):
            load_weights(Tiny(), found(tmp_path / name))
