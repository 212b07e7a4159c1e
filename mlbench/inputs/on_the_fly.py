"""Images decoded whenever they are asked for, some ahead of time: where the cache of decoded ones would not fit."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlbench.datasets.base import Split
from mlbench.errors import UsageError, unknown
from mlbench.inputs.cache import Advance
from mlbench.inputs.checked import Rows
from mlbench.inputs.pixels import in_memory, load_pixels, pixel_file, squash
from mlbench.paths import cache_dir
from mlbench.provenance import usable_cores

#: Bytes of images that are decoded ahead.
AHEAD = 2**27

#: Bytes of decoded images above which a person is told before they are written, and offered to decode on the fly.
LARGE = 10 * 2**30

#: Share of the free disk that one cache of pixels may take.
_SHARE = 0.9
_CHOICES = ("auto", "cache", "decode")


class OnTheFly:
    """Images of `split` decoded and resized at every access, equal to the cached array bit by bit.

    `pixels[rows]` with a slice or an integer array gives uint8 [len(rows), size, size, 3]. Of the rows that were told
    by `expect`, as many as take `AHEAD` bytes are decoded before they are asked for, by threads: Pillow gives up the
    interpreter's lock while it decodes and resizes.
    """

    def __init__(self, split: Split, size: int, workers: int | None = None) -> None:
        self.images, self.size = split.images, size
        self.shape = (len(split), size, size, 3)
        self._ahead = max(1, AHEAD // (3 * size * size))
        self._pool = ThreadPoolExecutor(workers or usable_cores())
        self._coming: deque[int] = deque()
        self._begun: deque[tuple[int, Future[np.ndarray]]] = deque()

    def expect(self, rows: np.ndarray) -> None:
        """Tell which rows will be asked for, in this order; rows told before and not yet asked for are forgotten.

        Others may be asked for in between: they are decoded then.
        """
        for _, image in self._begun:
            image.cancel()
        self._begun.clear()
        self._coming = deque(rows.tolist())
        self._begin()

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        chosen = range(*rows.indices(self.shape[0])) if isinstance(rows, slice) else np.asarray(rows).tolist()
        pending = []
        for row in chosen:
            ahead = self._begun and self._begun[0][0] == row
            pending.append(self._begun.popleft()[1] if ahead else self._pool.submit(self._decode, row))
        out = np.empty((len(pending), *self.shape[1:]), dtype=np.uint8)
        for at, image in enumerate(pending):
            out[at] = image.result()
        self._begin()
        return out

    def _begin(self) -> None:
        while self._coming and len(self._begun) < self._ahead:
            row = self._coming.popleft()
            self._begun.append((row, self._pool.submit(self._decode, row)))

    def _decode(self, row: int) -> np.ndarray:
        return squash(self.images.load(row), self.size)


class Storage(NamedTuple):
    """How the pixels of a split are had: "ready" (in memory, or in the cache), "cache" (to be built) or "decode".

    size : bytes that all of them take. free : bytes left on the disk of the cache.
    """

    kind: str
    size: int
    free: int

    def __str__(self) -> str:
        sizes = f"{self.size / 1e9:,.1f} GB decoded, {self.free / 1e9:,.1f} GB free"
        return {"ready": "there", "cache": f"cached ({sizes})", "decode": f"decoded on the fly ({sizes})"}[self.kind]


def storage(split: Split, size: int) -> Storage:
    """Where the images of `split` at `size` come from in a run.

    They are cached if the cache leaves a tenth of the free disk; ``$MLBENCH_PIXELS`` says otherwise ("cache" or
    "decode"). Either way they are the same pixels.
    """
    wanted = os.environ.get("MLBENCH_PIXELS") or "auto"
    if wanted not in _CHOICES:
        raise unknown("value of MLBENCH_PIXELS", wanted, _CHOICES)
    needed, free = len(split) * 3 * size * size, _free(cache_dir())
    if in_memory(split, size) is not None:
        return Storage("ready", needed, free)
    if wanted == "decode":
        return Storage("decode", needed, free)
    file = pixel_file(split, size)
    if file.exists():
        return Storage("ready", needed, free)
    begun = file.with_suffix(".part").exists()  # its room is claimed already
    return Storage("cache" if wanted == "cache" or begun or needed <= _SHARE * free else "decode", needed, free)


def warning(split: Split, size: int) -> str:
    """What to say before the images of `split` at `size` are written to the cache; empty if that is not much."""
    found = storage(split, size)
    if found.kind != "cache" or found.size <= LARGE:
        return ""
    return (
        f"{found.size / 1e9:,.0f} GB of decoded images ({len(split):,} at {size} px) are about to be written to "
        f"{cache_dir()}, once for all runs: MLBENCH_PIXELS=decode decodes them on the fly instead, the same pixels"
    )


def open_pixels(split: Split, size: int, advance: Advance | None = None) -> Rows | OnTheFly:
    """The images of `split` at `size`, as `storage` says: cached, or decoded on the fly."""
    if storage(split, size).kind == "decode":
        return OnTheFly(split, size)
    return load_pixels(split, size, advance)


def _free(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        return shutil.disk_usage(existing).free
    except OSError as error:
        raise UsageError(f"{existing}: cannot tell how much room there is ({error.strerror})") from None
