"""Side inputs: what a batch carries beside its images, how it is made, and how it follows them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mlbench.datasets.base import Dataset, size_of
from mlbench.errors import DataError, UsageError, unknown
from mlbench.inputs.cache import Advance
from mlbench.methods import Hyper, Method, Uses
from mlbench.registry import load_method

if TYPE_CHECKING:
    from mlbench.runner.data import Part
    from mlbench.runner.plan import Run

#: Loads one kind of side input for rows of a part: ``loader(index) -> value``.
SideLoader = Callable[[np.ndarray], Any]

#: What a method that takes "proposals" has to declare.
PROPOSAL_HYPERPARAMETERS = {
    "proposals.source": Hyper("selective_search", "selective_search, grid, or the name of an import"),
    "proposals.count": Hyper(200, "region proposals of an image", low=1, high=10000),
}


@dataclass(frozen=True)
class SideInput:
    """One kind of side input.

    make : ``make(run, part, advance)`` gives the loader for rows of `part`.
    identity : ``identity(dataset, hyper)``, what decides the values and is not in the run's identity otherwise.
    sha256 : ``sha256(run, part)``, of the file the values of `part` are read from.
    read : ``read(path, dataset)``, of the file that a person gives with ``--side KIND=FILE``, for kinds that come so;
        what it gives is in ``run.given``, and its `identity` is that of the side input.
    mirror : ``mirror(value, which)``, the value for images of which those in bool [B] are mirrored by augmentation.
    """

    make: Callable[[Run, Part, Advance | None], SideLoader]
    identity: Callable[[Dataset, Mapping[str, Any]], Any] | None = None
    mirror: Callable[[Any, Tensor], Any] | None = None
    sha256: Callable[[Run, Part], str] | None = None
    read: Callable[[Path, Dataset], Given] | None = None


class Given(Protocol):
    """What was read from a file that a person gave."""

    @property
    def identity(self) -> Mapping[str, Any]: ...


def boxes_of(run: Run, part: Part, advance: Advance | None = None) -> SideLoader:
    """Ground-truth boxes by row: a list of float32 [m, 5] tensors (class, x1, y1, x2, y2), in shares of the image."""
    split = part.split
    boxes = split.boxes if split.boxes is not None else np.zeros((0, 6), np.float32)
    boxes = boxes[np.argsort(boxes[:, 0], kind="stable")]
    ends = np.searchsorted(boxes[:, 0], np.arange(len(split) + 1))  # row i has the boxes ends[i] to ends[i + 1]
    sizes = np.zeros((len(split), 2), dtype=np.int32)  # looked up when a row is first asked for

    def shares(row: int) -> Tensor:
        own = boxes[ends[row] : ends[row + 1], 1:].copy()
        if len(own):
            if not sizes[row, 0]:
                sizes[row] = size_of(split.images, row)
            own[:, 1:] /= np.tile(sizes[row].astype(np.float32), 2)
        return torch.from_numpy(own)

    return lambda index: [shares(int(row)) for row in index]


def mirror_boxes(boxes: list[Tensor], which: Tensor) -> list[Tensor]:
    """Boxes [m, 5] of each image (class, x1, y1, x2, y2) with left and right exchanged in the images of bool [B]."""

    def mirror(own: Tensor) -> Tensor:
        label, x1, y1, x2, y2 = own.unbind(dim=1)
        return torch.stack([label, 1 - x2, y1, 1 - x1, y2], dim=1)

    return [mirror(own) if turned else own for own, turned in zip(boxes, which.tolist(), strict=True)]


def proposals_of(run: Run, part: Part, advance: Advance | None = None) -> SideLoader:
    """Region proposals by row: float32 [B, R, 5] as `mlbench.proposals` describes them."""
    from mlbench.proposals import load_proposals

    source, count = _proposal_settings(run.hyper)
    array = load_proposals(run.dataset.splits[part.source], source, count, advance)
    return lambda index: torch.from_numpy(np.array(array[part.rows[index]]))


def _proposals_sha256(run: Run, part: Part) -> str:
    from mlbench.proposals.arrays import proposals_sha256

    return proposals_sha256(run.dataset.splits[part.source], *_proposal_settings(run.hyper))


def _proposals_identity(dataset: Dataset, hyper: Mapping[str, Any]) -> Any:
    from mlbench.proposals.arrays import proposals_identity

    return proposals_identity(dataset.splits, *_proposal_settings(hyper))


def tags_of(part: Part) -> SideLoader:
    """Tags by row: bool [B, T], which words came with each image (`mlbench.datasets.base.Tags`)."""
    assert part.split.tags is not None
    present = torch.from_numpy(part.split.tags.load())
    return lambda index: present[index]


def _tags_identity(dataset: Dataset, hyper: Mapping[str, Any]) -> Any:
    """Whose tags they are, and SHA-256 of them all."""
    digest, origins = hashlib.sha256(), set()
    for name, split in sorted(dataset.splits.items()):
        if split.tags is None:
            raise DataError(f"data set '{dataset.id}' has no tags in its {name} part, which this method goes by")
        digest.update(f"{name}\0".encode() + np.packbits(split.tags.load(), axis=1).tobytes())
        origins.add(split.tags.origin)
    return {"origin": ", ".join(sorted(origins)), "sha256": digest.hexdigest()}


def vl_scores_of(run: Run, part: Part) -> SideLoader:
    """Scores of a vision-language model by row: float32 [B, C], as their file has them."""
    scores = run.given["vl_scores"].of(part.source)
    return lambda index: torch.from_numpy(scores[part.rows[index]])


def _read_vl_scores(path: Path, dataset: Dataset) -> Given:
    from mlbench.runner.vl_scores import read_vl_scores

    return read_vl_scores(path, dataset)


def _proposal_settings(hyper: Mapping[str, Any]) -> tuple[str, int]:
    if missing := PROPOSAL_HYPERPARAMETERS.keys() - hyper.keys():
        raise UsageError(f"a method with inputs 'proposals' has to declare the hyperparameters {', '.join(missing)}")
    return hyper["proposals.source"], hyper["proposals.count"]


def mirror_proposals(proposals: Tensor, which: Tensor) -> Tensor:
    """Proposals [B, R, 5] with left and right exchanged in the images of bool [B]; places without box stay so."""
    x1, y1, x2, y2, score = proposals.unbind(dim=-1)
    empty = x2 <= x1
    mirrored = torch.stack([1 - x2, y1, 1 - x1, y2, score], dim=-1).masked_fill(empty[..., None], 0.0)
    return torch.where(which[:, None, None], mirrored, proposals)


#: Side inputs by name; a package that brings another kind adds it here: a `SideInput`, or only a function of the
#: part that gives the loader.
SIDE_INPUTS: dict[str, SideInput | Callable[[Any], SideLoader]] = {
    "boxes": SideInput(boxes_of, mirror=mirror_boxes),
    "proposals": SideInput(proposals_of, _proposals_identity, mirror_proposals, _proposals_sha256),
    "tags": SideInput(lambda run, part, advance: tags_of(part), _tags_identity),
    "vl_scores": SideInput(
        lambda run, part, advance: vl_scores_of(run, part),
        sha256=lambda run, part: run.given["vl_scores"].file_sha256,
        read=_read_vl_scores,
    ),
}


class LazySide(Mapping[str, Any]):
    """The side inputs of one batch, each made when asked for: inference need not pay for what it does not read."""

    def __init__(self, kinds: tuple[str, ...], make: Callable[[str], Any]) -> None:
        self._kinds, self._make = kinds, make
        self._made: dict[str, Any] = {}

    def __getitem__(self, kind: str) -> Any:
        if kind not in self._kinds:
            raise KeyError(kind)
        if kind not in self._made:
            self._made[kind] = self._make(kind)
        return self._made[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


def side_identity(
    inputs: tuple[str, ...], dataset: Dataset, hyper: Mapping[str, Any], given: Mapping[str, Given] | None = None
) -> dict[str, Any]:
    """What the side inputs of a method add to a run's identity, by kind; `given` are those read from files."""
    kinds = {kind: side_input(kind) for kind in inputs if kind in SIDE_INPUTS}
    found = {kind: side.identity(dataset, hyper) for kind, side in kinds.items() if side.identity is not None}
    return found | {kind: dict(value.identity) for kind, value in (given or {}).items()}


def read_given(files: Mapping[str, Path], method: type[Method], hyper: Mapping[str, Any], dataset: Dataset) -> Any:
    """What `method` takes of the `files` given by kind, read; UsageError for one too few, or one that nobody takes.

    A file may be there for a run that this one builds on alone.
    """
    by_file = [kind for kind in SIDE_INPUTS if side_input(kind).read is not None]
    taken = inputs_of(method, hyper)
    for kind in files:
        if kind not in by_file:
            raise unknown("side input", kind, by_file, "--side")
        if kind not in taken:
            raise UsageError(f"--side {kind}: method '{method.name}' takes no {kind}")
    given = {}
    for kind in method.inputs:
        read = side_input(kind).read if kind in SIDE_INPUTS else None
        if read is None:
            continue
        if kind not in files:
            raise UsageError(
                f"method '{method.name}' takes {kind}, which come in a file: give it with --side {kind}=FILE"
            )
        given[kind] = read(Path(files[kind]), dataset)
    return given


def inputs_of(method: type[Method], hyper: Mapping[str, Any]) -> set[str]:
    """Kinds of side inputs that `method` and the methods it builds on take."""
    return set().union(*(used.inputs for used in methods_of(method, hyper)))


def methods_of(method: type[Method], hyper: Mapping[str, Any]) -> Iterator[type[Method]]:
    """`method`, and all that it builds on under these hyperparameters."""
    yield method
    for use in method.uses_for(hyper).values():
        yield from methods_of(*method_used(use))


def method_used(use: Uses) -> tuple[type[Method], dict[str, Any]]:
    """The method that `use` names, and its hyperparameters."""
    method = load_method(use.method)
    own = {k: v for k, v in use.hyperparameters.items() if not k.startswith(("train.", "annotation."))}
    return method, method.resolve(own)


def side_input(kind: str) -> SideInput:
    """The entry `kind` of `SIDE_INPUTS`."""
    entry = SIDE_INPUTS[kind]
    return entry if isinstance(entry, SideInput) else SideInput(lambda run, part, advance: entry(part))
