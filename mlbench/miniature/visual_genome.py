"""VG-200: two lists of images and a JSON of category numbers, in the form that SSGRL and SARB hand out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mlbench.datasets.visual_genome import LABELS, LISTS, N_CLASSES
from mlbench.miniature.classes import shares
from mlbench.miniature.labels import draw_labels, part_sizes
from mlbench.miniature.pictures import Studio, place

_SIZES = {"train": 98249, "test": 10000}  # as papers state them [unverified]


def write(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """Images in both of the official folders."""
    listed: dict[str, list[int]] = {}
    sizes, truth, first = part_sizes(images, _SIZES), {}, 2_300_000
    for split, file in LISTS.items():
        random = studio.stream(data, split)
        present = draw_labels(random, sizes[split], shares("vg", [str(number) for number in range(N_CLASSES)]))
        names = [f"{first + row}.jpg" for row in range(len(present))]
        first += len(names)
        for row, name in enumerate(names):
            kinds = np.flatnonzero(present[row]).tolist()
            listed[name] = kinds
            folder = root / ("VG_100K" if row % 2 else "VG_100K_2")
            studio.take(name, place(random, kinds, studio.size(name)), folder / name)
        (root / file).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        truth[split] = present
    (root / LABELS).write_text(json.dumps(listed), encoding="utf-8")
    return {data: truth}
