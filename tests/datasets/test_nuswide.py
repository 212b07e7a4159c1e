"""NUS-WIDE in its official layout, made small in a temporary folder."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlbench.datasets import load_dataset, nuswide
from mlbench.errors import DataError

CONCEPTS = ("sky", "clouds", "person")
#: Image name: positive concepts.
TRAIN = {"sun/0002_22.jpg": ("sky", "clouds"), "actor/0001_11.jpg": ("person",), "sun/0003_33.jpg": ()}
TEST = {"zoo/0009_99.jpg": ("clouds",)}


def write_part(root: Path, part: str, images: dict[str, tuple[str, ...]]) -> None:
    for folder in ("ImageList", "Groundtruth/TrainTestLabels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    listed = "".join(name.replace("/", "\\") + "\n" for name in images)
    (root / "ImageList" / f"{part}Imagelist.txt").write_text(listed)
    for concept in CONCEPTS:
        lines = "".join(f"{int(concept in present)}\n" for present in images.values())
        (root / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_{part}.txt").write_text(lines)
    for name in images:
        (root / "Flickr" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / "Flickr" / name)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy with 3 concepts, which counts as the full one."""
    monkeypatch.setattr(nuswide, "N_CONCEPTS", 3)
    monkeypatch.setattr(nuswide, "PARTS", {"train": ("Train", 3, 2), "test": ("Test", 1, 1)})
    folder = tmp_path / "NUS-WIDE"
    write_part(folder, "Train", TRAIN)
    write_part(folder, "Test", TEST)
    (folder / "Concepts81.txt").write_text("".join(f"{name}\n" for name in CONCEPTS))
    return folder


def test_labels_and_rows_come_out_as_written(root: Path) -> None:
    dataset = load_dataset("nuswide-official", root)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (dataset.id, dataset.classes) == ("nuswide-official", CONCEPTS)
    assert train.ids == ("sun/0002_22.jpg", "actor/0001_11.jpg")
    assert train.labels.tolist() == [[1, 1, -1], [-1, -1, 1]]
    assert test.labels.tolist() == [[-1, 1, -1]]
    assert train.boxes is None
    assert train.images.describe(0).startswith("Flickr/sun/0002_22.jpg ")
    assert train.images.load(1).shape == (6, 8, 3)
    assert dataset.notes == ("1 Train images without a label left out: sun/0003_33.jpg",)
    (root / "ConceptsList").mkdir()
    (root / "Concepts81.txt").rename(root / "ConceptsList" / "Concepts81.txt")
    assert load_dataset("nuswide-official", root.parent).fingerprint == dataset.fingerprint


def test_windows_line_ends_and_trailing_blanks_change_nothing(root: Path) -> None:
    expected = load_dataset("nuswide-official", root).fingerprint
    for path in root.rglob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b" \r\n") + b"\r\n")
    assert load_dataset("nuswide-official", root).fingerprint == expected


def test_a_partial_copy_must_be_asked_for_and_has_another_name(root: Path) -> None:
    (root / "Flickr" / "actor" / "0001_11.jpg").unlink()
    message = r"found 2 listed and 1 of them there \(missing: Flickr/actor/0001_11.jpg\).*'nuswide-official-partial'"
    with pytest.raises(DataError, match=message):
        load_dataset("nuswide-official", root)
    dataset = load_dataset("nuswide-official-partial", root)
    assert (dataset.id, dataset.splits["train"].ids) == ("nuswide-official-partial", ("sun/0002_22.jpg",))
    assert dataset.splits["train"].labels.tolist() == [[1, 1, -1]]
    assert "partial copy: 1 of 2 images of the official Train part" in dataset.notes


def test_lists_of_another_length_are_no_full_copy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nuswide, "PARTS", {"train": ("Train", 161789, 125449), "test": ("Test", 107859, 83898)})
    with pytest.raises(
        DataError, match=r"TrainImagelist\.txt: 3 images, expected 161789; ask for 'nuswide-official-pa"
    ):
        load_dataset("nuswide-official", root)
    monkeypatch.setattr(nuswide, "PARTS", {"train": ("Train", 3, 3), "test": ("Test", 1, 1)})
    with pytest.raises(DataError, match="expected 3 images of 'Train', found 2 listed"):
        load_dataset("nuswide-official", root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n0\n", r"Labels_sky_Train\.txt, line 2: '2', expected 0 or 1"),
        ("1\n-1\n0\n", r"line 2: '-1', expected 0 or 1"),
        ("1\n\n0\n", r"line 2: '', expected 0 or 1"),
        ("1\n0 0\n0\n", r"line 2: '0 0', expected 0 or 1"),
        ("1\n0\n", r"Labels_sky_Train\.txt: 2 lines, but TrainImagelist\.txt lists 3 images"),
        ("1\n0\n0\n0\n", r"Labels_sky_Train\.txt: 4 lines"),
        ("", r"Labels_sky_Train\.txt: empty"),
    ],
)
def test_a_broken_label_file_is_named(root: Path, text: str, message: str) -> None:
    (root / "Groundtruth" / "TrainTestLabels" / "Labels_sky_Train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset("nuswide-official", root)


def test_label_files_that_are_not_the_concepts_are_refused(root: Path) -> None:
    labels = root / "Groundtruth" / "TrainTestLabels"
    (labels / "Labels_unicorn_Test.txt").write_text("0\n")
    with pytest.raises(DataError, match=r"concepts not in Concepts81\.txt: unicorn"):
        load_dataset("nuswide-official", root)
    (labels / "Labels_unicorn_Test.txt").unlink()
    (labels / "Labels_clouds_Test.txt").rename(labels / "Labels_cloud_Test.txt")
    with pytest.raises(DataError, match=r"Labels_clouds_Test\.txt: no such file. Did you mean 'cloud'"):
        load_dataset("nuswide-official", root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Concepts81.txt", "sky\nclouds\n", "2 lines with 2 concepts, expected 3"),
        ("Concepts81.txt", "sky\nclouds\nsky\n", "3 lines with 2 concepts, expected 3"),
        ("ImageList/TrainImagelist.txt", "a\\1.jpg\na/1.jpg\nb\\2.jpg\n", "line 2: 'a/1.jpg' is listed twice"),
        ("ImageList/TrainImagelist.txt", "a\\1.jpg\n\nb\\2.jpg\n", "line 2: empty"),
        ("ImageList/TestImagelist.txt", "", "empty"),
    ],
)
def test_a_broken_list_is_named(root: Path, name: str, text: str, message: str) -> None:
    (root / name).write_text(text)
    with pytest.raises(DataError, match=rf"{Path(name).name}.*{message}"):
        load_dataset("nuswide-official", root)


@pytest.mark.parametrize("name", ["Concepts81.txt", "ImageList/TrainImagelist.txt", "ImageList/TestImagelist.txt"])
def test_a_missing_list_is_named(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(DataError, match=Path(name).name):
        load_dataset("nuswide-official", root)


@pytest.mark.data
def test_the_real_labels_in_the_official_layout_keep_their_counts(tmp_path: Path) -> None:
    folder = Path(os.environ.get("MLBENCH_DATA", "")) / "annotations"
    if "MLBENCH_DATA" not in os.environ or not (folder / "nuswide_81_label_rows.txt.gz").is_file():
        pytest.skip("MLBENCH_DATA is not set, or holds no annotations/nuswide_81_label_rows.txt.gz")
    (tmp_path / "Concepts81.txt").write_bytes((folder / "nuswide_81_concepts.txt").read_bytes())
    classes = nuswide.read_concepts(tmp_path)
    with gzip.open(folder / "nuswide_81_label_rows.txt.gz", "rt") as file:
        rows = [[int(c) for c in line.split()] for line in file.read().split("\n")[:-1]]
    present = np.zeros((len(rows), 81), dtype=np.uint8)
    for row, columns in enumerate(rows):
        present[row, columns] = 1
    # Which rows are Train is not in that file: any cut of the official sizes keeps the sums.
    cut = nuswide.PARTS["train"][1]
    (tmp_path / "Groundtruth" / "TrainTestLabels").mkdir(parents=True)
    found = []
    for part, piece in (("Train", present[:cut]), ("Test", present[cut:])):
        for column, concept in enumerate(classes):
            lines = np.full((len(piece), 2), ord("\n"), dtype=np.uint8)
            lines[:, 0] = piece[:, column] + ord("0")
            (tmp_path / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_{part}.txt").write_bytes(lines.tobytes())
        found.append(nuswide.read_labels(tmp_path, classes, part, len(piece)) == 1)
    assert [len(labels) for labels in found] == [listed for _, listed, _ in nuswide.PARTS.values()]
    together = np.concatenate(found)
    sums = dict(zip(classes, together.sum(axis=0).tolist(), strict=True))
    assert {name: sums[name] for name in ("sky", "clouds", "person", "water")} == {
        "sky": 74190,
        "clouds": 54087,
        "person": 51577,
        "water": 35264,
    }
    labelled = int(together.any(axis=1).sum())
    assert labelled == 209347 == sum(count for _, _, count in nuswide.PARTS.values())
