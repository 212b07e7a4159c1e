"""Made-up labels: so many positives a class, some classes together more often than others, no image without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: Positives of each class in each part, where there are images enough.
LEAST = 3

_THEMES = 8
_AFFINITY = 8  # how much likelier a class is in images of its theme
_SMALLEST = 0.2  # share of the images that each part has at least
_CROWDED = 4  # labels an image that this may take


def part_sizes(images: int, official: Mapping[str, int]) -> dict[str, int]:
    """`images` divided among parts as the official numbers are, but for none having less than a fifth."""
    total = sum(official.values())
    wanted = np.array([max(number / total, _SMALLEST) for number in official.values()])
    cuts = np.round(np.cumsum(wanted / wanted.sum()) * images).astype(int)
    return dict(zip(official, np.diff([0, *cuts]).tolist(), strict=True))


def draw_labels(random: np.random.RandomState, n: int, shares: np.ndarray, least: int = LEAST) -> np.ndarray:
    """bool [n, C]: `shares` of the images show each class, `least` of them at least where there is room for that.

    Every image has a label, so the most frequent classes may get a few more. Classes are paired by themes.
    """
    room = max(float(shares.sum()), _CROWDED) * n
    least = min(least, int(room / len(shares)), n)
    counts = np.minimum(np.maximum(np.round(shares * n).astype(int), least), n)
    theme_of_class = random.randint(0, _THEMES, len(shares))
    theme_of_image = random.randint(0, _THEMES, n)
    present = np.zeros((n, len(shares)), dtype=bool)
    for column in np.argsort(counts, kind="stable"):  # the rare ones first: the frequent ones fill what is left
        fits = np.where(theme_of_image == theme_of_class[column], _AFFINITY, 1) / np.sqrt(1.0 + present.sum(axis=1))
        order = np.argsort(-np.log(1.0 - random.random_sample(n)) / fits, kind="stable")
        present[order[: counts[column]], column] = True
    bare = np.flatnonzero(~present.any(axis=1))
    if len(bare):
        cumulated = np.cumsum(shares / shares.sum())
        drawn = np.searchsorted(cumulated, random.random_sample(len(bare)), side="right")
        present[bare, np.minimum(drawn, len(shares) - 1)] = True
    return present


def single_list(random: np.random.RandomState, names: Sequence[str], present: np.ndarray, keep: float = 0.0) -> str:
    """A published list of shown labels (`mlbench.datasets.listed`): of each image one positive, or a share `keep`."""
    lines = []
    for name, row in zip(names, present, strict=True):
        positives = np.flatnonzero(row)
        number = max(1, round(keep * len(positives)))
        shown = np.sort(random.permutation(positives)[:number])
        lines.append(f"{name}, {' '.join(map(str, shown))}\n")
    return "".join(lines)
