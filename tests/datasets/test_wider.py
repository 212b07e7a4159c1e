"""WIDER Attribute in its official layout, made small in a temporary folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlbench.annotation import State
from mlbench.datasets import load_dataset, wider
from mlbench.errors import DataError

NAMES = ("Male", "longHair", "Hat")
#: Image (20 x 10 pixels): boxes x, y, width, height, and attributes.
TRAIN = {
    "train/1--Run/b.jpg": [([2, 1, 4, 5], [1, -1, 0]), ([10, 2, 5, 8], [0, 1, 1])],
    "train/0--Parade/a.jpg": [([0, 0, 20, 10], [-1, -1, 1])],
    "val/0--Parade/c.jpg": [],
}
TEST = {"test/0--Parade/d.jpg": [([1, 1, 3, 3], [1, 1, -1])]}


def content(images: dict[str, list], names: Any = None) -> dict[str, Any]:
    listed = [
        {"file_name": name, "scene_id": 0, "targets": [{"attribute": a, "bbox": list(b)} for b, a in targets]}
        for name, targets in images.items()
    ]
    names = {str(i): name for i, name in reversed(list(enumerate(NAMES)))} if names is None else names
    return {"images": listed, "attribute_id_map": names, "scene_id_map": {"0": "Parade"}}


def write(root: Path, part: str, images: dict[str, list], names: Any = None) -> None:
    folder = root / "wider_attribute_annotation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"wider_attribute_{part}.json").write_text(json.dumps(content(images, names)))
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[..., 0] = np.arange(20) * 10
    picture[..., 1] = np.arange(10)[:, None] * 20
    for name in images:
        (root / "Image" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / "Image" / name, format="PNG")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy with 3 attributes, which counts as the full one."""
    monkeypatch.setattr(wider, "N_ATTRIBUTES", 3)
    monkeypatch.setattr(wider, "PARTS", {"train": ("trainval", ("train", "val"), 3), "test": ("test", (), 1)})
    folder = tmp_path / "WIDER"
    write(folder, "trainval", TRAIN)
    write(folder, "test", TEST)
    return folder


def partly(root: Path, boxes: list, **others: Any) -> Any:
    """The partial data set whose one training image has `boxes`."""
    write(root, "trainval", {"train/1--Run/b.jpg": [(box, [1, 1, 1]) for box in boxes]}, **others)
    return load_dataset("wider-partial", root)


def test_every_person_is_a_sample_in_sorted_order(root: Path) -> None:
    dataset = load_dataset("wider", root)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (dataset.id, dataset.classes, dataset.notes) == ("wider", NAMES, ())
    assert train.ids == ("train/0--Parade/a.jpg#0", "train/1--Run/b.jpg#0", "train/1--Run/b.jpg#1")
    assert train.groups == ("train/0--Parade/a.jpg", "train/1--Run/b.jpg", "train/1--Run/b.jpg")
    unspecified = int(State.UNSPECIFIED)
    assert train.labels.tolist() == [[-1, -1, 1], [1, -1, unspecified], [unspecified, 1, 1]]
    assert train.labels.dtype == np.int8
    assert test.labels.tolist() == [[1, 1, -1]]
    assert train.boxes is None
    assert load_dataset("wider", root.parent).fingerprint == dataset.fingerprint


def test_the_picture_is_the_person_alone(root: Path) -> None:
    images = load_dataset("wider", root).splits["train"].images
    assert images.crops[1] == (2, 1, 6, 6)
    found = images.load(1)
    assert found.shape == (5, 4, 3)
    assert found[..., 0].tolist() == [[20, 30, 40, 50]] * 5
    assert found[:, 0, 1].tolist() == [20, 40, 60, 80, 100]
    assert images.load(0).shape == (10, 20, 3)
    assert images.describe(1).endswith(" crop 2 1 6 6")


def test_train_and_val_files_do_in_place_of_trainval(root: Path) -> None:
    expected = load_dataset("wider", root).fingerprint
    (root / "wider_attribute_annotation" / "wider_attribute_trainval.json").unlink()
    for part in ("train", "val"):
        write(root, part, {name: boxes for name, boxes in TRAIN.items() if name.startswith(part)})
    assert load_dataset("wider", root).fingerprint == expected
    write(root, "val", {"train/1--Run/b.jpg": TRAIN["train/1--Run/b.jpg"]})
    with pytest.raises(DataError, match="the files of 'trainval' list an image twice"):
        load_dataset("wider", root)


def test_a_partial_copy_must_be_asked_for_and_has_another_name(root: Path) -> None:
    (root / "Image" / "train/1--Run/b.jpg").unlink()
    with pytest.raises(
        DataError, match=r"found 2 listed and 1 of them there.*missing: train/1--Run/b\.jpg.*'wider-par"
    ):
        load_dataset("wider", root)
    dataset = load_dataset("wider-partial", root)
    assert (dataset.id, dataset.splits["train"].ids) == ("wider-partial", ("train/0--Parade/a.jpg#0",))
    assert "partial copy: 1 of 2 images of the official trainval part" in dataset.notes


def test_another_number_of_boxes_is_no_full_copy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wider, "PARTS", {"train": ("trainval", (), 28345), "test": ("test", (), 29179)})
    with pytest.raises(DataError, match="3 person boxes in 'trainval', expected 28345; ask for 'wider-partial'"):
        load_dataset("wider", root)


def test_boxes_outside_become_the_whole_image_and_others_are_padded(root: Path) -> None:
    boxes = [[21, 2, 4, 4], [2, 11, 4, 4], [-9, 0, 5, 5], [20, 0, 5, 5], [-1, 8, 4, 4], [15, 5, 5, 5]]
    dataset = partly(root, boxes)
    images = dataset.splits["train"].images
    assert [tuple(crop) for crop in images.crops] == [(0, 0, 20, 10)] * 4 + [(-1, 8, 3, 12), (15, 5, 20, 10)]
    padded = images.load(4)
    assert padded.shape == (4, 4, 3)
    assert padded[0, :, 1].tolist() == [0, 160, 160, 160]
    assert not padded[2:].any()
    name = "train/1--Run/b.jpg"
    listed = ", ".join(f"{name}#{k}" for k in range(4))
    assert f"4 person boxes in trainval outside their image, replaced by the whole image: {listed}" in dataset.notes
    assert f"1 person boxes in trainval reaching beyond their image, black there: {name}#4" in dataset.notes


@pytest.mark.parametrize("name", ["../secret.jpg", "train/../../secret.jpg", "/secret.jpg"])
def test_an_image_name_that_leaves_the_folder_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    name = name if name[0] != "/" else f"{tmp_path}/secret.jpg"
    write(root, "trainval", {name: [([2, 1, 4, 5], [1, -1, 0])] * 3})
    for asked in ("wider", "wider-partial"):
        with pytest.raises(DataError, match=r"entry 0 of 'images': '.*secret\.jpg' is no file name"):
            load_dataset(asked, root)
    write(root, "trainval", {"train/a..b.jpg": [([2, 1, 4, 5], [1, -1, 0])] * 3})
    assert len(load_dataset("wider", root).splits["train"]) == 3


def test_a_box_beyond_the_image_is_the_whole_image_even_without_area(root: Path) -> None:
    dataset = partly(root, [[20, 3, 0, 4], [3, 10, 4, -2], [20, 10, 0, 0], [3, 3, 0, 4]])
    train = dataset.splits["train"]
    assert [tuple(crop) for crop in train.images.crops] == [(0, 0, 20, 10)] * 3
    assert any(note.startswith("1 person boxes in trainval without area left out") for note in dataset.notes)


def test_boxes_that_cannot_be_used_are_left_out_and_counted(root: Path) -> None:
    boxes = [
        [1, 1, 0, 4],
        [1, 1, 4, -2],
        [1, 1, 4],
        [1, "1", 4, 4],
        [1, 1, float("nan"), 4],
        [1, 1, True, 4],
        [1, 1, 4, 4],
    ]
    dataset = partly(root, boxes)
    name = "train/1--Run/b.jpg"
    assert dataset.splits["train"].ids == (f"{name}#6",)
    assert f"2 person boxes in trainval without area left out: {name}#0, {name}#1" in dataset.notes
    listed = ", ".join(f"{name}#{k}" for k in range(2, 6))
    assert f"4 person boxes in trainval that are not four numbers left out: {listed}" in dataset.notes
    with pytest.raises(DataError, match="no usable person boxes in 'trainval'"):
        partly(root, boxes[:2])
    with pytest.raises(DataError, match="no person boxes in 'trainval'"):
        partly(root, [])


@pytest.mark.parametrize("attribute", [[1, 1], [1, 1, 2], [1, 1, "1"], [1, 1, True], "111", None, [1, 1, 0.5]])
def test_attributes_that_are_not_as_they_should_be_are_refused(root: Path, attribute: Any) -> None:
    write(root, "test", {"test/0--Parade/d.jpg": [([1, 1, 2, 2], attribute)]})
    with pytest.raises(
        DataError, match=r"_test\.json: image 'test/0--Parade/d\.jpg', target 0: 'attribute' is .*3 values"
    ):
        load_dataset("wider", root)


@pytest.mark.parametrize(
    "names",
    [{"0": "Male", "1": "Hat"}, {"0": "a", "1": "b", "3": "c"}, {"0": "a", "1": "a", "2": "b"}, ["a", "b", "c"]],
)
def test_an_attribute_map_that_is_not_whole_is_refused(root: Path, names: Any) -> None:
    write(root, "trainval", TRAIN, names)
    with pytest.raises(DataError, match="'attribute_id_map' does not name the attributes 0 to 2, each once"):
        load_dataset("wider", root)


def test_both_files_must_name_the_same_attributes(root: Path) -> None:
    write(root, "test", TEST, {"0": "Male", "1": "Hat", "2": "longHair"})
    with pytest.raises(DataError, match=r"_test\.json: 'attribute_id_map' differs"):
        load_dataset("wider", root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1, column 2: broken JSON"),
        ("[]", "expected an object with 'images'"),
        ("{}", "no list 'images', or an empty one"),
        ('{"images": [{"file_name": "a"}]}', "entry 0 of 'images' has no 'file_name' or no list 'targets'"),
        ('{"images": [{"file_name": "a", "targets": [3]}]}', "image 'a', target 0 is 3"),
        ('{"images": [{"file_name": "a", "targets": []}, {"file_name": "a", "targets": []}]}', "'a' is listed twice"),
    ],
)
def test_a_broken_file_is_named(root: Path, text: str, message: str) -> None:
    (root / "wider_attribute_annotation" / "wider_attribute_trainval.json").write_text("\ufeff" + text)
    with pytest.raises(DataError, match=rf"wider_attribute_trainval\.json.*{message}"):
        load_dataset("wider", root)


def test_a_missing_file_is_named(root: Path) -> None:
    (root / "wider_attribute_annotation" / "wider_attribute_trainval.json").unlink()
    with pytest.raises(DataError, match=r"wider_attribute_trainval\.json: no such file"):
        load_dataset("wider", root)
    with pytest.raises(DataError, match="no folder wider_attribute_annotation there"):
        load_dataset("wider", root / "Image")


def test_an_image_in_both_parts_is_refused(root: Path) -> None:
    write(root, "test", {"train/0--Parade/a.jpg": [([1, 1, 3, 3], [1, 1, -1])]})
    with pytest.raises(DataError, match=r"trainval and .*test both list 1 of the samples: train/0--Parade/a\.jpg"):
        load_dataset("wider", root)


def test_a_number_without_end_is_no_box(root: Path) -> None:
    dataset = partly(root, [[10**400, 0, 1, 1], [1, 1, 2, 2]])
    assert "1 person boxes in trainval that are not four numbers left out: train/1--Run/b.jpg#0" in dataset.notes
