"""MS-COCO: instances in JSON with crowds, images without an annotation, the lists of SPLC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.datasets.coco import LISTS, PARTS
from mlbench.miniature.classes import coco_categories, shares
from mlbench.miniature.labels import draw_labels, part_sizes, single_list
from mlbench.miniature.pictures import Studio, place

_BARE = 0.02  # share of the images that have no annotation
_AGAIN = 0.3  # share of present classes with a second object
_CROWD = 0.2  # share of these that are crowds
_KEEP = {"single": 0.0, "0.4": 0.4, "0.75": 0.75, "full": 1.0}
_SIZES = {"train": 82081, "test": 40137}  # 2017's are not checked; its test part would be too small by them


def write(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """COCO 2014 (which is ``coco2014`` and ``coco2014-all``) or 2017."""
    year = data.removeprefix("coco").removesuffix("-all")
    own = f"coco{year}"
    categories = coco_categories()
    (root / "annotations").mkdir(parents=True)
    sizes = part_sizes(images, _SIZES)
    truth: dict[str, dict[str, np.ndarray]] = {}
    for split, (part, _) in PARTS[year].items():
        random = studio.stream(own, part)
        bare = max(1, round(_BARE * sizes[split]))
        present = draw_labels(random, sizes[split] - bare, shares("coco", list(categories.values())))
        present = np.concatenate([present, np.zeros((bare, present.shape[1]), dtype=bool)])
        # The adapters sort ids as text: seven digits each, so that this is the order of numbers, too.
        ids = [(1 if split == "train" else 2) * 1_000_000 + row for row in range(len(present))]
        names = [f"COCO_{part}_{n:012d}.jpg" if year == "2014" else f"{n:012d}.jpg" for n in ids]
        content = _instances(studio, random, root / part, ids, names, present)
        path = root / "annotations" / f"instances_{part}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        truth.setdefault(own, {})[split] = present[:-bare]
        if year == "2014":
            truth.setdefault(f"{own}-all", {})[split] = present
            if split == "train":
                for shown, file in LISTS.items():
                    listed = single_list(studio.stream(own, "list"), names[:-bare], present[:-bare], _KEEP[shown])
                    (root / file).write_text(listed, encoding="utf-8")
    return truth


def _instances(
    studio: Studio,
    random: np.random.RandomState,
    folder: Path,
    ids: list[int],
    names: list[str],
    present: np.ndarray,
) -> dict[str, Any]:
    categories = coco_categories()
    numbers = list(categories)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, name, row in zip(ids, names, present, strict=True):
        width, height = studio.size(name)
        images.append({"id": image, "file_name": name, "width": width, "height": height, "license": 0})
        once = np.flatnonzero(row).tolist()
        again = [kind for kind in once if random.random_sample() < _AGAIN]
        things = place(random, [*once, *again], (width, height))
        studio.take(name, things, folder / name)
        for order, thing in enumerate(things):
            x1, y1, x2, y2 = thing.box
            crowd = order >= len(once) and random.random_sample() < _CROWD
            annotations.append(
                {
                    "id": image * 100 + order,
                    "image_id": image,
                    "category_id": numbers[thing.kind],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    "iscrowd": int(crowd),
                }
            )
    listed = [{"id": number, "name": name, "supercategory": ""} for number, name in categories.items()]
    info = {"description": "a miniature, made by mlbench: not MS-COCO"}
    return {"info": info, "images": images, "annotations": annotations, "categories": listed}
