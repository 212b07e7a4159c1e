"""Pictures and heat maps of a part in the forms that viewers take: files, thumbnails, small grids of bytes."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from mlbench.datasets.base import ImageSource, Split, SubsetImages
from mlbench.files import atomic_write
from mlbench.images.decode import FileImages

#: Kinds of files that browsers show.
_SHOWN = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"}
#: Cells a side of a heat map in a page, at most.
_CELLS = 16


def original_file(images: ImageSource, row: int) -> Path | None:
    """The file that image `row` is the whole of and that a browser can show; None if there is none."""
    while isinstance(images, SubsetImages):
        row = int(images.rows[row])
        images = images.source
    if not isinstance(images, FileImages) or images.crops is not None:
        return None
    path = Path(images.root) / images.names[row]
    return path.resolve() if path.suffix.lower() in _SHOWN else None


def picture_file(split: Split, row: int, folder: Path, stem: str) -> Path:
    """The original file of image `row`, or a PNG written for it to `folder` as ``STEM-ROW.png``."""
    original = original_file(split.images, row)
    if original is not None:
        return original
    path = (folder / f"{stem}-{row:07d}.png").resolve()
    buffer = io.BytesIO()
    Image.fromarray(split.images.load(row)).save(buffer, format="PNG")
    atomic_write(path, buffer.getvalue())
    return path


def relative_boxes(split: Split, row: int, size: tuple[int, int]) -> list[tuple[int, list[float]]]:
    """(class, [x, y, width, height] in shares of the image) of each box of image `row`, of (width, height) pixels."""
    if split.boxes is None:
        return []
    mine = split.boxes[split.boxes[:, 0] == row]
    corners = np.clip(mine[:, 2:].astype(np.float64) / [*size, *size], 0.0, 1.0)
    return [
        (int(c), [float(x1), float(y1), float(x2 - x1), float(y2 - y1)])
        for c, (x1, y1, x2, y2) in zip(mine[:, 1], corners, strict=True)
    ]


def thumbnail(image: np.ndarray, side: int) -> str:
    """Image uint8 [H, W, 3], no side longer than `side` pixels, as a JPEG data URI."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=75, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def map_bytes(heat: np.ndarray) -> tuple[int, int, str]:
    """A heat map [h, w] as (h, w, base64 of h x w bytes), h and w at most 16.

    Each map is scaled by its own largest magnitude; byte 128 is 0, 1 the lowest and 255 the highest value in [-1, 1].
    """
    scaled = unit_map(heat)
    height, width = scaled.shape
    if max(height, width) > _CELLS:
        small = Image.fromarray(scaled).resize((min(width, _CELLS), min(height, _CELLS)), Image.Resampling.BOX)
        scaled = np.asarray(small)
    levels = np.round(128.0 + 127.0 * scaled).astype(np.uint8)
    return levels.shape[0], levels.shape[1], base64.b64encode(levels.tobytes()).decode()


def unit_map(heat: np.ndarray) -> np.ndarray:
    """A heat map float32 [h, w] divided by its own largest magnitude: values in [-1, 1], 0 staying 0."""
    return (heat / max(float(np.abs(heat).max()), 1e-12)).astype(np.float32)
