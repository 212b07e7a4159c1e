"""What the classes of a miniature are called, and how frequent each of them is."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np


@cache
def read_classes() -> dict[str, Any]:
    """The content of ``classes.toml``."""
    return tomllib.loads((files(__package__) / "classes.toml").read_text(encoding="utf-8"))


def coco_categories() -> dict[int, str]:
    """Name of each of COCO's 80 categories by its official id, 1 to 90, some of which none has."""
    about = read_classes()["coco"]
    ids = (number for number in range(1, 91) if number not in about["unused"])
    return dict(zip(ids, about["classes"], strict=True))


def cub_attributes() -> tuple[list[str], list[int]]:
    """The 312 attributes of CUB in the official order, and the number of the part (of 28) that each speaks of."""
    about = read_classes()["cub"]
    names, parts = [], []
    for number, part in enumerate(about["parts"]):
        usual = about["patterns"] if part.endswith("_pattern") else about["colours"]
        for value in about["values"].get(part, usual):
            names.append(f"has_{part}::{value}")
            parts.append(number)
    return names, parts


def shares(data: str, classes: list[str]) -> np.ndarray:
    """Share of the images of `data` (a table of ``classes.toml``) that shows each class, float64 [C]."""
    about = read_classes()[data]
    if "counts" in about:
        return np.array(about["counts"], dtype=np.float64) / about["images"]
    head = about["head"]
    order = [*head, *(name for name in classes if name not in set(head))]
    falling = long_tail(len(classes), about["first"], about["mean"])
    return falling[[order.index(name) for name in classes]]


def long_tail(n: int, first: float, mean: float) -> np.ndarray:
    """Shares float64 [n] that fall with a power of the rank from `first`, and sum up to `mean`."""
    ranks = np.arange(1, n + 1, dtype=np.float64)
    low, high = 0.0, 8.0
    for _ in range(60):
        power = (low + high) / 2
        low, high = (power, high) if first * (ranks**-power).sum() > mean else (low, power)
    return first * ranks ** -((low + high) / 2)
