"""OpenImages in its official layouts, made small in a temporary folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlbench.annotation import State
from mlbench.annotation.sparse import SparseLabels
from mlbench.datasets import load_dataset, openimages
from mlbench.datasets.openimages import FoundLabels, parse_ids, read_classes, read_labels
from mlbench.errors import DataError

TRAINABLE = ("/m/0b", "/m/0a", "/m/0c")
DESCRIPTIONS = {"/m/0a": "Apple", "/m/0b": "Kite", "/m/0c": "Kite", "/m/0z": "Zebra, plains"}
A, B, C, D = "00000000000000aa", "0000000000000bbb", "fedcba9876543210", "00000000000000dd"
#: Lines of each part: image, class, confidence.
LINES = {
    "train": [(C, "/m/0a", 1), (A, "/m/0b", 0), (C, "/m/0b", 1), (A, "/m/0z", 1), (D, "/m/0z", 1), (A, "/m/0c", 1)],
    "validation": [(B, "/m/0c", 1), (B, "/m/0a", 0)],
    "test": [(D, "/m/0a", 1)],
}
HEADER = "ImageID,Source,LabelName,Confidence\n"


def as_csv(lines: list[tuple[str, str, int]]) -> str:
    return HEADER + "".join(f"{image},verification,{mid},{sign}\n" for image, mid, sign in lines)


def write(folder: Path, pattern: str) -> None:
    (folder / "classes-trainable.txt").write_text("".join(f"{mid}\r\n" for mid in TRAINABLE))
    quoted = "".join(f'{mid},"{name}"\n' if "," in name else f"{mid},{name}\n" for mid, name in DESCRIPTIONS.items())
    (folder / "class-descriptions.csv").write_text(quoted)
    for part, lines in LINES.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / pattern.format(part=part)).write_text(as_csv(lines))
        for image in {image for image, mid, _ in lines if mid in TRAINABLE}:
            Image.new("RGB", (8, 6)).save(folder / part / f"{image}.jpg")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of V3 with 3 trainable classes, which counts as the full one."""
    monkeypatch.setattr(openimages, "N_CLASSES", 3)
    counts = {"train": ("train", 5, 1), "val": ("validation", 1, 1), "test": ("test", 1, 0)}
    monkeypatch.setattr(openimages, "PARTS", counts)
    folder = tmp_path / "2017_11"
    folder.mkdir()
    write(folder, "{part}/annotations-human.csv")
    return folder


def test_labels_and_rows_come_out_as_written(root: Path) -> None:
    dataset = load_dataset("openimages-v3", root)
    train, val, test = (dataset.splits[name] for name in ("train", "val", "test"))
    assert dataset.id == "openimages-v3"
    assert dataset.classes == ("/m/0b Kite", "/m/0a Apple", "/m/0c Kite")
    assert list(train.ids) == [A, C]  # sorted, whatever the order in the file
    assert isinstance(train.labels, SparseLabels)
    assert train.labels[:].tolist() == [[-1, 0, 1], [1, 1, 0]]
    assert (list(val.ids), val.labels[:].tolist()) == ([B], [[0, -1, 1]])
    assert (list(test.ids), test.labels[:].tolist()) == ([D], [[0, 1, 0]])
    assert train.images.describe(1).startswith(f"train/{C}.jpg ")
    assert train.images.load(0).shape == (6, 8, 3)
    assert dataset.notes == (
        "train: 2 labels of classes that are not trainable left out: /m/0z",
        f"train: 1 images without a label in the trainable classes left out: {D}",
    )
    assert load_dataset("openimages-v3", root.parent).fingerprint == dataset.fingerprint


def test_images_may_lie_beside_the_folder_of_the_labels(root: Path) -> None:
    for part in LINES:
        (root.parent / part).mkdir()
        for image in (root / part).glob("*.jpg"):
            image.rename(root.parent / part / image.name)
    assert len(load_dataset("openimages-v3", root.parent).splits["train"]) == 2


def test_the_later_files_are_another_data_set(root: Path, tmp_path: Path) -> None:
    later = tmp_path / "v4"
    later.mkdir()
    write(later, "{part}-annotations-human-imagelabels.csv")
    dataset = load_dataset("openimages-v4", later)
    assert dataset.id == "openimages-v4"
    assert dataset.splits["train"].labels[:].tolist() == [[-1, 0, 1], [1, 1, 0]]
    with pytest.raises(DataError, match=r"but train-annotations-human-imagelabels\.csv: ask for 'openimages-v4'"):
        load_dataset("openimages-v3", later)


def test_windows_line_ends_bom_columns_order_and_blank_lines_change_nothing(root: Path) -> None:
    expected = load_dataset("openimages-v3", root).fingerprint
    for part, lines in LINES.items():
        text = "Confidence,ImageID,More,LabelName,Source\r\n"
        text += "".join(f"{sign}.0,{image},x,{mid},verification\r\n" for image, mid, sign in lines) + "\r\n"
        (root / part / "annotations-human.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_dataset("openimages-v3", root).fingerprint == expected


def test_a_partial_copy_must_be_asked_for_and_has_another_name(root: Path) -> None:
    (root / "train" / f"{A}.jpg").unlink()
    with pytest.raises(DataError, match=rf"missing: train/{A}\.jpg.*'openimages-v3-partial'"):
        load_dataset("openimages-v3", root)
    dataset = load_dataset("openimages-v3-partial", root)
    assert (dataset.id, list(dataset.splits["train"].ids)) == ("openimages-v3-partial", [C])
    assert dataset.splits["train"].labels[:].tolist() == [[1, 1, 0]]
    assert "partial copy: 1 of 2 images of the official train part" in dataset.notes


def test_another_number_of_labels_is_no_full_copy(root: Path) -> None:
    path = root / "train" / "annotations-human.csv"
    path.write_text(as_csv(LINES["train"][1:]))
    with pytest.raises(DataError, match="4 positive and 1 negative labels, expected 5 and 1; ask for 'openimages-v3-p"):
        load_dataset("openimages-v3", root)
    (root / "train" / f"{C}.jpg").unlink()
    assert list(load_dataset("openimages-v3-partial", root).splits["train"].ids) == [A]


# --- one label file ---------------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str | bytes) -> FoundLabels:
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(path, TRAINABLE, {"/m/0z"})


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_pieces_of_any_size_give_what_a_plain_reading_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(openimages, "_LINES_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    lines, expected, left_out = [], {}, 0
    for _ in range(120):
        image, mid = f"{random.integers(0, 2**63) if random.random() < 0.5 else random.integers(0, 9):016x}", "/m/0z"
        if random.random() < 0.8:
            mid = str(random.choice(TRAINABLE))
        sign = int(random.integers(0, 2))
        lines.append((image, mid, sign))
        left_out += mid == "/m/0z"
        if mid in TRAINABLE:
            expected.setdefault(image, {}).setdefault(TRAINABLE.index(mid), set()).add(sign)
    known = {i: {c: s for c, s in row.items() if len(s) == 1} for i, row in expected.items()}
    names = sorted(image for image, row in known.items() if row)
    found = read(tmp_path, as_csv(lines))
    assert [f"{number:016x}" for number in found.images.tolist()] == names
    matrix = [[{0: -1, 1: 1}[min(known[i][c])] if c in known[i] else 0 for c in range(3)] for i in names]
    assert found.labels[:].tolist() == matrix
    assert (found.positives, found.negatives) == (sum(s for *_, s in lines), sum(1 - s for *_, s in lines))
    assert f"{left_out} labels of classes that are not trainable left out: /m/0z" in found.notes


def test_repeated_and_contradicting_labels_are_counted(tmp_path: Path) -> None:
    lines = [(A, "/m/0a", 1), (A, "/m/0b", 0), (A, "/m/0a", 1), (A, "/m/0b", 1), (B, "/m/0c", 0), (B, "/m/0c", 1)]
    found = read(tmp_path, as_csv(lines))
    assert found.labels[:].tolist() == [[0, 1, 0]]
    assert found.notes == [
        "1 repeated labels counted once",
        f"2 (image, class) pairs verified as present and as absent, taken as unknown: {A}, {B}",
        f"1 images without a label in the trainable classes left out: {B}",
    ]


def test_machine_labels_and_strange_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    text = (
        as_csv([(A, "/m/0a", 1), (A, "/m/unheard", 1)]) + f"{A},machine,/m/0b,1\n{A},crowdsource-verification,/m/0c,0\n"
    )
    found = read(tmp_path, text)
    assert found.labels[:].tolist() == [[0, 1, -1]]
    assert found.notes == [
        "1 labels of classes that class-descriptions.csv does not list left out: /m/unheard",
        "1 labels whose source is not a verification by a person left out: machine",
    ]
    assert (found.positives, found.negatives) == (2, 1)


@pytest.mark.parametrize("at_once", [1, 1000])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00000000000000AA,verification,/m/0a,1", "line 4: '00000000000000AA, verification, /m/0a, 1'"),
        ("00000000000000a,verification,/m/0a,1", "line 4: .*expected an image id of 16 hex digits"),
        ("00000000000000aaa,verification,/m/0a,1", "line 4"),
        ("0000000000000gaa,verification,/m/0a,1", "line 4"),
        (f"{A},verification,/m/0a,2", "line 4: .*and 0 or 1"),
        (f"{A},verification,/m/0a,0.5", "line 4"),
        (f"{A},verification,/m/0a,", "line 4"),
        (f"{A},verification,/m/0a", "line 4"),
        (f",verification,/m/0a,1", "line 4"),  # noqa: F541
        (f"{A},verification,/m/0a,1,more", "malformed|more fields"),
    ],
)
def test_a_malformed_line_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, line: str, message: str
) -> None:
    monkeypatch.setattr(openimages, "_LINES_AT_ONCE", at_once)
    text = as_csv([(A, "/m/0a", 1), (B, "/m/0a", 1)]) + line + "\n"
    with pytest.raises(DataError, match=rf"labels\.csv.*({message})"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'ImageID'"),
        (HEADER, "no labels, only a header"),
        ("ImageID,Source,Label,Confidence\n", "no column 'LabelName'. Did you mean 'Label'"),
        ("ImageID,Source,LabelName,Confidence,Source\n", "more than one column 'Source'"),
        (HEADER.encode() + f"{A},verification,/m/\xff,1\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_file_that_is_no_label_file_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"labels\.csv: {message}"):
        read(tmp_path, text)
    with pytest.raises(DataError, match="not readable"):
        read_labels(tmp_path / "none.csv", TRAINABLE, set())


def test_image_ids_are_read_as_numbers() -> None:
    names = [
        b"0123456789abcdef",
        b"ffffffffffffffff",
        b"0" * 16,
        b"0123456789abcde",
        b"0123456789abcdef0",
        b"x" * 16,
        b"",
    ]
    numbers, whole = parse_ids(np.array(names, dtype="S17"))
    assert whole.tolist() == [True, True, True, False, False, False, False]
    assert numbers[:3].tolist() == [0x0123456789ABCDEF, 2**64 - 1, 0]


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes-trainable.txt", "/m/0a\n/m/0b\n", "2 lines with 2 classes, expected 3"),
        ("classes-trainable.txt", "/m/0a\n/m/0b\n/m/0a\n", "3 lines with 2 classes, expected 3"),
        ("class-descriptions.csv", "/m/0a,A\n/m/0b,B\n/m/0d,D\n", "does not describe the trainable class '/m/0c'"),
        ("class-descriptions.csv", "/m/0a,A\n/m/0a,B\n", "line 2: class '/m/0a' stands twice"),
        ("class-descriptions.csv", "/m/0a\n", "line 1"),
    ],
)
def test_broken_class_lists_are_named(root: Path, name: str, text: str, message: str) -> None:
    (root / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        load_dataset("openimages-v3", root)
    (root / name).unlink()
    with pytest.raises(DataError, match=name):
        load_dataset("openimages-v3", root)


@pytest.mark.data
def test_the_real_class_lists_have_5000_trainable_classes(tmp_path: Path) -> None:
    folder = Path(os.environ.get("MLBENCH_DATA", "")) / "annotations" / "openimages"
    if "MLBENCH_DATA" not in os.environ or not (folder / "classes-trainable.txt").is_file():
        pytest.skip("MLBENCH_DATA is not set, or holds no annotations/openimages")
    classes, others = read_classes(folder)
    print(f"{len(classes)} trainable classes, {len(others)} others, {len(set(classes.values()))} descriptions")
    assert (len(classes), len(others)) == (5000, 14995)
    assert len(set(classes.values())) == 4946  # some descriptions are of several classes: names need the MID
    path = tmp_path / "labels.csv"
    path.write_text(as_csv([(A, list(classes)[4999], 1), (A, next(iter(classes)), 0), (B, min(others), 1)]))
    found = read_labels(path, list(classes), others)
    assert found.labels.shape == (1, 5000)
    assert found.labels.count(State.POSITIVE)[4999] == found.labels.count(State.NEGATIVE)[0] == 1


def test_an_image_in_two_parts_is_refused(root: Path) -> None:
    (root / "test" / "annotations-human.csv").write_text(as_csv([(C, "/m/0a", 1)]))
    Image.new("RGB", (8, 6)).save(root / "test" / f"{C}.jpg")
    with pytest.raises(DataError, match=f"train/.* and .*test/.* both list 1 of the samples: {C}"):
        load_dataset("openimages-v3", root)
