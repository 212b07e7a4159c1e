"""CUB-200-2011 in its official layout, made small in a temporary folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from mlbench.datasets import cub, load_dataset
from mlbench.errors import DataError

NAMES = ("001.Albatross/A_0046_18.jpg", "001.Albatross/A_0009_34.jpg", "002.Auk/B_0001_1.jpg", "002.Auk/B_0002_2.jpg")
IN_TRAIN = (0, 1, 1, 0)
PRESENT = ((1, 0, 0), (0, 1, 1), (0, 0, 0), (0, 0, 1))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy with 3 attributes, which counts as the full one."""
    monkeypatch.setattr(cub, "N_ATTRIBUTES", 3)
    monkeypatch.setattr(cub, "COUNTS", {"train": 2, "test": 2})
    folder = tmp_path / "CUB_200_2011"
    (folder / "attributes").mkdir(parents=True)
    (tmp_path / "attributes.txt").write_text(
        "1 has_bill::curved_(up_or_down)\n2 has_wing::blue\n3 size::small (5 in)\n"
    )
    (folder / "images.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(NAMES, start=1)))
    (folder / "train_test_split.txt").write_text("".join(f"{n} {f}\n" for n, f in enumerate(IN_TRAIN, start=1)))
    lines = [
        f"{n} {a} {value} {1 + a} 27.708\n" for n, row in enumerate(PRESENT, start=1) for a, value in enumerate(row, 1)
    ]
    lines[4] = "2 2 1 3 0 5.2\n"  # a field too many, as in a few rows of the official file
    (folder / "attributes" / "image_attribute_labels.txt").write_text("".join(lines))
    for name in NAMES:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / "images" / name)
    return folder


def test_labels_and_rows_come_out_as_written(root: Path) -> None:
    dataset = load_dataset("cub", root.parent)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (dataset.id, dataset.notes) == ("cub", ())
    assert dataset.classes == ("has_bill::curved_(up_or_down)", "has_wing::blue", "size::small (5 in)")
    assert (train.ids, test.ids) == (("2", "3"), ("1", "4"))
    assert train.labels.tolist() == [[-1, 1, 1], [-1, -1, -1]]
    assert test.labels.tolist() == [[1, -1, -1], [-1, -1, 1]]
    assert train.boxes is None
    assert train.images.describe(1).startswith("images/002.Auk/B_0001_1.jpg ")
    assert train.images.load(0).shape == (6, 8, 3)


def test_every_way_to_unpack_the_archive_gives_the_same_data_set(root: Path, tmp_path: Path) -> None:
    expected = load_dataset("cub", root).fingerprint
    for place in (root / "attributes.txt", root / "attributes" / "attributes.txt"):
        next(tmp_path.rglob("attributes.txt")).rename(place)
        assert load_dataset("cub", root).fingerprint == expected
    doubled = tmp_path / "data" / "CUB_200_2011"
    doubled.mkdir(parents=True)
    root.rename(doubled / "CUB_200_2011")
    assert load_dataset("cub", tmp_path / "data").fingerprint == expected


def test_rows_keep_the_order_of_the_image_list(root: Path) -> None:
    path = root / "images.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    dataset = load_dataset("cub", root)
    assert dataset.splits["train"].ids == ("3", "2")
    assert dataset.splits["train"].labels.tolist() == [[-1, -1, -1], [-1, 1, 1]]


def test_windows_line_ends_change_nothing(root: Path) -> None:
    expected = load_dataset("cub", root).fingerprint
    for path in root.parent.rglob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_dataset("cub", root).fingerprint == expected


def test_a_partial_copy_must_be_asked_for_and_has_another_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "images" / NAMES[1]).unlink()
    with pytest.raises(DataError, match=r"found 2 listed and 1 of them there \(missing: images/001.*'cub-partial'"):
        load_dataset("cub", root)
    dataset = load_dataset("cub-partial", root)
    assert (dataset.id, dataset.splits["train"].ids) == ("cub-partial", ("3",))
    assert dataset.notes[0] == "partial copy: 1 of 2 images of the official train part"
    monkeypatch.setattr(cub, "COUNTS", {"train": 5994, "test": 5794})
    with pytest.raises(DataError, match="expected 5994 images of 'train', found 2 listed"):
        load_dataset("cub", root)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("attributes/image_attribute_labels.txt", "1 1 1 2", "1 1 2 2", r"line 1: '1 1 2 2 27.708', expected image"),
        ("attributes/image_attribute_labels.txt", "1 1 1 2 27.708", "1 1", "line 1: '1 1', expected"),
        ("attributes/image_attribute_labels.txt", "1 1 1 2", "5 1 1 2", "line 1: unknown image '5'"),
        ("attributes/image_attribute_labels.txt", "1 1 1 2", "1 4 1 2", "line 1: unknown attribute '4'"),
        ("attributes/image_attribute_labels.txt", "1 1 1 2", "1 2 1 2", "line 2: image 1, attribute 2 is listed twice"),
        (
            "attributes/image_attribute_labels.txt",
            "4 3 1 4 27.708\n",
            "",
            "1 of 12 labels missing, first that of image 4, attribute 3",
        ),
        ("images.txt", "2 001", "1 001", "line 2: '1' is listed twice"),
        ("images.txt", "2 001", "two 001", "line 2: 'two 001.Albatross/A_0009_34.jpg', expected an image number"),
        ("images.txt", "4 002.Auk/B_0002_2.jpg", "4", "line 4: '4', expected"),
        ("train_test_split.txt", "4 0\n", "", r"lists other images than images\.txt: 4"),
        ("train_test_split.txt", "4 0\n", "4 2\n", "image 4 has '2', expected 0 or 1"),
        ("../attributes.txt", "3 size::small (5 in)\n", "", "expected 3 attributes numbered from 1"),
        ("../attributes.txt", "3 size::small (5 in)", "3 has_wing::blue", "each with a name of its own"),
        ("../attributes.txt", "2 has", "7 has", "numbered from 1"),
    ],
)
def test_a_broken_file_is_named_with_its_line(root: Path, name: str, old: str, new: str, message: str) -> None:
    path = root / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=rf"{path.name}.*{message}"):
        load_dataset("cub", root)


@pytest.mark.parametrize(
    "name", ["attributes/image_attribute_labels.txt", "images.txt", "train_test_split.txt", "../attributes.txt"]
)
def test_a_missing_or_empty_file_is_named(root: Path, name: str) -> None:
    (root / name).write_text("\n")
    with pytest.raises(DataError, match=rf"{Path(name).name}: empty"):
        load_dataset("cub", root)
    (root / name).unlink()
    with pytest.raises(DataError, match=Path(name).name):
        load_dataset("cub", root)


@pytest.mark.data
def test_the_real_lists_pass(tmp_path: Path) -> None:
    folder = Path(os.environ.get("MLBENCH_DATA", "")) / "annotations" / "cub"
    if "MLBENCH_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("MLBENCH_DATA is not set, or holds no annotations/cub")
    numbers, names, in_train = cub.read_lists(folder)
    print(f"cub: {len(numbers)} images, {int(in_train.sum())} to train on")
    assert numbers == [str(number) for number in range(1, 11789)]
    assert names[0] == "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    assert (int(in_train.sum()), int((~in_train).sum())) == (cub.COUNTS["train"], cub.COUNTS["test"])
    # The attributes lie beside the lists there; with a label file of one image they are read as 312 classes.
    for name in ("attributes.txt", "images.txt", "train_test_split.txt"):
        (tmp_path / name).write_text(
            "".join((folder / name).read_text().splitlines(keepends=True)[: 312 if name[0] == "a" else 2])
        )
    (tmp_path / "attributes").mkdir()
    lines = [f"{image} {a} {int(a == image)} 1 2.5\n" for image in (1, 2) for a in range(1, 313)]
    (tmp_path / "attributes" / "image_attribute_labels.txt").write_text("".join(lines))
    for name in names[:2]:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name)
    dataset = load_dataset("cub-partial", tmp_path)
    assert len(dataset.classes) == 312
    assert dataset.classes[0] == "has_bill_shape::curved_(up_or_down)"
    assert [len(dataset.splits[name]) for name in ("train", "test")] == [1, 1]


def test_one_file_under_two_numbers_is_refused(root: Path) -> None:
    path = root / "images.txt"
    path.write_text(path.read_text().replace(NAMES[3], f"./{NAMES[0]}"))
    with pytest.raises(DataError, match=rf"images\.txt: file '\./{NAMES[0]}' is listed twice, first as '{NAMES[0]}'"):
        load_dataset("cub", root)
    path.write_text(path.read_text().replace(f"./{NAMES[0]}", "../../secret.jpg"))
    with pytest.raises(DataError, match=r"'\.\./\.\./secret\.jpg' is no file name"):
        load_dataset("cub", root)
