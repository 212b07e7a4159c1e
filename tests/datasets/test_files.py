"""People's own pictures by a TOML description: what is read, what is counted, what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.datasets.files import load_files
from mlbench.errors import DataError, UsageError

BASIC = """
id = "mine"
labels = "labels.csv"
images = "photos"
columns = { split = "split" }
separator = "|"
"""
ROWS = """file,split,labels
a.png,train,cat|dog
b.png,train,cat
sub/c.png,test,dog
d.png,test,
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Dataset]:
    """Write pictures (20x10), a label file and a description, and load them."""

    def build(
        description: str = BASIC,
        labels: str | bytes | None = ROWS,
        pictures: tuple[str, ...] = ("a.png", "b.png", "sub/c.png", "d.png"),
        labels_name: str = "labels.csv",
        **others: str,
    ) -> Dataset:
        for name in pictures:
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 10), (len(name), 0, 0)).save(path)
        if labels is not None:
            content = labels.encode() if isinstance(labels, str) else labels
            (tmp_path / labels_name).write_bytes(content)
        for name, text in others.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        (tmp_path / "mine.toml").write_text(description)
        return load_files(tmp_path / "mine.toml", tmp_path)

    return build


def table(dataset: Dataset) -> dict[str, dict[str, list[int]]]:
    return {part: dict(zip(s.ids, s.labels.tolist(), strict=True)) for part, s in dataset.splits.items()}


EXPECTED = {
    "train": {"a.png": [1, 1], "b.png": [1, -1]},
    "test": {"sub/c.png": [-1, 1], "d.png": [-1, -1]},
}


# --- sources ----------------------------------------------------------------------------------------------------------


def test_a_csv_is_read_in_its_order_and_an_empty_field_is_no_class(make) -> None:
    dataset = make()
    assert (dataset.id, dataset.version, dataset.classes) == ("mine", "1", ("cat", "dog"))
    assert table(dataset) == EXPECTED
    assert dataset.splits["train"].labels.dtype == np.int8
    assert dataset.splits["test"].images.load(0).shape == (10, 20, 3)
    assert dataset.splits["test"].boxes is None
    assert dataset.notes == (
        "classes without a positive in test: 1 (cat)",
        "images without a positive label, kept: 1 (d.png)",
    )


def test_byte_order_mark_and_crlf_and_blank_lines_change_nothing(make) -> None:
    plain = make().fingerprint
    windows = b"\xef\xbb\xbf" + ROWS.replace("\n", "\r\n").encode() + b"\r\n\r\n"
    assert make(labels=windows).fingerprint == plain


def test_jsonl_gives_the_same_data_set_as_csv(make) -> None:
    lines = [line.split(",") for line in ROWS.splitlines()[1:]]
    text = "\n".join(json.dumps({"file": f, "split": s, "labels": v.split("|") if v else []}) for f, s, v in lines)
    description = BASIC.replace("labels.csv", "labels.jsonl").replace('separator = "|"', "")
    assert table(make(description, "\ufeff" + text + "\n\n", labels_name="labels.jsonl")) == EXPECTED


def test_folders_are_labels_where_there_is_no_label_file(make, tmp_path: Path) -> None:
    description = 'id = "tree"\nimages = "photos"\nseparator = "+"\nsplits = { train = "train", test = "held out" }\n'
    pictures = ("train/cat+dog/1.png", "train/cat/1.png", "train/2.png", "held out/dog/brown/1.png")
    (tmp_path / "photos" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "train" / "cat" / "Thumbs.db").touch()
    dataset = make(description, None, pictures)
    assert dataset.classes == ("brown", "cat", "dog")
    assert table(dataset) == {
        "train": {"train/2.png": [-1, -1, -1], "train/cat+dog/1.png": [-1, 1, 1], "train/cat/1.png": [-1, 1, -1]},
        "test": {"held out/dog/brown/1.png": [1, -1, 1]},
    }
    assert "hidden and system entries, left out: 1 (train/cat/Thumbs.db)" in dataset.notes


def test_class_indices_point_into_the_class_list(make) -> None:
    description = BASIC + 'label_style = "indices"\nclasses = ["cat", "dog", "emu"]\n'
    labels = ROWS.replace("cat", "0").replace("dog", "1")
    dataset = make(description, labels)
    assert dataset.classes == ("cat", "dog", "emu")
    assert table(dataset)["train"] == {"a.png": [1, 1, -1], "b.png": [1, -1, -1]}
    assert "classes without a positive in train: 1 (emu)" in dataset.notes
    for wrong in ("3", "-1", "cat"):
        with pytest.raises(DataError, match=r"labels\.csv, line 3: .*class index"):
            make(description, labels.replace("train,0\n", f"train,{wrong}\n"))


def test_a_column_a_class_reads_one_zero_and_nothing(make) -> None:
    description = BASIC + 'label_style = "columns"\nmissing_label = "unknown"\n'
    dataset = make(description, "file,split,cat,dog\na.png,train,1,0\nb.png,train,1.0,\nd.png,test,0.0,1\n")
    assert table(dataset) == {"train": {"a.png": [1, -1], "b.png": [1, 0]}, "test": {"d.png": [-1, 1]}}


def test_zero_and_minus_one_together_must_be_explained(make) -> None:
    rows = "file,split,cat,dog\na.png,train,1,0\nb.png,train,1,-1\nd.png,test,-1,1\n"
    description = BASIC + 'label_style = "columns"\n'
    with pytest.raises(UsageError, match=r"both 0 .*line 2.* and -1 .*line 3"):
        make(description, rows)
    values = 'values = { "1" = "positive", "0" = "unspecified", "-1" = "negative" }\n'
    assert table(make(description + values, rows))["train"] == {"a.png": [1, 2], "b.png": [1, -1]}
    with pytest.raises(DataError, match="line 4: value '7' of class 'dog'"):
        make(description + values, rows.replace("-1,1", "-1,7"))


def test_missing_labels_may_mean_unknown(make) -> None:
    assert table(make(BASIC + 'missing_label = "unknown"\n'))["train"] == {"a.png": [1, 1], "b.png": [1, 0]}


def test_the_class_list_may_stand_in_a_file(make) -> None:
    dataset = make(BASIC + 'classes = "names.txt"\n', names_txt="\ufeffdog\r\ncat\n\n")
    assert dataset.classes == ("dog", "cat")
    assert table(dataset)["train"]["b.png"] == [-1, 1]


# --- splits, filter, unlabelled ---------------------------------------------------------------------------------------


def test_split_values_and_folders_are_mapped_to_parts(make) -> None:
    values = BASIC + 'splits = { train = ["t1", "t2"], val = "v", test = "e" }\n'
    rows = "file,split,labels\na.png,t1,cat\nb.png,t2,dog\nsub/c.png,v,cat\nd.png,e,dog\n"
    dataset = make(values, rows)
    assert {part: split.ids for part, split in dataset.splits.items()} == {
        "train": ("a.png", "b.png"),
        "val": ("sub/c.png",),
        "test": ("d.png",),
    }
    with pytest.raises(DataError, match=r"line 3: split 't3' belongs to no part; .* knows t1, t2, v, e"):
        make(values, rows.replace("t2", "t3"))
    folders = BASIC.replace('columns = { split = "split" }', 'splits = { train = "one/", test = "two" }')
    rows = "file,labels\none/a.png,cat\ntwo/b.png,cat\n"
    assert make(folders, rows, ("one/a.png", "two/b.png")).splits["test"].ids == ("two/b.png",)
    with pytest.raises(DataError, match=r"the folder of 'two2/b\.png' belongs to no part"):
        make(folders, rows.replace("two/", "two2/"))


def test_a_drawn_split_depends_on_seed_and_name_only(make) -> None:
    pictures = tuple(f"{i}.png" for i in range(200))
    description = BASIC.replace('columns = { split = "split" }', "split = { test_fraction = 0.3, seed = 5 }")
    rows = "file,labels\n" + "".join(f"{name},cat\n" for name in pictures)
    test = set(make(description, rows, pictures).splits["test"].ids)
    assert 35 <= len(test) <= 85
    fewer = "file,labels\n" + "".join(f"{name},cat\n" for name in reversed(pictures[:100]))
    assert set(make(description, fewer, pictures).splits["test"].ids) == test & set(pictures[:100])
    assert set(make(description.replace("5", "6"), rows, pictures).splits["test"].ids) != test


def test_the_class_filter_counts_each_part_and_says_what_it_left_out(make) -> None:
    dataset = make(BASIC + "class_filter = { min_train = 2 }\n")
    assert dataset.classes == ("cat",)
    assert table(dataset)["test"] == {"sub/c.png": [-1], "d.png": [-1]}
    assert "classes of 2 left out by min_train 2: 1 (dog)" in dataset.notes
    assert make(BASIC + "class_filter = { min_train = 1, min_test = 1 }\n").classes == ("dog",)
    with pytest.raises(DataError, match="leaves no class"):
        make(BASIC + "class_filter = { min_test = 9 }\n")


def test_left_out_classes_can_be_tags(make) -> None:
    plain = make(BASIC + "class_filter = { min_train = 2 }\n")
    dataset = make(BASIC + 'class_filter = { min_train = 2 }\ntags = "left_out_classes"\n')
    assert plain.splits["train"].tags is None
    assert dataset.splits["train"].tags.load().tolist() == [[True], [False]]  # a dog, none
    assert dataset.splits["test"].tags.load().tolist() == [[True], [False]]
    assert dataset.splits["test"].tags.origin == "held-out labels: 1 words that are no classes"
    assert dataset.fingerprint == plain.fingerprint
    labelled = make(BASIC + 'unlabelled = "drop"\nclass_filter = { min_test = 1 }\ntags = "left_out_classes"\n')
    assert labelled.splits["train"].ids == ("a.png",)
    assert labelled.splits["train"].tags.load().tolist() == [[True]]
    with pytest.raises(UsageError, match="no class is left out that could be a tag"):
        make(BASIC + 'tags = "left_out_classes"\n')


def test_unlabelled_images_are_dropped_only_when_asked_and_counted(make) -> None:
    dataset = make(BASIC + 'unlabelled = "drop"\n')
    assert dataset.splits["test"].ids == ("sub/c.png",)
    assert "images without a positive label, dropped: 1 (d.png)" in dataset.notes


def test_a_class_named_twice_and_a_picture_not_listed_are_counted(make) -> None:
    notes = make(
        labels=ROWS.replace("cat|dog", "cat|dog|cat"), pictures=("a.png", "b.png", "sub/c.png", "d.png", "x.png")
    ).notes
    assert "images that name a class more than once (counted once): 1 (a.png)" in notes
    assert "images not listed in labels.csv, left out: 1 (x.png)" in notes


# --- partial copies and expected counts -------------------------------------------------------------------------------


def test_a_partial_copy_is_refused_or_takes_another_name(make) -> None:
    pictures = ("a.png", "sub/c.png", "d.png")
    with pytest.raises(DataError, match=r"1 of 4 listed images missing: b\.png.*'mine-partial'"):
        make(pictures=pictures)
    dataset = make(BASIC + 'allow_missing = "new-id"\nexpect = { train = 2 }\n', pictures=pictures)
    assert dataset.id == "mine-partial"
    assert dataset.splits["train"].ids == ("a.png",)
    assert "partial copy, listed images missing of 4: 1 (b.png)" in dataset.notes
    assert any("not checked" in note for note in dataset.notes)


def test_no_picture_at_all_is_never_a_partial_copy(make) -> None:
    with pytest.raises(DataError, match="4 of 4 listed images missing"):
        make(BASIC + 'allow_missing = "new-id"\n', pictures=())


def test_expected_counts_are_compared(make) -> None:
    make(BASIC + "expect = { classes = 2, train = 2, val = 0, test = 2, boxes = 0 }\n")
    with pytest.raises(DataError, match=r"mine\.toml: .*classes: expected 3, found 2; test: expected 9, found 2"):
        make(BASIC + "expect = { classes = 3, train = 2, test = 9 }\n")


# --- boxes ------------------------------------------------------------------------------------------------------------

BOXES = BASIC + '[boxes]\nfile = "boxes.csv"\n'
HEAD = "file,label,x1,y1,x2,y2\n"


def test_boxes_follow_their_rows_and_classes(make) -> None:
    text = HEAD + "sub/c.png,dog,1,2,3.5,4\nb.png,cat,0,0,20,10\na.png,dog,5,5,6,6\n"
    dataset = make(BOXES + "[expect]\nboxes = 3\nboxed_images = 3\n", boxes_csv=text)
    train, test = dataset.splits["train"].boxes, dataset.splits["test"].boxes
    assert train is not None
    assert test is not None
    assert train.tolist() == [[0, 1, 5, 5, 6, 6], [1, 0, 0, 0, 20, 10]]
    assert test.tolist() == [[0, 1, 1, 2, 3.5, 4]]
    assert train.dtype == np.float32


def test_boxes_beyond_the_image_are_clipped_and_counted(make) -> None:
    dataset = make(BOXES, boxes_csv=HEAD + "a.png,cat,-3,2,25,4\na.png,cat,1,1,2,2\n")
    boxes = dataset.splits["train"].boxes
    assert boxes is not None
    assert boxes[:, 2:].tolist() == [[0, 2, 20, 4], [1, 1, 2, 2]]
    assert "boxes reaching beyond their image, clipped: 1 (a.png)" in dataset.notes


def test_boxes_of_other_pictures_filtered_classes_or_unlabelled_ones_are_counted(make) -> None:
    text = HEAD + "q.png,cat,1,1,2,2\nb.png,dog,1,1,2,2\na.png,cat,1,1,2,2\n"
    notes = make(BOXES, boxes_csv=text).notes
    assert "boxes of images not in the data set, left out: 1 (q.png)" in notes
    assert "boxes of a class that their image is not labelled with: 1 (b.png)" in notes
    filtered = BOXES.replace("[boxes]", 'unlabelled = "drop"\nclass_filter = { min_test = 1 }\n[boxes]')
    dataset = make(filtered, boxes_csv=text + "a.png,dog,1,1,2,2\n")
    assert dataset.classes == ("dog",)
    boxes = dataset.splits["train"].boxes
    assert boxes is not None
    assert boxes.tolist() == [[0, 0, 1, 1, 2, 2]]  # dog is column 0 once cat is gone
    assert "boxes of classes not in the data set, left out: 1 (cat)" in dataset.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,cat,5,1,5,2", "empty or not finite"),
        ("a.png,cat,1,3,2,2", "empty or not finite"),
        ("a.png,cat,1,1,nan,2", "empty or not finite"),
        ("a.png,cat,1,1,x,2", "not four numbers"),
        ("a.png,cat,30,1,40,2", "lies outside 'a.png' of 20x10"),
        ("a.png,cta,1,1,2,2", "Did you mean 'cat'"),
    ],
)
def test_nonsense_boxes_are_errors_with_their_line(make, row: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"boxes\.csv, line 3: .*{message}"):
        make(BOXES, boxes_csv=HEAD + "a.png,cat,1,1,2,2\n" + row + "\n")


def test_boxes_are_clipped_to_the_turned_picture(make, tmp_path: Path) -> None:
    make()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "photos" / "a.png", exif=exif)
    (tmp_path / "boxes.csv").write_text(HEAD + "a.png,cat,0,0,15,15\n")
    (tmp_path / "mine.toml").write_text(BOXES)
    split = load_files(tmp_path / "mine.toml", tmp_path).splits["train"]
    assert split.images.load(0).shape == (20, 10, 3)
    assert split.boxes is not None
    assert split.boxes[0, 2:].tolist() == [0, 0, 10, 15]


# --- broken label files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (ROWS + "a.png,train,cat\n", r"line 6: 'a\.png' is listed twice \(before: line 2\)"),
        (ROWS + "e.png,train\n", "line 6: 2 fields, but the header has 3"),
        (ROWS + '"e.png,train,cat\n', "line 6: malformed"),
        (ROWS + ",train,cat\n", "line 6: '' is no file name"),
        (ROWS + "../e.png,train,cat\n", "line 6: '../e.png' is no file name"),
        (ROWS + "/e.png,train,cat\n", "line 6: '/e.png' is no file name"),
        (ROWS.replace("file,", "fil,"), "no column 'file'. Did you mean 'fil'"),
        (ROWS.replace("split,labels", "labels,labels"), "no column 'split'"),
        (ROWS.replace("file,split", "file,split,split").replace(",t", ",x,t"), "column 'split' stands twice"),
        (ROWS.encode() + b"\xff.png,train,cat\n", "not UTF-8"),
        ("", "empty, expected a header"),
        ("file,split,labels\n", "no class"),
        (ROWS.replace("test", "train"), "the test split is empty"),
    ],
)
def test_a_broken_csv_is_an_error_that_says_where(make, labels: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(labels=labels)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected an object, found list"),
        ('{"file": "b.png", "split": "train"}', "line 2: no key 'labels'"),
        ('{"file": "b.png", "split": "train", "labels": 3}', "line 2: labels are 3"),
        ('{"file": "b.png", "split": "train", "labels": [true]}', "line 2: labels are"),
    ],
)
def test_a_broken_jsonl_is_an_error_that_says_where(make, line: str, message: str) -> None:
    good = '{"file": "a.png", "split": "train", "labels": ["cat"]}\n'
    with pytest.raises(DataError, match=message):
        make(BASIC.replace("csv", "jsonl"), good + line + "\n", labels_name="labels.jsonl")


def test_a_class_that_the_description_does_not_list_is_refused(make) -> None:
    with pytest.raises(DataError, match=r"labels\.csv, line 2: class 'dog' is not in the class list of mine\.toml"):
        make(BASIC + 'classes = ["cat", "god"]\n')


def test_missing_files_are_named(make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv: no such file"):
        make(labels=None)
    make()
    with pytest.raises(DataError, match="no such folder"):
        load_files(tmp_path / "mine.toml", tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such description"):
        load_files(tmp_path / "other.toml", tmp_path)
    with pytest.raises(DataError, match="class names not readable"):
        make(BASIC + 'classes = "names.txt"\n')


# --- wrong descriptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (BASIC + 'seperator = ","\n', r"mine\.toml: unknown key 'seperator'. Did you mean 'separator'"),
        (BASIC + "expect = { trian = 3 }\n", r"\[expect\]: unknown key 'trian'. Did you mean 'train'"),
        (BOXES + 'columns = { lable = "x" }\n', r"\[boxes.columns\]: unknown key 'lable'. Did you mean 'label'"),
        (BASIC + 'unlabelled = "dorp"\n', "'dorp'. Did you mean 'drop'"),
        (BASIC + 'tags = "left_out"\n', "'left_out'. Did you mean 'left_out_classes'"),
        (BASIC + "missing_label = true\n", "key 'missing_label' is True, expected str"),
        (BASIC + "class_filter = { min_train = true }\n", "'min_train' is True, expected int"),
        (BASIC + 'flippable = "no"\n', "'flippable' is 'no', expected bool"),
        (BASIC.replace('id = "mine"', ""), "key 'id' is missing"),
        (BASIC.replace('"mine"', '"my set"'), "id 'my set'"),
        (BASIC.replace('separator = "|"', ""), r"'separator' is missing: .*'cat\|dog'.*line 2"),
        (BASIC.replace('columns = { split = "split" }', ""), "no split"),
        (BASIC + "split = { test_fraction = 0.2 }\n", "'test_fraction' between 0 and 1 and 'seed'"),
        (BASIC + "split = { test_fraction = 1.5, seed = 1 }\n", "'test_fraction' between 0 and 1"),
        (BASIC + 'splits = { train = "a", test = "a" }\n', "'a' twice"),
        (BASIC + 'splits = { train = "a" }\n', "names no 'test'"),
        (BASIC + 'splits = { train = "a", test = "b" }\nsplit = { test_fraction = 0.1, seed = 1 }\n', "exclude"),
        (BASIC + 'label_style = "indices"\n', "needs the key 'classes'"),
        (BASIC + 'label_style = "columns"\nvalues = { "1" = "positve" }\n', "Did you mean 'positive'"),
        (BASIC + "[boxes]\n", "key 'file' is missing"),
    ],
)
def test_a_wrong_description_names_the_key(make, description: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(description)


def test_broken_toml_and_a_doubled_class_are_data_errors(make) -> None:
    with pytest.raises(DataError, match=r"mine\.toml: not readable as TOML .*line 1"):
        make("id = \n")
    with pytest.raises(DataError, match="class named twice: cat"):
        make(BASIC + 'classes = ["cat", "dog", "cat"]\n')


# --- the photographs at hand ------------------------------------------------------------------------------------------


@pytest.fixture
def data_root() -> Path:
    root = os.environ.get("MLBENCH_DATA")
    if not root or not (Path(root) / "corel5k").is_dir():
        pytest.skip("MLBENCH_DATA is not set, or holds no corel5k")
    return Path(root)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "positives"),
    [
        # Positives counted apart from this package, with collections.Counter over the label files.
        ("corel5k-199", 199, 4500, 499, (14879, 1678)),
        ("corel5k-260", 260, 4500, 499, (15223, 1756)),
        ("ccp", 55, 1680, 418, None),
        ("coco256", 80, 128, 128, None),
    ],
)
def test_shipped_descriptions_fit_the_real_files(
    data_root: Path, name: str, classes: int, train: int, test: int, positives: tuple[int, int] | None
) -> None:
    dataset = load_dataset(name, data_root)
    parts = dataset.splits
    print(name, {part: (len(split), int((split.labels == 1).sum())) for part, split in parts.items()})
    assert (dataset.id, len(dataset.classes), len(parts["train"]), len(parts["test"])) == (name, classes, train, test)
    if positives:
        assert tuple(int((parts[part].labels == 1).sum()) for part in ("train", "test")) == positives
    for part in parts.values():
        assert part.images.load(len(part) - 1).dtype == np.uint8


@pytest.mark.data
def test_the_untagged_ccp_photograph_is_kept_without_a_class(data_root: Path) -> None:
    dataset = load_dataset("ccp", data_root)
    part = next(part for part in dataset.splits.values() if "0536.jpg" in part.ids)
    assert (part.labels[part.ids.index("0536.jpg")] == -1).all()
    assert "" not in dataset.classes


@pytest.mark.data
def test_coco256_names_agree_with_the_class_numbers(data_root: Path) -> None:
    dataset = load_dataset("coco256", data_root)
    split = dataset.splits["train"]
    row = split.ids.index("train2017/000000000009.jpg")
    assert {dataset.classes[c] for c in np.flatnonzero(split.labels[row] == 1)} == {"bowl", "orange", "broccoli"}
