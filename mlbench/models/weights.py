"""Pretrained weights from local files: found, checked, loaded, and recorded by hash. Nothing is ever downloaded."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mlbench.errors import DataError, UsageError

#: The torchvision architecture whose IMAGENET1K_V1 file fits a backbone; None where torchvision has no file for it.
TORCHVISION: Mapping[str, str | None] = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet50-keras": None,
    "vgg16": "vgg16",
    "mobilenet_v2": "mobilenet_v2",
    "scenes": None,
    "scenes-2": None,
}

CLASSIFIERS = ("fc.", "classifier.")

#: torchvision's file names end with the first eight hex digits of the file's SHA-256.
_TORCHVISION_NAME = re.compile(r"(?P<architecture>.+)-(?P<sha>[0-9a-f]{8})\.pth")


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on this machine: where it lies, its SHA-256, and what is known of its origin."""

    path: Path
    sha256: str
    note: str


@dataclass(frozen=True)
class StartWeights:
    """What a backbone starts from, for the record: a name, the file's SHA-256 (None for a random start), a remark."""

    name: str
    sha256: str | None
    note: str

    @classmethod
    def of(cls, backbone: str, file: WeightsFile | None) -> StartWeights:
        """The record of `backbone` started from `file`, or at random where that is None."""
        if file is not None:
            return cls(file.path.name, file.sha256, file.note)
        expected = hub_name(backbone)
        if backbone not in TORCHVISION:
            note = "random start: no weights given, and none in the cache of the backbone's library"
        elif backbone == "scenes":
            note = "random start: this network is trained from scratch"
        elif backbone == "scenes-2":
            note = "random start: this network is trained from scratch, from the same weights in every run"
        elif expected is None:
            note = "random start: no ImageNet weights given, and torchvision has none for this network"
        else:
            note = f"random start: no ImageNet weights found (looked in {_hub_folder().name} for {expected})"
        return cls("random", None, note)


def hub_name(backbone: str) -> str | None:
    """File name of torchvision's IMAGENET1K_V1 weights for `backbone`, as torchvision gives it; None if it has none.

    So of all backbones that are not torchvision's.

    V1 and not torchvision's present default: the papers used the weights of their time, and V2 comes from another
    training recipe.
    """
    architecture = TORCHVISION.get(backbone)
    if architecture is None:
        return None
    import torchvision

    url: str = torchvision.models.get_model_weights(architecture)["IMAGENET1K_V1"].url
    return url.rsplit("/", 1)[-1]


def find_weights(backbone: str, path: Path | str | None = None) -> WeightsFile | None:
    """The weights file to start `backbone` from.

    Parameters
    ----------
    backbone : a backbone's name.
    path : a local .safetensors or .pth file. None: torchvision's IMAGENET1K_V1 file in the cache folder of
        `torch.hub`, if it is there (put there by torchvision or by hand); of another library's backbone, its file in
        that library's own cache.

    Returns
    -------
    The file with its SHA-256, or None if no path is given and the cache does not have the file.

    Raises
    ------
    UsageError : no such backbone, or a file of another type.
    DataError : no such file; a file whose name says that it is for another backbone; or one with torchvision's name
        whose SHA-256 does not begin as the name says (a broken download).
    """
    from mlbench.models.backbones import BACKBONES  # which loads weights

    expected = hub_name(backbone)
    BACKBONES[backbone]  # refuses an unknown name
    if path is None:
        path = cached_weights(backbone)[0]
    if path is None:
        return None
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise UsageError(f"{path}: expected a weights file with the ending .safetensors or .pth")
    if not path.is_file():
        raise DataError(f"{path}: no such weights file (for backbone '{backbone}')")
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return WeightsFile(path, sha256, _origin(backbone, path, sha256, expected))


def cached_weights(backbone: str) -> tuple[Path | None, str]:
    """The weights file for `backbone` in the cache of its library, not opened; and the name that is looked for.

    None where it is not there; "" where there is no such name.
    """
    from mlbench.models.backbones import BACKBONES  # which loads weights

    entry, expected = BACKBONES[backbone], hub_name(backbone)
    if entry.cached is not None:
        return entry.cached(), ""
    path = None if expected is None else _hub_folder() / expected
    return path if path is not None and path.is_file() else None, expected or ""


def load_weights(module: nn.Module, file: WeightsFile) -> StartWeights:
    """Load `file` into `module`, a backbone without classifier; also set as ``module.start``.

    Floating-point values become float32. Keys of a classifier (``fc.``, ``classifier.``) that `module` does not have
    are left out and counted in the note; a module that defines ``adapt_weights`` is asked first, see `Backbone`. The
    counters of BatchNorm, which older files lack, may be missing.

    Raises
    ------
    DataError : the file cannot be read, or holds anything but tensors (no code in it is ever run); a key is missing,
        unexpected, or has another shape or type; or a value is not finite.
    """
    own = module.state_dict()
    state, remark = _read(file.path), ""
    if hasattr(module, "adapt_weights"):
        state, remark = module.adapt_weights(state, file.path.suffix == ".pth")  # type: ignore[operator]
    left_out = [key for key in state if key.startswith(CLASSIFIERS) and key not in own]
    for key in left_out:
        del state[key]
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    shared = [key for key in own if key in state]
    problems = {
        "missing": missing,
        "unexpected": [key for key in state if key not in own],
        "wrong shape": [
            f"{key} {list(state[key].shape)}, expected {list(own[key].shape)}"
            for key in shared
            if state[key].shape != own[key].shape
        ],
        "wrong type": [
            f"{key} {state[key].dtype}"
            for key in shared
            if state[key].is_floating_point() != own[key].is_floating_point()
        ],
        "not finite": [
            key for key in shared if state[key].is_floating_point() and not bool(torch.isfinite(state[key]).all())
        ],
    }
    if any(problems.values()):
        found = "; ".join(f"{what}: {_first(keys)}" for what, keys in problems.items() if keys)
        raise DataError(f"{file.path}: these weights do not fit the network: {found}")
    module.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, strict=False
    )
    left = f"{len(left_out)} classifier tensors left out" if left_out else ""
    note = "; ".join(filter(None, (file.note, remark, left)))
    start = StartWeights(file.path.name, file.sha256, note)
    module.start = start  # type: ignore[assignment]
    return start


def _origin(backbone: str, path: Path, sha256: str, expected: str | None) -> str:
    """What the file's name says of its origin, checked."""
    # ResNet-50 exists with the stride in two places and the same keys, so that loading cannot tell them apart.
    if backbone.removeprefix("timm:").partition(".")[0] == "resnet50" and "keras" in path.name.lower():
        raise DataError(
            f"{path}: named as weights of 'resnet50-keras', whose stride sits elsewhere than in '{backbone}'"
        )
    name = _TORCHVISION_NAME.fullmatch(path.name)
    if name is None or name["architecture"] not in TORCHVISION.values():
        return "local file"
    if backbone in TORCHVISION and name["architecture"] != TORCHVISION[backbone]:
        raise DataError(f"{path}: named as torchvision's weights of '{name['architecture']}', not of '{backbone}'")
    if not sha256.startswith(name["sha"]):
        raise DataError(
            f"{path}: the file is not what its name says: its SHA-256 begins with {sha256[:8]}, expected {name['sha']} "
            "(a broken download, or another file under torchvision's name)"
        )
    return "torchvision IMAGENET1K_V1" if path.name == expected else "torchvision, but not IMAGENET1K_V1"


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by key, on the CPU."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: not a plain file of tensors, or damaged: it was refused, as only tensors are loaded and no code "
            "in a file is run"
        ) from error
    except Exception as error:  # A damaged file makes the readers raise nearly anything.
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise DataError(f"{path}: cannot be read as a weights file, it may be cut short: {reason}") from error
    if not isinstance(state, Mapping) or not state or not all(_is_entry(*item) for item in state.items()):
        raise DataError(
            f"{path}: expected tensors by key (the state dict of a network), found something else or nothing"
        )
    return dict(state)


def _is_entry(key: object, value: object) -> bool:
    """Whether this is a name with a dense tensor that holds data."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return isinstance(key, str) and plain


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _first(items: Iterable[str], count: int = 3) -> str:
    listed = list(items)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more
