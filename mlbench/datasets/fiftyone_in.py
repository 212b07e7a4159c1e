"""FiftyOne data sets as a description and label files, so that a run can be repeated without FiftyOne's database."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.datasets.description import PARTS
from mlbench.errors import DataError, MlbenchError, UsageError, unknown
from mlbench.files import atomic_write
from mlbench.images.decode import first_few, image_size

#: Label types that can be read, and the list inside each that holds the labels (none: it is one label).
KINDS = {"Classification": "", "Classifications": "classifications", "Detections": "detections"}

#: Digits after the point of a box's pixels.
_DIGITS = 3

#: Tags, or values of a split field, of each part.
USUAL_PARTS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}


@dataclass
class _Found:
    """What was read: per sample its file, part, labels and negatives; boxes; and what was left out, by reason."""

    rows: list[tuple[str, str, list[str], list[str]]] = field(default_factory=list)
    boxes: list[tuple[str, str, list[float]]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def from_fiftyone(
    name: str,
    fields: Sequence[str] = (),
    split_field: str | None = None,
    parts: Sequence[str] = (),
    output: Path | None = None,
    negatives: Sequence[str] = (),
) -> str:
    """Write a FiftyOne data set as ``ID.toml``, ``ID.jsonl`` and ``ID.boxes.csv`` in the folder `output`.

    The pictures stay where they are; the description refers to them relative to `output`.

    Parameters
    ----------
    name : of the FiftyOne data set.
    fields : label fields, of type Classification, Classifications or Detections. A sample has the labels of all of
        them together; Detections also give boxes. May be left out where the data set has one such field.
    split_field : field with each sample's part. None: its tags tell.
    parts : "PART=VALUE", which tag or value means train, val or test, where `USUAL_PARTS` do not hold.
    output : the folder; ``./NAME`` if None.
    negatives : those of the fields that name what was looked for and is absent, as ``negative_labels`` of Open Images
        does; if none is given, fields whose names begin with "negative". With such a field, what no field names is
        unknown, not absent.

    Returns
    -------
    What was written and how it reads back, for people. Samples without a value in any of the fields were not annotated:
    they are left out and counted, and so are boxes without area inside their picture.

    Raises
    ------
    MlbenchError if FiftyOne or its database is missing, UsageError for a wrong name, DataError for samples that belong
    to no part or to two, labels without a name, and pictures that are missing.
    """
    from mlbench.datasets import load_dataset

    output = output or Path(name)
    wanted = _parse_parts(parts)
    dataset = _open(name)
    chosen = _choose_fields(dataset, (*fields, *(key for key in negatives if key not in fields)))
    absent = [key for key in chosen if key in negatives or (not negatives and key.lower().startswith("negative"))]
    found, folder = _read(dataset, chosen, absent, split_field, wanted)
    identity = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "fiftyone"
    classes = _classes(dataset, chosen, found)
    path = _write(output, identity, name, chosen, found, classes, folder, bool(absent))
    back = load_dataset(str(path))
    counts = ", ".join(f"{part} {len(split):,}" for part, split in back.splits.items())
    return "\n".join(
        [
            f"{path}: {len(back.classes)} classes, {counts}, boxes {len(found.boxes):,}",
            *(f"left out: {count} {reason}" for reason, count in found.left_out.items()),
            *(f"note: {note}" for note in back.notes),
            f"to use it: mlbench run --dataset {path} ...",
        ]
    )


def connect() -> Any:
    """The fiftyone package, once its database answers; MlbenchError if either is missing."""
    try:
        import fiftyone
    except ImportError as error:
        raise MlbenchError(f"FiftyOne is not installed here ({error}): pip install fiftyone") from None
    except Exception as error:  # it looks for its database while it is imported, and fails with whatever that gives
        raise _no_database(error) from None
    try:
        fiftyone.list_datasets()
    except Exception as error:
        raise _no_database(error) from None
    return fiftyone


def _open(name: str) -> Any:
    fiftyone = connect()
    known = fiftyone.list_datasets()
    if name not in known:
        raise unknown("FiftyOne data set", name, known)
    dataset = fiftyone.load_dataset(name)
    if dataset.media_type != "image":
        raise UsageError(f"FiftyOne data set '{name}' holds {dataset.media_type or 'nothing'}, expected images")
    return dataset


def _no_database(error: Exception) -> MlbenchError:
    told = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return MlbenchError(
        f"FiftyOne has no database ({told}): start one, or set FIFTYONE_DATABASE_URI to a running MongoDB"
    )


def _parse_parts(parts: Sequence[str]) -> dict[str, str]:
    """Part by tag or value."""
    given: dict[str, str] = {}
    for text in parts:
        part, _, value = text.partition("=")
        if part not in PARTS or not value:
            raise UsageError(f"--part {text}: expected PART=VALUE, PART one of {', '.join(PARTS)}")
        if given.setdefault(value, part) != part:
            raise UsageError(f"--part {text}: '{value}' means {given[value]} already")
    named = set(given.values())
    usual = {value: part for part, values in USUAL_PARTS.items() if part not in named for value in values}
    return usual | given


def _choose_fields(dataset: Any, fields: Sequence[str]) -> dict[str, str]:
    """Kind (a key of `KINDS`) of each label field to read."""
    schema = dataset.get_field_schema()
    kinds = {key: getattr(value, "document_type", None) for key, value in schema.items()}
    readable = {key: kind.__name__ for key, kind in kinds.items() if kind is not None and kind.__name__ in KINDS}
    for key in fields:
        if key in schema and key not in readable:
            raise UsageError(
                f"FiftyOne field '{key}' of '{dataset.name}' holds no labels of a kind in {', '.join(KINDS)}"
            )
        if key not in readable:
            raise unknown("FiftyOne label field", key, readable)
    if not fields and len(readable) != 1:
        listed = ", ".join(f"{key} ({kind})" for key, kind in readable.items())
        raise UsageError(
            f"FiftyOne data set '{dataset.name}': which label field? --field one of: {listed or 'none there'}"
        )
    return {key: readable[key] for key in fields or readable}


def _read(
    dataset: Any,
    fields: Mapping[str, str],
    absent: Collection[str],
    split_field: str | None,
    wanted: Mapping[str, str],
) -> tuple[_Found, Path]:
    """All samples, their file names relative to the folder returned; fields `absent` name what is not there."""
    if split_field is not None and split_field not in dataset.get_field_schema():
        raise unknown("FiftyOne field", split_field, dataset.get_field_schema())
    paths, tags = dataset.values("filepath"), dataset.values(split_field or "tags")
    if not paths:
        raise DataError(f"FiftyOne data set '{dataset.name}' has no samples")
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataError(f"{len(missing)} of {len(paths)} pictures missing: {first_few(missing)}")
    folder = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    if folder == folder.parent:
        raise DataError(f"pictures of '{dataset.name}' have no folder in common: {first_few(paths)}")
    found = _Found()
    values = {key: _field_values(dataset, key, kind) for key, kind in fields.items()}
    stray: list[str] = []
    for row, path in enumerate(paths):
        name = Path(path).relative_to(folder).as_posix()
        told = tags[row] if isinstance(tags[row], list) else [tags[row]]
        parts = {wanted[value] for value in told if value in wanted}
        if len(parts) > 1:
            raise DataError(f"{path}: belongs to {' and '.join(sorted(parts))}; a sample has one part")
        if not parts:
            stray.append(f"{name} ({', '.join(map(str, told)) or 'no tag'})")
            continue
        labelled = {key: (labels[row], boxes[row] if boxes else None) for key, (labels, boxes) in values.items()}
        if all(labels is None for labels, _ in labelled.values()):
            found.left_out[f"samples without a value in {', '.join(fields)} (not annotated)"] += 1
            continue
        present = _labels([told for key, told in labelled.items() if key not in absent], path)
        denied = _labels([told for key, told in labelled.items() if key in absent], path)
        both = set(present) & set(denied)
        if both:
            found.left_out["labels that are present and absent at once, taken as unknown"] += len(both)
        positives, negatives = ([label for label in side if label not in both] for side in (present, denied))
        found.rows.append((name, parts.pop(), positives, negatives))
        for key, (labels, boxes) in labelled.items():
            if boxes and key not in absent:
                _add_boxes(found, name, Path(path), labels, boxes)
    if stray:
        raise DataError(
            f"{len(stray)} of {len(paths)} samples belong to no part: {first_few(stray)}. Known "
            f"{'values' if split_field else 'tags'}: {', '.join(wanted)} (--split-field, --part PART=VALUE)"
        )
    return found, folder


def _field_values(dataset: Any, key: str, kind: str) -> tuple[list[Any], list[Any] | None]:
    """Labels of each sample (a list of names, None where the field is empty), and boxes where the kind has them."""
    if not KINDS[kind]:
        return [None if label is None else [label] for label in dataset.values(f"{key}.label")], None
    inside = f"{key}.{KINDS[kind]}"
    return dataset.values(f"{inside}.label"), dataset.values(f"{inside}.bounding_box") if kind == "Detections" else None


def _labels(labelled: Iterable[tuple[Any, Any]], path: str) -> list[str]:
    """Names in the order met, each once."""
    names = [label for labels, _ in labelled for label in labels or ()]
    if any(not isinstance(label, str) or not label.strip() for label in names):
        raise DataError(f"{path}: a label without a name")
    return list(dict.fromkeys(label.strip() for label in names))


def _add_boxes(found: _Found, name: str, path: Path, labels: Sequence[str], boxes: Sequence[Any]) -> None:
    """Relative (x, y, width, height) to pixels of the decoded picture."""
    width, height = image_size(path)
    for label, box in zip(labels, boxes, strict=True):
        if not box or len(box) != 4:
            raise DataError(f"{path}: bounding box {box} of '{label}', expected x, y, width, height")
        x1, y1 = box[0] * width, box[1] * height
        corners = [round(v, _DIGITS) for v in (x1, y1, x1 + box[2] * width, y1 + box[3] * height)]
        inside = np.clip(corners, 0, [width, height, width, height]).astype(np.float32)
        if not (np.isfinite(corners).all() and inside[0] < inside[2] and inside[1] < inside[3]):
            found.left_out["boxes without area inside their picture"] += 1
        else:
            found.boxes.append((name, label.strip(), corners))


def _classes(dataset: Any, fields: Mapping[str, str], found: _Found) -> list[str]:
    """The class list that the data set declares if it holds all names met, else these, sorted."""
    met = {label for _, _, labels, negatives in found.rows for label in (*labels, *negatives)}
    declared = [name for key in fields for name in dataset.classes.get(key, [])] or list(dataset.default_classes)
    declared = list(dict.fromkeys(name.strip() for name in declared))
    return declared if met and met <= set(declared) else sorted(met)


def _write(
    output: Path,
    identity: str,
    name: str,
    fields: Mapping[str, str],
    found: _Found,
    classes: list[str],
    folder: Path,
    denied: bool,
) -> Path:
    lines = [
        json.dumps({"file": file, "split": part, "labels": labels} | ({"negatives": negatives} if denied else {}))
        for file, part, labels, negatives in found.rows
    ]
    counts = Counter(part for _, part, _, _ in found.rows)
    for part in ("train", "test"):
        if not counts[part]:
            raise DataError(
                f"FiftyOne data set '{name}' has no sample in its {part} part (found: {dict(counts)}); "
                "--part says which tags mean what, e.g. --part test=validation"
            )
    images = os.path.relpath(folder.resolve(), output.resolve())
    boxed = len({file for file, _, _ in found.boxes})
    expect = {"classes": len(classes), **{part: counts[part] for part in PARTS if counts[part]}}
    text = [
        ("id", identity),
        ("summary", f"read from FiftyOne data set {name}"),
        ("source", f"FiftyOne data set {name}, fields {', '.join(fields)}"),
        ("images", Path(images).as_posix()),
        ("labels", f"{identity}.jsonl"),
    ]
    head = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in text]
    more = ', negatives = "negatives"' if denied else ""
    head += [f'columns = {{ file = "file", split = "split", labels = "labels"{more} }}']
    head += ['missing_label = "unknown"'] if denied else []
    head += [f"classes = {json.dumps(classes, ensure_ascii=False)}"]
    if found.boxes:
        expect |= {"boxes": len(found.boxes), "boxed_images": boxed}
        head += [f'boxes = {{ file = "{identity}.boxes.csv", format = "xyxy", unit = "pixels" }}']
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["file", "label", "x1", "y1", "x2", "y2"])
        writer.writerows([file, label, *(f"{v:.{_DIGITS}f}" for v in corners)] for file, label, corners in found.boxes)
        atomic_write(output / f"{identity}.boxes.csv", table.getvalue().encode())
    head += [f"expect = {{ {', '.join(f'{key} = {value}' for key, value in expect.items())} }}"]
    atomic_write(output / f"{identity}.jsonl", "".join(f"{line}\n" for line in lines).encode())
    path = output / f"{identity}.toml"
    atomic_write(path, "".join(f"{line}\n" for line in head).encode())
    return path
