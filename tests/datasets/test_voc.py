"""VOC in its official layout, made small in a temporary folder."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlbench.datasets import load_dataset, voc
from mlbench.errors import DataError

ONE_OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
)
Objects = list[tuple[str, int, tuple[float, float, float, float]]]

TRAIN: dict[str, Objects] = {
    "2008_000009": [("cow", 0, (1, 1, 16, 12)), ("person", 1, (2, 2, 4, 4))],
    "2008_000002": [("tvmonitor", 0, (3, 4, 10.5, 8))],
    "2008_000005": [("dog", 1, (1, 1, 5, 5))],
}
TEST: dict[str, Objects] = {"2008_000003": [("dog", 0, (5, 5, 20, 20)), ("cat", 0, (1, 1, 2, 2))]}


def write_part(root: Path, part: str, images: dict[str, Objects]) -> None:
    """Write class files, annotations and 16x12 JPEGs as the official archive has them."""
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in images))
    for label in voc.CLASSES:
        lines = []
        for name, objects in images.items():
            difficult = [hard for found, hard, _ in objects if found == label]
            value = -1 if not difficult else 1 if 0 in difficult else 0
            lines.append(f"{name} {value:2d}\n")
        (root / "ImageSets" / "Main" / f"{label}_{part}.txt").write_text("".join(lines))
    for name, objects in images.items():
        body = "".join(ONE_OBJECT.format(name=n, difficult=d, box=b) for n, d, b in objects)
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation>\n<size><width>16</width><height>12</height></size>\n{body}\n</annotation>\n"
        )
        Image.new("RGB", (16, 12)).save(root / "JPEGImages" / f"{name}.jpg")


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    write_part(root, "train", TRAIN)
    write_part(root, "val", TEST)
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small copy count as the full one."""
    monkeypatch.setitem(voc.PARTS, "2012", {"train": ("train", 3), "test": ("val", 1)})


@pytest.mark.usefixtures("small")
def test_labels_rows_and_boxes_come_out_as_written(devkit: Path) -> None:
    dataset = load_dataset("voc2012", devkit.parents[1])
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert dataset.id == "voc2012"
    assert dataset.classes == tuple(sorted(dataset.classes))
    assert len(dataset.classes) == 20
    assert train.ids == ("2008_000002", "2008_000009")
    column = dataset.classes.index
    assert train.labels[0].tolist() == [1 if name == "tvmonitor" else -1 for name in dataset.classes]
    assert train.labels[1, column("cow")] == 1
    assert train.labels[1, column("person")] == 2
    assert (train.labels[1] == -1).sum() == 18
    assert train.boxes is not None
    assert train.boxes.tolist() == [[0, column("tvmonitor"), 2, 3, 10.5, 8], [1, column("cow"), 0, 0, 16, 12]]
    assert test.boxes is not None
    assert test.boxes.tolist() == [[0, column("dog"), 4, 4, 16, 12], [0, column("cat"), 0, 0, 2, 2]]
    assert train.images.load(0).shape == (12, 16, 3)
    assert train.images.describe(0).startswith("JPEGImages/2008_000002.jpg ")
    assert dataset.notes == (
        "1 train images without a positive label left out: 2008_000005",
        "1 boxes of difficult objects in train left out",
        "1 boxes in val reach beyond their image and were clipped: 2008_000003",
    )


@pytest.mark.usefixtures("small")
def test_every_way_to_name_the_folder_gives_the_same_data_set(devkit: Path) -> None:
    found = {load_dataset("voc2012", root).fingerprint for root in (devkit, devkit.parent, devkit.parents[1])}
    assert len(found) == 1
    with pytest.raises(DataError, match="no VOC2007 there"):
        load_dataset("voc2007", devkit)


def test_a_partial_copy_must_be_asked_for_and_has_another_name(devkit: Path) -> None:
    with pytest.raises(DataError, match=r"expected 5717 images of 'train', found 3 listed .*'voc2012-partial'"):
        load_dataset("voc2012", devkit)
    (devkit / "JPEGImages" / "2008_000009.jpg").unlink()
    dataset = load_dataset("voc2012-partial", devkit)
    assert dataset.id == "voc2012-partial"
    assert dataset.splits["train"].ids == ("2008_000002",)
    assert "partial copy: 2 of 5717 images of the official train list" in dataset.notes


@pytest.mark.usefixtures("small")
def test_a_full_list_with_a_picture_missing_is_no_full_copy(devkit: Path) -> None:
    (devkit / "JPEGImages" / "2008_000009.jpg").unlink()
    with pytest.raises(DataError, match="found 3 listed and 2 of them in JPEGImages"):
        load_dataset("voc2012", devkit)


@pytest.mark.usefixtures("small")
def test_a_truncated_picture_is_named_when_loaded(devkit: Path) -> None:
    path = devkit / "JPEGImages" / "2008_000002.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"2008_000002\.jpg: broken image"):
        load_dataset("voc2012", devkit).splits["train"].images.load(0)


@pytest.mark.usefixtures("small")
def test_without_annotations_there_are_no_boxes_and_a_note(devkit: Path) -> None:
    (devkit / "Annotations").rename(devkit / "Elsewhere")
    dataset = load_dataset("voc2012", devkit)
    assert dataset.splits["train"].boxes is None
    assert "no boxes for train: there is no folder Annotations" in dataset.notes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", r"2008_000002\.xml, line \d+: broken XML"),
        ("<xmin>3</xmin>", "<xmin>three</xmin>", r"xml: <bndbox/xmin> is 'three', expected a number"),
        ("<xmin>3</xmin>", "", "<bndbox/xmin> is None"),
        ("<xmin>3</xmin>", "<xmin>13</xmin>", "empty or outside"),
        ("<width>16</width>", "", "<size/width> is None"),
        ("tvmonitor", "tvmonitr", "object of class 'tvmonitr'. Did you mean 'tvmonitor'"),
    ],
)
@pytest.mark.usefixtures("small")
def test_a_broken_annotation_is_named(devkit: Path, old: str, new: str, message: str) -> None:
    path = devkit / "Annotations" / "2008_000002.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        load_dataset("voc2012", devkit)


@pytest.mark.usefixtures("small")
def test_a_missing_annotation_is_named(devkit: Path) -> None:
    (devkit / "Annotations" / "2008_000002.xml").unlink()
    with pytest.raises(DataError, match=r"2008_000002\.xml: not readable \(no such file"):
        load_dataset("voc2012", devkit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2008_000002 2\n", r"cow_train\.txt, line 1: '2008_000002 2', expected"),
        ("2008_000002\n", "line 1: .*expected an image name and 1, 0 or -1"),
        ("2008_000002 1\n2008_000002 1\n", "line 2: '2008_000002' is listed twice"),
        ("2008_000002 1\n", r"cow_train\.txt: lists other images than aeroplane_train\.txt: 2008_000005, 2008_000009"),
    ],
)
@pytest.mark.usefixtures("small")
def test_a_broken_class_file_is_named(devkit: Path, text: str, message: str) -> None:
    (devkit / "ImageSets" / "Main" / "cow_train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset("voc2012", devkit)


@pytest.mark.usefixtures("small")
def test_class_files_that_are_not_the_twenty_are_refused(devkit: Path) -> None:
    main = devkit / "ImageSets" / "Main"
    (main / "unicorn_train.txt").write_text("")
    with pytest.raises(DataError, match="classes that VOC does not have: unicorn"):
        load_dataset("voc2012", devkit)
    (main / "unicorn_train.txt").unlink()
    (main / "sofa_train.txt").rename(main / "couch_train.txt")
    with pytest.raises(DataError, match=r"sofa_train\.txt: no such file"):
        load_dataset("voc2012", devkit)


@pytest.mark.data
def test_the_real_voc2007_labels_in_the_official_layout_pass_as_the_full_copy(tmp_path: Path) -> None:
    data = os.environ.get("MLBENCH_DATA")
    if not data or not (Path(data) / "annotations" / "voc2007_labels.csv").is_file():
        pytest.skip("MLBENCH_DATA is not set, or holds no annotations/voc2007_labels.csv")
    with (Path(data) / "annotations" / "voc2007_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    root = tmp_path / "VOC2007"
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "one.jpg")
    for row in rows:
        os.link(tmp_path / "one.jpg", root / "JPEGImages" / f"{row['image']}.jpg")
    for part, parts in {"trainval": ("train", "val"), "test": ("test",)}.items():
        for name in voc.CLASSES:
            lines = [f"{row['image']} {row[name]:>2}\n" for row in rows if row["split"] in parts]
            (root / "ImageSets" / "Main" / f"{name}_{part}.txt").write_text("".join(lines))
    dataset = load_dataset("voc2007", tmp_path)
    # Counts of 1, 0 (difficult) and -1 over the label file, counted apart from this package.
    for part, (n, positive, difficult, negative) in {
        "train": (5011, 7306, 607, 92307),
        "test": (4952, 7013, 619, 91408),
    }.items():
        labels = dataset.splits[part].labels
        print(f"voc2007 {part}: {len(labels)} images, {[int((labels == s).sum()) for s in (1, 2, -1)]} of 1, 0 and -1")
        assert len(labels) == n
        assert [int((labels == state).sum()) for state in (1, 2, -1)] == [positive, difficult, negative]
    assert np.all(np.diff([int(name) for name in dataset.splits["train"].ids]) > 0)


def rename(devkit: Path, part: str, old: str, new: str) -> None:
    for path in (devkit / "ImageSets" / "Main").glob(f"*_{part}.txt"):
        path.write_text(path.read_text().replace(old, new))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["../../secret", "/etc/secret", "x/../../../secret"])
def test_an_image_name_that_leaves_the_folder_is_refused(devkit: Path, name: str) -> None:
    Image.new("RGB", (4, 4)).save(devkit.parents[1] / "secret.jpg")
    rename(devkit, "train", "2008_000009", name)
    for asked in ("voc2012", "voc2012-partial"):
        with pytest.raises(DataError, match=r"images of 'train': .*secret.* is no file name"):
            load_dataset(asked, devkit)


@pytest.mark.usefixtures("small")
def test_an_image_in_both_lists_is_refused(devkit: Path) -> None:
    rename(devkit, "val", "2008_000003", "2008_000009")
    with pytest.raises(DataError, match=r"list train and .*list val both list 1 of the samples: 2008_000009"):
        load_dataset("voc2012", devkit)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("encoding", ["gb2312", "no-such-encoding"])
def test_xml_in_an_encoding_that_cannot_be_read_is_named(devkit: Path, encoding: str) -> None:
    path = devkit / "Annotations" / "2008_000009.xml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?>\n<annotation/>')
    with pytest.raises(DataError, match=r"2008_000009\.xml.*encoding"):
        load_dataset("voc2012", devkit)


@pytest.mark.usefixtures("small")
def test_where_no_picture_is_there_no_advice_is_given_that_cannot_help(devkit: Path) -> None:
    for path in (devkit / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no images of 'train': looked for .*JPEGImages/2008_000002\.jpg$"):
        load_dataset("voc2012", devkit)
