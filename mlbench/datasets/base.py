"""What a data set is: ids, raw labels, images and boxes in a fixed, hashed order."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from mlbench.annotation import State
from mlbench.annotation.sparse import LabelMatrix, SparseLabels, take_labels
from mlbench.errors import UsageError
from mlbench.images.names import take_names
from mlbench.provenance import usable_cores

if TYPE_CHECKING:
    from mlbench.datasets.listed import Lists

#: Told how many images of how many are done.
Advance = Callable[[int, int], None]

#: Ends the version of a miniature, a made-up small copy of a data set's layout (`mlbench.datasets.miniature`).
MINIATURE = "-miniature"

_AT_ONCE = 64  # images of one task of a thread


class ImageSource(Protocol):
    """The images of one split, addressed by row."""

    def __len__(self) -> int: ...

    def load(self, row: int) -> np.ndarray:
        """Decode image `row` to uint8 RGB, shape [height, width, 3]; DataError names the file if it cannot."""
        ...

    def describe(self, row: int) -> str:
        """Where image `row` comes from, for messages (no absolute path)."""
        ...


@runtime_checkable
class HashedSource(Protocol):
    """What an `ImageSource` may add, where the content of its images is known without decoding them."""

    def content(self, rows: np.ndarray | None = None, advance: Advance | None = None) -> np.ndarray:
        """SHA-256 of all that decides what ``load`` gives for each of `rows` (None: all), uint8 [n, 32]."""
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
    lists : where published lists of shown labels are to be found, or None; no part of the fingerprint either.
    """

    ids: Sequence[str]
    labels: LabelMatrix
    images: ImageSource
    groups: Sequence[str] = ()
    boxes: np.ndarray | None = None
    tags: Tags | None = None
    lists: Lists | None = None

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
            lists=None if self.lists is None else self.lists.take(rows),
        )

    def content(self, advance: Advance | None = None) -> np.ndarray:
        """SHA-256 of the content of each image, uint8 [N, 32] (`image_content`)."""
        return image_content(self.images, None, advance)

    def update_hash(self, digest: hashlib._Hash, advance: Advance | None = None) -> None:
        """Feed ids, groups, labels, boxes and the images' content to `digest`, in row order."""
        boxes = "no" if self.boxes is None else len(self.boxes)
        digest.update(f"{len(self)} samples, {self.labels.shape[1]} classes, {boxes} boxes\n".encode())
        pairs = zip(self.ids, self.groups, strict=True)
        while some := list(islice(pairs, 65536)):
            digest.update("".join(f"{sample}\0{group}\n" for sample, group in some).encode())
        self._hash_labels(digest)
        digest.update(self.content(advance).data)

    def update_legacy_hash(self, digest: hashlib._Hash) -> None:
        """As `update_hash`, with the images' descriptions (names and sizes) in place of their content."""
        for row, (sample, group) in enumerate(zip(self.ids, self.groups, strict=True)):
            digest.update(f"{sample}\0{group}\0{self.images.describe(row)}\n".encode())
        self._hash_labels(digest)

    def _hash_labels(self, digest: hashlib._Hash) -> None:
        if isinstance(self.labels, SparseLabels):
            self.labels.update_hash(digest)
        else:
            digest.update(np.ascontiguousarray(self.labels, dtype=np.int8).tobytes())
        if self.boxes is not None:
            digest.update(np.ascontiguousarray(self.boxes, dtype=np.float32).tobytes())


def image_content(images: ImageSource, rows: np.ndarray | None = None, advance: Advance | None = None) -> np.ndarray:
    """SHA-256 of all that decides what ``images.load`` gives for each of `rows` (None: all), uint8 [n, 32].

    Files are hashed as they are, once; of a source that does not know the content of its images the decoded pixels
    are. Names and places do not count: the same pictures elsewhere have the same content.
    """
    if isinstance(images, SubsetImages):
        return image_content(images.source, images.rows if rows is None else images.rows[rows], advance)
    if isinstance(images, HashedSource):
        return images.content(rows, advance)
    digests, known = _decoded(images)
    chosen = np.arange(len(images)) if rows is None else np.asarray(rows, dtype=np.int64)
    fresh = np.unique(chosen[~known[chosen]])

    def hash_pixels(start: int) -> None:
        for row in fresh[start : start + _AT_ONCE].tolist():
            image = np.ascontiguousarray(images.load(row))
            digest = hashlib.sha256(f"{image.dtype} {image.shape}\n".encode() + image.tobytes()).digest()
            digests[row], known[row] = np.frombuffer(digest, np.uint8), True

    with ThreadPoolExecutor(usable_cores()) as pool:
        starts = range(0, len(fresh), _AT_ONCE)
        for start, _ in zip(starts, pool.map(hash_pixels, starts), strict=True):
            if advance is not None:
                advance(min(start + _AT_ONCE, len(fresh)), len(fresh))
    return digests[chosen]


#: Content of the sources that do not know it, by `id`: digests uint8 [N, 32], and which of them were computed.
_DECODED: dict[int, tuple[weakref.ref[ImageSource], np.ndarray, np.ndarray]] = {}


def _decoded(images: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    """What is known of the content of `images`, to be added to; forgotten together with them."""
    key = id(images)
    entry = _DECODED.get(key)
    if entry is None or entry[0]() is not images:
        digests, known = np.zeros((len(images), 32), np.uint8), np.zeros(len(images), bool)
        try:
            entry = weakref.ref(images, lambda _: _DECODED.pop(key, None)), digests, known
        except TypeError:  # of a class with slots, say
            return digests, known
        _DECODED[key] = entry
    return entry[1], entry[2]


@dataclass(frozen=True)
class ArrayImages:
    """Images held in memory: uint8 [N, H, W, 3]."""

    array: np.ndarray

    def __len__(self) -> int:
        return len(self.array)

    def load(self, row: int) -> np.ndarray:
        return self.array[row]

    def describe(self, row: int) -> str:
        return f"array {hashlib.sha256(self.array[row].tobytes()).hexdigest()[:16]}"


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
    mirrored image is another class (digits). `owner` is the package, with version, that registers it; empty for
    people's own.
    """

    id: str
    version: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    flippable: bool = True
    notes: tuple[str, ...] = ()
    source: str = ""
    owner: str = field(default="", compare=False)
    _cached: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_miniature(self) -> bool:
        """Whether this only bears the name of the data set that it copies the layout of."""
        return self.version.endswith(MINIATURE)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over id, version, classes and every split's ids, labels, boxes and image content.

        The first time all image files are read; afterwards only those that were touched since (`hash_images`).
        """
        return self.hash_images()

    def hash_images(self, counter: Callable[[str], Advance] | None = None) -> str:
        """The fingerprint; ``counter(title)`` gives what is told of images hashed and to be hashed.

        DataError names the first image files that are missing or cannot be read.
        """
        if "fingerprint" not in self._cached:
            digest = hashlib.sha256(f"data set, by content\0{self.id}\0{self.version}\0".encode())
            digest.update("\0".join(self.classes).encode())
            for name in sorted(self.splits):
                digest.update(f"\n[{name}]\n".encode())
                self.splits[name].update_hash(digest, counter(f"hashing {name}") if counter else None)
            self._cached["fingerprint"] = digest.hexdigest()
        return self._cached["fingerprint"]

    @property
    def legacy_fingerprint(self) -> str:
        """The fingerprint of harness 1: with names and sizes of files in place of their content."""
        if "legacy" not in self._cached:
            digest = hashlib.sha256(f"{self.id}\0{self.version}\0".encode())
            digest.update("\0".join(self.classes).encode())
            for name in sorted(self.splits):
                digest.update(f"\n[{name}]\n".encode())
                self.splits[name].update_legacy_hash(digest)
            self._cached["legacy"] = digest.hexdigest()
        return self._cached["legacy"]

    def count_unhashed(self) -> int:
        """How many images `fingerprint` would have to read."""
        return sum(_unhashed(split.images) for split in self.splits.values())


def _unhashed(images: ImageSource) -> int:
    while isinstance(images, SubsetImages):
        images = images.source
    if hasattr(images, "unhashed"):
        return images.unhashed()
    return 0 if hasattr(images, "array") else len(images)
