"""NUS-WIDE in its official layout, made small in a temporary folder."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlbench.datasets import load_dataset, nuswide, nuswide_files, nuswide_spml
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
    monkeypatch.setattr(nuswide_files, "N_CONCEPTS", 3)
    monkeypatch.setattr(nuswide_files, "N_TAGS", 4)
    monkeypatch.setattr(nuswide, "LISTED", {"Train": 3, "Test": 1})
    sizes = {
        "official": {"train": 2, "test": 1},
        "random150k": {"train": 2, "test": 1},
        "srn": {"train": 1, "test": 1},
        "tagged": {"train": 1, "test": 1},
    }
    monkeypatch.setattr(nuswide, "SIZES", sizes)
    monkeypatch.setattr(nuswide_spml, "SIZES", {"train": 3, "test": 1})
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
    monkeypatch.setattr(nuswide, "LISTED", {"Train": 161789, "Test": 107859})
    with pytest.raises(
        DataError, match=r"TrainImagelist\.txt: 3 images, expected 161789; ask for 'nuswide-official-pa"
    ):
        load_dataset("nuswide-official", root)
    monkeypatch.setattr(nuswide, "LISTED", {"Train": 3, "Test": 1})
    monkeypatch.setitem(nuswide.SIZES, "official", {"train": 3, "test": 1})
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


# --- the other versions -----------------------------------------------------------------------------------------------


def test_the_random_split_takes_each_labelled_image_once_and_says_whose_draw_it_is(root: Path) -> None:
    dataset = load_dataset("nuswide-random150k", root)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert dataset.id == "nuswide-random150k"
    assert (len(train), len(test)) == (2, 1)
    assert sorted((*train.ids, *test.ids)) == ["actor/0001_11.jpg", "sun/0002_22.jpg", "zoo/0009_99.jpg"]
    truth = {"sun/0002_22.jpg": [1, 1, -1], "actor/0001_11.jpg": [-1, -1, 1], "zoo/0009_99.jpg": [-1, 1, -1]}
    for split in (train, test):
        assert split.labels.tolist() == [truth[name] for name in split.ids]
    assert "split drawn by mlbench: the published one is not available" in dataset.notes
    assert dataset.fingerprint == load_dataset("nuswide-random150k", root).fingerprint
    assert dataset.fingerprint != load_dataset("nuswide-official", root).fingerprint


def test_the_draw_depends_on_names_alone_and_is_what_it_is_for_ever() -> None:
    names = tuple(f"sun/{number:04d}_{number}.jpg" for number in range(1000))
    labels = np.arange(1000, dtype=np.int16)[:, None]
    sizes = {"train": 700, "val": 200, "test": 100}
    drawn = nuswide.draw_splits(nuswide_files.Pool(names, labels), sizes, "nuswide-tagged")
    assert {split: len(pool.names) for split, pool in drawn.items()} == sizes
    assert sorted(name for pool in drawn.values() for name in pool.names) == list(names)
    for pool in drawn.values():
        assert list(pool.names) == sorted(pool.names)  # in the order of the pool
        assert [names[row] for row in pool.labels[:, 0]] == list(pool.names)
    order = np.random.default_rng(0).permutation(1000)
    shuffled = nuswide.draw_splits(
        nuswide_files.Pool(tuple(names[row] for row in order), labels[order]), sizes, "nuswide-tagged"
    )
    assert {split: set(pool.names) for split, pool in shuffled.items()} == {s: set(p.names) for s, p in drawn.items()}
    text = "\n".join(drawn["test"].names).encode()
    assert hashlib.sha256(text).hexdigest()[:16] == "d87da3c7c3a1b867"
    fewer = nuswide.draw_splits(nuswide_files.Pool(names[:500], labels[:500]), sizes, "nuswide-tagged")
    assert {split: len(pool.names) for split, pool in fewer.items()} == {"train": 350, "val": 100, "test": 50}


def test_srn_takes_the_images_of_the_users_lists_in_their_order(root: Path) -> None:
    with pytest.raises(DataError, match=r"srn/train\.txt: no such file; SRN's lists do not come with NUS-WIDE"):
        load_dataset("nuswide-srn", root)
    (root / "srn").mkdir()
    (root / "srn" / "train.txt").write_text("sun\\0003_33.jpg\r\nactor/0001_11.jpg\r\n")
    (root / "srn" / "test.txt").write_text("zoo/0009_99.jpg\n")
    with pytest.raises(DataError, match="expected 1 images of 'train', found 2 listed"):
        load_dataset("nuswide-srn", root)
    nuswide.SIZES["srn"]["train"] = 2
    dataset = load_dataset("nuswide-srn", root)
    assert dataset.splits["train"].ids == ("sun/0003_33.jpg", "actor/0001_11.jpg")
    assert dataset.splits["train"].labels.tolist() == [[-1, -1, -1], [-1, -1, 1]]
    assert dataset.splits["test"].ids == ("zoo/0009_99.jpg",)
    assert dataset.notes == ("1 train images without a label kept",)


@pytest.mark.parametrize(
    ("test_list", "message"),
    [
        ("zoo/0009_98.jpg\n", r"srn/test\.txt, line 1: 'zoo/0009_98\.jpg' is in no official image list"),
        ("zoo/0009_99.jpg\nactor/0001_11.jpg\n", r"test\.txt, line 2: 'actor/0001_11\.jpg' is in train\.txt, too"),
        ("zoo/0009_99.jpg\nzoo/0009_99.jpg\n", r"test\.txt, line 2: 'zoo/0009_99\.jpg' is listed twice"),
    ],
)
def test_broken_lists_of_srn_are_named(root: Path, test_list: str, message: str) -> None:
    (root / "srn").mkdir()
    (root / "srn" / "train.txt").write_text("actor/0001_11.jpg\n")
    (root / "srn" / "test.txt").write_text(test_list)
    with pytest.raises(DataError, match=message):
        load_dataset("nuswide-srn", root)


TAGS = {"Train_Tags1k.dat": "0\t1\t0\t0\t\n0\t0\t0\t0\t\n1\t1\t0\t0\t\n", "Test_Tags1k.dat": "0\t0\t0\t1\t\n"}
ALL_TAGS = b"99 animal z\xfcrich \n22     clouds\n11 \n33 sun\n"


def test_tagged_images_are_those_with_a_label_and_a_tag(root: Path) -> None:
    with pytest.raises(DataError, match=r"no Train_Tags1k\.dat with Test_Tags1k\.dat, nor All_Tags\.txt"):
        load_dataset("nuswide-tagged", root)
    for name, text in TAGS.items():
        (root / name).write_text(text)
    dataset = load_dataset("nuswide-tagged-partial", root)
    kept = [name for split in dataset.splits.values() for name in split.ids]
    assert sorted(kept) == ["sun/0002_22.jpg", "zoo/0009_99.jpg"]  # of the others one has no tag, one no label
    assert "images without tags, by Train_Tags1k.dat and Test_Tags1k.dat, left out: 1" in dataset.notes


def test_images_have_the_tags_of_their_users_whatever_part_they_are_drawn_into(root: Path) -> None:
    assert load_dataset("nuswide-official", root).splits["train"].tags is None
    before = load_dataset("nuswide-random150k", root).fingerprint
    for name, text in TAGS.items():
        (root / name).write_text(text)
    wanted = {"sun/0002_22.jpg": [0, 1, 0, 0], "actor/0001_11.jpg": [0, 0, 0, 0], "zoo/0009_99.jpg": [0, 0, 0, 1]}
    for version in ("official", "random150k", "tagged-partial"):
        dataset = load_dataset(f"nuswide-{version}", root)
        for split in dataset.splits.values():
            assert split.tags is not None
            assert split.tags.load().tolist() == [wanted[name] for name in split.ids]
            assert split.take([0]).tags.load().tolist() == [wanted[split.ids[0]]]
    assert load_dataset("nuswide-random150k", root).fingerprint == before


def test_tags_that_nobody_asks_for_are_not_read(root: Path) -> None:
    for name in TAGS:
        (root / name).write_text("not tags")
    tags = load_dataset("nuswide-official", root).splits["train"].tags
    assert tags is not None
    with pytest.raises(DataError, match=r"Train_Tags1k\.dat, line 1: 2 fields, expected 4"):
        tags.load()


def test_of_two_readings_of_tagged_the_one_with_the_published_number_is_taken(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in TAGS.items():
        (root / name).write_text(text.replace("1", "0"))
    (root / "NUS_WID_Tags").mkdir()
    (root / "NUS_WID_Tags" / "All_Tags.txt").write_bytes(ALL_TAGS)
    dataset = load_dataset("nuswide-tagged", root)
    assert sorted(n for s in dataset.splits.values() for n in s.ids) == ["sun/0002_22.jpg", "zoo/0009_99.jpg"]
    monkeypatch.setitem(nuswide.SIZES, "tagged", {"train": 2, "test": 1})
    with pytest.raises(DataError, match=r"expected 3 images with a label and tags, found 0 by Train_T.*; 2 by All_T"):
        load_dataset("nuswide-tagged", root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Train_Tags1k.dat", "0 1 0 0\n0 0 0\n1 1 0 0\n", r"Train_Tags1k\.dat, line 2: 3 fields, expected 4"),
        ("Train_Tags1k.dat", "0 1 0 2\n0 0 0 0\n1 1 0 0\n", r"Train_Tags1k\.dat, line 1: 4 fields, .*each 0 or 1"),
        ("Test_Tags1k.dat", "0 0 0 1\n0 0 0 1\n", r"Test_Tags1k\.dat: 2 lines, but TestImagelist\.txt lists 1"),
        ("All_Tags.txt", "99 a\n22 b\n11 c\n", r"All_Tags\.txt: 1 images of the image lists have no line: sun/0003_33"),
    ],
)
def test_a_broken_tag_file_is_named(root: Path, name: str, text: str, message: str) -> None:
    for tags, content in TAGS.items():
        (root / tags).write_text(content)
    (root / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset("nuswide-tagged", root)


@pytest.fixture
def arrays(root: Path) -> Callable[..., None]:
    """Write the arrays of the single-positive papers' version; keyword arguments replace one of them."""

    def write(**others: np.ndarray) -> None:
        found = {
            "train_images": np.array(["sun/0003_33.jpg", "sun/0002_22.jpg", "actor/0001_11.jpg"]),
            "train_labels": np.array([[0, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=np.float32),
            "val_images": np.array(["zoo/0009_99.jpg"]),
            "val_labels": np.array([[0, 1, 0]], dtype=np.int64),
        }
        for name, array in {**found, **others}.items():
            np.save(root / f"formatted_{name}.npy", array, allow_pickle=True)

    return write


def test_the_single_positive_papers_arrays_come_out_row_by_row(root: Path, arrays: Callable[..., None]) -> None:
    arrays()
    dataset = load_dataset("nuswide-spml", root.parent)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (dataset.id, dataset.classes) == ("nuswide-spml", CONCEPTS)
    assert train.ids == ("sun/0003_33.jpg", "sun/0002_22.jpg", "actor/0001_11.jpg")
    assert train.labels.tolist() == [[-1, -1, -1], [1, 1, -1], [-1, -1, 1]]
    assert (test.ids, test.labels.tolist()) == (("zoo/0009_99.jpg",), [[-1, 1, -1]])
    assert train.images.load(0).shape == (6, 8, 3)
    assert "1 of 3 train images without a positive label kept" in dataset.notes
    for folder in list((root / "Flickr").iterdir()):
        folder.rename(root / folder.name)
    assert load_dataset("nuswide-spml", root).splits["train"].ids == train.ids
    (root / "sun" / "0003_33.jpg").unlink()
    with pytest.raises(DataError, match=r"ask for 'nuswide-spml-partial'"):
        load_dataset("nuswide-spml", root)
    assert len(load_dataset("nuswide-spml-partial", root).splits["train"]) == 2


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "train_labels",
            np.array([[0, 0], [1, 1], [0, 0]]),
            r"train_labels\.npy: expected numbers \[3, 3\], found int",
        ),
        ("train_labels", np.array([[0, 0, 0], [1, -1, 0], [0, 0, 1]]), r"1 entries are neither 0 nor 1 .*: 1, 1\)"),
        ("train_labels", np.full((3, 3), np.nan), "9 entries are neither 0 nor 1"),
        ("val_images", np.array(["zoo/0009_99.jpg"], dtype=object), r"val_images\.npy: not a plain NumPy array"),
        ("val_images", np.array([7]), r"val_images\.npy: expected text \[N\], found int64 \[1\]"),
        ("val_images", np.array(["../secret.jpg"]), r"val_images\.npy, row 0: '\.\./secret\.jpg' is no file name"),
        ("train_images", np.array(["a.jpg", "a.jpg", "b.jpg"]), r"row 1: 'a\.jpg' stands there twice"),
    ],
)
def test_broken_arrays_are_named(
    root: Path, arrays: Callable[..., None], name: str, array: np.ndarray, message: str
) -> None:
    arrays(**{name: array})
    with pytest.raises(DataError, match=message):
        load_dataset("nuswide-spml", root)


def test_missing_or_cut_arrays_are_named(root: Path, arrays: Callable[..., None]) -> None:
    arrays()
    path = root / "formatted_val_labels.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"formatted_val_labels\.npy: not a plain NumPy array"):
        load_dataset("nuswide-spml", root)
    path.unlink()
    with pytest.raises(DataError, match=r"formatted_val_labels\.npy: no such file"):
        load_dataset("nuswide-spml", root)


def test_sizes_of_the_versions_are_those_of_the_facts_and_add_up() -> None:
    sizes = nuswide.SIZES
    assert sum(sizes["official"].values()) == sum(sizes["random150k"].values()) == 209347
    assert (sizes["random150k"]["train"], sizes["random150k"]["test"]) == (150000, 59347)
    assert sizes["srn"] == {"train": 119986, "test": 80283}
    assert sum(sizes["tagged"].values()) == 190253
    assert nuswide_spml.SIZES == {"train": 150000, "test": 60260}
    assert sum(nuswide.LISTED.values()) == 269648


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The real labels in the official layout, without images, and as bool [269648, 81].

    Which rows are Train is not in the file at hand, nor are image names: any cut of the official sizes keeps the sums.
    """
    folder = Path(os.environ.get("MLBENCH_DATA", "")) / "annotations"
    if "MLBENCH_DATA" not in os.environ or not (folder / "nuswide_81_label_rows.txt.gz").is_file():
        pytest.skip("MLBENCH_DATA is not set, or holds no annotations/nuswide_81_label_rows.txt.gz")
    root = tmp_path_factory.mktemp("nuswide")
    (root / "Concepts81.txt").write_bytes((folder / "nuswide_81_concepts.txt").read_bytes())
    classes = nuswide_files.read_concepts(root)
    with gzip.open(folder / "nuswide_81_label_rows.txt.gz", "rt") as file:
        rows = [[int(c) for c in line.split()] for line in file.read().split("\n")[:-1]]
    present = np.zeros((len(rows), 81), dtype=bool)
    for row, columns in enumerate(rows):
        present[row, columns] = True
    for name in ("Groundtruth/TrainTestLabels", "ImageList"):
        (root / name).mkdir(parents=True)
    first = 0
    for part, count in nuswide.LISTED.items():
        piece = present[first : first + count]
        names = "".join(f"a\\{row:06d}_{row}.jpg\n" for row in range(first, first + len(piece)))
        (root / "ImageList" / f"{part}Imagelist.txt").write_text(names)
        for column, concept in enumerate(classes):
            lines = np.full((len(piece), 2), ord("\n"), dtype=np.uint8)
            lines[:, 0] = piece[:, column] + ord("0")
            (root / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_{part}.txt").write_bytes(lines.tobytes())
        first += count
    return root, present


@pytest.mark.data
def test_the_real_labels_keep_their_counts_and_their_random_split_has_the_published_ones(
    real: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project page of MLIC-KD-WSD shows 53, 39, 37 and 25 thousand training images of the four classes."""
    root, present = real
    # There are no images here: take every one as there, and open none.
    monkeypatch.setattr(nuswide, "rows_present", lambda folder, files, *others: np.arange(len(files)))
    monkeypatch.setattr(nuswide, "FileImages", lambda folder, files: files)
    dataset = load_dataset("nuswide-random150k", root)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (len(train), len(test)) == (150000, 59347)
    rows = np.array([int(name[2:8]) for name in (*train.ids, *test.ids)])
    assert sorted(rows) == np.flatnonzero(present.any(axis=1)).tolist()
    found = np.concatenate([train.labels, test.labels]) == 1
    assert (found == present[rows]).all()
    sums = dict(zip(dataset.classes, found.sum(axis=0).tolist(), strict=True))
    print(f"nuswide: {len(present)} images, {len(rows)} with a label; {sums}")
    expected = {"sky": 74190, "clouds": 54087, "person": 51577, "water": 35264}
    assert {name: sums[name] for name in expected} == expected
    thousands = {name: round((train.labels[:, dataset.classes.index(name)] == 1).sum() / 1000) for name in expected}
    assert thousands == {"sky": 53, "clouds": 39, "person": 37, "water": 25}


def test_an_image_in_both_lists_is_refused(root: Path) -> None:
    write_part(root, "Test", {"sun/0002_22.jpg": ("clouds",)})
    with pytest.raises(DataError, match=r"TrainImagelist\.txt and .*TestImagelist\.txt both list 1 .*sun/0002_22\.jpg"):
        load_dataset("nuswide-official", root)
