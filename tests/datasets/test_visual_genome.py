"""VG-200 from the files that its users share, made small in a temporary folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mlbench.conformance.datasets import check_dataset
from mlbench.datasets import load_dataset
from mlbench.errors import DataError

LABELS = {"1.jpg": [0, 199], "2.jpg": [3], "3.jpg": [3, 3, 4], "9.jpg": []}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "train_list_500.txt").write_text("2.jpg\n1.jpg\n")
    (tmp_path / "test_list_500.txt").write_text("3.jpg\n")
    (tmp_path / "vg_category_200_labels_index.json").write_text(json.dumps(LABELS))
    for name in ("VG_100K/1.jpg", "VG_100K_2/2.jpg", "VG_100K/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    return tmp_path


def test_rows_stand_in_the_order_of_the_lists(root: Path) -> None:
    dataset = load_dataset("vg-200", root)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (train.ids, test.ids) == (("2.jpg", "1.jpg"), ("3.jpg",))
    assert [[int(c) for c in (row == 1).nonzero()[0]] for row in train.labels] == [[3], [0, 199]]
    assert [int(c) for c in (test.labels[0] == 1).nonzero()[0]] == [3, 4]
    assert dataset.classes[199] == "category 199"
    assert "unverified" in dataset.notes[0]
    assert train.images.describe(0).startswith("VG_100K_2/2.jpg")
    assert check_dataset("vg-200", root, processes=False).passed


def test_what_is_missing_or_malformed_is_named(root: Path) -> None:
    (root / "VG_100K" / "1.jpg").unlink()
    with pytest.raises(DataError, match="ask for 'vg-200-partial'"):
        load_dataset("vg-200", root)
    assert len(load_dataset("vg-200-partial", root).splits["train"]) == 1
    path = root / "vg_category_200_labels_index.json"
    path.write_text(json.dumps({"3.jpg": [200]}))
    with pytest.raises(DataError, match=r"labels of '3.jpg': expected a list of whole numbers from 0 to 199"):
        load_dataset("vg-200", root)
    path.write_text(json.dumps({"3.jpg": [1]}))
    with pytest.raises(DataError, match=r"no labels of '2.jpg', which train_list_500.txt names"):
        load_dataset("vg-200", root)
    path.write_text("[")
    with pytest.raises(DataError, match="not readable as JSON"):
        load_dataset("vg-200", root)
