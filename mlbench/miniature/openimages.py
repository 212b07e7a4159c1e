"""Open Images: CSVs of human-verified labels over 5,000 trainable classes, whose names are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlbench.datasets.openimages import LABEL_FILES, N_CLASSES, PARTS
from mlbench.miniature.labels import part_sizes
from mlbench.miniature.pictures import Studio, place

_IMAGES = {"train": 9011219, "val": 41620, "test": 125436}
_OTHERS = 20  # classes that are described and not trainable
_FALL = 0.8  # power by which a class's share falls with its rank
_POSITIVE, _NEGATIVE = 5, 15  # verified labels of a training image
_EVERY = 50  # of the ranks: classes that validation and test images are verified for, so that each group has some
_ASKED, _YES = 20, 0.3  # of these, how many an image is verified for, and how often they are there


def write(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """V3's files, or those of V4 and later."""
    edition = data.removeprefix("openimages-")
    mids = [f"/m/0mini{number:04d}" for number in range(N_CLASSES)]
    others = [f"/m/0other{number:02d}" for number in range(_OTHERS)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes-trainable.txt").write_text("".join(f"{mid}\n" for mid in mids), encoding="utf-8")
    described = [f'{mid},"Made-up class, number {number}"\n' for number, mid in enumerate([*mids, *others])]
    (root / "class-descriptions.csv").write_text("".join(described), encoding="utf-8")
    ranks = studio.stream("openimages", "ranks").permutation(N_CLASSES)  # class of each rank
    truth, first = {}, 0x0A00_0000_0000_0000
    for split, n in part_sizes(images, _IMAGES).items():
        part = PARTS[split][0]
        random = studio.stream("openimages", part)
        ids = [f"{first + 977 * row:016x}" for row in range(n)]
        first += 1 << 56
        states = _draw(random, n, ranks, train=split == "train")
        lines = ["ImageID,Source,LabelName,Confidence\n"]
        for image, row in zip(ids, states, strict=True):
            path = root / part / f"{image}.jpg"
            studio.take(image, place(random, np.flatnonzero(row == 1).tolist(), studio.size(image)), path)
            for column in np.flatnonzero(row):
                lines.append(f"{image},verification,{mids[column]},{int(row[column] == 1)}\n")
            if random.random_sample() < 0.1:
                lines.append(f"{image},verification,{others[random.randint(0, _OTHERS)]},1\n")
        (root / LABEL_FILES[edition].format(part=part)).write_text("".join(lines), encoding="utf-8")
        urls = [f"{image},{part}\n" for image in ids]
        (root / part / "images.csv").write_text("".join(["ImageID,Subset\n", *urls]), encoding="utf-8")
        truth[split] = states == 1
    return {data: truth}


def _draw(random: np.random.RandomState, n: int, ranks: np.ndarray, train: bool) -> np.ndarray:
    """int8 [n, 5000]: 1 verified to be there, -1 verified not to be, 0 unknown."""
    states = np.zeros((n, len(ranks)), dtype=np.int8)
    falling = np.arange(1, len(ranks) + 1, dtype=np.float64) ** -_FALL
    cumulated = np.cumsum(falling / falling.sum())
    watched = ranks[::_EVERY]
    for row in states:
        drawn = np.searchsorted(cumulated, random.random_sample(_POSITIVE + _NEGATIVE), side="right")
        chosen = ranks[np.minimum(drawn, len(ranks) - 1)]
        row[chosen[_POSITIVE:]] = -1
        row[chosen[:_POSITIVE]] = 1
        if not train:
            asked = random.permutation(watched)[:_ASKED]
            row[asked] = np.where(random.random_sample(_ASKED) < _YES, 1, -1)
    return states
