"""Parquet shards, and data sets of the Hugging Face hub, written as files that read back as the same."""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlbench.conformance.datasets import check_dataset
from mlbench.datasets import load_dataset
from mlbench.datasets.hub_in import from_hub
from mlbench.errors import DataError, MlbenchError, UsageError

pa = pytest.importorskip("pyarrow")
NAMES = ("cat", "dog", "owl")


def picture(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def rows(first: int, *labels: Any, kind: str = "PNG") -> dict[str, list]:
    images = [{"bytes": picture(first + i, kind), "path": None} for i in range(len(labels))]
    return {"image": images, "labels": list(labels)}


def shard(path: Path, columns: dict[str, list], names: tuple[str, ...] | None = NAMES) -> None:
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if names:
        feature = {"feature": {"names": list(names), "_type": "ClassLabel"}, "_type": "Sequence"}
        about = {"info": {"features": {"labels": feature, "image": {"_type": "Image"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    parquet.write_table(table, path)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "animals"
    shard(folder / "train-00001-of-00002.parquet", rows(2, [2], []))
    shard(folder / "train-00000-of-00002.parquet", rows(0, [0, 1], [1]))
    shard(folder / "test-00000-of-00001.parquet", rows(10, [0, 2], [1], kind="JPEG"))
    return folder


def test_shards_come_out_as_files_in_their_order(shards: Path, tmp_path: Path, mlbench) -> None:
    code, out, err = mlbench("data", "from-hf", shards, "--output", tmp_path / "out")
    assert code == 0, err
    assert "3 classes, train 4, test 2" in out
    dataset = load_dataset(str(tmp_path / "out" / "animals.toml"))
    assert dataset.classes == NAMES
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.labels.tolist() == [[1, 1, -1], [-1, 1, -1], [-1, -1, 1], [-1, -1, -1]]
    assert test.labels.tolist() == [[1, -1, 1], [-1, 1, -1]]
    assert (tmp_path / "out" / "images" / "train" / "0000002.png").read_bytes() == picture(2)
    assert (tmp_path / "out" / "images" / "test" / "0000001.jpg").read_bytes() == picture(11, "JPEG")
    assert check_dataset(str(tmp_path / "out" / "animals.toml")).passed
    with pytest.raises(UsageError, match="is there already"):
        from_hub(str(shards), tmp_path / "out")


def test_names_plain_bytes_and_folders_of_splits_are_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "named"
    plain = {"photo": [picture(1), picture(2)], "tags": ["owl", "ant"]}
    shard(folder / "train" / "0000.parquet", plain, None)
    shard(folder / "held" / "0000.parquet", plain, None)
    shard(folder / "extra.parquet", plain, None)
    told = from_hub(str(folder), tmp_path / "out", "photo", "tags", ["test=held"])
    assert "left out: split extra" in told
    dataset = load_dataset(str(tmp_path / "out" / "named.toml"))
    assert dataset.classes == ("ant", "owl")
    assert dataset.splits["test"].labels.tolist() == [[-1, 1], [1, -1]]


@pytest.mark.parametrize(
    ("columns", "given", "error", "message"),
    [
        (rows(0, [0]), {"labels": "label"}, UsageError, r"no column 'label'. Did you mean 'labels'\? Columns: image"),
        (rows(0, [3]), {}, DataError, "split test, row 0: label 3 is neither a name nor the index of a class"),
        ({"image": [b"no"], "labels": [[0]]}, {}, DataError, "row 0: no image that can be read"),
        ({"image": [None], "labels": [[0]]}, {}, DataError, "row 0: no image in it"),
        (rows(0, [0]), {"parts": ["dev=test"]}, UsageError, "--part dev=test: expected PART=SPLIT"),
        (rows(0, [0]), {"parts": ["val=test"]}, UsageError, r"no test part \(splits: .*--part test=SPLIT"),
    ],
)
def test_what_cannot_be_read_is_named(shards, tmp_path, columns, given, error, message: str) -> None:
    shard(shards / "test-00000-of-00001.parquet", columns)
    with pytest.raises(error, match=message):
        from_hub(str(shards), tmp_path / "out", **given)


def test_a_broken_shard_and_an_empty_folder_are_named(shards: Path, tmp_path: Path) -> None:
    (shards / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        from_hub(str(shards), tmp_path / "out")
    from pyarrow import parquet

    whole = tmp_path / "pages.parquet"
    parquet.write_table(pa.table(rows(0, *[[0]] * 300)), whole, write_page_checksum=True)
    content = bytearray(whole.read_bytes())
    content[len(content) // 3] ^= 255
    (shards / "test-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(DataError, match="not a whole Parquet file"):
        from_hub(str(shards), tmp_path / "out1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no .parquet file in it"):
        from_hub(str(tmp_path / "empty"), tmp_path / "out2")


def test_without_the_library_a_name_of_the_hub_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MlbenchError, match=r"'somebody/animals' is no folder, .*pip install datasets"):
        from_hub("somebody/animals")


def test_the_library_reads_what_the_shards_say(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself, on local files in place of the hub."""
    pytest.importorskip("datasets.arrow_dataset")  # "datasets" alone may be this folder
    library = importlib.import_module("datasets")
    real = library.load_dataset
    files = {part: str(shards / f"{part}-*.parquet") for part in ("train", "test")}
    monkeypatch.setattr(
        library, "load_dataset", lambda repo: real("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))
    )
    assert "3 classes, train 4, test 2" in from_hub("somebody/animals", tmp_path / "out")
    from_hub(str(shards), tmp_path / "plain")
    written = [load_dataset(str(tmp_path / name)) for name in ("out/somebody-animals.toml", "plain/animals.toml")]
    for part in ("train", "test"):
        assert (written[0].splits[part].labels == written[1].splits[part].labels).all()
        assert (written[0].splits[part].content() == written[1].splits[part].content()).all()


def test_a_library_that_fails_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(repo: str) -> None:
        raise RuntimeError("no such place\nand more")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fail))
    with pytest.raises(DataError, match=r"'somebody/animals' cannot be loaded by the library datasets: no such place$"):
        from_hub("somebody/animals")
