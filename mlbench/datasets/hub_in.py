"""Data sets with a column of images and one of labels, in Parquet shards or on the Hugging Face hub, as files."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mlbench.datasets.description import PARTS
from mlbench.errors import DataError, MlbenchError, UsageError, nearest
from mlbench.files import atomic_write

#: What splits are called, and the part that is meant.
USUAL_PARTS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
_SHARD = re.compile(r"([A-Za-z]+)(?:[-_.].*)?")
_ENDINGS = {"JPEG": "jpg", "TIFF": "tif"}


@dataclass(frozen=True)
class _Table:
    """One split: its name, the class names if the source has them, and rows of (image, labels)."""

    split: str
    names: tuple[str, ...] | None
    rows: Iterator[tuple[Any, Any]]


def from_hub(
    source: str,
    output: Path | None = None,
    image: str = "image",
    labels: str = "labels",
    parts: Sequence[str] = (),
) -> str:
    """Write a data set of two columns as image files, ``ID.jsonl`` and a description ``ID.toml``.

    Parameters
    ----------
    source : a folder of Parquet shards, whose names or folders begin with that of their split
        (``train-00000-of-00002.parquet``), read with pyarrow; or the name of a data set on the Hugging Face hub, for
        which the library ``datasets`` must be installed. It alone may then use the network.
    output : the folder to write to; ``./ID`` if None. Its ``images`` must not be there yet.
    image : column of the images: bytes as they are encoded, or a struct of ``bytes`` and ``path``.
    labels : column of the labels: class indices where the source names its classes, or names; one or a list.
    parts : "PART=SPLIT", which split is train, val or test, where `USUAL_PARTS` do not hold. Other splits are left out.

    Returns
    -------
    What was written and how it reads back, for people.

    Raises
    ------
    UsageError for a wrong name or a missing part, DataError for rows that are no images or labels, MlbenchError where
    a library is missing.
    """
    from mlbench.datasets import load_dataset

    wanted = _parse_parts(parts)
    folder = Path(source)
    tables = _shards(folder, image, labels) if folder.is_dir() else _hub(source, image, labels)
    identity = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name if folder.is_dir() else source).strip("-._")
    output = output or Path(identity)
    if (output / "images").exists():
        raise UsageError(f"{output / 'images'} is there already: give another folder with --output")
    lines: list[str] = []
    counts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    declared: dict[str, None] = {}
    met: set[str] = set()
    for table in tables:
        part = wanted.get(table.split)
        if part is None:
            left_out[table.split] += 1
            continue
        declared |= dict.fromkeys(table.names or ())
        for encoded, value in table.rows:
            where = f"{source}, split {table.split}, row {counts[part]}"
            names = _names(value, table.names, where)
            content, ending = _picture(encoded, folder, where)
            file = f"{part}/{counts[part]:07d}.{ending}"
            atomic_write(output / "images" / file, content)
            lines.append(json.dumps({"file": file, "split": part, "labels": names}))
            counts[part] += 1
            met |= set(names)
    for part in ("train", "test"):
        if not counts[part]:
            known = ", ".join([*left_out, *counts]) or "none"
            raise UsageError(f"{source}: no {part} part (splits: {known}): --part {part}=SPLIT says which it is")
    classes = list(declared) if met <= set(declared) else sorted(met)
    path = _write(output, identity or "hub", source, classes, lines, counts)
    back = load_dataset(str(path))
    shown = ", ".join(f"{part} {len(split):,}" for part, split in back.splits.items())
    return "\n".join(
        [
            f"{path}: {len(back.classes)} classes, {shown}",
            *(f"left out: split {split}" for split in left_out),
            *(f"note: {note}" for note in back.notes),
            f"to use it: mlbench run --dataset {path} ...",
        ]
    )


def _parse_parts(parts: Sequence[str]) -> dict[str, str]:
    """Part by split."""
    given: dict[str, str] = {}
    for text in parts:
        part, _, split = text.partition("=")
        if part not in PARTS or not split:
            raise UsageError(f"--part {text}: expected PART=SPLIT, PART one of {', '.join(PARTS)}")
        if given.setdefault(split, part) != part:
            raise UsageError(f"--part {text}: '{split}' means {given[split]} already")
    usual = {split: part for split, part in USUAL_PARTS.items() if part not in given.values()}
    return usual | given


def _shards(folder: Path, image: str, labels: str) -> Iterator[_Table]:
    """The Parquet files of a folder, in the order of their names."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MlbenchError(
            f"{folder}: reading .parquet needs pyarrow: pip install 'mlbench-multilabel[parquet]'"
        ) from None
    paths = sorted(folder.rglob("*.parquet"))
    if not paths:
        raise UsageError(f"{folder}: no .parquet file in it")
    for path in paths:
        split = _split_of(path, folder)
        try:
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                columns, metadata = file.schema_arrow.names, file.schema_arrow.metadata or {}
                features = json.loads(metadata.get(b"huggingface", b"{}"))
        except (ArrowException, OSError, ValueError, RecursionError) as error:
            raise _broken(path, error) from None
        for column in (image, labels):
            if column not in columns:
                raise UsageError(
                    f"{path}: no column '{column}'.{nearest(column, columns)} Columns: {', '.join(columns)}"
                )
        names = _declared(features.get("info", {}).get("features", {}).get(labels, {}))
        yield _Table(split, names, _rows(path, image, labels))


def _split_of(path: Path, folder: Path) -> str:
    """What the name of a file begins with, if that is usual; else what its folder is called, if it lies in one."""
    named = _SHARD.fullmatch(path.stem)
    first = named[1] if named else path.stem
    return first if first in USUAL_PARTS or path.parent == folder else path.parent.name


def _rows(path: Path, image: str, labels: str) -> Iterator[tuple[Any, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=64, columns=[image, labels]):
                yield from ((row[image], row[labels]) for row in batch.to_pylist())
    except (ArrowException, OSError, ValueError) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a whole Parquet file ({' '.join(str(error).split())[:200]})")


def _declared(feature: Any) -> tuple[str, ...] | None:
    """Class names in the description of a column, at whatever depth of lists."""
    while isinstance(feature, Mapping):
        if isinstance(feature.get("names"), list):
            return tuple(map(str, feature["names"]))
        feature = feature.get("feature")
    if isinstance(feature, list) and feature:
        return _declared(feature[0])
    return None


def _hub(repo: str, image: str, labels: str) -> Iterator[_Table]:
    try:
        import datasets

        load = datasets.load_dataset
    except (ImportError, AttributeError):  # a folder of this name on the path is imported, too, and has nothing
        raise MlbenchError(
            f"'{repo}' is no folder, and for a data set of the Hugging Face hub the library datasets is needed: "
            "pip install datasets"
        ) from None
    try:
        loaded = load(repo)
    except Exception as error:  # it has its own errors for each way in which a hub can fail
        told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"data set '{repo}' cannot be loaded by the library datasets: {told}") from None
    for split, table in loaded.items():
        for column in (image, labels):
            if column not in table.column_names:
                listed = ", ".join(table.column_names)
                raise UsageError(
                    f"{repo}: no column '{column}'.{nearest(column, table.column_names)} Columns: {listed}"
                )
        names = _names_of_feature(table.features[labels])
        plain = table.select_columns([image, labels]).cast_column(image, datasets.Image(decode=False))
        yield _Table(str(split), names, ((row[image], row[labels]) for row in plain))


def _names_of_feature(feature: Any) -> tuple[str, ...] | None:
    while feature is not None:
        if getattr(feature, "names", None):
            return tuple(map(str, feature.names))
        feature = getattr(feature, "feature", None)
    return None


def _names(value: Any, names: tuple[str, ...] | None, where: str) -> list[str]:
    """Labels of one row, by name."""
    found = [] if value is None else value if isinstance(value, list) else [value]
    listed = []
    for label in found:
        if isinstance(label, str) and label.strip():
            listed.append(label.strip())
        elif isinstance(label, int) and not isinstance(label, bool) and names and 0 <= label < len(names):
            listed.append(names[label])
        elif isinstance(label, int) and not isinstance(label, bool) and not names and label >= 0:
            listed.append(f"class {label}")
        else:
            raise DataError(f"{where}: label {label!r} is neither a name nor the index of a class")
    return list(dict.fromkeys(listed))


def _picture(encoded: Any, folder: Path, where: str) -> tuple[bytes, str]:
    """The encoded bytes of an image, as they are, and the ending of its format."""
    content = encoded.get("bytes") if isinstance(encoded, dict) else encoded
    path = encoded.get("path") if isinstance(encoded, dict) else encoded if isinstance(encoded, str) else None
    if not isinstance(content, bytes) and path:
        try:
            content = (folder / path).read_bytes()
        except OSError as error:
            raise DataError(f"{where}: {path}: {error.strerror}") from None
    if not isinstance(content, bytes):
        raise DataError(f"{where}: no image in it")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            kind = str(picture.format)
    except Exception as error:  # of anybody's bytes
        raise DataError(f"{where}: no image that can be read ({error})") from None
    return content, _ENDINGS.get(kind, kind.lower())


def _write(
    output: Path, identity: str, source: str, classes: list[str], lines: list[str], counts: Mapping[str, int]
) -> Path:
    expect = {"classes": len(classes), **{part: counts[part] for part in PARTS if counts[part]}}
    name = Path(source).name
    text = {
        "id": identity,
        "summary": f"read from {name}",
        "source": f"{name}, columns of images and labels",
        "images": "images",
        "labels": f"{identity}.jsonl",
    }
    head = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in text.items()]
    head += ['columns = { file = "file", split = "split", labels = "labels" }']
    head += [f"classes = {json.dumps(classes, ensure_ascii=False)}"]
    head += [f"expect = {{ {', '.join(f'{key} = {value}' for key, value in expect.items())} }}"]
    atomic_write(output / f"{identity}.jsonl", "".join(f"{line}\n" for line in lines).encode())
    path = output / f"{identity}.toml"
    atomic_write(path, "".join(f"{line}\n" for line in head).encode())
    return path
