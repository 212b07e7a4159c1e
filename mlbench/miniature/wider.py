"""WIDER Attribute: JSON of person boxes with 14 attributes, some of them unspecified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.datasets.wider import PARTS
from mlbench.miniature.classes import read_classes, shares
from mlbench.miniature.labels import draw_labels, part_sizes
from mlbench.miniature.pictures import Studio, Thing

_PERSONS = (1, 2, 2, 3)  # in an image, each as likely
_UNSPECIFIED = 0.15  # share of the attributes that are not positive
_BEYOND = 0.05  # share of the boxes that reach beyond their image
_SCENES = ("Parade", "Handshaking", "Demonstration")  # three of the official 30, with their numbers 0, 1, 2
_COLUMNS = 2  # attributes side by side in a person's box


def write(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """Annotations and the folder ``Image``; `images` are pictures, each with one to three persons."""
    attributes = read_classes()["wider"]["classes"]
    (root / "wider_attribute_annotation").mkdir(parents=True)
    sizes = part_sizes(images, {split: number for split, (_, _, number) in PARTS.items()})
    truth = {}
    for split, (part, _, _) in PARTS.items():
        random = studio.stream(data, part)
        persons = [_PERSONS[random.randint(0, len(_PERSONS))] for _ in range(sizes[split])]
        present = draw_labels(random, sum(persons), shares("wider", attributes))
        unspecified = ~present & (random.random_sample(present.shape) < _UNSPECIFIED)
        values = np.where(present, 1, np.where(unspecified, 0, -1))
        listed, done = [], 0
        for number, count in enumerate(persons):
            scene = number % len(_SCENES)
            official = "train" if part == "trainval" else part
            file = f"{official}/{scene}--{_SCENES[scene]}/{scene}_{_SCENES[scene]}_{number:05d}.jpg"
            own = values[done : done + count]
            targets = _persons(studio, random, file, own, root / "Image" / file)
            listed.append({"file_name": file, "scene_id": scene, "targets": targets})
            done += count
        content = {
            "attribute_id_map": {str(number): name for number, name in enumerate(attributes)},
            "scene_id_map": {str(number): name for number, name in enumerate(_SCENES)},
            "images": listed,
        }
        path = root / "wider_attribute_annotation" / f"wider_attribute_{part}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        truth[split] = present
    return {data: truth}


def _persons(
    studio: Studio, random: np.random.RandomState, file: str, values: np.ndarray, path: Path
) -> list[dict[str, Any]]:
    """Take the picture, persons side by side; the attributes of each in the cells of its box."""
    width, height = studio.size(file)
    targets, things = [], []
    for number, attributes in enumerate(values):
        left, right = number * width // len(values) + 1, (number + 1) * width // len(values) - 1
        top, bottom = int(random.randint(0, height // 8)), height - int(random.randint(0, height // 8))
        cells = -(-len(attributes) // _COLUMNS)
        for kind in np.flatnonzero(attributes == 1).tolist():
            down, across = divmod(kind, _COLUMNS)
            x1, x2 = (left + step * (right - left) // _COLUMNS for step in (across, across + 1))
            y1, y2 = (top + step * (bottom - top) // cells for step in (down, down + 1))
            things.append(Thing(kind, (x1, y1, x2, y2)))
        beyond = 6 if random.random_sample() < _BEYOND else 0
        box = [left, top, right - left, bottom + beyond - top + (height - bottom if beyond else 0)]
        targets.append({"attribute": attributes.tolist(), "bbox": box})
    studio.take(file, things, path)
    return targets
