"""NUS-WIDE of ASL and SPLC from their table, made small in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mlbench.conformance.datasets import check_dataset
from mlbench.datasets import load_dataset, nuswide_asl
from mlbench.errors import DataError

ROWS = (
    ("images/0001_1.jpg", "\"['clouds', 'sky']\"", "train"),
    ("images/0002_2.jpg", "['sky']", "val"),
    ("images/0003_3.jpg", "\"['person', 'clouds']\"", "train"),
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(nuswide_asl, "N_CLASSES", 3)
    monkeypatch.setattr(nuswide_asl, "SIZES", {"train": 2, "test": 1})
    write(tmp_path, *ROWS)
    (tmp_path / "images").mkdir()
    for name, _, _ in ROWS:
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, *rows: tuple[str, str, str]) -> None:
    (folder / "nus_wid_data.csv").write_text("\n".join([",".join(row) for row in (("file", "label", "of"), *rows)]))


def test_rows_and_classes_are_those_of_the_table(root: Path) -> None:
    dataset = load_dataset("nuswide-asl", root)
    assert dataset.classes == ("clouds", "person", "sky")
    assert dataset.splits["train"].ids == ("images/0001_1.jpg", "images/0003_3.jpg")
    assert dataset.splits["train"].labels.tolist() == [[1, -1, 1], [1, 1, -1]]
    assert dataset.splits["test"].labels.tolist() == [[-1, -1, 1]]
    assert check_dataset("nuswide-asl", root, processes=False).passed


def test_a_part_of_it_has_another_id(root: Path) -> None:
    (root / ROWS[2][0]).unlink()
    with pytest.raises(DataError, match="ask for 'nuswide-asl-partial'"):
        load_dataset("nuswide-asl", root)
    dataset = load_dataset("nuswide-asl-partial", root)
    assert (dataset.id, len(dataset.splits["train"]), dataset.classes) == (
        "nuswide-asl-partial",
        1,
        ("clouds", "person", "sky"),
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("images/9.jpg", "['sky']", "test"), "line 5: part 'test', expected train or val"),
        (("images/9.jpg", "sky", "val"), "line 5: labels 'sky', expected a list"),
        (("images/9.jpg", "[sky]", "val"), "line 5: labels '.sky.', expected a list"),
        (("images/9.jpg",), "line 5: 1 fields, expected a name, labels and a part"),
        (("images/9.jpg", "['sea']", "val"), "4 classes, expected 3"),
        (("images/0001_1.jpg", "['sky']", "val"), "both list 1 of the samples"),
    ],
)
def test_a_malformed_line_is_named(root: Path, monkeypatch: pytest.MonkeyPatch, row: tuple, message: str) -> None:
    monkeypatch.setattr(nuswide_asl, "SIZES", {"train": 2, "test": 2})
    write(root, *ROWS, row)
    with pytest.raises(DataError, match=message):
        load_dataset("nuswide-asl", root)
