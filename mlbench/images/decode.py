"""Image files to uint8 RGB arrays."""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mlbench.errors import DataError, visible
from mlbench.files import reason
from mlbench.images.file_hashes import count_unhashed, file_sizes, hash_files, index_file
from mlbench.images.names import take_names

_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 turn the picture by a quarter
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error, zlib.error)


@contextmanager
def _opened(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image (from its `content` where that was read); whatever is wrong becomes a DataError that names it."""
    path = Path(path)
    try:
        with Image.open(path if content is None else BytesIO(content)) as image:
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise DataError(f"{path}: {'empty file (0 bytes)' if empty else 'not an image, or an unknown kind'}") from None
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: broken image ({error})") from None


def decode_image(path: str | Path, content: bytes | None = None) -> np.ndarray:
    """Decode the first frame of an image file to RGB; `content` are the file's bytes where they were read already.

    The EXIF orientation is applied. Greyscale, palette and CMYK are converted; transparent pixels are laid on white;
    16-bit greyscale is scaled (65535 becomes 255), never clipped. Embedded colour profiles are not applied.

    Returns
    -------
    uint8 [height, width, 3]. DataError names the file and says what is wrong: missing, empty, truncated, no image,
    or a kind without a defined range (32-bit integers, floats).
    """
    with _opened(path, content) as image:
        image.load()
        turn = _TURNS.get(_orientation(image))
        return np.array(_to_rgb(image if turn is None else image.transpose(turn), image.format), dtype=np.uint8)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels that `decode_image` will give, read from the header alone."""
    with _opened(path) as image:
        width, height = image.size
        if image.format == "TIFF":
            # Pillow turns TIFF itself, and newer ones give the upright sides before that: take the stored ones.
            width, height = (int(image.tag_v2[tag]) for tag in (256, 257))  # type: ignore[attr-defined]
        return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or its tags are spoilt: the pixels are still good."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever a broken tag makes Pillow raise
        return 1


def _to_rgb(image: Image.Image, kind: str | None) -> Image.Image:
    # Older Pillow opens 16-bit greyscale PNG and PGM as 32-bit "I".
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        scaled = np.round(np.asarray(image, dtype=np.float64) / 257.0)
        image = Image.fromarray(scaled.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} has no defined range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, coloured)
    return image.convert("RGB")


@dataclass(frozen=True)
class FileImages:
    """Image files under one folder, a row each (an `ImageSource`).

    Parameters
    ----------
    root : the folder.
    names : N file names relative to `root`, with forward slashes. DataError at once if some are missing or empty.
    crops : (x1, y1, x2, y2) a row, in pixels of the decoded image, grown to whole pixels; what lies outside the
        image is black. None: whole images.
    """

    root: Path
    names: Sequence[str]
    crops: Sequence[Sequence[float]] | None = None
    _sizes: np.ndarray = field(init=False, repr=False, compare=False)
    _digests: np.ndarray = field(init=False, repr=False, compare=False)
    _hashed: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.crops is not None and len(self.crops) != len(self.names):
            raise DataError(f"{self.root}: {len(self.crops)} crop boxes for {len(self.names)} images")
        sizes = file_sizes(self.root, self.names)
        for what, wrong in (("missing", -1), ("empty (0 bytes)", 0)):
            bad = [self.names[row] for row in np.flatnonzero(sizes == wrong).tolist()]
            if bad:
                raise DataError(f"{self.root}: {len(bad)} of {len(sizes)} images {what}: {first_few(bad)}")
        object.__setattr__(self, "_sizes", sizes)
        object.__setattr__(self, "_digests", np.zeros((len(sizes), 32), np.uint8))
        object.__setattr__(self, "_hashed", np.zeros(len(sizes), bool))

    def __len__(self) -> int:
        return len(self.names)

    def load(self, row: int) -> np.ndarray:
        """Decode image `row`; DataError, too, if its file is not the one that `digests` has told of."""
        path = Path(self.root) / self.names[row]
        content = _read(path)
        if self._hashed[row] and hashlib.sha256(content).digest() != self._digests[row].tobytes():
            raise DataError(
                f"{path}: not what it was when it was hashed. If it was changed just now, begin again; if it was not, "
                f"its disk has changed it: put back the file, or delete {index_file(self.root)} to take it as it is"
            )
        image = decode_image(path, content)
        return image if self.crops is None else crop_padded(image, self.crops[row])

    def size(self, row: int) -> tuple[int, int]:
        """(width, height) of what `load` gives, from the file's header alone."""
        if self.crops is None:
            return image_size(Path(self.root) / self.names[row])
        left, top, right, bottom = crop_corners(self.crops[row])
        return right - left, bottom - top

    def describe(self, row: int) -> str:
        """File name, its size in bytes, and the crop if there is one."""
        crop = "" if self.crops is None else " crop " + " ".join(f"{float(v):g}" for v in self.crops[row])
        return f"{self.names[row]} {self._sizes[row]}{crop}"

    def digests(self, rows: np.ndarray | None = None, advance: Callable[[int, int], None] | None = None) -> np.ndarray:
        """SHA-256 of the file behind each of `rows` (None: all), uint8 [n, 32].

        Hashed once and looked up afterwards (`mlbench.images.file_hashes`). From now on `load` refuses other content.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        fresh = np.unique(rows[~self._hashed[rows]])  # in the order of `names`, whatever that of `rows`
        if len(fresh):
            names = self.names if len(fresh) == len(self) else take_names(self.names, fresh)
            self._digests[fresh] = hash_files(self.root, names, advance)
            self._hashed[fresh] = True
        return self._digests[rows]

    def content(self, rows: np.ndarray | None = None, advance: Callable[[int, int], None] | None = None) -> np.ndarray:
        """SHA-256 of all that decides what `load` gives for each of `rows`, uint8 [n, 32]: the file, and its crop."""
        digests = self.digests(rows, advance)
        if self.crops is None:
            return digests
        cut = []
        for digest, row in zip(digests, range(len(self)) if rows is None else rows, strict=True):
            box = ",".join(repr(float(value)) for value in self.crops[row])
            cut.append(hashlib.sha256(digest.tobytes() + box.encode()).digest())
        return np.frombuffer(b"".join(cut), np.uint8).reshape(-1, 32)

    def unhashed(self) -> int:
        """How many files `digests` would have to read."""
        return 0 if self._hashed.all() else count_unhashed(self.root, self.names)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}") from None


def file_size(path: Path) -> int:
    """Size of a file in bytes, -1 if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name that no file can have
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def first_few(names: Sequence[str], n: int = 5) -> str:
    """The first `n` names, for a message about many."""
    return ", ".join(visible(str(name)) for name in names[:n]) + (", ..." if len(names) > n else "")


def crop_padded(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Cut (x1, y1, x2, y2), grown to whole pixels, out of uint8 [H, W, 3]; black where it lies outside."""
    left, top, right, bottom = crop_corners(box)
    if right <= left or bottom <= top:
        raise DataError(f"crop box {tuple(float(v) for v in box)} is empty: expected x1 < x2 and y1 < y2")
    height, width = image.shape[:2]
    out = np.zeros((bottom - top, right - left, 3), dtype=np.uint8)
    x1, x2 = max(left, 0), min(right, width)
    y1, y2 = max(top, 0), min(bottom, height)
    if x1 < x2 and y1 < y2:
        out[y1 - top : y2 - top, x1 - left : x2 - left] = image[y1:y2, x1:x2]
    return out


def crop_corners(box: Sequence[float]) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2), grown to whole pixels."""
    left, top = (int(np.floor(v)) for v in box[:2])
    right, bottom = (int(np.ceil(v)) for v in box[2:])
    return left, top, right, bottom
