"""Selective search through OpenCV: the same boxes in any order of calls, in shares of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError
from mlbench.metrics.detection import box_iou
from mlbench.proposals import load_proposals, selective_search
from mlbench.proposals.arrays import pack
from mlbench.proposals.selective_search import edge_boxes, opencv

try:
    opencv()
    missing = ""
except DataError as error:
    missing = str(error)

needs_opencv = pytest.mark.skipif(bool(missing), reason=missing)


def picture() -> np.ndarray:
    image = np.full((90, 120, 3), (40, 90, 30), np.uint8)
    image[20:60, 70:110] = (220, 30, 30)
    image[50:80, 10:50] = (30, 40, 210)
    return image


@needs_opencv
def test_objects_are_among_the_proposals() -> None:
    found = selective_search.selective_search(picture(), 1)
    shares = np.array([[70 / 120, 20 / 90, 110 / 120, 60 / 90], [10 / 120, 50 / 90, 50 / 120, 80 / 90]])
    assert (box_iou(shares, found[:, :4]).max(axis=1) > 0.8).all()
    assert (np.diff(found[:, 4]) < 0).all()
    pack(found, 10)


@needs_opencv
def test_order_does_not_depend_on_what_the_process_did_before() -> None:
    noise = np.random.RandomState(0).randint(0, 255, (80, 80, 3)).astype(np.uint8)
    first = selective_search.selective_search(noise, 5)
    selective_search.selective_search(picture(), 1)
    np.testing.assert_array_equal(selective_search.selective_search(noise, 5), first)
    other = selective_search.selective_search(noise, 6)
    assert {tuple(box) for box in other[:, :4]} == {tuple(box) for box in first[:, :4]}


@needs_opencv
def test_large_images_are_searched_reduced_and_blank_ones_give_the_whole() -> None:
    large = picture().repeat(5, axis=0).repeat(5, axis=1)
    assert pack(selective_search.selective_search(large, 0), 3).any()
    for shape in ((40, 60, 3), (1, 1, 3), (700, 3, 3)):
        np.testing.assert_array_equal(
            selective_search.selective_search(np.zeros(shape, np.uint8), 0), [[0, 0, 1, 1, 1]]
        )


@needs_opencv
def test_proposals_of_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))
    split = tiny_dataset(train=3).splits["train"]
    array = np.array(load_proposals(split, "selective_search", 20))
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "again"))
    np.testing.assert_array_equal(load_proposals(split, "selective_search", 20), array)


@needs_opencv
def test_a_missing_or_wrong_edge_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.yml\.gz: no such file"):
        edge_boxes(picture(), tmp_path / "model.yml.gz")
    (tmp_path / "wrong.yml").write_text("no model")
    with pytest.raises(DataError, match=r"wrong\.yml: no structured-forest model"):
        edge_boxes(picture(), tmp_path / "wrong.yml")


def test_without_contrib_modules_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(DataError, match=r"mlbench-multilabel\[proposals\]"):
        opencv()
