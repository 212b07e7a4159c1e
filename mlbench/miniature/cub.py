"""CUB-200-2011: numbered lists, 312 attributes of each image, made-up birds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlbench.datasets.cub import COUNTS, LISTS
from mlbench.miniature.classes import cub_attributes, long_tail
from mlbench.miniature.labels import draw_labels, part_sizes, single_list
from mlbench.miniature.pictures import Studio, place

_BIRDS = 20
_FIRST, _OF_A_PART = 0.45, 1.1  # share of a part's most frequent value, and values an image that are present


def write(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """``root/CUB_200_2011`` with ``attributes.txt`` beside it, as the archive has it, and SCPNet's list."""
    folder = root / "CUB_200_2011"
    (folder / "attributes").mkdir(parents=True)
    names, frequencies = _attributes(studio)
    sizes = part_sizes(images, COUNTS)
    shown = {split: draw_labels(studio.stream(data, split), sizes[split], frequencies) for split in sizes}
    random = studio.stream(data, "order")
    present = np.concatenate(list(shown.values()))
    in_train = np.arange(len(present)) < sizes["train"]
    order = random.permutation(len(present))  # the official lists mix the parts
    present, in_train = present[order], in_train[order]
    files, boxes, birds = [], [], np.sort(random.randint(0, _BIRDS, len(present)))
    for number, bird in enumerate(birds, start=1):
        kind = f"Made_up_Bird_{bird + 1:03d}"
        file = f"{bird + 1:03d}.{kind}/{kind}_{number:04d}_{number}.jpg"
        size = studio.size(file)
        studio.take(file, place(random, np.flatnonzero(present[number - 1]).tolist(), size), folder / "images" / file)
        files.append(file)
        boxes.append(f"0.0 0.0 {size[0]:.1f} {size[1]:.1f}")
    kinds = [f"{bird:03d}.Made_up_Bird_{bird:03d}" for bird in range(1, _BIRDS + 1)]
    lists = {
        "attributes.txt": names,
        "CUB_200_2011/images.txt": files,
        "CUB_200_2011/train_test_split.txt": [str(int(flag)) for flag in in_train],
        "CUB_200_2011/image_class_labels.txt": [str(bird + 1) for bird in birds],
        "CUB_200_2011/classes.txt": kinds,
        "CUB_200_2011/bounding_boxes.txt": boxes,
        "CUB_200_2011/attributes/certainties.txt": ["not visible", "guessing", "probably", "definitely"],
    }
    for file, entries in lists.items():
        lines = [f"{number} {entry}\n" for number, entry in enumerate(entries, start=1)]
        (root / file).write_text("".join(lines), encoding="utf-8")
    certain = random.randint(1, 5, present.shape)
    lines = [
        f"{row + 1} {column + 1} {int(value)} {certain[row, column]} 1.0\n"
        for (row, column), value in np.ndenumerate(present)
    ]
    (folder / "attributes" / "image_attribute_labels.txt").write_text("".join(lines), encoding="utf-8")
    listed = [file for file, flag in zip(files, in_train, strict=True) if flag]
    text = single_list(studio.stream(data, "list"), listed, present[in_train])
    (root / LISTS["single"]).write_text(text, encoding="utf-8")
    return {data: {"train": present[in_train], "test": present[~in_train]}}


def _attributes(studio: Studio) -> tuple[list[str], np.ndarray]:
    """Names, and the share of the images that has each: a long tail within each part of the bird, in drawn order."""
    names, parts = cub_attributes()
    frequencies = np.empty(len(names))
    for part in range(max(parts) + 1):
        columns = np.flatnonzero(np.array(parts) == part)
        falling = long_tail(len(columns), _FIRST, _OF_A_PART)
        frequencies[columns] = studio.stream("cub", "part", part).permutation(falling)
    return names, frequencies
