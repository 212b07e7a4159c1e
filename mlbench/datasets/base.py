"""What a data set is: ids, raw labels, images and boxes in a fixed, hashed order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.names import take_names
from mlbench.datasets.sparse import LabelMatrix, SparseLabels, take_labels
from mlbench.errors import UsageError


class ImageSource(Protocol):
    """The images of one split, addressed by row."""

    def __len__(self) -> int: ...

    def load(self, row: int) -> np.ndarray:
        """Decode image `row` to uint8 RGB, shape [height, width, 3]; DataError names the file if it cannot."""
        ...

    def describe(self, row: int) -> str:
        """Where image `row` comes from, for messages and the fingerprint (no absolute path)."""
        ...


def size_of(images: ImageSource, row: int) -> tuple[int, int]:
    """(width, height) of image `row` as `load` gives it; nothing is decoded where the source can tell (``size``)."""
    while isinstance(images, SubsetImages):
        row, images = int(images.rows[row]), images.source
    tell = getattr(images, "size", None)
    if tell is not None:
        width, height = tell(row)
    else:
        height, width = images.load(row).shape[:2]
    return width, height


@dataclass(frozen=True, eq=False)
class Tags:
    """Words that came with the images of a split beside their labels (those of a site's users, say).

    Parameters
    ----------
    read : gives bool [M, T], which image has which word; called only where a method takes tags.
    origin : whose words these are, in words.
    rows : which rows of that are the split's, in its order; None: all.
    """

    read: Callable[[], np.ndarray]
    origin: str
    rows: np.ndarray | None = None

    def load(self) -> np.ndarray:
        """bool [N, T] in the order of the split."""
        present = self.read()
        return present if self.rows is None else present[self.rows]

    def take(self, rows: np.ndarray) -> Tags:
        """The tags of `rows`, in the order given."""
        return Tags(self.read, self.origin, rows if self.rows is None else self.rows[rows])


def held_out_tags(labels: np.ndarray, listed: Sequence[str], classes: Sequence[str], where: str) -> Tags:
    """Labels int8 [N, L] of the names `listed` as tags, but for those that are in `classes`.

    UsageError, beginning with `where`, if there are no others.
    """
    others = [column for column, name in enumerate(listed) if name not in set(classes)]
    if not others:
        raise UsageError(f"{where}: key 'tags': no class is left out that could be a tag")
    present = np.asarray(labels)[:, others] == State.POSITIVE
    return Tags(lambda: present, f"held-out labels: {len(others)} words that are no classes")


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Parameters
    ----------
    ids : sample ids, unique within the split, in the fixed row order.
    labels : int8 [N, C], raw `State` values as the source has them (POSITIVE, NEGATIVE, UNKNOWN, UNSPECIFIED), or
        `SparseLabels` where few of very many are known.
    images : the pictures, one a row.
    groups : image id of each sample where several samples share an image (persons of WIDER);
        the bootstrap resamples groups. Defaults to `ids`.
    boxes : float32 [M, 6] rows (sample row, class, x1, y1, x2, y2) in pixels of the decoded image, or None.
    tags : the source's tags, or None. No part of the fingerprint: runs of methods that take tags have their hash in
        their identity, and to all others it makes no difference whether they are there.
    """

    ids: Sequence[str]
    labels: LabelMatrix
    images: ImageSource
    groups: Sequence[str] = ()
    boxes: np.ndarray | None = None
    tags: Tags | None = None

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | np.ndarray) -> Split:
        """The sub-split of `rows`, in the order given."""
        rows = np.asarray(rows, dtype=np.int64)
        boxes = None
        if self.boxes is not None:
            position = np.full(len(self), -1, dtype=np.int64)
            position[rows] = np.arange(len(rows))
            kept = self.boxes[position[self.boxes[:, 0].astype(np.int64)] >= 0].copy()
            kept[:, 0] = position[kept[:, 0].astype(np.int64)]
            boxes = kept[np.argsort(kept[:, 0], kind="stable")]
        return Split(
            ids=take_names(self.ids, rows),
            labels=take_labels(self.labels, rows),
            images=SubsetImages(self.images, rows),
            groups=take_names(self.groups, rows),
            boxes=boxes,
            tags=None if self.tags is None else self.tags.take(rows),
        )

    def update_hash(self, digest: hashlib._Hash) -> None:
        """Feed ids, groups, labels, boxes and image descriptions to `digest`, in row order."""
        for row, (sample, group) in enumerate(zip(self.ids, self.groups, strict=True)):
            digest.update(f"{sample}\0{group}\0{self.images.describe(row)}\n".encode())
        if isinstance(self.labels, SparseLabels):
            self.labels.update_hash(digest)
        else:
            digest.update(np.ascontiguousarray(self.labels, dtype=np.int8).tobytes())
        if self.boxes is not None:
            digest.update(np.ascontiguousarray(self.boxes, dtype=np.float32).tobytes())


@dataclass(frozen=True)
class SubsetImages:
    """A view on some rows of an image source."""

    source: ImageSource
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, row: int) -> np.ndarray:
        return self.source.load(int(self.rows[row]))

    def describe(self, row: int) -> str:
        return self.source.describe(int(self.rows[row]))


@dataclass(frozen=True)
class Dataset:
    """A data set as its source has it: no protocol applied, nothing hidden.

    `splits` holds "train" and "test", and "val" only where the source has an official one.
    `notes` lists what was left out or repaired, counted, one line each; `flippable` is False where a
    mirrored image is another class (digits).
    """

    id: str
    version: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    flippable: bool = True
    notes: tuple[str, ...] = ()
    source: str = ""
    _cached: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over id, version, classes and every split's ids, labels, boxes and image descriptions."""
        if "fingerprint" not in self._cached:
            digest = hashlib.sha256(f"{self.id}\0{self.version}\0".encode())
            digest.update("\0".join(self.classes).encode())
            for name in sorted(self.splits):
                digest.update(f"\n[{name}]\n".encode())
                self.splits[name].update_hash(digest)
            self._cached["fingerprint"] = digest.hexdigest()
        return self._cached["fingerprint"]
