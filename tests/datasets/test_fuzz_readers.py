"""Every reader of label files against spoilt ones: a data set or an error for people, never anything else.

``MLBENCH_FUZZ_EXAMPLES`` sets how many spoilt copies of each file are tried (40 in the suite, thousands by hand).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import test_coco
import test_nuswide
import test_openimages
import test_voc
import test_wider
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlbench.annotation import State, draw_mask, load_mask, save_mask
from mlbench.datasets import (
    coco,
    cub,
    load_dataset,
    nuswide,
    nuswide_files,
    nuswide_spml,
    openimages,
    voc,
    wider,
)
from mlbench.datasets.adopt import adopt
from mlbench.errors import MlbenchError, UsageError
from mlbench.masks.files import import_mask
from mlbench.proposals.readers import read_boxes, read_kdwsd_list, read_mat
from mlbench.protocol import load_protocol
from mlbench.sweep.grid import load_grid

EXAMPLES = int(os.environ.get("MLBENCH_FUZZ_EXAMPLES", "40"))
LIMITS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="MLBENCH_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

MINE = """id = "mine"
labels = "labels.csv"
images = "photos"
classes = "names.txt"
columns = { split = "split" }
separator = "|"
boxes = { file = "boxes.csv" }
"""
FILES = {
    "mine.toml": MINE,
    "lines.toml": 'id = "lines"\nlabels = "labels.jsonl"\nimages = "photos"\ncolumns = { split = "split" }\n',
    "columns.toml": (
        'id = "columns"\nlabels = "columns.csv"\nimages = "photos"\ncolumns = { split = "split" }\n'
        'label_style = "columns"\nvalues = { "1" = "positive", "0" = "negative", "?" = "unspecified" }\n'
    ),
    "labels.csv": "file,split,labels\na.png,train,cat|dog\nb.png,train,cat\nc.png,test,dog\n",
    "labels.jsonl": "".join(
        json.dumps({"file": f, "split": s, "labels": names}) + "\n"
        for f, s, names in (("a.png", "train", ["cat"]), ("b.png", "train", ["dog", "cat"]), ("c.png", "test", ["dog"]))
    ),
    "columns.csv": "file,split,cat,dog\na.png,train,1,0\nb.png,train,1.0,?\nc.png,test,0,\n",
    "names.txt": "cat\ndog\n",
    "boxes.csv": "file,label,x1,y1,x2,y2\na.png,cat,1,1,5,5\nc.png,dog,0,0,20,10\n",
}
_SIGNS = [sign.encode() for sign in "\"'\n\r, |[]{}<&\\"]
_FRAGMENTS = st.sampled_from(
    [
        *_SIGNS,
        *(b"\xff", b"\x00", b"\xe9", b"caf\xc3\xa9", b"\\ud800", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\x1b[31m"),
        *(b"../../", b"/etc/", b"a.png", b"9" * 5000, b"1e999", b"nan", b"None", b"-0", b"0.0", b"1.0"),
        *(b"true", b"null", b"[" * 20000),
    ]
)


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with some places replaced, cut out or doubled; now and then any bytes at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 12)))
        new = draw(st.one_of(_FRAGMENTS, st.binary(max_size=4), st.just(b""), st.just(content[start:stop] * 2)))
        content = content[:start] + new + content[stop:]
    return content


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small copies of the official distributions, each of which counts as the full one, and one's own."""
    root = tmp_path_factory.mktemp("trees")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, "N_CLASSES", 3)
        patch.setitem(coco.PARTS, "2014", {"train": ("train2014", 3), "test": ("val2014", 1)})
        test_coco.write_part(root / "coco2014", "train2014", test_coco.TRAIN)
        test_coco.write_part(root / "coco2014", "val2014", test_coco.TEST)
        patch.setitem(voc.PARTS, "2012", {"train": ("train", 3), "test": ("val", 1)})
        test_voc.write_part(root / "voc2012" / "VOC2012", "train", test_voc.TRAIN)
        test_voc.write_part(root / "voc2012" / "VOC2012", "val", test_voc.TEST)
        patch.setattr(wider, "N_ATTRIBUTES", 3)
        patch.setattr(wider, "PARTS", {"train": ("trainval", ("train", "val"), 3), "test": ("test", (), 1)})
        test_wider.write(root / "wider", "trainval", test_wider.TRAIN)
        test_wider.write(root / "wider", "test", test_wider.TEST)
        _write_nuswide(root, patch)
        _write_cub(root / "cub", patch)
        patch.setattr(openimages, "N_CLASSES", 3)
        counts = {"train": ("train", 5, 1), "val": ("validation", 1, 1), "test": ("test", 1, 0)}
        patch.setattr(openimages, "PARTS", counts)
        (root / "openimages-v3").mkdir()
        test_openimages.write(root / "openimages-v3", "{part}/annotations-human.csv")
        (root / "mine" / "photos").mkdir(parents=True)
        for name in ("a.png", "b.png", "c.png"):
            Image.new("RGB", (20, 10)).save(root / "mine" / "photos" / name)
        for name, text in FILES.items():
            (root / "mine" / name).write_text(text)
        yield root


def _write_nuswide(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nuswide_files, "N_CONCEPTS", 3)
    patch.setattr(nuswide, "LISTED", {"Train": 3, "Test": 1})
    patch.setattr(nuswide, "SIZES", {"official": {"train": 2, "test": 1}, "srn": {"train": 2, "test": 1}})
    patch.setattr(nuswide_spml, "SIZES", {"train": 3, "test": 1})
    for name in ("nuswide-official", "nuswide-spml"):
        folder = root / name
        test_nuswide.write_part(folder, "Train", test_nuswide.TRAIN)
        test_nuswide.write_part(folder, "Test", test_nuswide.TEST)
        (folder / "Concepts81.txt").write_text("".join(f"{concept}\n" for concept in test_nuswide.CONCEPTS))
    for part, images in (("train", test_nuswide.TRAIN), ("val", test_nuswide.TEST)):
        np.save(folder / f"formatted_{part}_images.npy", np.array(list(images)))
        present = [[concept in labels for concept in test_nuswide.CONCEPTS] for labels in images.values()]
        np.save(folder / f"formatted_{part}_labels.npy", np.array(present, dtype=np.float64))


def _write_cub(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cub, "N_ATTRIBUTES", 2)
    patch.setattr(cub, "COUNTS", {"train": 1, "test": 1})
    (folder / "attributes").mkdir(parents=True)
    (folder / "attributes.txt").write_text("1 bill\n2 wing\n")
    (folder / "images.txt").write_text("1 x/a.jpg\n2 x/b.jpg\n")
    (folder / "train_test_split.txt").write_text("1 1\n2 0\n")
    labels = "1 1 1 3 2.0\n1 2 0 3 2.0\n2 1 0 3 2.0\n2 2 1 3 2.0\n"
    (folder / "attributes" / "image_attribute_labels.txt").write_text(labels)
    (folder / "images" / "x").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (8, 6)).save(folder / "images" / "x" / f"{name}.jpg")


def _load(trees: Path, source: str, content: bytes, file: str) -> None:
    """Load `source` with `file` holding `content`; whatever comes is a data set or a line for people."""
    path = trees / source.split(":")[0] / file
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        name = str(trees / source.replace(":", "/")) if ":" in source else source
        dataset = load_dataset(name, trees / source.split(":")[0])
    except MlbenchError:
        pass
    else:
        assert len(dataset.fingerprint) == 64
        for split in dataset.splits.values():
            assert set(np.unique(np.asarray(split.labels[:]))) <= {int(state) for state in State}
            assert not any(".." in Path(split.images.describe(row)).parts for row in range(len(split)))
    finally:
        path.write_bytes(before)


OFFICIAL = [
    ("coco2014", "annotations/instances_train2014.json"),
    ("voc2012", "VOC2012/ImageSets/Main/cow_train.txt"),
    ("voc2012", "VOC2012/Annotations/2008_000009.xml"),
    ("wider", "wider_attribute_annotation/wider_attribute_trainval.json"),
    ("cub", "images.txt"),
    ("cub", "attributes/image_attribute_labels.txt"),
    ("cub", "attributes.txt"),
    ("nuswide-official", "ImageList/TrainImagelist.txt"),
    ("nuswide-official", "Groundtruth/TrainTestLabels/Labels_sky_Train.txt"),
    ("nuswide-official", "Concepts81.txt"),
    ("nuswide-spml", "formatted_train_images.npy"),
    ("nuswide-spml", "formatted_val_labels.npy"),
    ("openimages-v3", "train/annotations-human.csv"),
    ("openimages-v3", "class-descriptions.csv"),
]
OWN = [
    *(("mine:mine.toml", file) for file in ("mine.toml", "labels.csv", "names.txt", "boxes.csv")),
    ("mine:lines.toml", "labels.jsonl"),
    ("mine:columns.toml", "columns.csv"),
    ("mine:columns.toml", "columns.toml"),
]


@pytest.mark.parametrize(("source", "file"), [*OFFICIAL, *OWN])
def test_a_spoilt_file_is_an_error_for_people(trees: Path, source: str, file: str) -> None:
    content = (trees / source.split(":")[0] / file).read_bytes()

    @LIMITS
    @given(spoilt(content))
    @example(b"[" * 100_000)
    @example(b"")
    def check(changed: bytes) -> None:
        _load(trees, source, changed, file)

    check()


ADOPTED = {
    "labels.csv": FILES["labels.csv"],
    "columns.csv": FILES["columns.csv"],
    "labels.jsonl": FILES["labels.jsonl"],
    "coco.json": json.dumps(
        {
            "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate("abc")],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 2, 2]} for i in range(3)],
        }
    ),
}


@pytest.mark.parametrize("file", ADOPTED)
def test_a_spoilt_file_is_adopted_or_refused(trees: Path, tmp_path: Path, file: str) -> None:
    @LIMITS
    @given(spoilt(ADOPTED[file].encode()))
    @example(b"[" * 100_000)
    @example(b"")
    def check(changed: bytes) -> None:
        (tmp_path / file).write_bytes(changed)
        with contextlib.suppress(MlbenchError):
            assert "classes" in adopt(tmp_path / file, trees / "mine" / "photos", dry_run=True)

    check()


@pytest.mark.parametrize("file", ["train.csv", "test.json"])
def test_a_spoilt_part_of_several_is_adopted_or_refused(trees: Path, tmp_path: Path, file: str) -> None:
    ending = file.partition(".")[2]
    whole = ADOPTED["labels.csv" if ending == "csv" else "coco.json"]
    if ending == "csv":
        rows = {"train": whole.splitlines()[:3], "test": [whole.splitlines()[0], whole.splitlines()[3]]}
        contents = {f"{part}.csv": "\n".join(lines) + "\n" for part, lines in rows.items()}
    else:
        contents = {
            f"{part}.json": json.dumps(
                {
                    key: value[start:stop]
                    if key == "images"
                    else value
                    if key == "categories"
                    else [one for one in value if one["image_id"] in range(start, stop)]
                    for key, value in json.loads(whole).items()
                }
            )
            for part, start, stop in (("train", 0, 2), ("test", 2, 3))
        }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    sources = [tmp_path / name for name in contents]
    assert "train 2, test 1" in adopt(sources, trees / "mine" / "photos", dry_run=True)

    @LIMITS
    @given(spoilt(contents[file].encode()))
    @example(b"[" * 100_000)
    @example(b"")
    def check(changed: bytes) -> None:
        (tmp_path / file).write_bytes(changed)
        with contextlib.suppress(MlbenchError):
            assert "classes" in adopt(sources, trees / "mine" / "photos", dry_run=True)

    check()


def _parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    rows = {"file": ["a.png", "b.png", "c.png"], "split": ["train", "train", "test"], "labels": [["cat"], [], ["dog"]]}
    pyarrow.parquet.write_table(pyarrow.table(rows), buffer)
    return buffer.getvalue()


def _mask_table() -> bytes:
    return b"sample,class,state\na.png,cat,positive\nb.png,dog,negative\n"


def _mask_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_mask(
            draw_mask(np.array([[1, -1], [1, 1]]), "partial", {"keep": 0.5}, 0, ids=["a.png", "b.png"]),
            path := Path(folder) / "m",
        )
        return path.read_bytes()


def _mat() -> bytes:
    from scipy.io import savemat

    names, boxes = np.empty((1, 2), dtype=object), np.empty((1, 2), dtype=object)
    names[0, :] = "a", "b"
    boxes[0, 0], boxes[0, 1] = np.array([[1.0, 1, 5, 5]]), np.array([[2.0, 2, 8, 9], [1, 1, 3, 3]])
    buffer = io.BytesIO()
    savemat(buffer, {"images": names, "boxes": boxes})
    return buffer.getvalue()


def _read_parquet(trees: Path, path: Path) -> None:
    text = FILES["lines.toml"].replace("labels.jsonl", path.name).replace('"photos"', f'"{trees / "mine" / "photos"}"')
    (path.parent / "lines.toml").write_text(text)
    load_dataset(str(path.parent / "lines.toml"))


def _import_mask(trees: Path, path: Path) -> None:
    mask = import_mask(path, str(trees / "mine" / "mine.toml"), "full", output=path.with_name("m"))
    assert set(np.unique(mask.observed)) <= {int(state) for state in State}


#: Content of a file that is no label file, and what reads it.
OTHERS: dict[str, tuple[Callable[[], bytes], Callable[[Path, Path], object]]] = {
    "labels.parquet": (_parquet, _read_parquet),
    "mask.csv": (_mask_table, _import_mask),
    "mask.safetensors": (_mask_file, lambda trees, path: load_mask(path, ["a.png", "b.png"])),
    "boxes.txt": (lambda: b"a.png 1 1 5 5 0.5\nb.png,2,2,9,8\n", lambda trees, path: read_boxes(path)),
    "list.txt": (lambda: b"a.jpg 1 0 1 1 5 5 0.5\nb.jpg 0 1 2 2 9 8 1\n", lambda trees, path: read_kdwsd_list(path, 2)),
    "regions.mat": (_mat, lambda trees, path: read_mat(path)),
    "protocol.toml": (
        lambda: b'extends = "partial"\nname = "mine"\n[annotation]\nkeep = 0.3\n[train]\nepochs = 2\n',
        lambda trees, path: load_protocol(str(path)).sha256,
    ),
    "grid.toml": (
        lambda: b'protocol = "partial"\ndataset = "scenes"\nseeds = [0]\nmethods = ["an"]\n[set]\n"train.epochs" = 1\n',
        lambda trees, path: load_grid(path),
    ),
}


@pytest.mark.parametrize("file", OTHERS)
def test_what_lies_beside_labels_is_read_or_refused(trees: Path, tmp_path: Path, file: str) -> None:
    make, read = OTHERS[file]
    content = make()
    (tmp_path / file).write_bytes(content)
    with contextlib.suppress(UsageError):  # the grid's other keys may be wrong
        read(trees, tmp_path / file)

    @settings(LIMITS, max_examples=max(1, EXAMPLES // 8) if file == "regions.mat" else EXAMPLES)  # a process each
    @given(spoilt(content))
    @example(b"[" * 100_000)
    @example(b"x = " + b"[" * 100_000)
    @example(b"x = " + b"9" * 5_000)
    @example(b"")
    def check(changed: bytes) -> None:
        (tmp_path / file).write_bytes(changed)
        with contextlib.suppress(MlbenchError):
            read(trees, tmp_path / file)

    check()


#: Names as people give them: signs that formats use themselves, numbers, blanks inside, letters of all alphabets.
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=6).filter(
    lambda name: name.casefold() not in ("nan", "none", "null", "na", "n/a", "<na>", "nat")
)


@st.composite
def collections(draw: st.DrawFn) -> tuple[list[str], list[list[int]]]:
    """Class names, and the states of a few pictures (1, -1; at least one picture trained on and one tested with)."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    rows = draw(
        st.lists(st.lists(st.sampled_from([1, -1]), min_size=len(names), max_size=len(names)), min_size=3, max_size=3)
    )
    return sorted(names), rows


def _as_csv(fields: list[list[str]], **form: object) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **form).writerows(fields)  # type: ignore[arg-type]
    return buffer.getvalue()


def _spellings(names: list[str], rows: list[list[int]]) -> Iterator[tuple[str, str, str]]:
    """(file, content, keys of the description) of each way to write the same labels."""
    files = list(zip(("a.png", "b.png", "c.png"), ("train", "train", "test"), rows, strict=True))
    present = [[name for name, state in zip(names, row, strict=True) if state == 1] for row in rows]
    declared = f"classes = {json.dumps(names, ensure_ascii=False)}\n"
    listed = [{"file": f, "split": s, "labels": p} for (f, s, _), p in zip(files, present, strict=True)]
    yield "t.jsonl", "".join(json.dumps(row) + "\n" for row in listed), declared
    yield "t.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in listed), declared
    head = ["file", "split", "labels"]
    texts = [[f, s, repr(p)] for (f, s, _), p in zip(files, present, strict=True)]
    yield "t.csv", _as_csv([head, *texts]), declared
    texts = [[f"./{f}", s, json.dumps(p)] for (f, s, _), p in zip(files, present, strict=True)]
    yield "t.csv", "\ufeff" + _as_csv([head, *texts], delimiter=";"), declared + 'delimiter = ";"\n'
    mark = next(mark for mark in "\u241f|+~" if not any(mark in name for name in names))
    texts = [[f, s, mark.join(p)] for (f, s, _), p in zip(files, present, strict=True)]
    if not any(text[2][:1] in ("[", "(", "{") for text in texts):
        yield "t.csv", _as_csv([head, *texts], quoting=csv.QUOTE_ALL), declared + f'separator = "{mark}"\n'
    if not {"file", "split"} & set(names):
        for one, zero in (("1", "0"), ("1.0", "-0.0"), ("1", "-1")):
            cells = [[f, s, *(one if state == 1 else zero for state in row)] for f, s, row in files]
            yield "t.csv", _as_csv([["file", "split", *names], *cells]), declared + 'label_style = "columns"\n'
        values = 'label_style = "columns"\nvalues = { "yes" = "positive", "0.0" = "negative" }\n'
        cells = [[f, s, *("yes" if state == 1 else "0.0" for state in row)] for f, s, row in files]
        yield "t.csv", _as_csv([["file", "split", *names], *cells]), declared + values


@LIMITS
@given(collections())
def test_labels_are_the_same_however_they_are_written(
    trees: Path, collection: tuple[list[str], list[list[int]]]
) -> None:
    names, rows = collection
    folder = trees / "mine"
    for file, content, keys in _spellings(names, rows):
        (folder / file).write_text(content, encoding="utf-8", newline="")
        text = f'id = "t"\nimages = "photos"\nlabels = "{file}"\ncolumns = {{ split = "split" }}\n{keys}'
        (folder / "t.toml").write_text(text, encoding="utf-8")
        dataset = load_dataset(str(folder / "t.toml"))
        assert dataset.classes == tuple(names)
        found = np.concatenate([dataset.splits[part].labels for part in ("train", "test")])
        assert found.tolist() == rows, (file, content)


def test_unlikely_files_of_a_kind(trees: Path) -> None:
    """Those that a search rarely meets, each once."""
    deep = b'{"images": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    for content in (deep, b'{"images": [], "images": []}', b'{"a": ' + b"7" * 6000 + b"}"):
        _load(trees, "coco2014", content, "annotations/instances_train2014.json")
        _load(trees, "wider", content, "wider_attribute_annotation/wider_attribute_trainval.json")
        _load(trees, "mine:lines.toml", content, "labels.jsonl")
    for encoding in ("gb2312", "no-such-encoding", "utf-16"):
        text = f'<?xml version="1.0" encoding="{encoding}"?><annotation/>'.encode()
        _load(trees, "voc2012", text, "VOC2012/Annotations/2008_000009.xml")
