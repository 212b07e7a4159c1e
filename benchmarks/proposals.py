"""What the detector as a teacher costs: proposals a second on photographs, and the peak memory of one training step."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from timing import OUTPUT, about, alone, write

from mlbench.datasets.base import Split
from mlbench.images.decode import FileImages
from mlbench.provenance import usable_cores


def search(data_root: Path, count: int, cores: int) -> dict[str, Any]:
    """Selective search over the first `count` photographs on `cores` cores."""
    from mlbench.proposals import arrays, split_proposals

    arrays.usable_cores = lambda: cores  # type: ignore[attr-defined]
    names = tuple(sorted(path.name for path in (data_root / "images").glob("*.jpg"))[:count])
    split = Split(names, np.ones((len(names), 1), np.int8), FileImages(data_root / "images", names))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLBENCH_CACHE"] = scratch
        wall, spent = time.perf_counter(), time.process_time()
        found = np.array(arrays.load_proposals(split, "selective_search", 2000))
        wall, spent = time.perf_counter() - wall, time.process_time() - spent
    import torch

    boxes = split_proposals(torch.from_numpy(found)).valid.sum(dim=1)
    return {
        "images": len(names),
        "cores": cores,
        "images_per_s": len(names) / wall,
        "images_per_cpu_s": len(names) / spent,
        "proposals_per_s": int(boxes.sum()) / wall,
        "proposals_of_an_image": {
            "least": int(boxes.min()),
            "mean": float(boxes.float().mean()),
            "most": int(boxes.max()),
        },
    }


def teacher_step(backbone: str, side: int, regions: int, batch: int, cells: int, hidden: int) -> dict[str, Any]:
    """One optimiser step (SGD with momentum) of the detector on noise; the memory is that of this process."""
    import torch

    from mlbench.baselines.wsddn import Detector, wsddn_loss
    from mlbench.models.backbones import build_backbone
    from mlbench.proposals import Regions

    torch.manual_seed(0)
    before = peak()
    network = Detector(build_backbone(backbone), 80, cells, hidden)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.9)
    corners = torch.rand(batch, regions, 2) * 0.8
    boxes = torch.cat([corners, corners + 0.05 + torch.rand(batch, regions, 2) * 0.15], dim=2)
    given = Regions(boxes, torch.rand(batch, regions), torch.ones(batch, regions, dtype=torch.bool))
    labels = (torch.rand(batch, 80) < 0.04).to(torch.int8)
    begun = time.perf_counter()
    loss = wsddn_loss(network(torch.randn(batch, 3, side, side), given)[0].sum(dim=1), labels)
    loss.backward()
    optimizer.step()
    return {
        "backbone": backbone,
        "side": side,
        "regions": regions,
        "batch": batch,
        "cells": cells,
        "hidden": hidden,
        "parameters": sum(each.numel() for each in network.parameters()),
        "seconds": time.perf_counter() - begun,
        "peak_gib": peak(),
        "peak_gib_before": before,
    }


def peak() -> float:
    """Peak resident memory of this process so far, GiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@click.command()
@click.option("--data-root", type=click.Path(exists=True, path_type=Path), required=True, help="Folder with images/.")
@click.option("--images", "count", default=100, show_default=True, help="How many photographs.")
@click.option("--backbone", default="vgg16", show_default=True)
@click.option("--side", default=672, show_default=True, help="Pixels of the teacher's images.")
@click.option("--regions", default=500, show_default=True, help="Proposals of an image.")
@click.option("--batch", default=2, show_default=True)
@click.option("--cells", default=7, show_default=True)
@click.option("--hidden", default=4096, show_default=True)
@OUTPUT
def main(
    data_root: Path,
    count: int,
    backbone: str,
    side: int,
    regions: int,
    batch: int,
    cells: int,
    hidden: int,
    output: Path,
) -> None:
    """Measure on the photographs of --data-root; the teacher's step is on noise of --side pixels."""
    rows = [alone(search, data_root, count, cores) for cores in sorted({1, usable_cores()})]
    lines = [
        f"* selective search, {row['images']} photographs, {row['cores']} cores: {row['images_per_s']:.2f} images/s, "
        f"{row['proposals_per_s']:,.0f} proposals/s ({row['images_per_cpu_s']:.2f} images a second of one core)"
        for row in rows
    ]
    step = alone(teacher_step, backbone, side, regions, batch, cells, hidden)
    lines.append(
        f"* teacher step, {backbone}, {side} px, {regions} regions, batch {batch}: peak {step['peak_gib']:.2f} GiB, "
        f"{step['seconds']:.0f} s, {step['parameters'] / 1e6:.0f} million parameters"
    )
    write(output, "proposals", about(), {"search": rows, "step": step}, "\n".join(lines))


if __name__ == "__main__":
    main()
