"""Published lists of shown labels: read, held against the data set, and the only labels that their protocols show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlbench.annotation import State, draw_mask
from mlbench.conformance.testing import tiny_dataset
from mlbench.datasets.listed import Lists, find_list, read_list
from mlbench.datasets.nuswide_splc import LISTS, load_splc
from mlbench.errors import DataError, UsageError
from mlbench.protocol import load_protocol
from mlbench.runner.data import make_parts

TEXT = "a.jpg, 0 2\nb.jpg,1\nd.jpg,\nc.jpg,2 0\n"


def test_a_list_gives_the_positives_of_each_image_and_says_nothing_of_the_rest(tmp_path: Path) -> None:
    (tmp_path / "splc").mkdir()
    (tmp_path / "splc" / "one.txt").write_text(TEXT)
    lists = Lists(tmp_path, {"single": "one.txt"}, ["c.jpg", "a.jpg", "b.jpg", "d.jpg"], 3)
    assert lists.load("single").tolist() == [[1, 0, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert lists.take(np.array([2, 0])).load("single").tolist() == [[0, 1, 0], [1, 0, 1]]
    with pytest.raises(DataError, match=r"no list '0.4' was published of this data set: there is single"):
        lists.load("0.4")
    with pytest.raises(DataError, match=r"one.txt: does not list image 'bb.jpg'. Did you mean 'b.jpg'"):
        Lists(tmp_path, lists.files, ["bb.jpg"], 3).load("single")
    with pytest.raises(DataError, match=r"no list two.txt there, nor in splc or dataset; it is published with"):
        find_list(tmp_path, "two.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.jpg,3", "line 2: class '3': expected an image, a comma and numbers below 3"),
        ("b.jpg,-1", "line 2: class '-1'"),
        ("b.jpg,1;2", "line 2: class '1;2'"),
        ("b.jpg,²", "line 2: class '²'"),
        ("b.jpg 1", "line 2: 'b.jpg 1'"),
        (",1", "line 2: ',1'"),
        ("a.jpg,1", r"line 2: image 'a.jpg' is listed twice"),
    ],
)
def test_broken_lists_are_refused_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "one.txt"
    path.write_text(f"a.jpg,0\n{line}\n")
    with pytest.raises(DataError, match=rf"one.txt, {message}"):
        read_list(path, 3)


def test_the_process_shows_what_is_listed_and_refuses_what_the_data_set_denies() -> None:
    labels = np.array([[1, -1, 1], [-1, 1, 2]], dtype=np.int8)
    shown = {"single": [[0, 0, 1], [0, 1, 0]], "full": [[1, 0, 1], [0, 1, 1]]}

    def lists(name: str) -> np.ndarray:
        return np.array(shown[name], dtype=np.int8)

    mask = draw_mask(labels, "listed", ids=["a", "b"], lists=lists)
    assert mask.observed.tolist() == [[0, 0, 1], [0, 1, 2]]
    assert mask.params == {"list": "single"}
    with pytest.raises(
        DataError, match=r"list 'full' shows 1 labels that .* does not have, the first at sample 'b', class 2"
    ):
        draw_mask(labels, "listed", {"list": "full"}, ids=["a", "b"], lists=lists)
    with pytest.raises(DataError, match="process 'listed' needs published lists, and the data set has none"):
        draw_mask(labels, "listed", ids=["a", "b"])
    with pytest.raises(UsageError, match=r"parameter 'list' is 'half', expected one of single, 0.4, 0.75, full"):
        draw_mask(labels, "listed", {"list": "half"}, ids=["a", "b"], lists=lists)


@pytest.mark.parametrize(
    ("protocol", "shown"),
    [("coco_splc", "single"), ("coco_splc_40", "0.4"), ("coco_splc_75", "0.75"), ("coco_splc_full", "full")],
)
def test_each_protocol_shows_its_list_of_the_whole_training_part(tmp_path: Path, protocol: str, shown: str) -> None:
    data = tiny_dataset()
    train = data.splits["train"]
    positive = train.labels == State.POSITIVE
    listed = positive & (np.random.default_rng(len(shown)).random(positive.shape) < 0.5)
    lines = [
        f"{sample}, {' '.join(map(str, np.flatnonzero(row)))}" for sample, row in zip(train.ids, listed, strict=True)
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    lists = Lists(tmp_path, {shown: "list.txt"}, train.ids, len(data.classes))
    data = replace(data, splits={**data.splits, "train": replace(train, lists=lists)})
    parts, mask = make_parts(data, load_protocol(protocol), 0)
    assert parts.keys() == {"train", "test"}
    np.testing.assert_array_equal(parts["train"].observed, np.where(listed, State.POSITIVE, State.UNKNOWN))
    assert mask.params == {"list": shown}
    assert load_protocol(protocol).selection == "last"


@pytest.fixture
def nus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from PIL import Image

    (tmp_path / "images").mkdir()
    (tmp_path / "Concepts81.txt").write_text("".join(f"concept {n}\n" for n in range(81)))
    (tmp_path / "nus_train_single.txt").write_text("1_a_m.jpg,42\n2_b_m.jpg,0\n3_c_m.jpg,80\n")
    (tmp_path / "nus_val.txt").write_text("4_d_m.jpg,42 55 79\n5_e_m.jpg,1\n")
    for name in ("1_a", "2_b", "3_c", "4_d", "5_e"):
        Image.new("RGB", (8, 6), (int(name[0]), 0, 0)).save(tmp_path / "images" / f"{name}_m.jpg")
    for split, count in (("train", 3), ("test", 2)):
        monkeypatch.setitem(LISTS, split, (LISTS[split][0], count))
    return tmp_path


def test_nuswide_of_splc_has_one_known_label_an_image_in_training_and_all_in_test(nus: Path) -> None:
    data = load_splc(nus)
    train, test = data.splits["train"], data.splits["test"]
    assert (data.id, len(data.classes), train.ids) == ("nuswide-splc", 81, ("1_a_m.jpg", "2_b_m.jpg", "3_c_m.jpg"))
    assert [np.flatnonzero(row).tolist() for row in train.labels] == [[42], [0], [80]]
    assert np.argwhere(test.labels == State.POSITIVE).tolist() == [[0, 42], [0, 55], [0, 79], [1, 1]]
    assert not (test.labels == State.UNKNOWN).any()
    parts, _ = make_parts(data, load_protocol("nuswide_splc"), 0)
    np.testing.assert_array_equal(parts["train"].observed, train.labels)


def test_a_copy_that_is_not_whole_has_to_be_asked_for(nus: Path) -> None:
    (nus / "images" / "3_c_m.jpg").unlink()
    with pytest.raises(DataError, match=r"expected 3 images of 'train'.*ask for 'nuswide-splc-partial'"):
        load_splc(nus)
    data = load_splc(nus, partial=True)
    assert (data.id, len(data.splits["train"])) == ("nuswide-splc-partial", 2)
    (nus / "nus_val.txt").write_text("1_a_m.jpg,1\n5_e_m.jpg,1\n")
    with pytest.raises(DataError, match=r"both list 1 of the samples: 1_a_m.jpg"):
        load_splc(nus, partial=True)
