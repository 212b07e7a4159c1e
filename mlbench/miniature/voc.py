"""PASCAL VOC: class files, annotations in XML with difficult objects, photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlbench.datasets.voc import CLASSES, LISTS, PARTS
from mlbench.miniature.classes import shares
from mlbench.miniature.labels import draw_labels, part_sizes, single_list
from mlbench.miniature.pictures import Studio, Thing, place

_DIFFICULT = 0.02  # share of images and classes that show the class in difficult objects only
_ONLY_DIFFICULT = 2  # images of each part without any other object, which the adapter leaves out
_AGAIN = 0.3  # share of present classes with a second object

_OBJECT = """\
	<object>
		<name>{name}</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>{difficult}</difficult>
		<bndbox>
			<xmin>{box[0]}</xmin>
			<ymin>{box[1]}</ymin>
			<xmax>{box[2]}</xmax>
			<ymax>{box[3]}</ymax>
		</bndbox>
	</object>
"""
_ANNOTATION = """\
<annotation>
	<folder>VOC{year}</folder>
	<filename>{name}.jpg</filename>
	<source>
		<database>a miniature, made by mlbench</database>
	</source>
	<size>
		<width>{width}</width>
		<height>{height}</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
{objects}</annotation>
"""


def write(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """VOC 2007 or 2012 below ``root/VOCdevkit``, and the list that SCPNet published."""
    year = data.removeprefix("voc")
    folder = root / "VOCdevkit" / f"VOC{year}"
    for below in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / below).mkdir(parents=True)
    parts, truth, first = PARTS[year], {}, 1
    sizes = part_sizes(images, dict(parts.values()))
    for split, (part, _) in parts.items():
        random = studio.stream(data, part)
        present = draw_labels(random, sizes[part] - _ONLY_DIFFICULT, shares(data, list(CLASSES)))
        present = np.concatenate([present, np.zeros((_ONLY_DIFFICULT, len(CLASSES)), dtype=bool)])
        difficult = ~present & (random.random_sample(present.shape) < _DIFFICULT)
        difficult[-_ONLY_DIFFICULT:, 14] = True  # "person"
        names = [f"{first + row:06d}" if year == "2007" else f"2008_{first + row:06d}" for row in range(len(present))]
        first += len(names)
        for row, name in enumerate(names):
            _write_image(folder, year, name, studio, random, present[row], difficult[row])
        _write_lists(folder / "ImageSets" / "Main", part, names, present, difficult)
        truth[split] = present[:-_ONLY_DIFFICULT]
        if (year, split) == ("2012", "train"):
            listed = [f"{name}.jpg" for name in names[:-_ONLY_DIFFICULT]]
            text = single_list(studio.stream(data, "list"), listed, truth[split])
            (root / LISTS["single"]).write_text(text, encoding="utf-8")
    return {data: truth}


def _write_image(
    folder: Path,
    year: str,
    name: str,
    studio: Studio,
    random: np.random.RandomState,
    present: np.ndarray,
    difficult: np.ndarray,
) -> None:
    once = np.flatnonzero(present).tolist()
    again = [kind for kind in once if random.random_sample() < _AGAIN]
    hard = np.flatnonzero(difficult).tolist()
    things = place(random, [*once, *again, *hard], studio.size(name))
    studio.take(name, things, folder / "JPEGImages" / f"{name}.jpg")
    easy = len(once)  # a second object of a class may be difficult, too
    objects = [
        _OBJECT.format(
            name=CLASSES[thing.kind],
            difficult=int(difficult[thing.kind] or (number >= easy and random.random_sample() < 0.5)),
            box=_official(thing),
        )
        for number, thing in enumerate(things)
    ]
    width, height = studio.size(name)
    text = _ANNOTATION.format(year=year, name=name, width=width, height=height, objects="".join(objects))
    (folder / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")


def _official(thing: Thing) -> tuple[int, int, int, int]:
    """Corners counted from 1, inclusive."""
    x1, y1, x2, y2 = thing.box
    return x1 + 1, y1 + 1, x2, y2


def _write_lists(folder: Path, part: str, names: Sequence[str], present: np.ndarray, difficult: np.ndarray) -> None:
    (folder / f"{part}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    for column, label in enumerate(CLASSES):
        values = np.where(present[:, column], 1, np.where(difficult[:, column], 0, -1))
        lines = [f"{name} {value:2d}\n" for name, value in zip(names, values, strict=True)]
        (folder / f"{label}_{part}.txt").write_text("".join(lines), encoding="utf-8")
