"""What it costs to know a data set by the content of its images, and to believe no byte of the cache unchecked.

Files of noise are made up in a temporary folder. Their first hash, warm starts (each in a process of its own: load,
look at every file, fingerprint) and what follows a few changed files are timed; then reading a cached array in the
order of an epoch, with every chunk hashed when it is first touched, beside the same array unchecked.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from timing import OUTPUT, about, alone, markdown, ratio, spread, summary, take_turns, write

CLASSES = 20
SIDE = 64

Figures = dict[str, Any]


def make_files(root: Path, images: int, size: int) -> None:
    """`images` files of `size` bytes, a thousand a folder."""
    rng = np.random.default_rng(0)
    for number in range(images):
        if number % 1000 == 0:
            (root / f"{number // 1000:04d}").mkdir()
        (root / name_of(number)).write_bytes(rng.bytes(size))


def name_of(number: int) -> str:
    return f"{number // 1000:04d}/{number:07d}.jpg"


def start(root: Path, images: int) -> Figures:
    """Seconds from names to fingerprint, as a run's start has them, and the peak memory; for a process of its own."""
    from mlbench.datasets.base import Dataset, Split
    from mlbench.images.decode import FileImages
    from mlbench.provenance import peak_memory_mib

    names, before = tuple(map(name_of, range(images))), peak_memory_mib()
    labels = np.ones((images, CLASSES), np.int8)
    begun = time.perf_counter()
    train = FileImages(root, names[: images // 2])
    test = FileImages(root, names[images // 2 :])
    looked = time.perf_counter()
    splits = {
        "train": Split(names[: images // 2], labels[: images // 2], train),
        "test": Split(names[images // 2 :], labels[images // 2 :], test),
    }
    dataset = Dataset("noise", "1", tuple(f"class {c}" for c in range(CLASSES)), splits)
    fingerprint = dataset.fingerprint
    done = time.perf_counter()
    return {
        "fingerprint": fingerprint,
        "sizes": looked - begun,
        "seconds": done - begun,
        "memory_mib": (peak_memory_mib() or 0.0) - (before or 0.0),
    }


def change(root: Path, numbers: range) -> None:
    """Other bytes in some files, their sizes and modification times as before."""
    for number in numbers:
        path = root / name_of(number)
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def read_epochs(path: Path, rows: int, repeats: int, batch: int = 64) -> Figures:
    """Seconds of the first and later epochs over a cached array, checked and not, and of the check before a record."""
    from mlbench.inputs.cache import Recipe, cached_array

    def fill(begin: int, end: int) -> np.ndarray:
        return np.random.default_rng(begin).integers(0, 256, (end - begin, SIDE, SIDE, 3), dtype=np.uint8)

    def build() -> Any:
        return cached_array(path, (rows, SIDE, SIDE, 3), np.uint8, Recipe(fill))

    order = np.random.default_rng(0).permutation(rows)
    batches = [order[at : at + batch] for at in range(0, rows, batch)]

    def epoch(array: Any) -> float:
        return timed(lambda: [array[index] for index in batches])

    build()
    plain = np.load(path, mmap_mode="r")
    epoch(plain)  # so that the pages are in memory for both
    checked = build()
    found = {"bytes": int(plain.nbytes), "opened": timed(build), "first": epoch(checked)}
    turns = take_turns({"later": lambda: epoch(checked), "unchecked": lambda: epoch(plain)}, repeats)
    return found | {
        "later": summary(turns["later"]),
        "unchecked": summary(turns["unchecked"]),
        "ratio": ratio(turns["later"], turns["unchecked"]),
        "whole": statistics.median(timed(checked.verify) for _ in range(3)),
    }


def timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def measure(images: int, size: int, rows: int, repeats: int) -> Figures:
    """All figures, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        root, cache = Path(scratch) / "pictures", Path(scratch) / "cache"
        root.mkdir()
        os.environ["MLBENCH_CACHE"] = str(cache)
        make_files(root, images, size)
        time.sleep(2.5)  # a file hashed within two seconds of being written is hashed once more
        found: Figures = {"images": images, "file_bytes": size}
        found["first"] = alone(start, root, images)
        found["warm"] = [alone(start, root, images) for _ in range(repeats)]
        same = {row["fingerprint"] for row in (found["first"], *found["warm"])}
        change(root, range(0, images, max(1, images // 10)))
        found["changed"] = alone(start, root, images)
        if len(same) != 1 or found["changed"]["fingerprint"] in same:
            raise SystemExit("the fingerprint does not follow the content")
        found["index_bytes"] = sum(path.stat().st_size for path in (cache / "files").glob("*.hashes"))
        shutil.rmtree(root)
        found["reading"] = alone(read_epochs, Path(scratch) / "array.npy", rows, repeats)
    return found


def report(found: Figures) -> str:
    first, warm, read = found["first"], found["warm"], found["reading"]
    seconds = [row["seconds"] for row in warm]
    rate = found["images"] / first["seconds"]
    rows = [
        (
            "first start: every file is hashed",
            f"{first['seconds']:.1f}",
            f"{rate:,.0f} files/s, {rate * found['file_bytes'] / 1e6:,.0f} MB/s",
        ),
        (
            "warm start: every file is looked at",
            f"{statistics.median(seconds):.2f}",
            f"{min(seconds):.2f} to {max(seconds):.2f} in {len(seconds)} starts; "
            f"{statistics.median(row['memory_mib'] for row in warm):,.0f} MiB",
        ),
        ("ten files changed, times put back", f"{found['changed']['seconds']:.2f}", "another fingerprint"),
    ]
    size = read["bytes"]
    ways = [
        ("open", f"{read['opened']:.4f}", ""),
        ("first epoch, every chunk hashed", f"{read['first']:.3f}", f"{size / read['first'] / 1e9:.2f} GB/s"),
        ("later epochs", spread(read["later"]), f"{spread(read['ratio'])} times unchecked"),
        ("unchecked epochs", spread(read["unchecked"]), f"{size / read['unchecked']['median'] / 1e9:.2f} GB/s"),
        ("whole array before the record", f"{read['whole']:.3f}", f"{size / read['whole'] / 1e9:.2f} GB/s"),
    ]
    return "\n\n".join(
        [
            f"{found['images']:,} files of {found['file_bytes']:,} bytes, in two parts; the index of their hashes has "
            f"{found['index_bytes'] / 1e6:.1f} MB.",
            markdown(rows, ["start", "s", ""]),
            f"An array of {size / 1e9:.2f} GB ({SIDE} x {SIDE} pixels) read in batches of 64 in random order, from "
            "the page cache:",
            markdown(ways, ["reading", "s", ""]),
        ]
    )


@click.command()
@click.option("--images", default=100_000, show_default=True)
@click.option("--size", default=20_000, show_default=True, help="Bytes of a file.")
@click.option("--rows", default=100_000, show_default=True, help="Rows of the array that is read.")
@click.option("--repeats", default=7, show_default=True, help="Warm starts, and turns of each way of reading.")
@OUTPUT
def main(images: int, size: int, rows: int, repeats: int, output: Path) -> None:
    """Time the first hash of image files, warm starts, and checked reading of the cache."""
    found = measure(images, size, rows, repeats)
    write(output, "fingerprint", about(), found, report(found))


if __name__ == "__main__":
    main()
