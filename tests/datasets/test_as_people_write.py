"""Files as people and programs write them: what is meant is read, what is odd is told, what is wrong is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlbench.datasets.base import Dataset
from mlbench.datasets.files import load_files
from mlbench.errors import DataError, UsageError

TABLE = 'id = "mine"\nlabels = "labels.csv"\nimages = "photos"\ncolumns = { split = "split" }\nseparator = "|"\n'
COLUMNS = TABLE + 'label_style = "columns"\n'
FOLDERS = 'id = "mine"\nimages = "photos"\nsplits = { train = "train", test = "test" }\n'
ROWS = "file,split,labels\na.png,train,cat|dog\nb.png,train,cat\nc.png,test,dog\n"
FLAGS = "file,split,cat,dog\na.png,train,1,1\nb.png,train,1,0\nc.png,test,0,1\n"
MEANT = {"a.png": [1, 1], "b.png": [1, -1], "c.png": [-1, 1]}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Dataset]:
    """Return a function that writes pictures (name: colour; 20x10), files and a description, and loads them."""

    def make(
        description: str = TABLE,
        labels: str | bytes | None = ROWS,
        pictures: dict[str, int] | tuple[str, ...] = ("a.png", "b.png", "c.png"),
        labels_name: str = "labels.csv",
        **others: str,
    ) -> Dataset:
        colours = pictures if isinstance(pictures, dict) else {name: i for i, name in enumerate(pictures)}
        for name, colour in colours.items():
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 10), (colour, 0, 0)).save(path)
        if labels is not None:
            (tmp_path / labels_name).write_bytes(labels.encode() if isinstance(labels, str) else labels)
        for name, text in others.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        (tmp_path / "mine.toml").write_text(description)
        return load_files(tmp_path / "mine.toml", tmp_path)

    return make


def states(dataset: Dataset) -> dict[str, list[int]]:
    return {name: row for s in dataset.splits.values() for name, row in zip(s.ids, s.labels.tolist(), strict=True)}


# --- the same name twice ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["dog", " dog "])
def test_a_class_twice_in_the_header_names_both_columns(make, again: str) -> None:
    doubled = FLAGS.replace("cat,dog", f"cat,dog,{again}").replace("1\n", "1,0\n").replace(",0\n", ",0,0\n")
    for description in (COLUMNS, COLUMNS + 'classes = ["cat", "dog"]\n'):
        with pytest.raises(DataError, match=r"column 'dog' stands twice in the header: as columns 4 and 5"):
            make(description, doubled.replace(",0,0,0\n", ",0,0\n"))


def test_a_column_that_is_not_used_may_stand_twice(make) -> None:
    rows = "\n".join(f"{line},x,y" if i else f"{line},note,note" for i, line in enumerate(ROWS.splitlines()))
    assert states(make(labels=rows)) == MEANT
    flags = "\n".join(f"{line},x,y" if i else f"{line},note,note" for i, line in enumerate(FLAGS.splitlines()))
    assert states(make(COLUMNS + 'classes = ["cat", "dog"]\n', flags)) == MEANT


def test_a_key_twice_in_a_json_line_is_refused(make) -> None:
    line = '{"file": "a.png", "labels": ["cat"], "split": "train", "labels": []}\n'
    with pytest.raises(DataError, match=r"line 1: .*key 'labels' stands twice in one object: entries 2 and 4"):
        make(TABLE.replace("csv", "jsonl"), line, labels_name="labels.jsonl")


@pytest.mark.parametrize("spelling", ["./a.png", ".//a.png", "x/../a.png"])
def test_one_file_under_two_spellings_is_refused(make, spelling: str) -> None:
    message = (
        "is no file name" if ".." in spelling else rf"line 5: '{spelling}' is listed twice \(before: line 2, as 'a"
    )
    with pytest.raises(DataError, match=message):
        make(labels=ROWS + f"{spelling},test,dog\n")


def test_classes_that_look_alike_are_told(make) -> None:
    notes = make(labels=ROWS.replace("b.png,train,cat", "b.png,train,Cat|c\u0061\u0301t|c\u00e1t|hot dog|hotdog")).notes
    told = next(note for note in notes if "look alike" in note)
    assert "'Cat' and 'cat'" in told
    assert r"'ca\u0301t' and 'c\xe1t'" in told
    assert "'hot dog' and 'hotdog'" in told


# --- one picture in several folders -----------------------------------------------------------------------------------

COPIES = {
    **{"train/fern/1.png": 1, "train/moss/2.png": 2, "train/fern/3.png": 3, "train/moss/3.png": 3},
    **{"test/fern/4.png": 4, "test/moss/4.png": 4, "test/moss/again.png": 4},
}


def test_copies_in_folders_of_several_labels_are_offered_and_merged(make) -> None:
    dataset = make(FOLDERS, None, COPIES)
    assert states(dataset)["train/fern/3.png"] == [1, -1]
    offer = next(note for note in dataset.notes if "copied into the folders" in note)
    assert 'equal_files = "merge"' in offer
    assert ": 2 (test/fern/4.png = test/moss/4.png, train/fern/3.png = train/moss/3.png)" in offer

    merged = make(FOLDERS + 'equal_files = "merge"\n', None, COPIES)
    assert states(merged) == {
        **{"train/fern/1.png": [1, -1], "train/fern/3.png": [1, 1], "train/moss/2.png": [-1, 1]},
        **{"test/fern/4.png": [1, 1]},
    }
    assert any("one sample with the labels of all its files: 2 (" in note for note in merged.notes)
    assert not any("copied" in note for note in make(FOLDERS + 'equal_files = "keep"\n', None, COPIES).notes)


def test_merging_refuses_contradictions_and_leaves_parts_apart(make) -> None:
    same = {"a.png": 1, "b.png": 1, "c.png": 1}
    with pytest.raises(
        DataError, match=r"line 3: 'b\.png' has the same bytes as 'a\.png' .*line 2\), but another label"
    ):
        make(COLUMNS + 'equal_files = "merge"\n', FLAGS, same)
    dataset = make(TABLE + 'equal_files = "merge"\n', ROWS, same)
    assert states(dataset) == {"a.png": [1, 1], "c.png": [-1, 1]}


# --- what lies in folders ---------------------------------------------------------------------------------------------


def test_hidden_entries_and_thumbnails_are_no_classes(make, tmp_path: Path) -> None:
    pictures = ["train/fern/1.png", "train/moss/2.png", "test/fern/3.png", "test/moss/4.png"]
    hidden = [
        *("train/fern/.ipynb_checkpoints/1-checkpoint.png", "train/fern/thumbnails/1.png", "train/moss/@eaDir/2.png"),
        *("test/.hidden.png", "__MACOSX/train/fern/1.png", "train/moss/._2.png"),
    ]
    dataset = make(FOLDERS, None, {name: i for i, name in enumerate((*pictures, *hidden))})
    assert dataset.classes == ("fern", "moss")
    assert set(states(dataset)) == set(pictures)
    told = next(note for note in dataset.notes if note.startswith("hidden and system entries, left out: 6 ("))
    assert "train/fern/.ipynb_checkpoints/" in told
    # A class may be called so, too.
    assert make(FOLDERS, None, {"train/thumbs/7.png": 7}).classes == ("fern", "moss", "thumbs")


def test_links_are_followed_and_loops_are_named(make, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (4, 4)).save(elsewhere / "9.png")
    (tmp_path / "photos" / "train").mkdir(parents=True)
    (tmp_path / "photos" / "train" / "moss").symlink_to(elsewhere, target_is_directory=True)
    pictures = {"train/fern/1.png": 1, "test/fern/3.png": 3}
    assert states(make(FOLDERS, None, pictures))["train/moss/9.png"] == [-1, 1]
    (tmp_path / "photos" / "train" / "again").symlink_to(tmp_path / "photos", target_is_directory=True)
    with pytest.raises(DataError, match=r"train/again: a symbolic link to a folder that it lies in"):
        make(FOLDERS, None, pictures)


def test_a_file_name_in_another_encoding_is_named(make, tmp_path: Path) -> None:
    pictures = {"train/fern/1.png": 1, "test/fern/3.png": 3}
    make(FOLDERS, None, pictures)
    try:
        os.link(tmp_path / "photos/train/fern/1.png", os.fsencode(tmp_path / "photos/train/fern") + b"/caf\xe9.png")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    with pytest.raises(DataError, match=r"caf.*not UTF-8"):
        make(FOLDERS, None, pictures)
    notes = make(labels="file,split,labels\ntrain/fern/1.png,train,cat\ntest/fern/3.png,test,cat\n", pictures=()).notes
    assert any(r"caf\udce9.png" in note for note in notes)
    for note in notes:
        note.encode()


# --- class files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("boat\n\nbuoy\npier\n", r"names\.txt, line 2: empty"),
        ("# from the harbour\nboat\nbuoy\n", r"line 1: '# from the harbour' looks like a comment"),
        ("boat\n// buoys\nbuoy\n", r"line 2: '// buoys' looks like a comment"),
        ("Label\nboat\nbuoy\n", r"line 1: 'Label' looks like a comment or a heading"),
        ("id,name\n0,boat\n1,buoy\n", r"line 1: 'id,name' looks like a comment or a heading"),
        ("boat,buoy,pier\n", r"line 1: 'boat,buoy,pier' looks like several classes, expected one a line"),
    ],
)
def test_lines_of_a_class_file_that_are_no_classes_are_named(make, lines: str, message: str) -> None:
    rows = "file,split,labels\na.png,train,2\nb.png,train,1\nc.png,test,0\n"
    description = TABLE + 'label_style = "indices"\nclasses = "names.txt"\n'
    with pytest.raises(DataError, match=message):
        make(description, rows, names_txt=lines)
    declared = description.replace('"names.txt"', '["#boat", "label", "2"]')
    assert make(declared, rows).classes == ("#boat", "label", "2")


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "splits", ['{ train = "set", test = ["set/held", "more"] }', '{ test = ["set/held/", "./more"], train = "set" }']
)
def test_the_longest_folder_tells_the_part(make, splits: str) -> None:
    files = ("set/a.png", "set/held/b.png", "more/c.png", "set/heldover/d.png")
    description = TABLE.replace('columns = { split = "split" }', f"splits = {splits}")
    dataset = make(description, "file,labels\n" + "".join(f"./{name},cat\n" for name in files), files)
    assert dataset.splits["train"].ids == ("./set/a.png", "./set/heldover/d.png")
    assert dataset.splits["test"].ids == ("./set/held/b.png", "./more/c.png")
    assert any("inside those of another" in note and "set/held (test) in set (train)" in note for note in dataset.notes)
    folders = make(
        FOLDERS.replace('{ train = "train", test = "test" }', '{ train = ".", test = "held/out" }'),
        None,
        {"ring/1.png": 1, "held/nut/2.png": 2, "held/out/nut/3.png": 3, **{}},
    )
    assert folders.splits["test"].ids == ("held/out/nut/3.png",)
    assert "out" not in folders.classes


# --- spelling of cells ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "zero", "keys"),
    [
        ("1.0", "0.0", ""),
        ("1.0", "-0.0", ""),
        ("1.0", "0.0", 'values = { "1.0" = "positive", "0.0" = "negative" }\n'),
        ("1.0", "0.0", 'values = { "1" = "positive", "0" = "negative" }\n'),
        ("1", "0", 'values = { "1.0" = "positive", "0.0" = "negative" }\n'),
        ("yes", "no", 'values = { yes = "positive", no = "negative" }\n'),
    ],
)
def test_states_are_read_in_the_files_own_spelling(make, one: str, zero: str, keys: str) -> None:
    def cell(text: str) -> str:
        return {"1": one, "0": zero}.get(text, text)

    rows = "\n".join(",".join(map(cell, line.split(","))) for line in FLAGS.splitlines())
    assert states(make(COLUMNS + keys, rows)) == MEANT


@pytest.mark.parametrize("keys", ["", 'values = { "true" = "positive", "false" = "negative" }\n'])
def test_true_and_false_of_json_are_states(make, keys: str) -> None:
    rows = [line.split(",") for line in FLAGS.splitlines()[1:]]
    text = "".join(json.dumps({"file": f, "split": s, "cat": c == "1", "dog": d == "1"}) + "\n" for f, s, c, d in rows)
    dataset = make(COLUMNS.replace("csv", "jsonl") + keys, text, labels_name="labels.jsonl")
    assert states(dataset) == MEANT


def test_two_spellings_of_one_number_may_differ(make) -> None:
    keys = 'values = { "1" = "positive", "1.0" = "negative", "0" = "unknown" }\n'
    rows = FLAGS.replace("train,1,0", "train,1.0,0")
    assert states(make(COLUMNS + keys, rows))["b.png"] == [-1, 0]
    with pytest.raises(DataError, match=r"line 3: value '1\.00' of class 'cat'"):
        make(COLUMNS + keys, FLAGS.replace("train,1,0", "train,1.00,0"))


def test_parts_and_class_numbers_may_be_written_as_floats(make) -> None:
    rows = "file,split,labels\na.png,0.0,0.0|1\nb.png,0.0,0.0\nc.png,1.0,1.0\n"
    keys = 'splits = { train = "0", test = "1.0" }\nlabel_style = "indices"\nclasses = ["cat", "dog"]\n'
    assert states(make(TABLE + keys, rows)) == MEANT


def test_names_that_toml_would_change_must_be_quoted(make) -> None:
    with pytest.raises(UsageError, match=r"classes: 1\.1 is no text: write it in quotes"):
        make(TABLE + "classes = [1.10, 1.1]\n")


# --- lists written as text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ['separator = "|"', 'separator = ","', ""])
@pytest.mark.parametrize(
    "form", ["['cat', 'dog']", '["cat", "dog"]', "('cat', 'dog')", "{'cat', 'dog'}", "[ 'cat','dog',]"]
)
def test_lists_as_text_are_lists(make, separator: str, form: str) -> None:
    rows = ROWS.replace("cat|dog", '"' + form.replace('"', '""') + '"').replace(",cat\n", ",\"['cat']\"\n")
    rows = rows.replace(",dog\n", ",['dog']\n")
    assert states(make(TABLE.replace('separator = "|"', separator), rows)) == MEANT


@pytest.mark.parametrize(
    "form",
    ["['cat' 'dog']", "[cat, dog]", "['cat', 'dog'", "array(['cat'])", "[['cat']]", "[007]", "{cat,dog}", "(cat, dog)"],
)
def test_brackets_that_are_no_list_are_named(make, form: str) -> None:
    with pytest.raises(DataError, match=r"line 2: labels .* stand in brackets"):
        make(TABLE.replace('"|"', '","'), ROWS.replace("cat|dog", f'"{form}"'))


def test_brackets_may_belong_to_names_that_are_declared(make) -> None:
    dataset = make(TABLE + 'classes = ["[cat]", "[dog]", "cat", "dog"]\n', ROWS.replace("cat|dog", "[cat]|[dog]"))
    assert states(dataset)["a.png"] == [1, 1, -1, -1]


def test_one_name_may_stand_in_round_brackets(make) -> None:
    assert "(unknown)" in make(labels=ROWS.replace("cat|dog", "(unknown)")).classes


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "N/A"])
def test_words_for_nothing_are_asked_about(make, word: str) -> None:
    rows = ROWS.replace("b.png,train,cat", f"b.png,train,{word}")
    with pytest.raises(UsageError, match=rf"label '{word}' a class, .*line 3.*no_label = \[\"{word}\"\]"):
        make(labels=rows)
    assert states(make(TABLE + f'no_label = ["{word}"]\n', rows))["b.png"] == [-1, -1]
    dataset = make(TABLE + f'classes = ["cat", "dog", "{word}"]\n', rows)
    assert states(dataset)["b.png"] == [-1, -1, 1]


# --- boxes ------------------------------------------------------------------------------------------------------------

HEAD = "file,label,x1,y1,x2,y2\n"
BOXED = TABLE + 'boxes = { file = "boxes.csv"%s }\n'


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ("4,2,16,8", ""),
        ("4,2,12,6", ', format = "xywh"'),
        ("10,5,12,6", ', format = "cxcywh"'),
        ("0.2,0.2,0.8,0.8", ', unit = "relative"'),
        ("0.2,0.2,0.6,0.6", ', format = "xywh", unit = "relative"'),
        ("20,20,80,80", ', unit = "percent"'),
    ],
)
def test_boxes_are_read_as_they_are_written(make, row: str, keys: str) -> None:
    boxes = make(BOXED % keys, boxes_csv=HEAD + f"a.png,cat,{row}\n").splits["train"].boxes
    np.testing.assert_allclose(boxes, [[0, 0, 4, 2, 16, 8]], rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "keys", "told"),
    [
        ("0.2,0.2,0.8,0.8", 'unit = "pixels"', "within the first two pixels"),
        ("0.2,0.2,1.0004,0.8", 'unit = "pixels"', "within the first two pixels"),
        ("4,2,12,6", 'format = "xyxy"', "upper left quarter"),
        ("2,4,8,30", 'format = "xyxy"', "reach beyond their picture"),
        ("0.1,0.1,0.5,0.6", 'unit = "relative", format = "xyxy"', "within the first two pixels"),
    ],
)
def test_boxes_that_look_otherwise_are_told_until_they_are_said_to_be_meant(
    make, row: str, keys: str, told: str
) -> None:
    lines = "".join(f"{name}.png,{label},{row}\n" for name in "abc" for label in ("cat", "dog"))
    notes = make(BOXED % "", boxes_csv=HEAD + lines).notes
    assert any(told in note and keys.split('"')[1] in note for note in notes), notes
    assert not any(told in note for note in make(BOXED % f", {keys}", boxes_csv=HEAD + lines).notes)


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_few_boxes_are_asked_about_too(make, count: int) -> None:
    lines = "".join("abc"[i % 3] + f".png,cat,{2 + i % 3},1,{6 + i % 4},5\n" for i in range(count))
    assert any("upper left quarter" in note for note in make(BOXED % "", boxes_csv=HEAD + lines).notes)


def test_boxes_as_large_as_their_picture_are_not_asked_about(make) -> None:
    lines = "".join(f"{name}.png,cat,0,0,20,10\n" for name in "abc")
    assert not any("upper left" in note for note in make(BOXED % "", boxes_csv=HEAD + lines).notes)


@pytest.mark.parametrize("size", [(120, 80), (640, 480)])
@pytest.mark.parametrize("form", ["xyxy", "xywh"])
def test_percent_are_asked_about_until_they_are_said_to_be_meant(
    tmp_path: Path, size: tuple[int, int], form: str
) -> None:
    for name in "abcdef":
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text(
        "file,split,labels\n" + "".join(f"{name}.png,{'train' if name < 'e' else 'test'},cat\n" for name in "abcdef")
    )
    row = "10,25,50,80" if form == "xyxy" else "10,25,40,55"
    (tmp_path / "boxes.csv").write_text(HEAD + "".join(f"{name}.png,cat,{row}\n" for name in "abcdef"))

    def told(keys: str) -> list[str]:
        (tmp_path / "d.toml").write_text(
            'id = "d"\nlabels = "labels.csv"\nimages = "."\ncolumns = { split = "split" }\nseparator = "|"\n'
            f'boxes = {{ file = "boxes.csv"{keys} }}\n'
        )
        dataset = load_files(tmp_path / "d.toml", tmp_path)
        assert dataset.splits["train"].boxes is not None
        if "percent" in keys:
            right = np.array([0.1, 0.25, 0.5, 0.8]) * [*size, *size]
            np.testing.assert_allclose(dataset.splits["train"].boxes[0, 2:], right, rtol=1e-6)
        return [note for note in dataset.notes if "has a number above 100" in note]

    written = "" if form == "xyxy" else ', format = "xywh"'
    (note,) = told(written)
    assert f"pictures of up to {size[0]}x{size[1]}" in note
    assert 'boxes.unit = "percent"' in note
    assert not told(f'{written}, unit = "percent"')
    assert not told(f'{written}, unit = "pixels"')


def test_boxes_in_place_raise_no_doubt(make) -> None:
    lines = "".join(f"{name}.png,{label},4,2,18,9\n" for name in "abc" for label in ("cat", "dog"))
    notes = make(BOXED % "", boxes_csv=HEAD + lines + "a.png,cat,4,2,18,9\n").notes
    assert [note for note in notes if "box" in note and "not labelled" not in note] == [
        "boxes listed more than once, kept: 1 (a.png)"
    ]


def test_a_box_of_the_wrong_form_says_how_to_say_the_form(make) -> None:
    with pytest.raises(DataError, match=r"line 2: .*expected x1 < x2 .*boxes\.format = \"xywh\""):
        make(BOXED % "", boxes_csv=HEAD + "a.png,cat,12,6,4,2\n")


# --- ways out ---------------------------------------------------------------------------------------------------------


def test_a_tab_in_single_quotes_is_explained(make) -> None:
    for wrong in ("'\\t'", '",,"', '""', '"\\n"'):
        with pytest.raises(UsageError, match=r"key 'delimiter' is .*expected one character"):
            make(TABLE + f"delimiter = {wrong}\n")
    with pytest.raises(UsageError, match="in double quotes"):
        make(TABLE + "delimiter = '\\t'\n")
    assert states(make(TABLE + 'delimiter = "\\t"\n', ROWS.replace(",", "\t"))) == MEANT
    with pytest.raises(DataError, match=r"no column 'file'\. Its fields seem .*delimiter = \";\""):
        make(labels=ROWS.replace(",", ";"))


@pytest.mark.parametrize(
    ("listed", "there", "told"),
    [
        ("caf\u00e9.png", "cafe\u0301.png", "the same letters in another Unicode form"),
        ("A.PNG", "a.png", "there is 'a.png'"),
        ("sub\\a.png", "sub/a.png", "there is 'sub/a.png'"),
        ("a", "a.png", 'suffix = ".png"'),
        ("a.jpg", "a.png", "there is 'a.png'"),
        ("a.png", "deep/down/a.png", "there is 'deep/down/a.png'"),
        ("photos/a.png", "a.png", "may name a folder too deep"),
    ],
)
def test_a_missing_picture_names_what_is_there(make, tmp_path: Path, listed: str, there: str, told: str) -> None:
    rows = f"file,split,labels\n{listed},train,cat\n{listed}2,test,cat\n"
    with pytest.raises(DataError, match="2 of 2 listed images missing") as error:
        make(labels=rows, pictures=(there,))
    assert f"Looked for {tmp_path / 'photos' / listed}" in str(error.value)
    assert told in str(error.value)
    assert "allow_missing" not in str(error.value)  # it could not help


def test_names_without_their_ending_get_it(make) -> None:
    boxes = HEAD + "c,dog,4,2,18,9\n"
    keys = 'suffix = ".png"\nboxes = { file = "boxes.csv" }\n'
    dataset = make(TABLE + keys, ROWS.replace(".png", ""), boxes_csv=boxes)
    assert dataset.splits["train"].ids == ("a", "b")
    assert dataset.splits["test"].images.load(0).shape == (10, 20, 3)
    assert dataset.splits["test"].boxes.tolist() == [[0, 1, 4, 2, 18, 9]]


def test_a_long_field_that_nobody_uses_is_passed_over(make) -> None:
    rows = "\n".join(f"{line},{'outline' if i == 0 else '7 ' * 90_000}" for i, line in enumerate(ROWS.splitlines()))
    assert states(make(labels=rows)) == MEANT


def test_labels_known_to_be_absent_have_a_column(make) -> None:
    rows = "file,split,labels,absent\na.png,train,cat,dog\nb.png,train,,cat|dog\nc.png,test,dog,\n"
    description = (
        TABLE.replace('split = "split"', 'split = "split", negatives = "absent"') + 'missing_label = "unknown"\n'
    )
    assert states(make(description, rows)) == {"a.png": [1, -1], "b.png": [-1, -1], "c.png": [0, 1]}
    with pytest.raises(DataError, match="line 2: 'cat' stands among the labels and among the negatives"):
        make(description, rows.replace("cat,dog", "cat,cat"))


# --- what nobody should send ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"file": "a.png", "split": "train", "labels": ["\\ud800"]}', r"half a character: \\ud800"),
        ('{"file": "a.png", "split": "train", "labels": ' + "9" * 5000 + "}", "line 1: not JSON"),
        ('{"file": "a\\u0000.png", "split": "train", "labels": []}', r"'a\\x00\.png' is no file name"),
        ('{"file": "..\\\\a.png", "split": "train", "labels": []}', "is no file name"),
        ('{"file": "C:\\\\a.png", "split": "train", "labels": []}', "is no file name"),
        ('{"file": null, "split": "train", "labels": []}', "'' is no file name"),
    ],
)
def test_hostile_json_lines_are_one_line_errors(make, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(TABLE.replace("csv", "jsonl"), line, labels_name="labels.jsonl")


def test_a_pipe_is_not_waited_for(make, tmp_path: Path) -> None:
    make()
    for name, file in (("labels.csv", "labels.csv"), ("names.txt", "names.txt"), ("boxes.csv", "boxes.csv")):
        (tmp_path / file).unlink(missing_ok=True)
        os.mkfifo(tmp_path / file)
        keys = 'classes = "names.txt"\n' if name == "names.txt" else 'boxes = { file = "boxes.csv" }\n'
        with pytest.raises(DataError, match=f"{name}: no plain file"):
            make(TABLE + keys, None if name == "labels.csv" else ROWS)
        (tmp_path / file).unlink()


def test_control_characters_reach_no_terminal(
    make, tmp_path: Path, mlbench: Callable[..., tuple[int, str, str]]
) -> None:
    rows = ROWS.replace("dog", "\x1b[31mdog")
    with pytest.raises(DataError, match="holds control characters"):
        make(labels=rows)
    code, out, err = mlbench("data", "describe", tmp_path / "mine.toml")
    assert (code, out) == (1, "")
    assert "\x1b" not in err
    assert r"\x1b[31mdog" in err


def test_deep_toml_is_one_line(make) -> None:
    with pytest.raises(DataError, match="nested too deeply"):
        make(f"id = {'[' * 5000}{']' * 5000}\n")


# --- tables for people ------------------------------------------------------------------------------------------------


def test_names_that_look_like_numbers_are_printed_as_written(
    make, tmp_path: Path, mlbench: Callable[..., tuple]
) -> None:
    more = tuple(f"{number}.png" for number in range(10))
    rows = "file,split,labels\nc.png,test,007\n" + "".join(f"{name},train,1.10|1.1|007|1e5\n" for name in more)
    make(TABLE.replace('"mine"', '"1e5"'), rows, (*more, "c.png"))
    for arguments in (("data", "describe"), ("data", "verify")):
        code, out, _ = mlbench(*arguments, tmp_path / "mine.toml")
        assert code == 0
        assert "1e5" in out
    _, out, _ = mlbench("data", "describe", tmp_path / "mine.toml")
    firsts = [line.split()[0] for line in out.splitlines() if line.split()]
    assert {"1.10", "007", "1.1", "1e5"} <= set(firsts)
    mask = tmp_path / "m.safetensors"
    mlbench("data", "mask", "make", "--dataset", tmp_path / "mine.toml", "--output", mask)
    _, out, _ = mlbench("data", "mask", "show", mask, "--dataset", tmp_path / "mine.toml")
    assert {"1.10", "007", "1.1", "1e5"} <= {line.split()[0] for line in out.splitlines() if line.split()}
