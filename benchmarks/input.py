"""Images a second into training: a DataLoader over JPEGs, the decode-once cache, decoding on the fly, side by side.

Every way gives the same tensors (asserted over an augmented epoch). The ways take turns, once in each repeat, so that
whatever else the machine does falls on all of them. Files and cache are in the system's page cache: nothing here
measures a disk.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from timing import OUTPUT, REPEATS, about, markdown, ratio, spread, summary, take_turns, write
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mlbench.datasets.base import Split
from mlbench.images.decode import FileImages
from mlbench.inputs.augment import Augmentation, crop_box
from mlbench.inputs.on_the_fly import OnTheFly
from mlbench.inputs.pixels import load_pixels, pixel_file, squash
from mlbench.inputs.sidecar import sidecar_file
from mlbench.inputs.tensors import flip_some, normalise
from mlbench.provenance import usable_cores
from mlbench.runner.data import ImageInputs
from mlbench.seeds import derive, keyed_bits

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEED_NAMES = ("input benchmark", 0)
CPU = torch.device("cpu")
#: uint8 batches from the cache against a DataLoader over 500x375 JPEGs.
TARGET = 6.0


#: Share of an image's area that random crops have, as in ImageNet training.
CROPS = Augmentation(crop=(0.08, 1.0))


class JpegDataset(TorchDataset):
    """What people write: one image decoded, resized and (as `floats`) mirrored and normalised at a time."""

    def __init__(self, images: FileImages, size: int, flips: np.ndarray, floats: bool) -> None:
        self.images, self.size, self.flips, self.floats = images, size, flips, floats

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        pixels = torch.from_numpy(np.array(squash(self.images.load(row), self.size)))
        if not self.floats:
            return pixels
        return flip_some(normalise(pixels[None], MEAN, STD), torch.tensor([self.flips[row]]))[0]


class CroppedDataset(TorchDataset):
    """A random part of each image, decoded anew whenever it is asked for, resized: uint8 [size, size, 3]."""

    def __init__(self, images: FileImages, size: int, keys: np.ndarray) -> None:
        self.images, self.size, self.keys = images, size, keys.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        image = self.images.load(row)
        random = np.random.Generator(np.random.PCG64(self.keys[row]))
        top, left, tall, wide = crop_box(*image.shape[:2], CROPS.crop, random)
        part = squash(np.ascontiguousarray(image[top : top + tall, left : left + wide]), self.size)
        return torch.from_numpy(np.array(part))


def enlarged(images: FileImages, folder: Path) -> FileImages:
    """JPEGs of 500x375 (375x500) made from `images`."""
    for row, name in enumerate(images.names):
        picture = Image.fromarray(images.load(row))
        wide = picture.width >= picture.height
        picture.resize((500, 375) if wide else (375, 500), Image.Resampling.LANCZOS).save(folder / name, quality=90)
    return FileImages(folder, images.names)


def rate(images: int, batches: Iterator[Tensor] | DataLoader) -> float:
    """Images a second of one pass over `batches`."""
    begun = time.perf_counter()
    seen = sum(len(batch) for batch in batches)
    assert seen == images
    return images / (time.perf_counter() - begun)


def measure(images: FileImages, size: int, batch: int, repeats: int) -> dict[str, list[float]]:
    """Images a second of each way, once a repeat."""
    count = len(images)
    split = Split(tuple(images.names), np.ones((count, 1), np.int8), images)
    order = np.random.default_rng(0).permutation(count)
    index = [order[at : at + batch] for at in range(0, count, batch)]

    def prepare() -> float:
        pixel_file(split, size).unlink(missing_ok=True)
        sidecar_file(pixel_file(split, size)).unlink(missing_ok=True)
        begun = time.perf_counter()
        load_pixels(split, size)
        return count / (time.perf_counter() - begun)

    prepare()
    pixels = load_pixels(split, size)
    inputs = ImageInputs({size: pixels}, np.arange(count), split.ids, MEAN, STD, ("flip",), SEED_NAMES)
    flips = (keyed_bits(inputs.hashes, derive("flip", *SEED_NAMES, 0)) & np.uint64(1)).astype(bool)

    def loader(dataset: TorchDataset) -> DataLoader:
        return DataLoader(dataset, batch_sampler=index, num_workers=usable_cores(), persistent_workers=True)

    jpeg_uint8, jpeg_float = (loader(JpegDataset(images, size, flips, floats)) for floats in (False, True))
    cropped = loader(CroppedDataset(images, size, keyed_bits(inputs.hashes, derive("crop", 0))))
    decoded = OnTheFly(split, size)

    def on_the_fly() -> Iterator[Tensor]:
        decoded.expect(order)
        return (torch.from_numpy(decoded[rows]) for rows in index)

    def crops() -> Iterator[Tensor]:
        return (torch.from_numpy(CROPS.crops(images, rows, inputs.hashes[rows], 0, size)) for rows in index)

    ours = zip(on_the_fly(), crops(), strict=True)
    for rows, wanted, plain, part, own in zip(index, jpeg_float, jpeg_uint8, cropped, ours, strict=True):
        assert torch.equal(inputs.load(rows, size, CPU, 0), wanted)  # this pass starts the workers, too
        assert np.array_equal(pixels[rows], plain.numpy())
        assert torch.equal(own[0], plain)
        assert torch.equal(own[1], part)
    ways: dict[str, Callable[[], float]] = {
        "prepare (decode, hash, store)": prepare,
        "JPEG DataLoader, uint8": lambda: rate(count, jpeg_uint8),
        "JPEG DataLoader, float32": lambda: rate(count, jpeg_float),
        "JPEG DataLoader, random crops": lambda: rate(count, cropped),
        "decoded on the fly, uint8": lambda: rate(count, on_the_fly()),
        "random crops": lambda: rate(count, crops()),
        "cache, uint8": lambda: rate(count, (torch.from_numpy(np.array(pixels[rows])) for rows in index)),
        "cache, float32": lambda: rate(count, (inputs.load(rows, size, CPU, 0) for rows in index)),
    }
    return take_turns(ways, repeats)


def ratios(found: dict[str, list[float]]) -> dict[str, Any]:
    """Ours against a DataLoader, both taken in the same repeat."""
    pairs = {kind: (f"cache, {kind}", f"JPEG DataLoader, {kind}") for kind in ("uint8", "float32")}
    pairs["on the fly"] = "decoded on the fly, uint8", "JPEG DataLoader, uint8"
    pairs["crops"] = "random crops", "JPEG DataLoader, random crops"
    return {name: ratio(found[ours], found[theirs]) for name, (ours, theirs) in pairs.items()}


@click.command()
@click.option("--data-root", type=click.Path(exists=True, path_type=Path), required=True, help="Folder with images/.")
@click.option("--images", "count", default=256, show_default=True, help="How many photographs.")
@click.option("--sizes", default="224,448", show_default=True, help="Sides in pixels.")
@click.option("--batch", default=16, show_default=True)
@REPEATS
@OUTPUT
def main(data_root: Path, count: int, sizes: str, batch: int, repeats: int, output: Path) -> None:
    """Measure on the photographs of --data-root as they are and made into JPEGs of 500x375."""
    torch.set_num_threads(usable_cores())
    names = tuple(sorted(path.name for path in (data_root / "images").glob("*.jpg"))[:count])
    if not names:
        raise click.ClickException(f"{data_root / 'images'}: expected .jpg files")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLBENCH_CACHE"] = scratch
        originals = FileImages(data_root / "images", names)
        (Path(scratch) / "500x375").mkdir()
        for source, images in (
            ("as they are", originals),
            ("500x375", enlarged(originals, Path(scratch) / "500x375")),
        ):
            for size in map(int, sizes.split(",")):
                found = measure(images, size, batch, repeats)
                rows.append({"photographs": source, "side": size, "images_per_s": found, "ratio": ratios(found)})
    table = [
        (row["photographs"], row["side"], name, *(f"{of(rates):,.0f}" for of in (statistics.median, min, max)))
        for row in rows
        for name, rates in row["images_per_s"].items()
    ]
    lines = [markdown(table, ("photographs", "side", "way", "images/s (median)", "least", "most")), ""]
    for row in rows:
        aim = f" (target {TARGET:g})" if row["photographs"] == "500x375" else ""
        lines.append(
            f"* {row['photographs']}, {row['side']} px: cache to DataLoader, uint8 "
            f"{spread(row['ratio']['uint8'])}{aim}, float32 {spread(row['ratio']['float32'])}; decoded on the fly "
            f"{spread(row['ratio']['on the fly'])}, random crops {spread(row['ratio']['crops'])}"
        )
    for row in rows:
        row["images_per_s"] = {name: summary(rates) for name, rates in row["images_per_s"].items()}
    write(output, "input", about(images=len(names), batch=batch, repeats=repeats), {"rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
