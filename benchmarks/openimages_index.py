"""Index label files of OpenImages' size and layout, made up on the spot: seconds and peak memory."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from mlbench.datasets.openimages import LABEL_FILES, N_CLASSES, load_openimages, read_classes, read_labels
from mlbench.images.names import HexNames

#: Images and human-verified labels of the official parts of V3. Here every image has a label in the 5,000 classes,
#: which makes the index larger than the real one.
OFFICIAL = {"train": (9_011_219, 20_868_755), "validation": (41_620, 551_390), "test": (125_436, 1_667_399)}

_AT_ONCE = 200_000


def write_part(folder: Path, part: str, n_images: int, n_labels: int, files: bool) -> None:
    """Write the label file of a part, grouped by image as the official one is, and one-byte images if `files`."""
    rng = np.random.default_rng(n_images)
    ids = np.zeros(0, dtype=np.uint64)
    while len(ids) < n_images:
        drawn = rng.integers(0, 2**64, n_images - len(ids), dtype=np.uint64, endpoint=False)
        ids = np.unique(np.concatenate([ids, drawn]))
    rng.shuffle(ids)
    counts = 1 + np.bincount(rng.integers(0, n_images, n_labels - n_images), minlength=n_images)
    hexes = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    mids = np.array([f"/m/0{c:05d}" for c in range(N_CLASSES)], dtype="S9").view(np.uint8).reshape(-1, 9)
    path = folder / LABEL_FILES["v3"].format(part=part)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(b"ImageID,Source,LabelName,Confidence\n")
        for start in range(0, n_images, _AT_ONCE):
            number = counts[start : start + _AT_ONCE]
            image = np.repeat(ids[start : start + _AT_ONCE], number)
            place = np.arange(len(image)) - np.repeat(np.cumsum(number) - number, number)
            # 1237 and 5000 have no common divisor: the classes of an image differ.
            classes = (np.repeat(rng.integers(0, N_CLASSES, len(number)), number) + 1237 * place) % N_CLASSES
            lines = np.frombuffer(b"0" * 16 + b",verification," + b"0" * 9 + b",0\n", dtype=np.uint8)
            lines = np.tile(lines, (len(image), 1))
            digits = (image[:, None] >> np.arange(60, -1, -4, dtype=np.uint64)) & np.uint64(15)
            lines[:, :16] = hexes[digits.astype(np.intp)]
            lines[:, 30:39] = mids[classes]
            lines[:, 40] += rng.integers(0, 2, len(image), dtype=np.uint8)
            file.write(lines.tobytes())
    if files:
        for name in HexNames(ids, f"{folder / part}/", ".jpg"):
            Path(name).write_bytes(b"x")


def write_all(folder: Path, images: int, files: bool) -> None:
    """Write all parts, made smaller alike where `images` is less than the official number of training images."""
    started = time.perf_counter()
    mids = [f"/m/0{c:05d}" for c in range(N_CLASSES)]
    (folder / "classes-trainable.txt").write_text("".join(f"{mid}\n" for mid in mids))
    (folder / "class-descriptions.csv").write_text("".join(f"{mid},Class {mid[4:]}\n" for mid in mids))
    share = images / OFFICIAL["train"][0]
    for part, (n_images, n_labels) in OFFICIAL.items():
        write_part(folder, part, max(1, round(n_images * share)), max(1, round(n_labels * share)), files)
    click.echo(f"files written in {time.perf_counter() - started:.0f} s")


def measure(folder: Path, files: bool) -> None:
    """Index all parts and print the cost; run in a process of its own, whose peak memory is that of the index."""
    before, started = peak(), time.perf_counter()
    if files:
        dataset = load_openimages("v3", folder, partial=True)
        shapes = {name: split.labels.shape for name, split in dataset.splits.items()}
        held = sum(len(split.labels.classes) for split in dataset.splits.values())
    else:
        classes, others = read_classes(folder)
        paths = {part: folder / LABEL_FILES["v3"].format(part=part) for part in OFFICIAL}
        found = {part: read_labels(path, list(classes), others) for part, path in paths.items()}
        shapes = {part: labels.labels.shape for part, labels in found.items()}
        held = sum(len(labels.labels.classes) for labels in found.values())
    seconds = time.perf_counter() - started
    shown = ", ".join(f"{part} {rows:,}" for part, (rows, _) in shapes.items())
    click.echo(f"indexed {shown} images, {held:,} labels")
    click.echo(f"{seconds:.1f} s, peak memory {peak():.2f} GiB ({before:.2f} before)")
    if files:
        started = time.perf_counter()
        click.echo(f"fingerprint {dataset.fingerprint[:16]} in {time.perf_counter() - started:.1f} s")


def peak() -> float:
    """Peak resident memory of this process so far, GiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@click.command()
@click.option("--images", default=OFFICIAL["train"][0], show_default=True, help="Training images to make up.")
@click.option("--files", is_flag=True, help="Also write one-byte image files, and load the data set as a run would.")
def main(images: int, files: bool) -> None:
    """Make up label files in a temporary folder, index them, and print the cost."""
    with tempfile.TemporaryDirectory() as name:
        for step in ((write_all, (Path(name), images, files)), (measure, (Path(name), files))):
            process = multiprocessing.get_context("spawn").Process(target=step[0], args=step[1])
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
