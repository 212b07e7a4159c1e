"""A dress rehearsal of OpenImages: its labels made up at full class count, an epoch of some methods, what they take.

Each run is a process of its own, whose memory is looked at while it works. Images are a few small JPEGs in memory that
are decoded whenever they are asked for; the network is tiny, so that what is measured is what grows with labels.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from tabulate import tabulate
from timing import OUTPUT, about, alone, write

from mlbench.annotation import State
from mlbench.annotation.sparse import SparseLabels
from mlbench.datasets.base import Dataset, Split
from mlbench.images.names import HexNames

#: Images of the official parts of V3, and human-verified labels an image; 9,011,219 images in all, of which 1,743,042
#: are those of later editions with boxes.
LABELS = {"train": 2.3, "val": 13.2, "test": 13.3}
PARTS = {"val": 41_620, "test": 125_436}
FULL = (1_743_042, 9_011_219)
SIDE, DISTINCT = 32, 256
#: Images from which on a run says something of the real size: below, scores are in memory and not in files.
REACH = 100_000

#: Epochs of each method. LL-Cp writes from its second on; the rounds of curriculum take one each, three in all.
METHODS: dict[str, dict[str, Any]] = {
    "an": {"train.epochs": 1},
    "llr": {"train.epochs": 1},
    "llcp": {"train.epochs": 2},
    "curriculum": {"train.epochs": 1},
}


class FewJpegs:
    """`count` images, `DISTINCT` small JPEGs over and over; decoded at every access."""

    def __init__(self, files: tuple[bytes, ...], count: int) -> None:
        self.files, self.count = files, count

    def __len__(self) -> int:
        return self.count

    def load(self, row: int) -> np.ndarray:
        with Image.open(io.BytesIO(self.files[row % len(self.files)])) as image:
            return np.array(image.convert("RGB"))

    def describe(self, row: int) -> str:
        return f"jpeg {row % len(self.files)}"


def jpegs() -> tuple[bytes, ...]:
    random, files = np.random.default_rng(0), []
    for _ in range(DISTINCT):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    return tuple(files)


def class_names(lists: Path | None) -> tuple[str, ...]:
    """The trainable classes, by ``classes-trainable.txt`` in `lists` where it is given."""
    if lists is None:
        return tuple(f"/m/0{c:05d}" for c in range(5000))
    return tuple((lists / "classes-trainable.txt").read_text(encoding="utf-8").split())


def made_up(images: int, classes: tuple[str, ...]) -> Dataset:
    """A data set of `images` training images with the official numbers of labels an image, classes as Zipf has them."""
    random, splits, files = np.random.default_rng(1), {}, jpegs()
    share = min(1.0, images / FULL[0])
    frequency = 1 / (10 + np.arange(len(classes)))
    frequency /= frequency.sum()
    for name, each in LABELS.items():
        count = images if name == "train" else max(100, round(PARTS[name] * share))
        rows = np.repeat(np.arange(count), np.maximum(1, random.poisson(each, count)))
        drawn = random.choice(len(classes), len(rows), p=frequency)
        keys = np.unique(rows * len(classes) + drawn)
        states = np.where(random.random(len(keys)) < 0.5, State.POSITIVE, State.NEGATIVE).astype(np.int8)
        labels = SparseLabels.from_entries(keys // len(classes), keys % len(classes), states, (count, len(classes)))
        ids = HexNames(np.arange(count, dtype=np.uint64) + (len(splits) << 40))
        splits[name] = Split(ids, labels, FewJpegs(files, count))
    return Dataset("openimages-made-up", "1", classes, splits)


def rehearse(method: str, images: int, lists: Path | None) -> dict[str, Any]:
    """Run `method`, and say what it took."""
    with tempfile.TemporaryDirectory() as folder:
        return _rehearse(method, images, lists, Path(folder))


def _rehearse(method: str, images: int, lists: Path | None, folder: Path) -> dict[str, Any]:
    os.environ |= {"MLBENCH_CACHE": str(folder / "cache"), "MLBENCH_PIXELS": "decode"}
    from mlbench.runner import execute
    from mlbench.runner.plan import Request

    checkpoints: list[int] = []
    peak = Peak()
    begun = time.perf_counter()
    dataset = made_up(images, class_names(lists))
    known = len(dataset.splits["train"].labels.classes)  # type: ignore[union-attr]  # sparse
    made, before = time.perf_counter() - begun, peak.now()
    store = folder / "runs"

    def saved() -> None:
        checkpoints.append(max(path.stat().st_size for path in store.glob("*/checkpoint.pt")))

    changes = {"train.image_size": SIDE, "train.batch_size": 64, "train.lr": 1e-3, "train.augment": ["flip"]}
    request = Request("full", method, dataset, backbone="scenes", track="full", changes=changes | METHODS[method])
    options = execute.Options(store=store, device="cpu", quiet=True, checkpoint_seconds=60.0, on_checkpoint=saved)
    started = time.perf_counter()
    record = execute.run(request, options)
    epochs = record["epochs"]
    return {
        "method": method,
        "images": images,
        "labels": known,
        "made_s": made,
        "run_s": time.perf_counter() - started,
        "epochs": len(epochs),
        "epoch_s": [round(row["seconds"], 1) for row in epochs],
        "pseudo_labels": [row["log"]["pseudo_labels"] for row in epochs],
        "before_gib": before / 2**30,
        "private_gib": peak.private / 2**30,
        "resident_gib": peak.resident / 2**30,
        "checkpoint_mb": max(checkpoints, default=0) / 1e6,
        "store_mb": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) / 1e6,
        "mAP": record["results"]["test"]["mAP"],
    }


class Peak:
    """The largest memory of this process, looked at ten times a second: all that is resident, and without the pages of
    mapped files, which the system takes back when it needs them."""

    def __init__(self) -> None:
        self.resident = self.private = 0
        self.now()
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> int:
        page = os.sysconf("SC_PAGE_SIZE")
        resident, shared = (int(number) * page for number in Path("/proc/self/statm").read_text().split()[1:3])
        self.resident, self.private = max(self.resident, resident), max(self.private, resident - shared)
        return resident

    def _watch(self) -> None:
        while True:
            self.now()
            time.sleep(0.1)


def row_of(found: dict[str, Any]) -> list[Any]:
    return [
        found["method"],
        f"{found['images']:,}",
        " + ".join(f"{seconds:.0f}" for seconds in found["epoch_s"]),
        f"{found['run_s']:.0f}",
        f"{max(found['pseudo_labels']):,}",
        f"{found['private_gib']:.2f}",
        f"{found['resident_gib']:.2f}",
        f"{found['checkpoint_mb']:.1f}",
    ]


def extrapolate(smaller: dict[str, Any], larger: dict[str, Any], images: int) -> list[Any]:
    """The straight line through two sizes, at `images`: memory; time in proportion to the larger."""

    def slope(name: str) -> float:
        return max(0.0, (larger[name] - smaller[name]) / (larger["images"] - smaller["images"]))

    def at(name: str) -> float:
        return float(larger[name] + slope(name) * (images - larger["images"]))

    hours = larger["run_s"] * images / larger["images"] / 3600
    sizes = f"{smaller['images']:,} and {larger['images']:,}"
    memory = [f"{at(name):.1f}" for name in ("private_gib", "resident_gib")]
    each = f"{2**20 * slope('private_gib'):.1f} and {2**20 * slope('resident_gib'):.1f}"
    return [larger["method"], sizes, f"{images:,}", f"{hours:.1f}", *memory, each]


def dense_needs(images: int, classes: int) -> str:
    entries = images * classes
    return (
        f"{images:,} images x {classes:,} classes are {entries / 1e9:.1f} billion entries: {entries / 1e9:.0f} GB for "
        f"each byte an entry"
    )


@click.command()
@click.option("--images", type=int, multiple=True, default=(4_000, 200_000), show_default=True)
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), default=tuple(METHODS))
@click.option("--lists", type=click.Path(path_type=Path), help="Folder with classes-trainable.txt; else names made up.")
@OUTPUT
def main(images: tuple[int, ...], methods: tuple[str, ...], lists: Path | None, output: Path) -> None:
    """Train, predict and score made-up OpenImages, and say what the real one would take.

    Figures that are in the output already stay, but for those measured anew.
    """
    kept = output / "openimages_scale.json"
    figures: dict[str, Any] = json.loads(kept.read_text())["figures"] if kept.exists() else {}
    classes = len(class_names(lists))
    for method in methods:
        for size in sorted(images):
            one = alone(rehearse, method, size, lists)
            figures[f"{method}, {size:,} images"] = one
            click.echo(json.dumps(one), err=True)
            found = sorted(figures.values(), key=lambda run: (list(METHODS).index(run["method"]), run["images"]))
            write(
                output,
                "openimages_scale",
                about(),
                {key: figures[key] for key in sorted(figures)},
                text(found, classes),
            )


def text(found: list[dict[str, Any]], classes: int) -> str:
    """What was measured, and what it says of the real size."""
    head = ["method", "images", "epochs, s", "run, s", "labels added", "memory, GiB", "with mapped files, GiB"]
    parts = [tabulate([row_of(one) for one in found], [*head, "checkpoint, MB"], "github", disable_numparse=True)]
    beyond = []
    for method in METHODS:
        mine = [one for one in found if one["method"] == method]
        if len(mine) > 1 and mine[-1]["images"] >= REACH:
            beyond += [extrapolate(mine[-2], mine[-1], full) for full in FULL]
    if beyond:
        title = ["method", "through", "images", "run, h", "memory, GiB", "with mapped files, GiB", "KiB an image"]
        parts += [
            "The straight line through the two largest sizes, at those of OpenImages (time in proportion). For the "
            "larger one it is an upper bound: beyond the smaller, validation and test are whole and do not grow.",
            tabulate(beyond, title, "github", disable_numparse=True),
        ]
    parts.append(
        "Memory is that of the process, torch and all (0.55 GiB before the run); mapped files are given back when "
        "memory is short. Times are of a CPU shared with other work (see the load average), the network is tiny."
    )
    parts.append("In a matrix, " + "; ".join(dense_needs(full, classes) for full in FULL) + ".")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
