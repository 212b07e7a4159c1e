"""`data adopt`: look at a label file or a folder of pictures, say what it seems to be, and write its description."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mlbench.datasets.base import Dataset
from mlbench.datasets.cells import labels_in, spelled
from mlbench.datasets.description import Description
from mlbench.datasets.files import load_files
from mlbench.datasets.folders import look_into
from mlbench.datasets.guess import PART_WORDS, Guess, find_delimiter, find_files, guess_labels, guess_split, set_splits
from mlbench.datasets.reading import entries_of, file_name, is_number, read_json
from mlbench.datasets.tables import read_table
from mlbench.errors import DataError, UsageError, visible
from mlbench.files import atomic_write
from mlbench.images.decode import first_few

TEST_FRACTION = 0.2
_TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
_ID = (int, str)
_USUAL_FOLDERS = ("images", "pictures", "photos", "img", "imgs", "data", "train")


def adopt(
    source: Path,
    images: Path | None = None,
    *,
    identity: str | None = None,
    output: Path | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> str:
    """Write the description of a data set that lies in `source`, and tell what was understood.

    Parameters
    ----------
    source : a table of labels (CSV, JSONL, Parquet), a JSON file of COCO's form, or a folder whose subfolders are
        labels.
    images : the folder of the pictures; None: a usual name beside `source`, else the folder `source` lies in.
    identity : id of the data set; None: after `source`.
    output : the description; None: ``ID.toml`` beside `source`. What a description cannot say (a row a label, COCO's
        form) is written beside it as ``ID.jsonl`` and ``ID.boxes.csv``.
    seed : of the split, where the source has none.
    dry_run : write nothing; the description is part of what is told.

    Returns
    -------
    What was seen, how it reads, and every note of the reader, for people.

    Raises
    ------
    DataError for what cannot be understood, naming it; UsageError for an output that is there already.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", identity or source.resolve().stem).strip("-._") or "mine"
    output = output or (source if source.is_dir() else source.parent) / f"{name}.toml"
    if output.exists() and not dry_run:
        raise UsageError(f"{output}: is there already; name another with --output, or delete it")
    guess, extra = Guess(), dict[str, str]()
    if source.is_dir():
        folder = images or source
        _of_folders(folder, guess)
    else:
        folder = images or _usual_folder(source)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder (--images)")
        if source.suffix.lower() == ".json":
            folder = _of_coco(source, folder, name, guess, extra)
        elif source.suffix.lower() in _TABLES:
            folder = _of_table(source, folder, name, guess, extra)
        else:
            raise UsageError(
                f"{source}: expected a folder, a .json file of COCO's form, or one of {', '.join(_TABLES)}"
            )
    if "splits" not in guess.keys:
        guess.keys["split"] = {"test_fraction": TEST_FRACTION, "seed": seed}
        guess.said.append(
            f"part: none is told, so {TEST_FRACTION:.0%} of the pictures are drawn as test, with seed {seed}, by name"
        )
    base = output.parent
    head = {"id": name, "source": f"adopted from {source.name}", "images": _relative(folder, base)}
    if not source.is_dir():
        head["labels"] = f"{name}.jsonl" if extra else _relative(source, base)
    text = _toml(head | guess.keys)
    back = _write_and_read(text, extra, output, dry_run)
    counts = ", ".join(f"{part} {len(split):,}" for part, split in back.splits.items())
    boxes = sum(len(split.boxes) for split in back.splits.values() if split.boxes is not None)
    lines = [f"{source}:", *(f"  {line}" for line in guess.said)]
    lines += [f"{len(back.classes)} classes, {counts}{f', {boxes:,} boxes' if boxes else ''}"]
    lines += [f"note: {note}" for note in back.notes]
    lines = [visible(line) for line in lines]
    if dry_run:
        return "\n".join([*lines, "", f"{output} would be:", "", text.rstrip()])
    return "\n".join([*lines, f"wrote {output}", f"to use it: mlbench run --dataset {output} ..."])


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()


def _usual_folder(source: Path) -> Path:
    beside = (source.parent / name for name in (*_USUAL_FOLDERS, source.stem))
    return next((folder for folder in beside if folder.is_dir()), source.parent)


# --- tables -----------------------------------------------------------------------------------------------------------


def _of_table(source: Path, folder: Path, name: str, guess: Guess, extra: dict[str, str]) -> Path:
    """Understand a table; returns the folder its file names are relative to."""
    delimiter = ","
    if source.suffix.lower() in (".csv", ".tsv", ".txt"):
        delimiter = find_delimiter(source)
    rows = [row for _, row in read_table(source, [], delimiter, lambda column: bool(column))]
    if not rows:
        raise DataError(f"{source}: no rows below the header")
    if any(_begin_with(rows, column, f"{folder.resolve().name}/") for column in rows[0]):
        folder = folder.resolve().parent  # the names are those below the folder that holds this one
    present = look_into(folder).images
    if not present:
        raise DataError(f"{folder}: no pictures (--images says which folder they lie in)")
    column, suffix, below = find_files(rows, present, str(source))
    folder = folder / below
    files = [spelled(row.get(column)) for row in rows]
    if delimiter != ",":
        guess.keys["delimiter"] = delimiter
    guess.said.append(f"table: {len(rows):,} rows{f', fields parted by {delimiter!r}' if delimiter != ',' else ''}")
    guess.said.append(f"pictures: column '{column}'{f' and the ending {suffix}' if suffix else ''}, in {folder}")
    split = guess_split(rows, column, guess)
    if split is None:
        _split_by_folder(files, guess)
    labels = guess_labels(rows, (column, split), guess, str(source))
    columns = {"file": column} | ({"split": split} if split else {}) | ({"labels": labels} if labels else {})
    if len(set(files)) < len(files) and labels is not None:
        _join_rows(rows, columns, name, guess, extra)
        columns = {"file": "file", "labels": "labels"} | ({"split": "split"} if split else {})
    guess.keys = {"columns": columns, **({"suffix": suffix} if suffix else {}), **guess.keys}
    lying = set(present)
    inside = "" if below == "." else f"{below}/"
    missing = sorted({file for file in files if f"{inside}{PurePosixPath(file).as_posix()}{suffix}" not in lying})
    if missing:
        guess.keys["allow_missing"] = "new-id"
        guess.said.append(f"missing: {len(missing):,} pictures ({first_few(missing)}); the others are '{name}-partial'")
    return folder


def _begin_with(rows: Sequence[Mapping[str, Any]], column: str, prefix: str) -> bool:
    return all(spelled(row.get(column)).removeprefix("./").startswith(prefix) for row in rows)


def _split_by_folder(files: Sequence[str], guess: Guess) -> None:
    """Parts by the first folder of each name, where these are words for parts."""
    tops = {PurePosixPath(file).parts[0] if "/" in file else "" for file in files}
    if all(PART_WORDS.get(top.lower()) for top in tops):
        set_splits(_by_part(sorted(tops)), guess)


def _by_part(folders: Sequence[str]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for folder in folders:
        found[PART_WORDS[folder.lower()]].append(folder)
    return found


def _join_rows(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], name: str, guess: Guess, extra: dict[str, str]
) -> None:
    """A row a label made a row a picture, as JSON lines."""
    about = Description(
        "", name, "", separator=guess.keys.get("separator"), no_label=tuple(guess.keys.get("no_label", ()))
    )
    joined: dict[str, dict[str, Any]] = {}
    for row in rows:
        file, part = spelled(row.get(columns["file"])), spelled(row.get(columns.get("split", "")))
        entry = joined.setdefault(file, {"file": file, **({"split": part} if "split" in columns else {}), "labels": []})
        if entry.get("split", part) != part:
            raise DataError(f"'{file}' is in the part '{entry['split']}' in one row and in '{part}' in another")
        found = labels_in(about, row.get(columns["labels"]), f"'{file}'", alone=True)
        entry["labels"] += [label for label in found if label not in entry["labels"]]
    guess.keys.pop("separator", None)
    guess.keys.pop("no_label", None)
    guess.keys.pop("delimiter", None)
    guess.said.append(f"several rows a picture: joined to {len(joined):,} pictures in {name}.jsonl")
    extra[f"{name}.jsonl"] = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in joined.values())


# --- COCO and folders -------------------------------------------------------------------------------------------------


def _of_coco(source: Path, folder: Path, name: str, guess: Guess, extra: dict[str, str]) -> Path:
    content = read_json(source)
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise DataError(f"{source}: not of COCO's form (an object with the lists {', '.join(lists)})")
    kinds: dict[str, dict[str, Any]] = {
        "categories": {"name": str},
        "images": {"file_name": str},
        "annotations": {"image_id": _ID},
    }
    listed = {key: entries_of(content, key, source, {"id": _ID, **more}) for key, more in kinds.items()}
    classes = {entry["id"]: entry["name"].strip() for entry in listed["categories"]}
    files = {entry["id"]: file_name(entry["file_name"], str(source)) for entry in listed["images"]}
    found = [(entry["image_id"], entry.get("category_id"), entry.get("bbox")) for entry in listed["annotations"]]
    for key, names in (("images", files), ("categories", classes)):
        if len(names) < len(listed[key]):
            raise DataError(f"{source}: an id stands twice in '{key}'")
    twice = [file for file, count in Counter(files.values()).items() if count > 1]
    if twice:
        raise DataError(f"{source}: a file is listed under two image ids: {twice[0]}")
    present = look_into(folder).images
    _, _, below = find_files([{"file_name": file} for file in files.values()], present, str(source))
    labels: dict[Any, list[str]] = {image: [] for image in files}
    boxes = ["file,label,x1,y1,x2,y2"]
    for image, category, box in found:
        if image not in files or not isinstance(category, int | str) or category not in classes:
            raise DataError(f"{source}: an annotation of image {image!r}, category {category!r}, which are not listed")
        labels[image] += [] if classes[category] in labels[image] else [classes[category]]
        if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) > 0:
            boxes.append(",".join([_field(files[image]), _field(classes[category]), *(f"{v:.3f}" for v in box)]))
    extra[f"{name}.jsonl"] = "".join(
        json.dumps({"file": file, "labels": labels[image]}, ensure_ascii=False) + "\n" for image, file in files.items()
    )
    guess.keys |= {"columns": {"file": "file", "labels": "labels"}, "classes": list(classes.values())}
    guess.said.append(f"COCO: {len(files):,} images, {len(found):,} annotations, {len(classes)} categories")
    guess.said.append(f"pictures: in {folder / below}")
    if len(boxes) > 1:
        extra[f"{name}.boxes.csv"] = "\n".join(boxes) + "\n"
        guess.keys["boxes"] = {"file": f"{name}.boxes.csv", "format": "xywh", "unit": "pixels"}
        guess.said.append(f"boxes: {len(boxes) - 1:,}, x, y, width, height in pixels")
    _split_by_folder(list(files.values()), guess)
    lying, inside = set(present), "" if below == "." else f"{below}/"
    missing = [file for file in files.values() if f"{inside}{file}" not in lying]
    if missing:
        guess.keys["allow_missing"] = "new-id"
        guess.said.append(f"missing: {len(missing):,} pictures ({first_few(missing)}); the others are '{name}-partial'")
    return folder / below


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _of_folders(folder: Path, guess: Guess) -> None:
    names = look_into(folder).images
    if not names:
        raise DataError(f"{folder}: no pictures")
    tops = sorted({PurePosixPath(name).parts[0] for name in names if "/" in name})
    parts = [top for top in tops if top.lower() in PART_WORDS]
    below = len(parts) == len(tops) > 1 and set_splits(_by_part(parts), guess)
    depth = 1 if below else 0
    labels = sorted({part for name in names for part in PurePosixPath(name).parts[depth:-1]})
    if not labels:
        raise DataError(f"{folder}: no folders below it that could be labels")
    mark = next((m for m in "+,&" if any(m in name and {*labels} & {*name.split(m)} for name in labels)), None)
    if mark:
        guess.keys["separator"] = mark
    guess.keys["equal_files"] = "merge"
    guess.said.insert(0, f"folders: {len(names):,} pictures, {len(labels)} folders as labels ({first_few(labels, 8)})")
    guess.said.append(f"labels: names of folders{f', parted by {mark!r}' if mark else ''}")
    guess.said.append("equal files: a picture copied into several folders is one sample with all their labels")


# --- writing ----------------------------------------------------------------------------------------------------------


def _toml(keys: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in keys.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return (
        key if re.fullmatch(r"[a-z_]+", key) and key not in ("true", "false") else json.dumps(key, ensure_ascii=False)
    )


def _write_and_read(text: str, extra: Mapping[str, str], output: Path, dry_run: bool) -> Dataset:
    """Load what the description says before anything is kept; written is what could be read."""
    with tempfile.TemporaryDirectory() as place:
        trial = Path(place) / output.name
        tried = text
        for file, content in extra.items():
            (Path(place) / file).write_text(content, encoding="utf-8", newline="")
            tried = tried.replace(json.dumps(file), json.dumps(str(Path(place) / file)))
        trial.write_text(tried, encoding="utf-8", newline="")
        back = load_files(trial, output.parent)
    if not dry_run:
        for file, content in extra.items():
            atomic_write(output.parent / file, content.encode())
        atomic_write(output, text.encode())
    return back
