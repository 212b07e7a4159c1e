"""The parts of a data set under a protocol, and the inputs a network is fed from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlbench.annotation import Mask, State, draw_mask, hash_ids, map_unspecified
from mlbench.datasets.base import Dataset, Split
from mlbench.errors import DataError
from mlbench.images.features import Features
from mlbench.images.tensors import flip_some, normalise
from mlbench.protocol import Protocol
from mlbench.seeds import derive, id_hashes, keyed_bits
from mlbench.splits import legacy_split


@dataclass(frozen=True)
class Part:
    """Rows `rows` of one of the source's splits, as "train", "val" or "test" of a run.

    labels : int8 [N, C] raw states, all that is known (kept behind the scorer). observed : what a method may see.
    """

    name: str
    source: str
    split: Split
    rows: np.ndarray
    labels: np.ndarray
    observed: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def make_parts(
    dataset: Dataset, protocol: Protocol, mask_seed: int, keep: float | None, mask: Mask | None = None
) -> tuple[dict[str, Part], Mask]:
    """Draw the mask over the source's whole training split (or take `mask`), then cut the parts of the protocol."""
    rule = protocol.unspecified_for(dataset.id)
    annotation = protocol.annotation_for(dataset.id)
    params = {} if annotation.keep is None and keep is None else {"keep": annotation.keep if keep is None else keep}
    seed = mask_seed if annotation.seed is None else annotation.seed

    def draw(split: Split) -> Mask:
        labels = map_unspecified(split.labels, rule.train)
        return draw_mask(labels, annotation.process, params, seed, ids=split.ids)

    train = dataset.splits["train"]
    if mask is None:
        mask = draw(train)
    else:
        check_mask(mask, train, map_unspecified(train.labels, rule.train))
    observed = mask.observed
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
        parts["val"] = Part("val", "train", train.take(held), held, train.labels[held], observed[held])
    parts["train"] = Part("train", "train", train.take(rows), rows, train.labels[rows], observed[rows])
    test = dataset.splits["test"]
    hidden = np.zeros_like(test.labels)
    parts["test"] = Part("test", "test", test, np.arange(len(test)), test.labels, hidden)
    for part in parts.values():
        if not len(part):
            raise DataError(f"data set '{dataset.id}' has no images in its {part.name} part")
    return parts, mask


def check_mask(mask: Mask, split: Split, labels: np.ndarray) -> None:
    """DataError unless `mask` was drawn for these samples and shows nothing that `labels` [N, C] deny."""
    if mask.ids_sha256 != hash_ids(split.ids) or mask.observed.shape != labels.shape:
        raise DataError("the mask given was drawn for other samples or classes than the data set's training part")
    wrong = (mask.observed != State.UNKNOWN) & (mask.observed != labels)
    if wrong.any():
        row, c = np.argwhere(wrong)[0]
        raise DataError(
            f"the mask given contradicts the data set in {int(wrong.sum())} labels, the first at sample "
            f"'{split.ids[row]}', class {c}"
        )


def training_labels(part: Part, supervision: tuple[str, ...], train_rule: str) -> np.ndarray:
    """The label states a method is given: exactly what its declared supervision allows."""
    truth = map_unspecified(part.labels, train_rule)
    if "full" in supervision:
        return truth
    if "oracle_negatives" in supervision:
        return np.where((part.observed == State.UNKNOWN) & (truth == State.NEGATIVE), truth, part.observed)
    return part.observed


class ImageInputs:
    """Images of one part: uint8 rows gathered, normalised and (in training) mirrored by a draw keyed by sample id."""

    def __init__(
        self,
        pixels: Mapping[int, np.ndarray],
        rows: np.ndarray,
        ids: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: tuple[str, ...],
        seed_names: tuple[str | int, ...],
    ) -> None:
        self.pixels, self.rows, self.mean, self.std = pixels, rows, mean, std
        self.augment, self.seed_names = augment, seed_names
        self.hashes = id_hashes(ids)

    def load(self, index: np.ndarray, size: int, device: torch.device, epoch: int | None) -> Tensor:
        """float32 [B, 3, size, size] of part rows `index`; augmented for `epoch`, plain where it is None."""
        raw = torch.from_numpy(np.array(self.pixels[size][self.rows[index]]))
        images = normalise(raw.to(device, non_blocking=True), self.mean, self.std)
        if epoch is not None and "flip" in self.augment:
            bits = keyed_bits(self.hashes[index], derive("flip", *self.seed_names, epoch)) & np.uint64(1)
            images = flip_some(images, torch.from_numpy(bits.astype(bool)).to(device))
        return images


class FeatureInputs:
    """Cached features of one part: maps [B, D, h, w], or pooled [B, D, 1, 1] where a head needs no more."""

    def __init__(self, features: Features, rows: np.ndarray) -> None:
        self.features, self.rows = features, rows
        self.pooled = False

    def load(self, index: np.ndarray, size: int, device: torch.device, epoch: int | None) -> Tensor:
        rows = self.rows[index]
        if self.pooled:
            return torch.from_numpy(self.features.pooled[rows]).to(device)[:, :, None, None]
        return torch.from_numpy(np.array(self.features.maps[rows])).to(device).float()
