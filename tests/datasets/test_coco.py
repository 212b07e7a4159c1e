"""COCO in its official layout, made small in a temporary folder."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlbench.datasets import coco, load_dataset
from mlbench.errors import DataError

# Category ids with gaps, not in order of the id.
CATEGORIES = [
    {"supercategory": "s", "id": number, "name": name} for number, name in ((3, "car"), (1, "dog"), (90, "cup"))
]

Boxes = list[tuple[int, int, tuple[float, float, float, float], int]]
#: Image id: (annotation id, category, x y w h, crowd)
TRAIN: dict[int, Boxes] = {
    9: [(1, 90, (1.5, 2, 3, 4), 0), (2, 90, (0, 0, 16, 12), 1)],
    25: [(3, 3, (4, 4, 20, 2), 0), (4, 1, (2, 2, 5, 0), 0)],
    30: [],
    100: [(5, 1, (0, 0, 1, 1), 0)],
}
TEST: dict[int, Boxes] = {7: [(6, 3, (1, 1, 2, 2), 0)]}


def write_part(root: Path, part: str, images: dict[int, Boxes]) -> None:
    """Write an instances file with the official keys, and 16x12 JPEGs."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / part).mkdir()
    listed, annotations = [], []
    for number, boxes in images.items():
        name = f"COCO_{part}_{number:012d}.jpg"
        Image.new("RGB", (16, 12)).save(root / part / name)
        listed.append({"license": 5, "file_name": name, "height": 12, "width": 16, "coco_url": "u", "id": number})
        for annotation, category, box, crowd in boxes:
            outline: Any = {"counts": [1, 2], "size": [12, 16]} if crowd else [[0.5, 1.5, 2.5, 3.5, 4.5, 5.5]]
            annotations.append(
                {
                    "segmentation": outline,
                    "area": 1.0,
                    "iscrowd": crowd,
                    "image_id": number,
                    "bbox": list(box),
                    "category_id": category,
                    "id": annotation,
                }
            )
    content = {
        "info": {"year": 2014},
        "images": listed,
        "licenses": [{"id": 1, "name": "l"}],
        "annotations": annotations,
        "categories": CATEGORIES,
    }
    (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy, which counts as the full one."""
    monkeypatch.setattr(coco, "N_CLASSES", 3)
    monkeypatch.setitem(coco.PARTS, "2014", {"train": ("train2014", 3), "test": ("val2014", 1)})
    write_part(tmp_path / "coco", "train2014", TRAIN)
    write_part(tmp_path / "coco", "val2014", TEST)
    return tmp_path / "coco"


def edit(root: Path, change: Callable[[dict[str, Any]], object], part: str = "train2014") -> None:
    path = root / "annotations" / f"instances_{part}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_labels_rows_and_boxes_come_out_as_written(root: Path) -> None:
    dataset = load_dataset("coco2014", root)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert dataset.id == "coco2014"
    assert dataset.classes == ("car", "dog", "cup")
    assert train.ids == ("100", "25", "9")  # as strings
    assert train.labels.tolist() == [[-1, 1, -1], [1, 1, -1], [-1, -1, 1]]
    assert test.labels.tolist() == [[1, -1, -1]]
    assert train.boxes is not None
    assert train.boxes.tolist() == [
        [0, 1, 0, 0, 1, 1],
        [1, 0, 4, 4, 16, 6],
        [2, 2, 1.5, 2, 4.5, 6],
        [2, 2, 0, 0, 16, 12],
    ]
    assert train.images.describe(2).startswith("train2014/COCO_train2014_000000000009.jpg ")
    assert train.images.load(0).shape == (12, 16, 3)
    assert dataset.notes == (
        "1 train2014 images without an annotation left out: 30",
        "1 boxes in train2014 frame a crowd, not one object",
        "1 boxes in train2014 have no area inside their image and were left out: 25",
        "1 boxes in train2014 reach beyond their image and were clipped: 25",
    )
    assert load_dataset("coco2014", root.parent).fingerprint == dataset.fingerprint


def test_a_class_seen_only_as_a_crowd_is_positive(root: Path) -> None:
    edit(root, lambda content: [a.update(iscrowd=1) for a in content["annotations"]])
    assert load_dataset("coco2014", root).splits["train"].labels.tolist() == [[-1, 1, -1], [1, 1, -1], [-1, -1, 1]]


def test_the_2017_layout_is_read_and_its_counts_are_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco, "N_CLASSES", 3)
    write_part(tmp_path, "train2017", TRAIN)
    write_part(tmp_path, "val2017", TEST)
    dataset = load_dataset("coco2017", tmp_path)
    assert (dataset.id, len(dataset.splits["train"]), len(dataset.splits["test"])) == ("coco2017", 3, 1)
    with pytest.raises(DataError, match=r"no annotations/instances_train2014\.json there"):
        load_dataset("coco2014", tmp_path)
    next((tmp_path / "val2017").iterdir()).unlink()
    with pytest.raises(DataError, match=r"no images of 'val2017': looked for .*val2017/COCO_val2017_000000000007\.jpg"):
        load_dataset("coco2017", tmp_path)


def test_a_partial_copy_must_be_asked_for_and_has_another_name(root: Path) -> None:
    (root / "train2014" / "COCO_train2014_000000000025.jpg").unlink()
    message = (
        r"found 3 listed and 2 of them there \(missing: train2014/COCO_train2014_000000000025.jpg\); .*coco2014-part"
    )
    with pytest.raises(DataError, match=message):
        load_dataset("coco2014", root)
    dataset = load_dataset("coco2014-partial", root)
    assert (dataset.id, dataset.splits["train"].ids) == ("coco2014-partial", ("100", "9"))
    assert "partial copy: 2 of 3 images of the official train2014 part" in dataset.notes
    for path in (root / "val2014").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no images of 'val2014'"):
        load_dataset("coco2014-partial", root)


def test_an_image_without_annotations_need_not_be_there(root: Path) -> None:
    (root / "train2014" / "COCO_train2014_000000000030.jpg").unlink()
    assert len(load_dataset("coco2014", root).splits["train"]) == 3


def test_images_without_annotations_are_negative_rows_of_the_version_with_all_images(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(coco.PARTS, "2014-all", {"train": ("train2014", 4), "test": ("val2014", 1)})
    dataset = load_dataset("coco2014-all", root)
    fewer = load_dataset("coco2014", root)
    assert dataset.id == "coco2014-all"
    assert dataset.splits["train"].ids == ("100", "25", "30", "9")
    assert dataset.splits["train"].labels.tolist() == [[-1, 1, -1], [1, 1, -1], [-1, -1, -1], [-1, -1, 1]]
    assert dataset.notes[0] == "1 train2014 images without an annotation kept: 30"
    assert dataset.splits["test"].ids == fewer.splits["test"].ids
    assert dataset.fingerprint != fewer.fingerprint
    (root / "train2014" / "COCO_train2014_000000000030.jpg").unlink()
    with pytest.raises(DataError, match="ask for 'coco2014-all-partial'"):
        load_dataset("coco2014-all", root)
    assert load_dataset("coco2014-all-partial", root).splits["train"].ids == ("100", "25", "9")


def test_another_number_of_annotated_images_is_no_full_copy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(coco, "N_CLASSES", 3)
    with pytest.raises(DataError, match="expected 82081 images of 'train2014', found 3 listed"):
        load_dataset("coco2014", root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=2), "annotation 1 has category 2, which 'categories' does"),
        (lambda c: c["annotations"][0].update(image_id=8), "annotation 1 is of image 8, which 'images' does not list"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 1 has bbox \[1, 2, 3\], expected"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 1]), "annotation 1 has bbox"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 1]), "annotation 1 has bbox"),
        (lambda c: c["annotations"][0].update(iscrowd="no"), "annotation 1 has iscrowd 'no', expected 0 or 1"),
        (lambda c: c["annotations"][0].pop("bbox"), "entry 0 of 'annotations': 'bbox' is None"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "annotation 1 is listed twice"),
        (lambda c: c["annotations"].append(5), "entry 5 of 'annotations': 'id' is int"),
        (lambda c: c["images"].append(c["images"][0]), "image id 9 is listed twice"),
        (lambda c: c["images"][1].update(id="25"), "entry 1 of 'images': 'id' is '25'"),
        (lambda c: c["images"][1].update(width=0), "image 25 is 0 x 12 pixels"),
        (lambda c: c["categories"].pop(), "2 categories with 2 ids, expected 3"),
        (lambda c: c["categories"][0].update(id=1), "3 categories with 2 ids"),
        (
            lambda c: c["categories"][0].update(name="dog"),
            "3 categories with 3 ids, expected 3, each with an id and a name of its own",
        ),
        (lambda c: c.pop("images"), "no list 'images'"),
    ],
)
def test_a_broken_entry_is_named(root: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(root, change)
    with pytest.raises(DataError, match=rf"instances_train2014\.json: {message}"):
        load_dataset("coco2014", root)


def test_other_categories_in_the_test_part_are_refused(root: Path) -> None:
    edit(root, lambda content: content["categories"].reverse(), "val2014")
    with pytest.raises(DataError, match=r"instances_val2014\.json: 'categories' differ"):
        load_dataset("coco2014", root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [\n1,,', r"line 2, column 3: broken JSON"),
        (b"", "broken JSON"),
        (b"[1]", "expected an object with 'images'"),
        (b'{"a": "\xff"}', "not UTF-8"),
    ],
)
def test_a_broken_file_is_named(root: Path, content: bytes, message: str) -> None:
    (root / "annotations" / "instances_val2014.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"instances_val2014\.json.*{message}"):
        load_dataset("coco2014", root)


def test_a_missing_annotation_file_is_named(root: Path) -> None:
    (root / "annotations" / "instances_val2014.json").unlink()
    with pytest.raises(DataError, match=r"instances_val2014\.json: no such file"):
        load_dataset("coco2014", root)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(root: Path) -> None:
    before = load_dataset("coco2014", root).fingerprint
    path = root / "annotations" / "instances_train2014.json"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n").encode()
    )
    assert load_dataset("coco2014", root).fingerprint == before


@pytest.mark.data
def test_the_real_lists_hold_the_expected_number_of_annotated_images() -> None:
    folder = Path(os.environ.get("MLBENCH_DATA", "")) / "annotations" / "coco"
    if "MLBENCH_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("MLBENCH_DATA is not set, or holds no annotations/coco")
    for split, listed in (("train", 82783), ("test", 40504)):
        with gzip.open(folder / f"coco_{split}_list.txt.gz", "rt") as file:
            counts = [int(line.split()[1]) for line in file]
        print(f"coco2014 {split}: {len(counts)} images, {sum(count > 0 for count in counts)} with an annotation")
        assert len(counts) == listed
        assert sum(count > 0 for count in counts) == coco.PARTS["2014"][split][1]
        assert len(counts) == coco.PARTS["2014-all"][split][1]


def rewrite(root: Path, part: str, change: Any) -> None:
    path = root / "annotations" / f"instances_{part}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("again", ["COCO_train2014_000000000009.jpg", "./COCO_train2014_000000000009.jpg"])
def test_one_file_under_two_ids_is_refused(root: Path, again: str) -> None:
    rewrite(root, "train2014", lambda content: content["images"][1].update(file_name=again))
    with pytest.raises(DataError, match=r"000009\.jpg' is listed twice: as image 9 and as image 25"):
        load_dataset("coco2014", root)


def test_one_image_id_in_both_parts_is_refused(root: Path) -> None:
    def share(content: dict[str, Any]) -> None:
        content["images"][0]["id"] = content["annotations"][0]["image_id"] = 9

    rewrite(root, "val2014", share)
    with pytest.raises(DataError, match=r"train2014 and .*val2014 both list 1 of the samples: 9"):
        load_dataset("coco2014", root)


@pytest.mark.parametrize("name", ["../secret.jpg", "a\0.jpg", "/etc/passwd", "x/../../../secret.jpg"])
def test_a_file_name_that_leads_elsewhere_is_refused(root: Path, name: str) -> None:
    rewrite(root, "train2014", lambda content: content["images"][0].update(file_name=name))
    for asked in ("coco2014", "coco2014-partial"):
        with pytest.raises(DataError, match=r"image 9: .* is no file name relative to the image folder"):
            load_dataset(asked, root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": ' + "[" * 50_000 + "]" * 50_000 + "}", "broken JSON .nested too deeply"),
        ('{"images": [{"id": ' + "7" * 5000 + "}]}", "broken JSON"),
        ('{"images": [], "images": []}', "broken JSON .key 'images' stands twice in one object: entries 1 and 2"),
        ('{"images": [{"id": 1, "file_name": "\\ud800", "width": 1, "height": 1}]}', "broken JSON .half a character"),
    ],
)
def test_hostile_json_is_one_line(root: Path, text: str, message: str) -> None:
    (root / "annotations" / "instances_train2014.json").write_text(text)
    with pytest.raises(DataError, match=rf"instances_train2014\.json: {message}"):
        load_dataset("coco2014", root)


def test_numbers_that_no_picture_has_are_refused(root: Path) -> None:
    rewrite(root, "train2014", lambda content: content["annotations"][0].update(bbox=[10**400, 0, 1, 1]))
    with pytest.raises(DataError, match="annotation 1 has bbox"):
        load_dataset("coco2014", root)
    rewrite(root, "val2014", lambda content: content["images"][0].update(width=10**400))
    rewrite(root, "train2014", lambda content: content["annotations"][0].update(bbox=[0, 0, 1, 1]))
    with pytest.raises(DataError, match="image 7 has a side that is no number of pixels"):
        load_dataset("coco2014", root)
