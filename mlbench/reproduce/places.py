"""Where data sets and weights lie, as a person names them, and which of a plan's they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlbench.datasets import DATASETS
from mlbench.datasets.description import read_description
from mlbench.errors import UsageError, unknown
from mlbench.models.backbones import BACKBONES
from mlbench.models.weights import find_weights, hub_name
from mlbench.store.papers import PRINTED_AS

_PARTIAL = "-partial"


@dataclass(frozen=True)
class Place:
    """A data set in a folder; `root` is None where it needs none."""

    dataset: str
    root: Path | None

    @property
    def id(self) -> str:
        """What its runs call it."""
        return read_description(self.dataset).id if self.dataset.endswith(".toml") else self.dataset

    def stands_in(self, data: str) -> bool:
        """Whether it is other images than those of data set `data` of a paper's table."""
        return self.dataset != data


def parse_data(texts: Iterable[str], asked: Iterable[str], others: Iterable[str] = ()) -> dict[str, Place]:
    """Places by data set of ``NAME=DIR`` or, for another data set in its place, ``NAME=OTHER:DIR``.

    `asked` are the data sets of the tables, `others` those of further ones, whose places are left aside. NAME is one
    of them, or the name that several have in print: "coco2014" is all of them on COCO 2014, unless one is named by
    itself. OTHER is any data set's name or description.
    """
    asked = list(dict.fromkeys(asked))
    printed: dict[str, list[str]] = {}
    for data in asked:
        printed.setdefault(PRINTED_AS.get(data, data), []).append(data)
    elsewhere = {text for data in others for text in (data, PRINTED_AS.get(data, data))}
    found: dict[str, Place] = {}
    general: dict[str, Place] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise UsageError(f"--data {text}: expected NAME=DIR, or NAME=OTHER:DIR for data set OTHER in its place")
        if name not in asked and name not in printed and name in elsewhere:
            continue
        if name not in asked and name not in printed:
            raise unknown("data set", name, {*asked, *printed}, "--data, of the tables asked for")
        other, colon, folder = rest.partition(":")
        given = bool(colon) and (other.endswith(".toml") or other.removesuffix(_PARTIAL) in DATASETS)
        root = folder if given else rest
        for data in [name] if name in asked else printed[name]:
            table = found if name == data and name in asked else general
            if data in table:
                raise UsageError(f"--data {name}: given twice")
            table[data] = Place(other if given else data, Path(root).resolve() if root else None)
        if name in asked:  # the name in print may be that of one of them, and stands for the others as well
            for data in printed.get(name, ()):
                general.setdefault(data, Place(other if given else data, found[name].root))
    return general | found


def parse_sides(texts: Iterable[str]) -> dict[tuple[str, str], Path]:
    """Files by data set ("" for all) and kind of ``[DATASET:]KIND=FILE``."""
    found: dict[tuple[str, str], Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        data, _, kind = name.rpartition(":")
        if not equals or not kind or not file:
            raise UsageError(f"--side {text}: expected KIND=FILE, or DATASET:KIND=FILE")
        if (data, kind) in found:
            raise UsageError(f"--side {name}: given twice")
        found[data, kind] = Path(file).resolve()
    return found


def parse_weights(texts: Iterable[str | Path]) -> dict[str, Path]:
    """Weights files by backbone: of ``BACKBONE=FILE``, of files, and of the folders named.

    A file is for the backbone that its name begins with ("resnet50-0676ba61.pth", "vgg16_caffe.safetensors").
    UsageError for a file that is for none, and for two that are for one.
    """
    found: dict[str, Path] = {}
    for text in map(str, texts):
        name, equals, file = text.partition("=")
        if equals and name in BACKBONES:
            _add(found, BACKBONES.canonical(name), Path(file))
            continue
        path = Path(text)
        if path.is_dir():
            for one in sorted(path.iterdir()):
                if one.suffix in (".pth", ".safetensors") and (backbone := _backbone_of(one)):
                    _add(found, backbone, one)
        elif not path.exists():
            raise UsageError(f"--weights {text}: no such file or folder")
        elif (backbone := _backbone_of(path)) is None:
            raise UsageError(
                f"--weights {text}: its name begins with no backbone's: give it as BACKBONE=FILE. "
                f"Backbones: {', '.join(sorted(BACKBONES))}"
            )
        else:
            _add(found, backbone, path)
    return found


def _add(found: dict[str, Path], backbone: str, path: Path) -> None:
    if backbone in found and found[backbone] != path.resolve():
        raise UsageError(
            f"--weights: {found[backbone].name} and {path.name} are both for '{backbone}': name one, as {backbone}=FILE"
        )
    found[backbone] = path.resolve()


def _backbone_of(path: Path) -> str | None:
    """The backbone with the longest name that a file's begins with."""
    stem = path.name.replace("-", "_")
    fits = [name for name in BACKBONES if re.match(re.escape(name.replace("-", "_")) + r"[_.]", stem)]
    return max(fits, key=len, default=None)


def missing_weights(backbone: str, weights: Mapping[str, Path], track: str) -> str:
    """Why `backbone` cannot be started from weights; empty if it can, or is trained from scratch."""
    if backbone in weights or backbone not in BACKBONES:
        return ""
    expected = hub_name(backbone)
    if expected is None:
        head = f"no weights for backbone '{backbone}' among --weights, which track 'head' needs"
        return head if track == "head" else ""
    if find_weights(backbone) is not None:
        return ""
    return f"no weights for backbone '{backbone}' among --weights (torchvision's file is {expected})"
