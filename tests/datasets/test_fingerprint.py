"""A data set is known by the content of its images, not by their names; and by all else that it holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlbench.conformance.testing import ArrayImages, tiny_dataset
from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset, Split, image_content
from mlbench.images.decode import FileImages


@pytest.fixture
def mine(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(photos, tmp_path / "mine"))


def load(folder: Path) -> Dataset:
    return load_dataset(str(folder / "mine.toml"))


def invert(path: Path) -> None:
    """Another picture in a file of the same name, size and times."""
    before = path.stat()
    picture = 255 - np.asarray(Image.open(path))
    Image.fromarray(picture).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_picture_replaced_in_place_gives_another_fingerprint(mine: Path) -> None:
    before = load(mine)
    kept = before.fingerprint, before.legacy_fingerprint
    invert(mine / "pictures" / "30.png")
    after = load(mine)
    assert after.legacy_fingerprint == kept[1]
    assert after.fingerprint != kept[0]


def test_the_same_pictures_elsewhere_have_the_same_fingerprint(mine: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mine, tmp_path / "elsewhere"))
    for path in (copy / "pictures").iterdir():
        os.utime(path, (1, 1))
    assert load(copy).fingerprint == load(mine).fingerprint


def test_pictures_replaced_in_place_lead_to_another_run(mine: Path, mlbench: Callable[..., Any]) -> None:
    command = ["run", "--protocol", "full", "--dataset", mine / "mine.toml", "--backbone", "scenes", "--epochs", 1]
    command += ["--method", "an", "--set", "train.image_size=32", "--device", "cpu", "--store", mine / "runs"]
    assert mlbench(*command)[0] == 0
    for path in (mine / "pictures").iterdir():
        invert(path)
    code, _, err = mlbench(*command)
    assert code == 0
    assert "already in the store" not in err
    assert len(list((mine / "runs").rglob("record.json"))) == 2


@pytest.mark.parametrize("name", ["id", "version", "classes", "ids", "groups", "labels", "boxes", "images", "order"])
def test_all_that_a_data_set_holds_is_in_its_fingerprint(name: str) -> None:
    dataset = tiny_dataset()
    test = dataset.splits["test"]
    changed = {
        "ids": lambda: replace(test, ids=("z", *test.ids[1:])),
        "groups": lambda: replace(test, groups=("z", *test.groups[1:])),
        "labels": lambda: replace(test, labels=-np.asarray(test.labels)),
        "boxes": lambda: replace(test, boxes=None),
        "images": lambda: replace(test, images=ArrayImages(test.images.array ^ np.uint8(1))),
        "order": lambda: replace(test, images=ArrayImages(test.images.array[::-1])),
    }
    if name in changed:
        other = replace(dataset, splits={**dataset.splits, "test": changed[name]()}, _cached={})
    else:
        other = replace(dataset, _cached={}, **{name: ("a", "b", "c", "d") if name == "classes" else "z"})
    assert other.fingerprint != dataset.fingerprint
    assert tiny_dataset().fingerprint == dataset.fingerprint


def test_the_fingerprint_of_harness_1_is_as_it_was() -> None:
    assert tiny_dataset().legacy_fingerprint == "e87859ff4c5666e8b96f6572944e80f2c0eac3e1b359756b0aa2029faebf1b88"


@dataclass(frozen=True)
class Plain:
    """An image source of somebody else, which says nothing of the content of its images."""

    pictures: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def load(self, row: int) -> np.ndarray:
        return self.pictures[row]

    def describe(self, row: int) -> str:
        return f"picture {row}"


def test_images_that_do_not_tell_their_content_are_hashed_as_they_are_decoded() -> None:
    wide, high = np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
    first, second, third = (tuple(row) for row in image_content(Plain((wide, high, wide))).tolist())
    assert (first != second, first == third) == (True, True)
    split = Split(("a", "b", "c"), np.ones((3, 1), np.int8), Plain((wide, high, wide)))
    np.testing.assert_array_equal(split.take([1, 0]).content(), split.content()[[1, 0]])
    np.testing.assert_array_equal(split.take([2, 1, 0]).take([1, 2]).content(), split.content()[[1, 0]])
    assert Dataset("d", "1", ("c",), {"train": split}).count_unhashed() == 3


def test_such_images_are_decoded_once_for_all_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    images, loaded, load = Plain(tuple(np.full((2, 2, 3), n, np.uint8) for n in range(200))), [], Plain.load
    monkeypatch.setattr(Plain, "load", lambda self, row: loaded.append(row) or load(self, row))
    split, told = Split(tuple(map(str, range(200))), np.ones((200, 1), np.int8), images), []
    first = split.take([7, 3, 7]).content()
    assert sorted(loaded) == [3, 7]
    whole = split.content(lambda *at: told.append(at))
    assert sorted(loaded) == list(range(200))
    assert told == [(64, 198), (128, 198), (192, 198), (198, 198)]
    np.testing.assert_array_equal(first, whole[[7, 3, 7]])
    again = Plain(tuple(255 - picture for picture in images.pictures))
    assert not np.array_equal(image_content(again), whole)


def test_a_crop_is_part_of_the_content(mine: Path) -> None:
    names, boxes = ["00.png"] * 3, [(1, 2, 9, 9), (1, 2, 9.0000001, 9), (1, 2, 9, 9)]
    images = FileImages(mine / "pictures", names, boxes)
    assert images.describe(0) == images.describe(1)
    found = [tuple(row) for row in images.content().tolist()]
    assert (found[0] == found[2], found[0] != found[1]) == (True, True)
    np.testing.assert_array_equal(images.content(np.array([1])), images.content()[1:2])
    assert images.load(1).shape == (7, 9, 3)


def test_progress_of_the_first_hash_is_told(mine: Path) -> None:
    told: list[tuple[str, int, int]] = []
    load(mine).hash_images(lambda title: lambda done, total: told.append((title, done, total)))
    assert told == [("hashing test", 10, 10), ("hashing train", 24, 24)]
