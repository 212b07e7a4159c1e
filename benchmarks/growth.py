"""How cost grows with images, classes, processes, runs in a sweep, and records: seconds by stage, memory, and its end.

Images are noise, used at 16x16 pixels, and the network is that of `scenes`, so that what is seen is the harness and not
the convolutions. Every size is measured in a process of its own, whose peak memory is noted. Figures are never
committed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from timing import CLOCK, OUTPUT, about, alone, markdown, write

from mlbench.provenance import peak_memory_mib, usable_cores

SIDE = 16
RUNS = Path(__file__).parents[1] / "results" / "runs"
#: Labels of an image, on average.
LABELS = 3

Row = dict[str, Any]


def noise(images: int, classes: int) -> Any:
    """A data set of `images` training images, and a tenth as many for validation and test."""
    from mlbench.conformance.testing import ArrayImages
    from mlbench.datasets.base import Dataset, Split

    rng = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", images), ("val", max(2, images // 10)), ("test", max(2, images // 10))):
        labels = np.where(rng.random((count, classes), dtype=np.float32) < LABELS / classes, 1, -1).astype(np.int8)
        labels[np.arange(count), rng.integers(0, classes, count)] = 1
        # A little larger than the run takes them, so that they go through the cache as files do.
        pixels = rng.integers(0, 256, (count, SIDE + 4, SIDE + 4, 3), dtype=np.uint8)
        splits[name] = Split(tuple(f"{name}/{row}" for row in range(count)), labels, ArrayImages(pixels))
    return Dataset("noise", "1", tuple(f"class {c}" for c in range(classes)), splits)


def one_run(method: str, images: int, classes: int) -> Row:
    """Seconds of each stage of a run of one epoch, and the peak memory; for a process of its own."""
    import torch

    from mlbench.inputs.pixels import load_pixels
    from mlbench.runner.execute import Options, run
    from mlbench.runner.plan import Request, resolve

    torch.set_num_threads(usable_cores())
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLBENCH_CACHE"] = scratch
        dataset = noise(images, classes)
        begun = [time.perf_counter()]
        changes = {"train.epochs": 1, "train.batch_size": 128, "train.image_size": SIDE, "train.lr": 1e-3}
        request = Request("single_positive", method, dataset, backbone="scenes", track="full", changes=changes)
        resolve(request)
        begun.append(time.perf_counter())
        for split in dataset.splits.values():
            load_pixels(split, SIDE)
        begun.append(time.perf_counter())
        record = run(request, Options(Path(scratch) / "runs", device="cpu", quiet=True))
        begun.append(time.perf_counter())
    trained = sum(row["seconds"] for row in record["epochs"])
    stages = {
        "resolve, draw the mask, hash": begun[1] - begun[0],
        "fill the cache": begun[2] - begun[1],
        "train an epoch": trained,
        "predict, score, store": begun[3] - begun[2] - trained,
    }
    return {"seconds": stages, "memory_mib": peak_memory_mib()}


def one_launch(processes: int, images: int) -> Row:
    """Seconds of an epoch of `processes` processes, the cores shared out, and of the launch around it."""
    threads = max(1, usable_cores() // processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        where = str(Path(scratch) / "row.json")
        subprocess.run(
            [*command, __file__, "--launched", where, "--images", str(images)],
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "MLBENCH_CACHE": scratch},
            check=True,
            capture_output=True,
        )
        trained, memory = map(float, Path(where).read_text().split())
    total = time.perf_counter() - begun
    return {
        "seconds": {"train an epoch": trained, "start, predict, score": total - trained},
        "memory_mib": memory * processes,
    }


def launched(where: Path, images: int) -> None:
    """What each process of `one_launch` does."""
    from mlbench.runner.execute import Options, run
    from mlbench.runner.plan import Request
    from mlbench.runner.world import leave

    changes = {"train.epochs": 1, "train.batch_size": 128, "train.image_size": SIDE, "train.lr": 1e-3}
    request = Request("single_positive", "an", noise(images, 20), backbone="scenes", track="full", changes=changes)
    record = run(request, Options(where.parent / "runs", device="cpu", quiet=True))
    if os.environ["RANK"] == "0":
        where.write_text(f"{record['epochs'][0]['seconds']} {peak_memory_mib()}")
    leave()


def one_sweep(runs: int) -> Row:
    """Seconds to freeze, to run and to recognise again a sweep of `runs` runs on 24 small files."""
    from PIL import Image

    from mlbench.sweep.drive import make_sweep, sweep
    from mlbench.sweep.grid import load_grid

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["MLBENCH_CACHE"] = str(folder / "cache")
        (folder / "pictures").mkdir()
        rng = np.random.default_rng(0)
        for row in range(36):
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / f"{row}.png")
        lines = [f"{row}.png,{'train' if row < 24 else 'test'},{'abc'[row % 3]}" for row in range(36)]
        (folder / "labels.csv").write_text("\n".join(["file,split,labels", *lines]) + "\n")
        description = 'id = "few"\nlabels = "labels.csv"\nimages = "pictures"\ncolumns = { split = "split" }\n'
        (folder / "few.toml").write_text(description + 'separator = "|"\n')
        grid = folder / "grid.toml"
        grid.write_text(
            'protocol = "single_positive"\ndataset = "few.toml"\ndata_root = "."\ntrack = "full"\nbackbone = "scenes"\n'
            f'methods = ["an"]\nseeds = {list(range(runs))}\nepochs = 1\ndevice = "cpu"\n'
            f'set = {{ "train.image_size" = {SIDE}, "train.batch_size" = 8, "train.lr" = 0.001 }}\n'
        )
        begun = [time.perf_counter()]
        make_sweep(load_grid(grid), grid, folder / "runs")
        begun.append(time.perf_counter())
        outcome = sweep(grid, store=folder / "runs", quiet=True)
        begun.append(time.perf_counter())
        again = sweep(grid, store=folder / "runs", quiet=True)
        begun.append(time.perf_counter())
    assert len(outcome.done) == len(again.before) == runs, outcome.text()
    frozen, driven, seen = (end - start for start, end in pairwise(begun))
    stages = {"freeze": frozen, "run them all": driven - frozen, "freeze and find all done": seen}
    return {"seconds": stages, "memory_mib": peak_memory_mib()}


def made_records(count: int, folder: Path) -> str:
    """Write `count` records, those published and draws made up after them, as a folder like ``results/runs``; a key."""
    from mlbench.store import find_records, published_name
    from mlbench.store.schema import refit

    published, _ = find_records(RUNS)
    folder.mkdir()
    for number in range(count):
        turn, at = divmod(number, len(published))
        record = published[at]
        if turn:  # a draw that no other record has
            identity, mask = record["identity"], record["identity"]["mask"]
            drawn = {name: identity[name] + 100 * turn for name in ("repetition", "mask_seed")}
            if mask.get("sha256"):
                mask = mask | {"sha256": hashlib.sha256(f"{turn} {mask['sha256']}".encode()).hexdigest()}
            record = refit(record | {"identity": identity | drawn | {"mask": mask}})
        (folder / published_name(record)).write_text(json.dumps(record, indent=1) + "\n")
    return str(record["key"])


def one_folder(records: int, clock: str) -> Row:
    """Seconds of the commands that read a folder of `records` records, each with the start of its process."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) / "runs"
        key = made_records(records, runs)
        at = ["--output", str(runs)]
        one_board = ["--protocol", "single_positive", "--datasets", "corel5k-199", "--track", "head"]
        commands = {
            "index them": ["list", "runs", *at],
            "list runs": ["list", "runs", *at],
            "show a run": ["show", key, *at],
            "table": ["table", *one_board, *at],
            "cards": ["cards", *at],
            "site": ["site", "--results", str(runs), "--output", str(Path(scratch) / "site")],
            "list methods": ["list", "methods"],
            "show a method": ["show", "llr", "--output", str(Path(scratch) / "none")],
        }
        seconds = {name: command(words, scratch, clock) for name, words in commands.items()}
    return {"seconds": seconds, "memory_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}


def command(words: list[str], cache: str, clock: str) -> float:
    """Seconds that ``mlbench words`` takes."""
    begun = time.perf_counter(), spent()
    subprocess.run(
        [sys.executable, "-m", "mlbench", *words],
        env=os.environ | {"MLBENCH_CACHE": cache},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begun[0] if clock == "wall" else spent() - begun[1]


def spent() -> float:
    """Processor seconds of all processes started from here that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def middle(rows: list[Row]) -> Row:
    """Medians of the same size measured several times."""
    stages = {name: statistics.median(row["seconds"][name] for row in rows) for name in rows[0]["seconds"]}
    return {"seconds": stages, "memory_mib": statistics.median(row["memory_mib"] for row in rows), "measured": rows}


def measure(sizes: Iterable[int], one: Callable[[int], Row], repeats: int) -> dict[int, Row]:
    """`one` of each size, the sizes in turn in each repeat."""
    taken: dict[int, list[Row]] = {size: [] for size in sizes}
    for _ in range(repeats):
        for size in taken:
            taken[size].append(one(size))
    return {size: middle(rows) for size, rows in taken.items()}


def slope(rows: dict[int, Row], stage: str) -> float:
    """Exponent b of cost ~ size**b between the last two sizes."""
    (small, before), (large, after) = list(rows.items())[-2:]
    return math.log(after["seconds"][stage] / before["seconds"][stage]) / math.log(large / small)


def verdict(axis: str, rows: dict[int, Row], machine_gib: float | None) -> str:
    """What is largest at the last size, how it grows, and when memory ends if it goes on as between the last two."""
    (small, before), (large, after) = list(rows.items())[-2:]
    total = sum(after["seconds"].values())
    stages = sorted(after["seconds"], key=lambda name: -after["seconds"][name])
    steepest = max(stages, key=lambda name: slope(rows, name))
    said = (
        f"At {large:,} {axis} it takes {total:.3g} s, {after['seconds'][stages[0]] / total:.0%} of it to "
        f"{stages[0]}, which grows with exponent {slope(rows, stages[0]):.2f}; the steepest is to {steepest} "
        f"({slope(rows, steepest):.2f}, {after['seconds'][steepest]:.3g} s). "
    )
    each = (after["memory_mib"] - before["memory_mib"]) / (large - small)
    if axis == "processes" or machine_gib is None or each * large < 0.01 * after["memory_mib"]:
        return said + f"Memory: {after['memory_mib']:.0f} MiB, no limit in sight."
    room = (machine_gib * 1024 - after["memory_mib"]) / each + large
    return said + (
        f"Memory: {after['memory_mib']:.0f} MiB, {1024 * each:.3g} KiB for each further one: the {machine_gib:.0f} GiB "
        f"of this machine are full at about {float(f'{room:.2g}'):,.0f} {axis}, when the same would take "
        f"{total * room / large / 3600:.2g} h if it grew in proportion."
    )


def as_text(axis: str, rows: dict[int, Row], machine_gib: float | None) -> str:
    """A row of each size, and the `verdict`."""
    stages = list(next(iter(rows.values()))["seconds"])
    cells = [
        (f"{size:,}", *(f"{row['seconds'][stage]:.3g}" for stage in stages), f"{row['memory_mib']:.0f}")
        for size, row in rows.items()
    ]
    table = markdown(cells, (axis, *(f"{stage}, s" for stage in stages), "peak memory, MiB"))
    return table + (f"\n\n{verdict(axis, rows, machine_gib)}" if len(rows) > 1 else "")


def draw(path: Path, axis: str, rows: dict[int, Row]) -> None:
    """Seconds of each stage (both axes logarithmic) and memory (from 0) against size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for stage in next(iter(rows.values()))["seconds"]:
        left.plot(list(rows), [row["seconds"][stage] for row in rows.values()], marker="o", label=stage)
    right.plot(list(rows), [row["memory_mib"] for row in rows.values()], marker="o", color="black")
    for plot, what in ((left, "seconds"), (right, "peak memory, MiB")):
        plot.set(xscale="log", xlabel=axis, ylabel=what, xticks=list(rows))
        plot.set_xticks([], minor=True)
        plot.set_xticklabels([f"{size:,}" for size in rows])
    left.set_yscale("log")
    right.set_ylim(bottom=0)
    left.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


@click.command()
@click.option("--images", default="1000,10000,100000", show_default=True)
@click.option("--classes", default="20,80,312,5000", show_default=True)
@click.option("--methods", default="an,role", show_default=True, help="With classes.")
@click.option("--processes", default="1,2", show_default=True)
@click.option("--runs", default="10,100,1000", show_default=True)
@click.option("--records", default="100,1000,10000", show_default=True, help="In a folder of records.")
@click.option("--class-images", default=2000, show_default=True, help="Images that classes are measured on.")
@click.option("--process-images", default=20_000, show_default=True, help="Images that processes are measured on.")
@click.option("--axes", default="images,classes,processes,runs,records", show_default=True, help="Which to measure.")
@click.option("--repeats", default=1, show_default=True, help="Of each size, but one of a sweep.")
@click.option("--launched", "where", type=click.Path(path_type=Path), hidden=True)
@CLOCK
@OUTPUT
def main(
    images: str,
    classes: str,
    methods: str,
    processes: str,
    runs: str,
    records: str,
    class_images: int,
    process_images: int,
    axes: str,
    repeats: int,
    where: Path | None,
    clock: str,
    output: Path,
) -> None:
    """Measure, and write the table and a picture for each axis."""
    if where is not None:
        return launched(where, int(images))
    sizes = {"images": images, "classes": classes, "processes": processes, "runs": runs, "records": records}
    ways: dict[str, dict[str, Callable[[int], Row]]] = {
        "images": {"images": lambda size: alone(one_run, "an", size, 20)},
        "classes": {
            f"classes ({method})": lambda size, method=method: alone(one_run, method, class_images, size)
            for method in methods.split(",")
        },
        "processes": {"processes": lambda size: one_launch(size, process_images)},
        "runs": {"runs in a sweep": lambda size: alone(one_sweep, size)},
        "records": {"records": lambda size: alone(one_folder, size, clock)},
    }
    found = {
        title: measure(map(int, sizes[axis].split(",")), way, 1 if axis == "runs" else repeats)
        for axis in axes.split(",")
        for title, way in ways[axis].items()
    }
    facts = about(repeats=repeats, clock_of_records=clock)
    for title, rows in found.items():
        draw(output / f"growth-{'-'.join(title.translate(str.maketrans('()', '  ')).split())}.png", title, rows)
    text = "\n\n".join(as_text(title, rows, facts["hardware"]["memory_gib"]) for title, rows in found.items())
    figures = {title: {str(size): row for size, row in rows.items()} for title, rows in found.items()}
    write(output, "growth", facts, figures, text)


if __name__ == "__main__":
    main()
