"""Counts of a data set against those taken entry by entry in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlbench.datasets import describe, load_dataset
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.describe import count_part, describe_dataset, draw_dataset
from mlbench.inputs.duplicates import notes_of


class NoImages:
    """An image source whose images are never asked for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def load(self, row: int) -> np.ndarray:
        raise AssertionError("a description reads no image")

    def describe(self, row: int) -> str:
        return str(row)


def make_split(labels: np.ndarray, groups: tuple[str, ...] = (), boxes: np.ndarray | None = None) -> Split:
    labels = np.asarray(labels, dtype=np.int8)
    return Split(tuple(map(str, range(len(labels)))), labels, NoImages(len(labels)), groups, boxes)


LABELS = np.random.default_rng(0).choice([-1, 0, 1, 2], size=(57, 6), p=[0.4, 0.2, 0.3, 0.1]).astype(np.int8)


@pytest.mark.parametrize("entries_at_once", [1, 50, 10**6])
def test_counts_are_those_of_a_count_by_hand(monkeypatch: pytest.MonkeyPatch, entries_at_once: int) -> None:
    monkeypatch.setattr(describe, "_ENTRIES_AT_ONCE", entries_at_once)
    facts = count_part(make_split(LABELS, groups=tuple(str(i // 2) for i in range(57))))
    rows = LABELS.tolist()
    for state, counted in ((1, facts.positives), (-1, facts.negatives), (0, facts.unknown), (2, facts.unspecified)):
        assert counted.tolist() == [sum(row[c] == state for row in rows) for c in range(6)]
    numbers = [sum(value == 1 for value in row) for row in rows]
    assert facts.per_sample.tolist() == [numbers.count(k) for k in range(max(numbers) + 1)]
    assert facts.mean_positives == pytest.approx(sum(numbers) / 57)
    assert (facts.samples, facts.images, facts.boxes) == (57, 29, None)
    assert sorted(facts.frequent.tolist(), key=lambda c: (-facts.positives[c], c)) == facts.frequent.tolist()
    for i, j in combinations(range(6), 2):
        a, b = facts.frequent[[i, j]]
        assert facts.together[i, j] == facts.together[j, i] == sum(row[a] == row[b] == 1 for row in rows)
    assert np.diag(facts.together).tolist() == facts.positives[facts.frequent].tolist()


def test_sparse_labels_are_counted_as_dense_ones() -> None:
    from mlbench.annotation.sparse import SparseLabels

    dense = count_part(make_split(LABELS))
    split = make_split(LABELS)
    object.__setattr__(split, "labels", SparseLabels.from_dense(LABELS))
    for key, value in vars(count_part(split)).items():
        assert np.array_equal(value, getattr(dense, key)), key


def test_a_split_without_any_positive_is_described() -> None:
    empty = make_split(np.zeros((3, 2)), boxes=np.zeros((0, 6), dtype=np.float32))
    dataset = Dataset("none", "1", ("a", "b"), {"train": empty, "test": empty})
    text = describe_dataset(dataset)
    assert "100.00" in text
    assert count_part(empty).per_sample.tolist() == [3]


def test_the_text_has_counts_classes_and_pairs(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))
    dataset = load_dataset(str(photos / "mine.toml"))
    text = describe_dataset(dataset)
    assert "fingerprint: known once 34 images are hashed" in text
    train = dataset.splits["train"]
    both = int(((train.labels[:, 0] == 1) & (train.labels[:, 1] == 1)).sum())
    names = dataset.classes
    assert any({names[0], names[1], str(both)} <= set(line.split()) for line in text.splitlines())
    assert dataset.fingerprint not in text
    assert f"fingerprint {dataset.fingerprint}" in describe_dataset(dataset)
    for part, split in dataset.splits.items():
        assert any(line.split()[:2] == [part, str(len(split))] for line in text.splitlines() if line)


def test_many_numbers_of_labels_are_told_without_leaving_a_sample_out() -> None:
    labels = np.tril(np.ones((20, 20)))  # 1 to 20 positives
    split = make_split(np.concatenate([labels, labels[-1:]]))
    text = describe_dataset(Dataset("many", "1", tuple(f"c{c}" for c in range(20)), {"train": split, "test": split}))
    header = next(line for line in text.splitlines() if line.startswith("positive labels"))
    assert header.split()[2:] == [*map(str, range(1, 15)), "15", "to", "20"]
    line = next(line for line in text.splitlines() if line.startswith("samples of train with that many"))
    assert line.split()[6:] == ["1"] * 14 + ["7"]
    few = make_split(labels[:15])
    header = describe_dataset(Dataset("few", "1", tuple(f"c{c}" for c in range(20)), {"train": few, "test": few}))
    assert "  14    15\n" in header


@pytest.mark.parametrize("names", [("a", "b"), ("long name " * 30, "b")])
def test_the_picture_has_the_names_of_the_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    split = make_split(np.array([[1, 1], [1, -1]]))
    pictures = []
    for which in (names, ("", "")):
        path = draw_dataset(Dataset("two", "1", which, {"train": split, "test": split}), tmp_path / "p.png")
        pictures.append(np.asarray(Image.open(path)).astype(int))
    differ = (pictures[0] != pictures[1]).any(axis=2)
    rows, columns = np.nonzero(differ)
    below, beside = rows > 420, (columns >= 810) & (columns < 900)
    assert (below | beside).all(), "names are nowhere but below the bars and beside the map"
    assert below.any()
    assert beside.any()


def test_the_picture_shows_the_training_part(tmp_path: Path, photos: Path) -> None:
    path = draw_dataset(load_dataset(str(photos / "mine.toml")), tmp_path / "shown.png")
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
    assert {(0, 0, 128), (255, 255, 255), (0, 0, 0)} <= colours


def test_the_command_prints_and_draws(mlbench: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    code, out, err = mlbench("data", "describe", photos / "mine.toml", "--picture", tmp_path / "p.png")
    assert code == 0, err
    assert "mine, version 1: 3 classes" in out
    assert (tmp_path / "p.png").is_file()


def test_equal_pictures_are_told_as_run_and_verify_tell_them(tmp_path: Path, mlbench: Callable[..., Any]) -> None:
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * (number % 5), 0, 0)).save(tmp_path / f"{number}.png")
    rows = "".join(f"{n}.png,{'train' if n < 4 else 'test'},{'cat' if n else 'dog'}\n" for n in range(6))
    (tmp_path / "labels.csv").write_text("file,split,labels\n" + rows)
    (tmp_path / "d.toml").write_text(
        'id = "d"\nlabels = "labels.csv"\nimages = "."\ncolumns = { split = "split" }\nseparator = "|"\n'
    )
    told = "pictures of equal bytes in several parts: 1, 1 of them with other labels there (train 0.png = test 5.png)"
    for command in ("describe", "verify"):
        code, out, _ = mlbench("data", command, tmp_path / "d.toml")
        assert code == 0
        assert f"note: {told}" in out
    Image.new("RGB", (8, 8), (0, 99, 0)).save(tmp_path / "1.png")  # at least one image is not hashed yet
    later = notes_of(load_dataset(str(tmp_path / "d.toml")), most=0)
    assert later[-1].startswith("equal pictures are not looked for yet: ")
