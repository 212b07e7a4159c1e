"""The parts of a data set under a protocol, and the inputs a network is fed from them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlbench.annotation import Mask, State, draw_mask, hash_ids, may_contradict, sparse
from mlbench.annotation.sparse import LabelMatrix, SparseLabels, map_labels, no_labels, take_labels
from mlbench.annotation.sparse_masks import SparseMask, check_sparse_mask, draw_sparse_mask, with_negatives
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.splits import legacy_split
from mlbench.errors import DataError, UsageError
from mlbench.inputs.checked import Rows
from mlbench.inputs.features import Features
from mlbench.inputs.on_the_fly import OnTheFly
from mlbench.inputs.tensors import flip_some, normalise, on_device
from mlbench.methods import Method
from mlbench.protocol import Protocol
from mlbench.provenance import memory_bytes
from mlbench.seeds import derive, id_hashes, keyed_bits


@dataclass(frozen=True)
class Part:
    """Rows `rows` of one of the source's splits, as "train", "val" or "test" of a run.

    labels : int8 [N, C] raw states, all that is known (kept behind the scorer). observed : what a method may see.
    """

    name: str
    source: str
    split: Split
    rows: np.ndarray
    labels: LabelMatrix
    observed: LabelMatrix

    def __len__(self) -> int:
        return len(self.rows)


def make_parts(
    dataset: Dataset,
    protocol: Protocol,
    mask_seed: int,
    changes: Mapping[str, Any] | None = None,
    mask: Mask | None = None,
) -> tuple[dict[str, Part], Mask]:
    """Draw the mask over the source's whole training split (or take `mask`), then cut the parts of the protocol.

    `changes` are parameters of the annotation process that differ from the protocol's.
    """
    rule = protocol.unspecified_for(dataset.id)
    annotation = protocol.annotation_for(dataset.id)
    params = {**annotation.params, **(changes or {})}
    seed = mask_seed if annotation.seed is None else annotation.seed

    train = dataset.splits["train"]
    train_labels = map_labels(train.labels, rule.train)

    def draw(split: Split) -> Mask:
        labels = train_labels if split is train else map_labels(split.labels, rule.train)
        if isinstance(labels, SparseLabels) and isinstance(train_labels, SparseLabels):
            return draw_sparse_mask(labels, annotation.process, params, seed, split.ids, split.boxes, train_labels)
        return draw_mask(
            np.asarray(labels),
            annotation.process,
            params,
            seed,
            ids=split.ids,
            boxes=split.boxes,
            train_labels=np.asarray(train_labels),
            lists=None if split.lists is None else split.lists.load,
        )

    if mask is None:
        mask = draw(train)
    else:
        check_mask(mask, train, train_labels)
    observed: LabelMatrix = mask.observed

    def cut(name: str, rows: np.ndarray) -> Part:
        split = train.take(rows)
        return Part(name, "train", split, rows, split.labels, take_labels(observed, rows))

    everything = np.arange(len(train))
    official = "val" in dataset.splits
    parts: dict[str, Part] = {}
    if protocol.split.validation == "official" and not official:
        raise DataError(f"protocol '{protocol.name}' needs the official validation part; '{dataset.id}' has none")
    if official and protocol.split.validation.startswith("official"):
        val = dataset.splits["val"]
        parts["val"] = Part("val", "val", val, np.arange(len(val)), val.labels, draw(val).observed)
        rows = everything
    elif protocol.split.validation == "none":
        rows = everything
    else:
        rows, held = legacy_split(len(train), protocol.split.fraction, protocol.split.seed)
        parts["val"] = cut("val", held)
    parts["train"] = cut("train", rows)
    test = dataset.splits["test"]
    hidden = no_labels(test.labels)
    parts["test"] = Part("test", "test", test, np.arange(len(test)), test.labels, hidden)
    for part in parts.values():
        if not len(part):
            raise DataError(f"data set '{dataset.id}' has no images in its {part.name} part")
    return parts, mask


def check_mask(mask: Mask, split: Split, labels: LabelMatrix) -> None:
    """DataError unless `mask` was drawn for these samples and shows nothing that `labels` [N, C] deny.

    A mask that declares noise may show a POSITIVE as NEGATIVE and the reverse, and nothing else.
    """
    if mask.ids_sha256 != hash_ids(split.ids) or mask.observed.shape != labels.shape:
        raise DataError("the mask given was drawn for other samples or classes than the data set's training part")
    if isinstance(labels, SparseLabels) and isinstance(mask, SparseMask):
        check_sparse_mask(mask, split.ids, labels)
        return
    labels = np.asarray(labels)
    wrong = (mask.observed != State.UNKNOWN) & (mask.observed != labels)
    if may_contradict(mask):
        # POSITIVE and NEGATIVE are each other's opposite.
        wrong &= mask.observed != -labels
    if wrong.any():
        row, c = np.argwhere(wrong)[0]
        raise DataError(
            f"the mask given contradicts the data set in {int(wrong.sum())} labels, the first at sample "
            f"'{split.ids[row]}', class {c}"
        )


def training_labels(part: Part, supervision: tuple[str, ...], train_rule: str) -> LabelMatrix:
    """The label states a method is given: exactly what its declared supervision allows."""
    if not {"full", "oracle_negatives", "observed"} & set(supervision):
        return no_labels(part.labels)
    truth = map_labels(part.labels, train_rule)
    if "full" in supervision:
        return truth
    if "oracle_negatives" in supervision:
        if isinstance(part.observed, SparseLabels) and isinstance(truth, SparseLabels):
            return with_negatives(part.observed, truth)
        return np.where((part.observed == State.UNKNOWN) & (truth == State.NEGATIVE), truth, part.observed)
    return part.observed


def check_dense_state(method: type[Method], hyper: Mapping[str, Any], part: Part) -> None:
    """UsageError if labels are sparse and `method` keeps more for each image and class than this machine has."""
    each = method.dense_bytes(hyper)
    if not each or not isinstance(part.labels, SparseLabels):
        return
    rows, classes = part.labels.shape
    needed, there = rows * classes * each, memory_bytes()
    if rows * classes > sparse.MAX_DENSE or (there is not None and needed > there):
        has = "" if there is None else f", and this machine has {there / 1e9:,.1f} GB"
        raise UsageError(
            f"method '{method.name}' keeps {each} bytes for each training image and class: {rows:,} images x "
            f"{classes:,} classes take {needed / 1e9:,.1f} GB{has} (no more than {sparse.MAX_DENSE:,} of them are held "
            "where labels are sparse)"
        )


class ImageInputs:
    """Images of one part: uint8 rows gathered, normalised and (in training) mirrored by a draw keyed by sample id."""

    def __init__(
        self,
        pixels: Mapping[int, Rows | OnTheFly],
        rows: np.ndarray,
        ids: Sequence[str],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: tuple[str, ...],
        seed_names: tuple[str | int, ...],
    ) -> None:
        self.pixels, self.rows, self.mean, self.std = pixels, rows, mean, std
        self.augment, self.seed_names = augment, seed_names
        self.hashes = id_hashes(ids)

    def load(self, index: np.ndarray, size: int, device: torch.device, epoch: int | None) -> Tensor:
        """float [B, 3, size, size] of part rows `index`; augmented for `epoch`, plain where it is None."""
        raw = torch.from_numpy(np.array(self.pixels[size][self.rows[index]]))
        images = normalise(on_device(raw, device), self.mean, self.std)
        mirrored = self.mirrored(index, epoch)
        return images if mirrored is None else flip_some(images, on_device(mirrored, device))

    def expect(self, index: np.ndarray) -> None:
        """Tell that part rows `index` will be loaded in this order."""
        for pixels in self.pixels.values():
            if isinstance(pixels, OnTheFly):
                pixels.expect(self.rows[index])

    def mirrored(self, index: np.ndarray, epoch: int | None) -> Tensor | None:
        """Which images of part rows `index` are mirrored in `epoch`, bool [B]; None where none ever is."""
        if epoch is None or "flip" not in self.augment:
            return None
        bits = keyed_bits(self.hashes[index], derive("flip", *self.seed_names, epoch)) & np.uint64(1)
        return torch.from_numpy(bits.astype(bool))


class FeatureInputs:
    """Cached features of one part: maps [B, D, h, w], or pooled [B, D, 1, 1] where a head needs no more.

    Parts that were given the same `last` remember in it the batch they were last asked for, and what it was.
    """

    def __init__(self, features: Features, rows: np.ndarray, last: dict[Hashable, Tensor] | None = None) -> None:
        self.features, self.rows, self.last = features, rows, last
        self.pooled = False

    def load(self, index: np.ndarray, size: int, device: torch.device, epoch: int | None) -> Tensor:
        rows = self.rows[index]
        if self.last is None:
            return self._read(rows, device)
        asked = (self.pooled, torch.is_inference_mode_enabled(), rows.tobytes())
        if asked not in self.last:
            self.last.clear()
            self.last[asked] = self._read(rows, device)
        return self.last[asked]

    def _read(self, rows: np.ndarray, device: torch.device) -> Tensor:
        if self.pooled:
            kept = self.features.pooled[rows][:, :, None, None]
        else:
            assert self.features.maps is not None, "maps are asked for, and only pooled features were loaded"
            kept = np.asarray(self.features.maps[rows])
        return on_device(torch.from_numpy(kept), device).to(torch.get_default_dtype())
