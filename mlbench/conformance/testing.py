"""A tiny data set made from nothing, for the conformance suite and for tests of plugins."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mlbench.annotation import State
from mlbench.datasets.base import ArrayImages, Dataset, Split, Tags
from mlbench.seeds import derive


def tiny_dataset(train: int = 32, val: int = 8, test: int = 9, classes: int = 4, size: int = 64) -> Dataset:
    """Coloured noise with a bright patch for each class present, boxes and some tags; the same on every call."""
    random = np.random.RandomState(derive("tiny", train, val, test, classes) % 2**32)
    splits = {}
    cell = size // classes
    for name, count in (("train", train), ("val", val), ("test", test)):
        present = random.rand(count, classes) < 0.45
        present[np.arange(count), random.randint(0, classes, count)] = True
        array = random.randint(0, 120, (count, size, size, 3)).astype(np.uint8)
        boxes = []
        for row, c in zip(*np.nonzero(present), strict=True):
            top = random.randint(0, size - cell)
            array[row, top : top + cell, c * cell : (c + 1) * cell, c % 3] = 255
            boxes.append((row, c, c * cell, top, (c + 1) * cell, top + cell))
        labels = np.where(present, State.POSITIVE, State.NEGATIVE).astype(np.int8)
        ids = tuple(f"{name}/{i:03d}" for i in range(count))
        words = np.random.RandomState(derive("tiny tags", name, count) % 2**32).rand(count, 6) < 0.3
        tags = Tags(partial(np.asarray, words), "words drawn at random")
        splits[name] = Split(ids, labels, ArrayImages(array), boxes=np.array(boxes, dtype=np.float32), tags=tags)
    return Dataset("tiny", "1", tuple(f"class {c}" for c in range(classes)), splits)


def tiny_vl_scores(path: Path) -> None:
    """Write what could be a vision-language model's scores of `tiny_dataset`: a softmax that noise hides half of."""
    from mlbench.runner.vl_scores import write_vl_scores

    dataset = tiny_dataset()
    ids = [sample for split in dataset.splits.values() for sample in split.ids]
    present = np.concatenate([np.asarray(split.labels) == State.POSITIVE for split in dataset.splits.values()])
    noise = np.random.RandomState(derive("tiny vl scores") % 2**32).standard_normal(present.shape)
    powers = np.exp(2 * present + noise)
    about = {"model": "none: labels and noise", "prompt": "none", "crop": "none", "values": "softmax"}
    write_vl_scores(path, powers / powers.sum(axis=1, keepdims=True), ids, dataset.classes, about)


def with_other_hidden_labels(dataset: Dataset, observed: np.ndarray) -> Dataset:
    """`dataset` with every training label inverted that `observed` [N, C] does not show: nobody allowed to see only
    `observed` can tell the two apart."""
    train = dataset.splits["train"]
    truth = np.asarray(train.labels)
    labels = np.where(observed == State.UNKNOWN, -truth, truth).astype(np.int8)
    other = replace(train, labels=labels)
    return Dataset(dataset.id, dataset.version, dataset.classes, {**dataset.splits, "train": other})


def with_other_evaluation_labels(dataset: Dataset) -> Dataset:
    """`dataset` whose validation and test images have the labels of other images, moved by a class.

    Each image has a positive as before, so that masks can be drawn; neither an image nor a class keeps its own labels.
    """
    splits = dict(dataset.splits)
    for name in ("val", "test"):
        labels = np.roll(np.asarray(splits[name].labels), (1, 1), axis=(0, 1))
        splits[name] = replace(splits[name], labels=labels)
    return Dataset(dataset.id, dataset.version, dataset.classes, splits)
