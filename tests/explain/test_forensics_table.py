"""Curves of what methods did to unknown labels."""

from __future__ import annotations

import pytest
from PIL import Image

from mlbench.errors import UsageError
from mlbench.explain.pseudo_labels import draw_courses, label_courses


def record(forensics: list[dict]) -> dict:
    epochs = [{"phase": "train", "epoch": i, "forensics": found} for i, found in enumerate(forensics, start=1)]
    identity = {"method": {"name": "llr"}, "dataset": {"id": "d"}, "repetition": 0, "mask_seed": 1}
    return {"key": "ab" * 32, "identity": identity, "epochs": epochs, "selected": {"phase": "train"}}


RATES = {"entries": 4, "precision": 25.0, "recall": 50.0}
NONE = {"entries": 0, "precision": None, "recall": 0.0}


def test_a_row_for_each_epoch_and_kind() -> None:
    rows = label_courses([record([{}, {"rejected": RATES}, {"rejected": NONE, "added_positive": RATES}])])
    assert [(row["epoch"], row["kind"], row["precision"]) for row in rows] == [
        (2, "rejected", 25.0),
        (3, "rejected", None),
        (3, "added_positive", 25.0),
    ]


def test_without_any_report_there_is_nothing_to_draw() -> None:
    with pytest.raises(UsageError, match="no run here rejected"):
        label_courses([record([{}, {}])])


def test_the_picture_is_drawn(tmp_path) -> None:
    rows = label_courses([record([{"rejected": RATES}, {"rejected": NONE}])])
    with Image.open(draw_courses(rows, tmp_path / "curves.png")) as picture:
        assert picture.size == (1200, 480)
