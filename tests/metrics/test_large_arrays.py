"""Arrays that do not fit in memory: mapped files are neither copied nor kept, pieces give what the whole gives."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from mlbench.errors import DataError
from mlbench.metrics import Logits, Probabilities, average_precision, average_precision_of_known, checks, top_k


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row or two of the arrays here at a time."""
    monkeypatch.setattr(checks, "_AT_ONCE", 10)
    # The package has a function of the module's name.
    monkeypatch.setattr(import_module("mlbench.metrics.average_precision"), "_GATHERED", 7)


@pytest.fixture(name="mapped")
def mapped_scores(tmp_path: Path) -> np.ndarray:
    """float32 [40, 6] in a file, with ties."""
    values = np.round(np.random.default_rng(0).normal(size=(40, 6)), 1).astype(np.float32)
    np.save(tmp_path / "scores.npy", values)
    return np.load(tmp_path / "scores.npy", mmap_mode="r")


def test_row_blocks_cover_every_row_once() -> None:
    for shape in ((0, 3), (1, 3), (7, 3), (6, 5), (4, 100), (3, 0)):
        matrix = np.zeros(shape)
        rows = [row for block in checks.row_blocks(matrix) for row in range(block.start, block.stop)]
        assert rows == list(range(shape[0]))


def test_scores_of_a_mapped_file_are_no_copy(mapped: np.ndarray) -> None:
    assert np.shares_memory(Logits(mapped).values, mapped)


@pytest.mark.parametrize("flavour", ["step", "envelope", "eleven_point"])
def test_known_entries_of_a_mapped_file_give_the_precision_of_the_matrix(mapped: np.ndarray, flavour: str) -> None:
    rng = np.random.default_rng(1)
    known, targets = rng.random(mapped.shape) < 0.5, rng.random(mapped.shape) < 0.3
    known[:, 4], targets[:, 5] = False, False
    rows, classes = np.nonzero(known)
    present = targets[rows, classes]
    expected = average_precision(Logits(np.array(mapped)), targets, known, flavour)
    shuffled = rng.permutation(len(rows))
    for order in (np.arange(len(rows)), shuffled):
        found = average_precision_of_known(Logits(mapped), rows[order], classes[order], present[order], flavour)
        np.testing.assert_array_equal(found, expected)


def test_no_known_entry_gives_no_precision(mapped: np.ndarray) -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert np.isnan(average_precision_of_known(Logits(mapped), nothing, nothing, np.zeros(0, dtype=bool))).all()


def test_bad_values_are_counted_over_all_pieces_and_the_first_is_named() -> None:
    values = np.zeros((9, 4), dtype=np.float32)
    values[5, 2] = values[6, 0] = values[8, 3] = np.nan
    with pytest.raises(DataError, match="3 of 36 values not finite, the first is nan at row 5, class 2"):
        Logits(values)
    outside = np.full((9, 4), 0.5)
    outside[7, 1:3] = 1.5
    with pytest.raises(DataError, match=r"2 of 36 values outside \[0, 1\], the first is 1.5 at row 7, class 1"):
        Probabilities(outside)


def test_what_was_changed_in_a_private_mapping_is_kept(mapped: np.ndarray, tmp_path: Path) -> None:
    private = np.load(tmp_path / "scores.npy", mmap_mode="c")
    private[3, 2] = 7.0
    assert Logits(private).values[3, 2] == private[3, 2] == 7.0
    assert mapped[3, 2] != 7.0


def test_top_k_in_pieces_is_that_of_the_whole(mapped: np.ndarray) -> None:
    best = np.argsort(-np.array(mapped), axis=1, kind="stable")[:, :2]
    expected = np.zeros(mapped.shape, dtype=bool)
    np.put_along_axis(expected, best, True, axis=1)
    np.testing.assert_array_equal(top_k(Logits(mapped), 2), expected)
