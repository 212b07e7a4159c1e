"""`data adopt` on tables as people have them: what it understands, says and writes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlbench.datasets import load_dataset
from mlbench.datasets.adopt import adopt
from mlbench.errors import DataError, UsageError

N = 30
IDS = [f"{number:04x}" for number in range(N)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with 30 pictures, 20x10, in ``images``."""
    for number, name in enumerate(IDS):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (20, 10), (number, 0, 0)).save(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


def states(path: Path) -> dict[str, dict[str, int]]:
    """State by class of every picture."""
    dataset = load_dataset(str(path))
    return {
        name: dict(zip(dataset.classes, row, strict=True))
        for split in dataset.splits.values()
        for name, row in zip(split.ids, split.labels.tolist(), strict=True)
    }


def test_a_column_a_class_ids_without_endings_and_no_split(place: Path, mlbench: Callable[..., Any]) -> None:
    flags = {name: [number % 2, number % 3 == 0, 1] for number, name in enumerate(IDS)}
    lines = [",".join([name, "site A", *map(str, map(int, row))]) for name, row in flags.items()]
    (place / "labels.csv").write_text('Id,where,oak,"ash, red",1.10\n' + "\n".join(lines) + "\n")
    code, told, err = mlbench("data", "adopt", place / "labels.csv", "--images", place / "images", "--dry-run")
    assert (code, err) == (0, "")
    for line in (
        "pictures: column 'Id' and the ending .jpg",
        "coding: 0 is negative (35), 1 is positive (55)",
        "labels: a column a class, 3 of them (oak, ash, red, 1.10)",
        "not used: column where",
        "20% of the pictures are drawn as test, with seed 0",
        'classes = ["oak", "ash, red", "1.10"]',
    ):
        assert line in told
    assert not (place / "labels.toml").exists()
    code, told, _ = mlbench("data", "adopt", place / "labels.csv", "--images", place / "images", "--id", "trees")
    assert code == 0
    assert "mlbench run --dataset" in told
    found = states(place / "trees.toml")
    assert {name: [row["oak"] == 1, row["ash, red"] == 1, row["1.10"] == 1] for name, row in found.items()} == {
        name: list(map(bool, row)) for name, row in flags.items()
    }
    with pytest.raises(UsageError, match=r"trees\.toml: is there already"):
        adopt(place / "labels.csv", place / "images", identity="trees")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"1.0": 1, "0.0": -1, "": 0}, 'missing_label = "unknown"'),
        ({"1.0": 1, "0.0": -1, "-1.0": 2, "": 0}, '"-1.0" = "unspecified"'),
        ({"1": 1, "0": 0, "-1": -1}, '"0" = "unknown"'),
        ({"1": 1, "-1": -1}, "label_style"),
        ({"True": 1, "False": -1}, '"True" = "positive"'),
        ({"yes": 1, "no": -1, "?": 0}, '"?" = "unknown"'),
    ],
)
def test_the_coding_is_told_from_the_cells(place: Path, cells: dict[str, int], expected: str) -> None:
    texts = list(cells)
    rows = {name: (texts[i % len(texts)], texts[(i // 3) % len(texts)]) for i, name in enumerate(IDS)}
    lines = [f"images/{name}.jpg,{a},{b}" for name, (a, b) in rows.items()]
    (place / "t.csv").write_text("Path,oak,ash\n" + "\n".join(lines) + "\n")
    told = adopt(place / "t.csv", place / "images")  # the names begin with the folder's own
    assert "coding: " in told
    assert expected in (place / "t.toml").read_text()
    found = states(place / "t.toml")
    for name, (a, b) in rows.items():
        assert found[f"images/{name}.jpg"] == {"oak": cells[a], "ash": cells[b]}


@pytest.mark.parametrize(
    ("fields", "separator"),
    [
        (["oak|ash", "oak", "red fir"], "|"),
        (["oak, ash", "oak", "red fir"], ","),
        (["haze road", "haze", "road"], " "),
        (["red fir", "red oak", "ash"], "|"),
        (["['oak', 'red fir']", "['oak']", "[]"], None),
    ],
)
def test_the_separator_is_told_from_the_fields(place: Path, fields: list[str], separator: str | None) -> None:
    lines = [f'{name}.jpg,"{fields[i % 3]}"' for i, name in enumerate(IDS)]
    (place / "t.csv").write_text("image,tags\n" + "\n".join(lines) + "\n")
    adopt(place / "t.csv")
    assert tomllib.loads((place / "t.toml").read_text()).get("separator") == separator
    found = states(place / "t.toml")
    for i, name in enumerate(IDS):
        field = fields[i % 3]
        if separator is None:
            wanted = set(json.loads(field.replace("'", '"')))
        else:
            wanted = {label.strip() for label in field.split(separator)}
        assert {label for label, state in found[f"{name}.jpg"].items() if state == 1} == wanted


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (("train", "test"), {"train": "train", "test": "test"}),
        (("Training", "validation"), {"train": "Training", "test": "validation"}),
        (("False", "True"), {"train": "False", "test": "True"}),
    ],
)
def test_the_part_is_told_from_a_column(place: Path, values: tuple[str, str], parts: dict[str, str]) -> None:
    lines = [f"{name};{values[i % 3 == 0]};{'oak' if i % 2 else 'ash'}" for i, name in enumerate(IDS)]
    (place / "t.csv").write_text("id;is_valid;label\n" + "\n".join(lines) + "\n")
    told = adopt(place / "t.csv")
    written = tomllib.loads((place / "t.toml").read_text())
    assert (written["splits"], written["delimiter"]) == (parts, ";")
    assert "part: column 'is_valid'" in told
    assert len(load_dataset(str(place / "t.toml")).splits["test"]) == 10


def test_words_for_nothing_and_rows_of_one_label_each(place: Path) -> None:
    lines = [f"{name},{label}" for i, name in enumerate(IDS) for label in (("oak", "ash") if i % 2 else ("nan", "nan"))]
    (place / "t.csv").write_text("id,class\n" + "\n".join(lines) + "\n")
    told = adopt(place / "t.csv")
    assert "no label: 'nan'" in told
    assert "several rows a picture: joined to 30 pictures in t.jsonl" in told
    found = states(place / "t.toml")
    assert found[IDS[0]] == {"ash": -1, "oak": -1}
    assert found[IDS[1]] == {"ash": 1, "oak": 1}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_lists_in_json_lines_and_parquet(place: Path, suffix: str) -> None:
    rows = [{"img": f"{name}.jpg", "labels": ["oak", "red fir"][: i % 3]} for i, name in enumerate(IDS)]
    if suffix == "jsonl":
        (place / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        arrow = pytest.importorskip("pyarrow", reason="pyarrow, an extra, is not installed")
        import pyarrow.parquet

        pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), place / "t.parquet")
    adopt(place / f"t.{suffix}")
    found = states(place / "t.toml")
    for row in rows:
        assert [label for label, state in found[row["img"]].items() if state == 1] == row["labels"]


def test_coco_becomes_lines_and_boxes(place: Path) -> None:
    content = {
        "images": [{"id": i, "file_name": f"{name}.jpg", "width": 20, "height": 10} for i, name in enumerate(IDS)],
        "categories": [{"id": 7, "name": "cat, big"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": (7, 3)[i % 2], "bbox": [4, 2, 12, 7]} for i in range(N)
        ],
    }
    (place / "coco.json").write_text(json.dumps(content))
    told = adopt(place / "coco.json")
    assert "COCO: 30 images, 30 annotations, 2 categories" in told
    dataset = load_dataset(str(place / "coco.toml"))
    assert dataset.classes == ("cat, big", "dog")
    assert states(place / "coco.toml")[f"{IDS[1]}.jpg"] == {"cat, big": -1, "dog": 1}
    for split in dataset.splits.values():
        assert split.boxes is not None
        np.testing.assert_array_equal(split.boxes[:, 2:], np.tile([4, 2, 16, 9], (len(split), 1)))
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    (place / "coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="a file is listed under two image ids"):
        adopt(place / "coco.json", identity="again")


def test_folders_with_parts_and_copies(place: Path) -> None:
    for part, numbers in (("train", range(6)), ("val", range(6, 9))):
        for number in numbers:
            for label in ("fern", "moss") if number % 3 == 2 else ("fern",) if number % 2 else ("moss",):
                path = place / "tree" / part / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (number, 9, 9)).save(path)
    told = adopt(place / "tree")
    assert "parts: train = train, test = val (there is no other test part than the validation one)" in told
    found = states(place / "tree" / "tree.toml")
    assert len(found) == 9
    assert found["train/fern/2.png"] == {"fern": 1, "moss": 1}


def test_what_cannot_be_understood_is_said(place: Path, mlbench: Callable[..., Any]) -> None:
    (place / "t.csv").write_text("id,label\nxyz,oak\nabc,ash\n")
    code, _, err = mlbench("data", "adopt", place / "t.csv")
    assert code == 1
    assert "no column names pictures; looked for 'xyz'" in err
    (place / "t.csv").write_text("id,when\n" + "".join(f"{name},{i}\n" for i, name in enumerate(IDS)))
    with pytest.raises(DataError, match=r"no column holds labels \(columns: id, when\)"):
        adopt(place / "t.csv")
    (place / "t.csv").write_text("id,label\n")
    with pytest.raises(DataError, match="no rows below the header"):
        adopt(place / "t.csv")
    with pytest.raises(DataError, match="no such file or folder"):
        adopt(place / "nowhere.csv")
    (place / "t.json").write_text("[1]")
    with pytest.raises(DataError, match="not of COCO's form"):
        adopt(place / "t.json")
    assert not list(place.glob("*.toml"))


def test_missing_pictures_are_said_and_give_another_name(place: Path) -> None:
    lines = [f"{name},{'oak' if i % 2 else 'ash'}" for i, name in enumerate([*IDS, "ffff"])]
    (place / "t.csv").write_text("id,label\n" + "\n".join(lines) + "\n")
    assert "missing: 1 pictures (ffff); the others are 't-partial'" in adopt(place / "t.csv")
    assert load_dataset(str(place / "t.toml")).id == "t-partial"


# --- several files, and what lies in a folder -------------------------------------------------------------------------


def coco_of(names: list[str], first: int = 0, categories: tuple[str, ...] = ("oak", "ash")) -> str:
    """Picture i has one box of class i % 2; ids of categories are the other way round in every second file."""
    ids = {c: number + 1 for number, c in enumerate(categories)}
    annotations = [
        {"id": i, "image_id": i, "category_id": ids[("oak", "ash")[(first + i) % 2]], "bbox": [2, 3, 5, 4]}
        for i in range(len(names))
    ]
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    listed = [{"id": number, "name": c} for c, number in ids.items()]
    return json.dumps({"images": images, "annotations": annotations, "categories": listed})


@pytest.mark.parametrize("layout", ["beside", "exported", "official", "same names"])
def test_coco_files_of_several_parts(tmp_path: Path, layout: str, mlbench: Callable[..., Any]) -> None:
    """A file beside the pictures, one in each part's folder, those in ``annotations``, and names that come again."""
    numbers = {"train": range(8), "valid": range(8, 12), "test": range(12, 16)}
    sources = []
    for part, rows in numbers.items():
        folder = tmp_path / ("images" if layout == "beside" else part)
        folder.mkdir(exist_ok=True)
        names = [f"{row - rows[0] if layout == 'same names' else row:02d}.png" for row in rows]
        for row, name in zip(rows, names, strict=True):
            Image.new("RGB", (20, 10), (row, 0, 0)).save(folder / name)
        file = {
            "beside": f"{part}.json",
            "exported": f"{part}/_annotations.coco.json",
            "official": f"annotations/instances_{part}2017.json",
            "same names": f"labels-{part}.json",
        }[layout]
        (tmp_path / file).parent.mkdir(exist_ok=True)
        categories = ("oak", "ash") if part == "train" else ("ash", "oak")
        (tmp_path / file).write_text(coco_of(names, rows[0], categories))
        sources.append(tmp_path / file)
    if layout == "official":
        (tmp_path / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": []}')
    given = [tmp_path] if layout in ("exported", "official") else sources
    code, told, err = mlbench("data", "adopt", *given, "--id", "trees", "--output", tmp_path / "trees.toml")
    assert (code, err) == (0, "")
    assert "2 classes, train 8, val 4, test 4, 16 boxes" in told
    dataset = load_dataset(str(tmp_path / "trees.toml"))
    assert dataset.classes == ("oak", "ash")
    for part, rows in zip(("train", "val", "test"), numbers.values(), strict=True):
        split = dataset.splits[part]
        assert [int(split.images.load(row)[0, 0, 0]) for row in range(len(split))] == list(rows)
        assert split.labels.tolist() == [[1, -1] if row % 2 == 0 else [-1, 1] for row in rows]
        assert split.boxes is not None
        assert split.boxes[0].tolist() == [0, rows[0] % 2, 2, 3, 7, 7]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("style", ["names", "columns"])
def test_tables_of_several_parts(place: Path, suffix: str, style: str) -> None:
    import pandas as pd

    sources, wanted = [], {}
    for part, rows in (("train", range(20)), ("test", range(20, 30))):
        table = [{"id": IDS[i], "oak": i % 2, "ash": int(i % 3 == 0)} for i in rows]
        if style == "names":
            table = [{"id": r["id"], "tags": ";".join(c for c in ("oak", "ash") if r[c]) or "nan"} for r in table]
        path = place / f"{part}.{suffix}"
        frame = pd.DataFrame(table)
        if suffix == "csv":
            frame.to_csv(path, index=False)
        elif suffix == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path)
        sources.append(path)
        wanted |= {IDS[i]: {"oak": 1 if i % 2 else -1, "ash": 1 if i % 3 == 0 else -1} for i in rows}
    told = adopt(sources, identity="trees")
    assert "parts: train = train, test = test" in told
    assert states(place / "trees.toml") == wanted
    splits = load_dataset(str(place / "trees.toml")).splits
    assert {part: len(split) for part, split in splits.items()} == {"train": 20, "test": 10}
    (place / "trees.toml").unlink()
    (place / "trees.jsonl").unlink()
    adopt(place, identity="trees")  # the folder they lie in
    assert states(place / "trees.toml") == wanted


def test_folders_of_several_parts(tmp_path: Path) -> None:
    for number, name in enumerate(("a-train/oak", "a-train/ash", "b/held_test/oak")):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (20, 10), (number, 0, 0)).save(tmp_path / name / "1.png")
    adopt([tmp_path / "a-train", tmp_path / "b" / "held_test"], identity="trees")
    assert states(tmp_path / "trees.toml") == {
        "a-train/oak/1.png": {"oak": 1, "ash": -1},
        "a-train/ash/1.png": {"oak": -1, "ash": 1},
        "b/held_test/oak/1.png": {"oak": 1, "ash": -1},
    }


def test_parts_that_cannot_be_told_are_named(place: Path) -> None:
    for name in ("train.csv", "extra.csv", "validation.csv"):
        (place / name).write_text("id,tags\n" + "".join(f"{name},oak\n" for name in IDS[:4]))
    with pytest.raises(DataError, match=r"the name of .*extra\.csv does not say which"):
        adopt([place / "train.csv", place / "extra.csv"])
    with pytest.raises(DataError, match="expected train and another"):
        adopt([place / "validation.csv", place / "validation.csv"])
    (place / "test.csv").write_text("id\n" + "".join(f"{name}\n" for name in IDS[4:]))
    with pytest.raises(DataError, match=r"test\.csv: no column 'tags'.*without labels a part cannot be scored"):
        adopt([place / "train.csv", place / "test.csv"])
    with pytest.raises(DataError, match="'0000' is in the part 'train' in one row and in 'val' in another"):
        adopt([place / "train.csv", place / "validation.csv"])
    for name in ("train_a.json", "train_b.json"):
        (place / name).write_text(coco_of([f"{name}.jpg" for name in IDS]))
    (place / "test.json").write_text(coco_of([f"{name}.jpg" for name in IDS]))
    with pytest.raises(DataError, match=r"labels of its train part: train_a\.json, train_b\.json;"):
        adopt(place)
    with pytest.raises(DataError, match=r"'0000\.jpg' is also in the part 'train'"):
        adopt([place / "train_a.json", place / "test.json"])
