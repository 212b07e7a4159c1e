"""Proposals of others: what their numbers mean, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.io import savemat

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError, UsageError
from mlbench.proposals import load_proposals
from mlbench.proposals.__main__ import main
from mlbench.proposals.readers import Coordinates, match_samples, read_boxes, read_kdwsd_list, read_mat


def cells(values: list) -> np.ndarray:
    table = np.empty((1, len(values)), dtype=object)
    table[0] = values
    return table


def test_matlab_cells_are_read_with_and_without_scores(tmp_path: Path) -> None:
    boxes = [np.array([[1.0, 2, 30, 40], [5, 5, 9, 9]]), np.array([[1.0, 1, 2, 2]])]
    whole = {"images": cells(["000005", "000007"]), "boxes": cells(boxes)}
    savemat(tmp_path / "a.mat", whole)
    found = read_mat(tmp_path / "a.mat")
    np.testing.assert_array_equal(found["000005"], [[1, 2, 30, 40, 1], [5, 5, 9, 9, 0.5]])
    savemat(tmp_path / "b.mat", {**whole, "boxScores": cells([np.array([[0.5], [0.7]]), np.array([[0.1]])])})
    np.testing.assert_array_equal(read_mat(tmp_path / "b.mat")["000005"][:, 4], [0.5, 0.7])
    np.testing.assert_array_equal(read_mat(tmp_path / "b.mat")["000007"], [[1, 1, 2, 2, 0.1]])


def test_matlab_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_mat(tmp_path / "none.mat")
    (tmp_path / "text.mat").write_text("x" * 300)
    with pytest.raises(DataError, match="no MATLAB file"):
        read_mat(tmp_path / "text.mat")
    savemat(tmp_path / "a.mat", {"images": cells(["a"])})
    with pytest.raises(DataError, match="no variable 'boxes'"):
        read_mat(tmp_path / "a.mat")
    savemat(tmp_path / "b.mat", {"images": cells(["a", "b"]), "boxes": cells([np.zeros((1, 4))])})
    with pytest.raises(DataError, match="2 images, 1 cells"):
        read_mat(tmp_path / "b.mat")
    savemat(tmp_path / "c.mat", {"images": cells(["a", "a"]), "boxes": cells([np.zeros((2, 4)), np.zeros((2, 4))])})
    with pytest.raises(DataError, match="'a' stands twice"):
        read_mat(tmp_path / "c.mat")
    savemat(tmp_path / "d.mat", {"images": cells(["a"]), "boxes": cells([np.zeros((2, 5))])})
    with pytest.raises(DataError, match=r"expected \[m, 4\]"):
        read_mat(tmp_path / "d.mat")
    savemat(tmp_path / "e.mat", {"images": cells(["a", ""]), "boxes": cells([np.zeros((2, 4)), np.zeros((2, 4))])})
    with pytest.raises(DataError, match=r"e\.mat: cell 2 of 'images' is empty"):
        read_mat(tmp_path / "e.mat")


def test_a_spoilt_matlab_file_does_not_take_the_process_with_it(tmp_path: Path) -> None:
    path = tmp_path / "spoilt.mat"
    savemat(path, {"images": cells(["a", "b"]), "boxes": cells([np.ones((1, 4)), np.ones((2, 4))])})
    content = bytearray(path.read_bytes())
    content[144] = 5  # the first variable says that it is another kind of array: SciPy 1.17 reads outside its memory
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"spoilt\.mat: no "):
        read_mat(path)
    savemat(path, {"images": cells(["a"]), "boxes": cells([np.array([list("1234")])])})
    with pytest.raises(DataError, match="boxes of 'a'"):
        read_mat(path)


def test_the_list_of_the_released_code(tmp_path: Path) -> None:
    path = tmp_path / "train_672.txt"
    path.write_text("train2014/x_1.jpg 1 0 1 0 0 336 672 0.5 10 20 30 40 0.25\n\n")
    np.testing.assert_array_equal(read_kdwsd_list(path, 3)["x_1"], [[0, 0, 336, 672, 0.5], [10, 20, 30, 40, 0.25]])
    with pytest.raises(DataError, match=r"line 1: 14 fields; expected a path, 4 labels"):
        read_kdwsd_list(path, 4)
    path.write_text("a.jpg 1 0 1 0 0 x 672 0.5\n")
    with pytest.raises(DataError, match="line 1: could not convert"):
        read_kdwsd_list(path, 3)


def test_a_box_a_line(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("a.jpg 0 0 10 10\nb 1,2,3,4,0.5\na.jpg 1 1 5 5 0.25\n")
    found = read_boxes(path)
    np.testing.assert_array_equal(found["a"], [[0, 0, 10, 10, 1], [1, 1, 5, 5, 0.25]])
    np.testing.assert_array_equal(found["b"], [[1, 2, 3, 4, 0.5]])
    path.write_text("a.jpg 0 0 10\n")
    with pytest.raises(DataError, match="line 1: 4 fields"):
        read_boxes(path)
    path.write_text("train/1.jpg 0 0 10 10\ntest/1.jpg 0 0 5 5\n")
    with pytest.raises(DataError, match=r"line 2: 'test/1\.jpg' and 'train/1\.jpg' are both '1'"):
        read_boxes(path)


def test_what_coordinates_mean() -> None:
    box = np.array([[1.0, 11, 20, 40, 0.5]])
    plain = Coordinates().shares(box, 100, 50, "a")
    np.testing.assert_allclose(plain, [[0.01, 0.22, 0.2, 0.8, 0.5]])
    matlab = Coordinates("yxyx", first=1, inclusive=True).shares(box, 100, 50, "a")
    np.testing.assert_allclose(matlab, [[0.1, 0.0, 0.4, 0.4, 0.5]])
    with pytest.raises(DataError, match=r"a: 1 of 1 boxes reach outside its 30 x 30 pixels"):
        Coordinates().shares(box, 30, 30, "a")
    np.testing.assert_allclose(
        Coordinates().shares(np.array([[-0.5, 0, 30.9, 9, 1]]), 30, 10, "a"), [[0, 0, 1, 0.9, 1]]
    )
    with pytest.raises(UsageError, match="xyxy"):
        Coordinates("xyxx")
    with pytest.raises(UsageError, match="first = 2"):
        Coordinates(first=2)


def test_samples_without_boxes_are_named() -> None:
    split = tiny_dataset().splits["test"]
    found = {f"{row:03d}": np.array([[0.0, 0, 32, 64, 1]]) for row in range(9)}
    matched = match_samples(found, split, Coordinates())
    np.testing.assert_allclose(matched["test/008"], [[0, 0, 0.5, 1, 1]])
    del found["004"]
    with pytest.raises(DataError, match=r"1 of 9 images have no proposals in the file: .*test/004"):
        match_samples(found, split, Coordinates())


def test_import_and_compute_by_command(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))
    listed = tmp_path / "boxes.txt"
    listed.write_text("".join(f"{row:02d}.png 0 0 {10 + row % 3} 15 0.5\n" for row in range(34)))
    common = ["--dataset", str(photos / "mine.toml"), "--split", "test", "--count", "3"]
    done = CliRunner().invoke(main, ["import", *common, "--name", "mine", "--format", "boxes", str(listed)])
    assert done.exit_code == 0, done.output
    assert "mine: 10 images, 1 to 1 of 3 places filled" in done.output
    done = CliRunner().invoke(main, ["compute", *common, "--source", "grid"])
    assert "grid: 10 images, 3 to 3 of 3 places filled" in done.output
    from mlbench.datasets import load_dataset

    array = load_proposals(load_dataset(str(photos / "mine.toml"), None).splits["test"], "mine", 3)
    np.testing.assert_allclose(array[0, 0], [0, 0, 10 / 40, 0.5, 0.5])
