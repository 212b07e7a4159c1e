"""The embedded data sets ``scenes`` and ``scenes-2``: small pictures of one to five digits, made at first use.

Sources, both shipped with scikit-learn: the 1,797 handwritten digits of `load_digits` (8x8, UCI "Optical
Recognition of Handwritten Digits") and the two photographs of `load_sample_images` as backgrounds. Nothing is
downloaded. The class frequencies have a long tail and the classes co-occur unevenly. The digits of the training,
validation and test scenes come from disjoint digit images, their backgrounds from disjoint parts of the photographs.

The pixels are the same to the byte on every machine:

* every value is an integer; resampling is fixed-point bilinear, a rotation is a rational point of the circle;
* the pseudo-random integers come from `numpy.random.RandomState`, whose stream NumPy has frozen (NEP 19);
* a photograph is decoded at an eighth of its size, which asks a JPEG decoder only for the mean of each 8x8 block (the
  files have no chroma subsampling) and thus avoids the parts in which decoders differ.

The result is compared with recorded SHA-256 sums. Where the libraries give other bytes all the same, that is another
version of the data, named after what it holds, so that its runs are never taken for runs on the recorded one.

``scenes-2`` is the second edition, on which runs of a method are alike: three times the training pictures, darker
backgrounds, digits that overlap less and are about equally frequent. It has a name of its own: its runs share no column
with the first one's.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import Dataset, Split
from mlbench.paths import cache_dir

CLASSES = tuple("0123456789")
SIDE = 64


@dataclass(frozen=True)
class Look:
    """How scenes are drawn.

    frequency : of digits 0..9, relative. digit_side : pixels that the 8x8 digit image is stretched to. tilt : a
    rotation's half-angle has the tangent k/64, -tilt <= k <= tilt: up to 17.8 degrees for 10. tint : of a digit's
    channels. brightness : of the background, in 1/256. overlap : two boxes share at most this part (a of b) of the
    smaller.
    """

    frequency: tuple[int, ...]
    digit_side: tuple[int, int]
    tilt: int
    tint: tuple[int, int]
    brightness: tuple[int, int]
    overlap: tuple[int, int]


@dataclass(frozen=True)
class Edition:
    """What is made: how it looks, pictures of each split, and the SHA-256 that each split has (see `_digest`)."""

    id: str
    version: str
    look: Look
    counts: Mapping[str, int]
    sha256: Mapping[str, str]


FIRST = Edition(
    "scenes",
    "1",
    Look(
        frequency=(70, 100, 35, 51, 25, 84, 41, 60, 20, 30),
        digit_side=(26, 36),
        tilt=10,
        tint=(150, 255),
        brightness=(64, 128),
        overlap=(1, 3),
    ),
    {"train": 4000, "val": 1000, "test": 2000},
    {
        "train": "987acb0f4ae118bbb615fa0f04a04a941ec0231a642ef261aed16355039d5923",
        "val": "ec2d2da3f6b6a253299cc6926203361f6bcd8fb1cabc7cd98db80b6e87066b47",
        "test": "22b9fa41329d9793c5ace918c990a9a7ce6099432d668a22e207d0ed204c1d59",
    },
)
SECOND = Edition(
    "scenes-2",
    "2",
    Look(
        frequency=(60, 75, 50, 55, 45, 70, 50, 60, 40, 45),
        digit_side=(27, 34),
        tilt=6,
        tint=(190, 255),
        brightness=(32, 80),
        overlap=(1, 8),
    ),
    {"train": 12000, "val": 1000, "test": 2000},
    {
        "train": "f04fadb7bbe7c85d5132dc6828d9ef9b861c2e104c20d68a3064675d0a86e2f6",
        "val": "25b4e01404bfce4461c14835e8eb0ca56cee9253066020fbbebc6c6ff2f7b10e",
        "test": "bd34f13d77dbaaf7c0c26c5c06c02fc2def433651249d33c09eb7dacd9f0d36a",
    },
)

#: SHA-256 of what the pictures are built from.
INPUT_SHA256 = {
    "load_digits": "fa684d0d7dc1521883e980ef0e820ffdbcccbd3133f588761e1cf6e4c52925cb",
    "china.jpg": "b451695d6ef242c2f9b324b9272de42f5ccdafa34f38249d46ca960a1ca036e4",
    "flower.jpg": "9574e0d4c70228255145679734805c4661c2c731004fdd0ed3d4f63ceff07038",
}

_SEEDS = {"digits": 20260, "train": 20261, "val": 20262, "test": 20263}
#: Share (%) of each class's digit images, and columns of the reduced photographs (of 80), given to each split.
_DIGIT_SHARE = {"train": (0, 60), "val": (60, 75), "test": (75, 100)}
_COLUMNS = {"val": (0, 18), "train": (18, 62), "test": (62, 80)}

#: The two classes that each class likes to appear with.
_COMPANIONS = ((6, 5), (7, 4), (3, 8), (2, 9), (1, 9), (0, 3), (0, 8), (1, 2), (6, 7), (4, 5))
_AFFINITY = 6
_DIGITS_IN_SCENE = (16, 26, 26, 20, 12)  # relative frequency of 1, 2, 3, 4 and 5 digits
_CROP = (12, 16)  # side of the background, in blocks of the photograph
_TRIES = 20

_ONE = 1 << 16  # fixed-point unit of positions and of cosines

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneImages:
    """The pictures of one split: `array` is uint8 RGB [N, 64, 64, 3], `sha256` the sum of the split (`_digest`)."""

    split: str
    array: np.ndarray
    version: str
    sha256: str

    def __len__(self) -> int:
        return len(self.array)

    def load(self, row: int) -> np.ndarray:
        """A copy of picture `row`, uint8 [64, 64, 3]."""
        return self.array[row].copy()

    def describe(self, row: int) -> str:
        """Name of picture `row`, with the sum of the split's content so that it enters the fingerprint."""
        return f"scenes-{self.version}/{self.split}/{row:05d}@{self.sha256[:16]}"


def load_scenes(edition: Edition | None = None) -> Dataset:
    """An edition [`FIRST`]: 4,000 or 12,000 train, 1,000 val, 2,000 test pictures, 10 classes named "0" to "9".

    Labels are complete (POSITIVE where the digit is in the picture, else NEGATIVE). Boxes enclose the digit's own ink
    (at least a quarter opaque) in pixels, x2 and y2 exclusive, whether or not a later digit covers part of it.

    The first call takes some seconds and writes the cache `cache_dir()/scenes-1` (or `-2`); a damaged cache is rebuilt
    with a notice in the log. Where NumPy, Pillow or scikit-learn give other bytes than were recorded, the version is
    ``1-XXXXXXXX`` after their hash, with a note.
    """
    edition = edition or FIRST
    usual = cache_dir() / f"scenes-{edition.version}" / "scenes.npz"
    arrays, sums = _read(usual, edition.sha256), edition.sha256
    if arrays is None:
        # Where the recorded bytes cannot be made, what is made instead depends on who makes it.
        other = usual.with_name(f"{'-'.join(_libraries()).replace(' ', '-')}.npz")
        arrays = _read(other)
        if arrays is None:
            arrays = {name: build_split(name, count, edition.look) for name, count in edition.counts.items()}
            _write(other if _differences(arrays, edition.sha256) else usual, arrays)
        sums = {name: _digest(part) for name, part in arrays.items()}
    version, notes = edition.version, list[str]()
    if sums != edition.sha256:
        version = f"{version}-{hashlib.sha256(' '.join(sums.values()).encode()).hexdigest()[:8]}"
        notes = [_other_version(version, arrays, edition)]
    return Dataset(
        id=edition.id,
        version=version,
        classes=CLASSES,
        splits={name: _split(name, arrays[name], version, sums[name]) for name in edition.counts},
        flippable=False,
        notes=tuple(notes),
        source="made from scikit-learn's load_digits and load_sample_images",
    )


def _split(name: str, arrays: Mapping[str, np.ndarray], version: str, sha256: str) -> Split:
    return Split(
        ids=tuple(f"{name}/{row:05d}" for row in range(len(arrays["labels"]))),
        labels=arrays["labels"],
        images=SceneImages(name, arrays["images"], version, sha256),
        boxes=arrays["boxes"].astype(np.float32),
    )


def _libraries() -> list[str]:
    """What draws the scenes, with versions."""
    import PIL
    import sklearn

    return [f"NumPy {np.__version__}", f"Pillow {PIL.__version__}", f"scikit-learn {sklearn.__version__}"]


def _other_version(version: str, arrays: Mapping[str, Mapping[str, np.ndarray]], edition: Edition) -> str:
    """The note that the scenes are not the recorded ones: which splits differ, and which of the inputs."""
    inputs = [name for name, values in _inputs().items() if _input_digest(values) != INPUT_SHA256[name]]
    return (
        f"{', '.join(_libraries())} draw other scenes than the recorded version {edition.version}; this is version "
        f"{version}, whose runs stand apart from those of {edition.version} "
        f"(other inputs: {', '.join(inputs) or 'none'}; {'; '.join(_differences(arrays, edition.sha256))})"
    )


# --- making the scenes -------------------------------------------------------------------------------------------


def build_split(name: str, count: int, look: Look = FIRST.look) -> dict[str, np.ndarray]:
    """Make the first `count` scenes of split `name`, as `look` has them.

    Returns images uint8 [N, 64, 64, 3], labels int8 [N, 10] and boxes int16 [M, 6] (row, class, x1, y1, x2, y2).
    """
    glyphs = _glyphs(name)
    photographs = _photographs(name)
    random = np.random.RandomState(_SEEDS[name])
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.full((count, len(CLASSES)), State.NEGATIVE, dtype=np.int8)
    boxes: list[tuple[int, ...]] = []
    for row in range(count):
        images[row], found = _scene(random, glyphs, photographs, look)
        for box in found:
            labels[row, box[0]] = State.POSITIVE
            boxes.append((row, *box))
    return {"images": images, "labels": labels, "boxes": np.array(boxes, dtype=np.int16).reshape(-1, 6)}


def _glyphs(split: str) -> list[np.ndarray]:
    """The digit images of `split`: for each class int64 [n, 12, 12], opacity 0..256, with a clear margin of 2."""
    table = _inputs()["load_digits"].astype(np.int64)
    grey, target = table[:, :64].reshape(-1, 8, 8), table[:, 64]
    padded = np.pad(grey * 16, ((0, 0), (2, 2), (2, 2)))
    random = np.random.RandomState(_SEEDS["digits"])
    first, last = _DIGIT_SHARE[split]
    kept = []
    for number in range(len(CLASSES)):
        order = random.permutation(np.flatnonzero(target == number))
        kept.append(padded[order[len(order) * first // 100 : len(order) * last // 100]])
    return kept


def _photographs(split: str) -> list[np.ndarray]:
    """The part of each photograph that belongs to `split`, int64 RGB [53, columns, 3], one pixel a block of 8x8."""
    left, right = _COLUMNS[split]
    photographs = [values for name, values in _inputs().items() if name != "load_digits"]
    # 427 rows are 53 whole blocks; the 54th is mostly what the encoder padded with.
    return [blocks[:53, left:right].astype(np.int64) for blocks in photographs]


def _inputs() -> dict[str, np.ndarray]:
    """What the scenes are made from, by the names of `INPUT_SHA256`, uint8.

    Digit images with their class [1797, 65], and the two photographs RGB [54, 80, 3], in the order of their names.
    """
    from PIL import Image
    from sklearn.datasets import load_digits, load_sample_images

    bunch = load_digits()
    pixels = bunch.images.reshape(len(bunch.images), 64)
    found = {"load_digits": np.concatenate([pixels, bunch.target[:, None]], axis=1).astype(np.uint8)}
    for filename in sorted(load_sample_images().filenames):
        with Image.open(filename) as photograph:
            photograph.draft("RGB", (photograph.width // 8, photograph.height // 8))
            found[Path(filename).name] = np.asarray(photograph)
    return found


def _input_digest(values: np.ndarray) -> str:
    return hashlib.sha256(str(values.shape).encode() + np.ascontiguousarray(values).tobytes()).hexdigest()


def _scene(
    random: np.random.RandomState, glyphs: list[np.ndarray], photographs: list[np.ndarray], look: Look
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """One picture, uint8 [64, 64, 3], and its boxes (class, x1, y1, x2, y2) from the lowest digit to the topmost."""
    canvas = _background(random, photographs, look.brightness)
    boxes: list[tuple[int, ...]] = []
    for _ in range(1 + _weighted(random, _DIGITS_IN_SCENE)):
        number = _next_class(random, look.frequency, [box[0] for box in boxes])
        opacity = _digit(random, glyphs[number], look)
        tint = np.array([_between(random, look.tint) for _ in range(3)], dtype=np.int64)
        height, width = opacity.shape
        # A digit that finds no place is left out, so that none is hidden beneath the others.
        for _ in range(_TRIES):
            x = int(random.randint(0, SIDE - width + 1, dtype=np.int64))
            y = int(random.randint(0, SIDE - height + 1, dtype=np.int64))
            box = (number, x, y, x + width, y + height)
            if all(_apart(box, other, look.overlap) for other in boxes):
                part = canvas[y : y + height, x : x + width]
                part += ((tint - part) * opacity[:, :, None] + 128) >> 8
                boxes.append(box)
                break
    return canvas.astype(np.uint8), boxes


def _background(
    random: np.random.RandomState, photographs: list[np.ndarray], brightness: tuple[int, int]
) -> np.ndarray:
    """A darkened square of one photograph, stretched to int64 [64, 64, 3], perhaps mirrored."""
    photograph = photographs[random.randint(0, len(photographs), dtype=np.int64)]
    side = _between(random, _CROP)
    top = int(random.randint(0, photograph.shape[0] - side + 1, dtype=np.int64))
    left = int(random.randint(0, photograph.shape[1] - side + 1, dtype=np.int64))
    share = _between(random, brightness)
    mirrored = random.randint(0, 2, dtype=np.int64)
    part = photograph[top : top + side, left : left + side]
    steps = _centres(SIDE, side)
    stretched = _sample(part, steps[:, None], steps[None, ::-1] if mirrored else steps[None, :])
    return (stretched * share + 128) >> 8


def _digit(random: np.random.RandomState, glyphs: np.ndarray, look: Look) -> np.ndarray:
    """A digit image stretched, turned and cut to its ink: opacity int64 [height, width], 0..256."""
    glyph = glyphs[random.randint(0, len(glyphs), dtype=np.int64)]
    side = _between(random, look.digit_side)
    tilt = _between(random, (-look.tilt, look.tilt))
    # With t the tangent of the half-angle, cos = (1 - t^2) / (1 + t^2) and sin = 2t / (1 + t^2): no libm involved.
    cosine = _ONE * (64 * 64 - tilt * tilt) // (64 * 64 + tilt * tilt)
    sine = _ONE * (2 * 64 * tilt) // (64 * 64 + tilt * tilt)
    # Positions from the centre, in 1/65536 pixel of the 8x8 image. 12/8 of the side hold the turned digit and margin.
    extent = side * 12 // 8
    steps = (2 * np.arange(extent, dtype=np.int64) + 1 - extent) * 8 * _ONE // (2 * side)
    down, across = steps[:, None], steps[None, :]
    middle = (12 * _ONE - _ONE) // 2
    y = (down * cosine - across * sine) // _ONE + middle
    x = (down * sine + across * cosine) // _ONE + middle
    opacity = np.minimum(_sample(glyph[:, :, None], y, x)[:, :, 0] * 3 // 2, 256)
    ink = opacity >= 64
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _centres(many: int, few: int) -> np.ndarray:
    """Where the centres of `many` pixels lie on a line of `few` pixels, in 1/65536 of the latter."""
    return (2 * np.arange(many, dtype=np.int64) + 1) * few * _ONE // (2 * many) - _ONE // 2


def _sample(source: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples of int64 `source` [h, w, c] at `y`, `x` (1/65536 pixel), the border repeated outside."""
    height, width = source.shape[:2]
    y, x = np.clip(y, 0, (height - 1) * _ONE), np.clip(x, 0, (width - 1) * _ONE)
    top, left = np.minimum(y // _ONE, height - 2), np.minimum(x // _ONE, width - 2)
    down, right = (y - top * _ONE)[..., None], (x - left * _ONE)[..., None]
    upper = source[top, left] * (_ONE - right) + source[top, left + 1] * right
    lower = source[top + 1, left] * (_ONE - right) + source[top + 1, left + 1] * right
    return (upper * (_ONE - down) + lower * down + (1 << 31)) >> 32


def _next_class(random: np.random.RandomState, frequency: tuple[int, ...], present: list[int]) -> int:
    """Draw a class: by frequency, the companions of the last digit placed being likelier."""
    weights = list(frequency)
    if present:
        for companion in _COMPANIONS[present[-1]]:
            weights[companion] *= _AFFINITY
    return _weighted(random, weights)


def _weighted(random: np.random.RandomState, weights: tuple[int, ...] | list[int]) -> int:
    ticket = int(random.randint(0, sum(weights), dtype=np.int64))
    return int(np.searchsorted(np.cumsum(weights), ticket, side="right"))


def _between(random: np.random.RandomState, ends: tuple[int, int]) -> int:
    return int(random.randint(ends[0], ends[1] + 1, dtype=np.int64))


def _apart(a: tuple[int, ...], b: tuple[int, ...], overlap: tuple[int, int]) -> bool:
    """Whether boxes (class, x1, y1, x2, y2) share no more than the allowed part of the smaller."""
    shared = max(0, min(a[3], b[3]) - max(a[1], b[1])) * max(0, min(a[4], b[4]) - max(a[2], b[2]))
    smaller = min((a[3] - a[1]) * (a[4] - a[2]), (b[3] - b[1]) * (b[4] - b[2]))
    return shared * overlap[1] <= smaller * overlap[0]


# --- the cache ---------------------------------------------------------------------------------------------------

_SPLITS = ("train", "val", "test")
_DTYPES = {"images": "|u1", "labels": "|i1", "boxes": "<i2"}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a split: its images, labels and boxes, each with its shape, little-endian."""
    digest = hashlib.sha256()
    for key, dtype in _DTYPES.items():
        digest.update(f"{key} {arrays[key].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[key], dtype=dtype).tobytes())
    return digest.hexdigest()


def _differences(arrays: Mapping[str, Mapping[str, np.ndarray]], expected: Mapping[str, str]) -> list[str]:
    """One phrase for each split whose content does not have the sum that is expected."""
    found = {name: _digest(arrays[name]) for name in expected}
    return [
        f"split {name} has SHA-256 {found[name]}, expected {expected[name]}"
        for name in expected
        if found[name] != expected[name]
    ]


def _read(path: Path, sums: Mapping[str, str] | None = None) -> dict[str, dict[str, np.ndarray]] | None:
    """The cached arrays, or None where there is no cache or it is not what it should be (with a notice).

    It should have `sums`, by split; without these, the sums that it was written with.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as store:
            arrays = {name: {key: store[f"{name}_{key}"] for key in _DTYPES} for name in _SPLITS}
            wrong = _differences(arrays, sums or {name: str(store[f"{name}_sha256"]) for name in _SPLITS})
    except Exception as error:  # a damaged archive can raise nearly anything
        wrong = [f"{type(error).__name__}: {error}"]
    if not wrong:
        return arrays
    log.warning("scenes: the cached copy %s cannot be used (%s); it is built again", path, "; ".join(wrong))
    return None


def _write(path: Path, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write the cache in one step, so that another process sees all of it or nothing.

    A folder that cannot be written costs only the time of building again, so it is a notice and no error.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    members: dict[str, Any] = {f"{name}_{key}": arrays[name][key] for name in arrays for key in _DTYPES}
    members |= {f"{name}_sha256": np.array(_digest(arrays[name])) for name in arrays}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            np.savez(file, **members)
        os.replace(temporary, path)
    except OSError as error:
        log.warning("scenes: cannot write the cache %s (%s); it will be built again next time", path, error)
        with contextlib.suppress(OSError):
            temporary.unlink()
