"""`data adopt`: look at a label file or a folder of pictures, say what it seems to be, and write its description."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mlbench.datasets.base import Dataset
from mlbench.datasets.cells import labels_in, spelled
from mlbench.datasets.description import Description
from mlbench.datasets.files import load_files
from mlbench.datasets.folders import look_into
from mlbench.datasets.guess import PART_WORDS, Guess, find_delimiter, find_files, guess_labels, guess_split, set_splits
from mlbench.datasets.sources import TABLES, USUAL_FOLDERS, label_files, part_in, parts_of, read_coco
from mlbench.datasets.tables import read_table
from mlbench.errors import DataError, UsageError, visible
from mlbench.files import atomic_write
from mlbench.images.decode import first_few

TEST_FRACTION = 0.2


def adopt(
    source: Path | Sequence[Path],
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
    source : a table of labels (CSV, JSONL, Parquet), a JSON file of COCO's form, or a folder: one whose subfolders are
        labels, or one that holds such files. Several files, or folders, are the parts, by their names (`part_of`).
    images : the folder of the pictures; None: a usual name beside `source`, else the folder `source` lies in.
    identity : id of the data set; None: after `source`.
    output : the description; None: ``ID.toml`` beside `source`. What a description cannot say (a row a label, COCO's
        form, several files) is written beside it as ``ID.jsonl`` and ``ID.boxes.csv``.
    seed : of the split, where the source has none.
    dry_run : write nothing; the description is part of what is told.

    Returns
    -------
    What was seen, how it reads, and every note of the reader, for people.

    Raises
    ------
    DataError for what cannot be understood, naming it; UsageError for an output that is there already.
    """
    given = [source] if isinstance(source, Path) else list(source)
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    inside = label_files(given[0]) if len(given) == 1 and given[0].is_dir() else []
    sources = inside or given
    home = given[0] if given[0].is_dir() and len(given) == 1 else _common_folder(given)
    stem = given[0].resolve().stem if len(given) == 1 else home.resolve().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", identity or stem).strip("-._") or "mine"
    output = output or home / f"{name}.toml"
    if output.exists() and not dry_run:
        raise UsageError(f"{output}: is there already; name another with --output, or delete it")
    guess, extra = Guess(), dict[str, str]()
    parts = parts_of(sources)
    folders = sources[0].is_dir()
    if folders:
        folder = images or home
        _of_folders(folder, guess, parts if len(sources) > 1 else {})
    else:
        folder = images or (home if inside else _usual_folder(home, sources))
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder (--images)")
        kinds = {path.suffix.lower() for path in sources}
        if kinds == {".json"}:
            folder = _of_coco(parts, folder, name, guess, extra)
        elif kinds <= {*TABLES}:
            folder = _of_table(parts, folder, name, guess, extra)
        else:
            raise UsageError(
                f"{first_few([str(path) for path in sources])}: expected folders, .json files of COCO's form, or "
                f"tables ({', '.join(TABLES)})"
            )
    if "splits" not in guess.keys:
        guess.keys["split"] = {"test_fraction": TEST_FRACTION, "seed": seed}
        guess.said.append(
            f"part: none is told, so {TEST_FRACTION:.0%} of the pictures are drawn as test, with seed {seed}, by name"
        )
    base = output.parent
    told = " and ".join(path.name for path in given)
    head = {"id": name, "source": f"adopted from {told}", "images": _relative(folder, base)}
    if not folders:
        head["labels"] = f"{name}.jsonl" if extra else _relative(sources[0], base)
    text = _toml(head | guess.keys)
    back = _write_and_read(text, extra, output, dry_run)
    counts = ", ".join(f"{part} {len(split):,}" for part, split in back.splits.items())
    boxes = sum(len(split.boxes) for split in back.splits.values() if split.boxes is not None)
    lines = [f"{', '.join(map(str, sources))}:", *(f"  {line}" for line in guess.said)]
    lines += [f"{len(back.classes)} classes, {counts}{f', {boxes:,} boxes' if boxes else ''}"]
    lines += [f"note: {note}" for note in back.notes]
    lines = [visible(line) for line in lines]
    if dry_run:
        return "\n".join([*lines, "", f"{output} would be:", "", text.rstrip()])
    return "\n".join([*lines, f"wrote {output}", f"to use it: mlbench run --dataset {output} ..."])


def _common_folder(given: Sequence[Path]) -> Path:
    """The folder that all of `given` lie in."""
    folders = [path.resolve().parent for path in given]
    shared = Path(os.path.commonpath(folders))
    return given[0].parent if shared == folders[0] else shared


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()


def _usual_folder(home: Path, sources: Sequence[Path]) -> Path:
    names = [name for name in (*USUAL_FOLDERS, sources[0].stem) if len(sources) == 1 or not part_in(name)]
    beside = (home / name for name in names)
    return next((folder for folder in beside if folder.is_dir()), home)


# --- tables -----------------------------------------------------------------------------------------------------------


def _of_table(parts: Mapping[Path, str], folder: Path, name: str, guess: Guess, extra: dict[str, str]) -> Path:
    """Understand a table, or one of each part; returns the folder its file names are relative to."""
    source, delimiter, own = next(iter(parts)), ",", None
    rows: list[dict[str, Any]] = []
    for path in parts:
        delimiter = find_delimiter(path) if path.suffix.lower() in (".csv", ".tsv", ".txt") else ","
        found = [dict(row) for _, row in read_table(path, [], delimiter, lambda column: bool(column))]
        if not found:
            raise DataError(f"{path}: no rows below the header")
        if rows and (lacking := [column for column in rows[0] if column not in found[0] and column != own]):
            raise DataError(
                f"{path}: no column '{lacking[0]}', which {source.name} has: without labels a part cannot be scored; "
                "adopt the others alone"
            )
        if len(parts) > 1:
            own = own or next(column for column in ("split", "part", "mlbench part") if column not in found[0])
            found = [row | {own: parts[path]} for row in found]
        rows += found
    if any(_begin_with(rows, column, f"{folder.resolve().name}/") for column in rows[0]):
        folder = folder.resolve().parent  # the names are those below the folder that holds this one
    present = look_into(folder).images
    if not present:
        raise DataError(f"{folder}: no pictures (--images says which folder they lie in)")
    column, suffix, below = find_files(rows, present, str(source))
    folder = folder / below
    files = [spelled(row.get(column)) for row in rows]
    if delimiter != "," and own is None:
        guess.keys["delimiter"] = delimiter
    fields = f", fields parted by {delimiter!r}" if delimiter != "," else ""
    guess.said.append(f"table: {len(rows):,} rows{fields}")
    guess.said.append(f"pictures: column '{column}'{f' and the ending {suffix}' if suffix else ''}, in {folder}")
    if own:
        set_splits({part: [part] for part in parts.values()}, guess)
        extra[f"{name}.jsonl"] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        split: str | None = own
    else:
        split = guess_split(rows, column, guess)
    if split is None:
        _split_by_folder(files, guess)
    labels = guess_labels(rows, (column, split), guess, str(source))
    columns = {"file": column} | ({"split": split} if split else {}) | ({"labels": labels} if labels else {})
    if len(set(files)) < len(files) and labels is not None:
        _join_rows(rows, columns, name, guess, extra)
        columns = {"file": "file", "labels": "labels"} | ({"split": "split"} if split else {})
    guess.keys = {"columns": columns, **({"suffix": suffix} if suffix else {}), **guess.keys}
    inside = "" if below == "." else f"{below}/"
    _say_missing({file: f"{inside}{PurePosixPath(file).as_posix()}{suffix}" for file in files}, present, name, guess)
    return folder


def _say_missing(files: Mapping[str, str], present: Sequence[str], name: str, guess: Guess) -> None:
    """Say which of `files`, by the name listed, are not there, and make of the others a partial copy."""
    lying = set(present)
    missing = sorted(listed for listed, file in files.items() if file not in lying)
    if missing:
        guess.keys["allow_missing"] = "new-id"
        guess.said.append(f"missing: {len(missing):,} pictures ({first_few(missing)}); the others are '{name}-partial'")


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


def _of_coco(parts: Mapping[Path, str], folder: Path, name: str, guess: Guess, extra: dict[str, str]) -> Path:
    """Understand a file of COCO's form, or one of each part; returns the folder its file names are relative to."""
    several = len(parts) > 1
    present = look_into(folder).images
    labels: dict[str, list[str]] = {}
    part_of: dict[str, str] = {}
    classes: dict[str, None] = {}
    boxes = ["file,label,x1,y1,x2,y2"]
    annotations = 0
    below = "."
    for source, part in parts.items():
        coco = read_coco(source)
        lying = _near_part(present, source, folder, part) if several else present
        _, _, below = find_files([{"file_name": file} for file in coco.files.values()], lying, str(source))
        inside = "" if below == "." or not several else f"{below}/"
        own = {image: f"{inside}{file}" for image, file in coco.files.items()}
        for file in own.values():
            if file in labels:
                raise DataError(f"{source}: '{file}' is also in the part '{part_of[file]}'")
            labels[file], part_of[file] = [], part
        known = dict(classes)
        classes |= dict.fromkeys(coco.classes)
        if known and known.keys() != dict.fromkeys(coco.classes).keys():
            guess.said.append(f"categories: {source.name} has others than the files before it; all are classes")
        annotations += len(coco.found)
        for image, label, box in coco.found:
            labels[own[image]] += [] if label in labels[own[image]] else [label]
            if box is not None:
                boxes.append(",".join([_field(own[image]), _field(label), *(f"{v:.3f}" for v in box)]))
    extra[f"{name}.jsonl"] = "".join(
        json.dumps({"file": file, **({"split": part_of[file]} if several else {}), "labels": found}, ensure_ascii=False)
        + "\n"
        for file, found in labels.items()
    )
    columns = {"file": "file", "labels": "labels"} | ({"split": "split"} if several else {})
    guess.keys |= {"columns": columns, "classes": list(classes)}
    folder = folder if several else folder / below
    guess.said.append(f"COCO: {len(labels):,} images, {annotations:,} annotations, {len(classes)} categories")
    guess.said.append(f"pictures: in {folder}")
    if len(boxes) > 1:
        extra[f"{name}.boxes.csv"] = "\n".join(boxes) + "\n"
        guess.keys["boxes"] = {"file": f"{name}.boxes.csv", "format": "xywh", "unit": "pixels"}
        guess.said.append(f"boxes: {len(boxes) - 1:,}, x, y, width, height in pixels")
    if several:
        set_splits({part: [part] for part in parts.values()}, guess)
    else:
        _split_by_folder(list(labels), guess)
    inside = "" if several or below == "." else f"{below}/"
    _say_missing({file: f"{inside}{file}" for file in labels}, present, name, guess)
    return folder


def _near_part(present: Sequence[str], source: Path, folder: Path, part: str) -> list[str]:
    """The pictures that are most likely those of a part: beside its file, in a folder of its name, or all."""
    beside = Path(os.path.relpath(source.resolve().parent, folder.resolve())).as_posix()
    if beside not in (".", "..") and not beside.startswith("../"):
        own = [name for name in present if name.startswith(f"{beside}/")]
        if own:
            return own
    named = [name for name in present if part_in(PurePosixPath(name).parent.as_posix()) == part]
    return named or list(present)


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _of_folders(folder: Path, guess: Guess, given: Mapping[Path, str]) -> None:
    """Understand folders whose names are labels; `given` are those of the parts where several were named."""
    tops_of = {Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix(): part for path, part in given.items()}
    names = look_into(folder, list(tops_of) or ["."]).images
    if not names:
        raise DataError(f"{folder}: no pictures")
    if tops_of:
        set_splits({part: [top for top, own in tops_of.items() if own == part] for part in tops_of.values()}, guess)
        depths = {top: len(PurePosixPath(top).parts) for top in tops_of}
    else:
        tops = sorted({PurePosixPath(name).parts[0] for name in names if "/" in name})
        parts = [top for top in tops if top.lower() in PART_WORDS]
        below = len(parts) == len(tops) > 1 and set_splits(_by_part(parts), guess)
        depths = dict.fromkeys(tops, 1) if below else {}
    depth = {name: next((d for top, d in depths.items() if name.startswith(f"{top}/")), 0) for name in names}
    labels = sorted({part for name in names for part in PurePosixPath(name).parts[depth[name] : -1]})
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
