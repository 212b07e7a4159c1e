"""The TOML description of a data set of files: its keys, their meaning, and the checks on them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlbench.annotation import State
from mlbench.errors import DataError, UsageError, unknown

PARTS = ("train", "val", "test")
STATES = {state.name.lower(): state for state in State}


@dataclass(frozen=True)
class Description:
    """What a TOML description says; every path is relative to the data root.

    Parameters
    ----------
    where : name of the TOML file, for messages.
    id, version : identity of the data set; `summary` and `source` are one line each for people.
    images : folder of the pictures.
    labels : CSV or JSONL file, one picture a line. None: the folders between a split's folder and a picture are
        its labels (``train/cat+dog/1.jpg`` with separator "+").
    columns : names of the columns ``file``, ``split`` (where there is one) and ``labels``.
    delimiter : between the fields of a CSV line.
    label_style : "names" or "indices" (0-based, into `classes`), several in one field, or "columns", one a class.
    separator : between the labels in one field; not needed for JSONL lists.
    values : label_style "columns": state of each value. By default 1 is positive, 0 or -1 negative; a file that
        uses both 0 and -1 must say what they mean. An empty field is a missing label.
    missing_label : state of a class that a picture is not labelled with, "negative" or "unknown".
    classes : list of names, or a file of one name a line, or None: the sorted names met.
    class_filter : ``min_train`` and ``min_test``: classes with fewer positives than that are left out.
    splits : part ("train", "val", "test") to the values of the split column, or to folder prefixes where there is no
        such column. With a split column it may be left out if the values are the names of the parts.
    split : ``test_fraction`` and ``seed`` where the source has no split: each picture is drawn by its own id.
    unlabelled : "keep" or "drop" pictures without a positive label.
    tags : "left_out_classes": the classes that `class_filter` leaves out are the pictures' tags, for methods that take
        tags (as there is nothing a picture's users said of it, held-out labels stand in).
    allow_missing : "new-id" accepts that listed pictures are not there; the data set is then called ``ID-partial``.
    boxes : ``file``, and ``columns`` for ``file``, ``label``, ``x1``, ``y1``, ``x2``, ``y2``; in pixels, 0-based.
    expect : counts of the full copy: ``classes``, ``train``, ``val``, ``test``, ``boxes``, ``boxed_images``.
    flippable : False where a mirrored picture is another class.
    """

    where: str
    id: str
    images: str
    version: str = "1"
    summary: str = ""
    source: str = ""
    labels: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    label_style: str = "names"
    separator: str | None = None
    values: Mapping[str, str] | None = None
    missing_label: str = "negative"
    classes: tuple[str, ...] | str | None = None
    class_filter: Mapping[str, int] = field(default_factory=dict)
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: Mapping[str, float | int] | None = None
    unlabelled: str = "keep"
    allow_missing: str = ""
    tags: str = ""
    boxes: Mapping[str, Any] | None = None
    expect: Mapping[str, int] = field(default_factory=dict)
    flippable: bool = True

    @property
    def missing_state(self) -> State:
        return STATES[self.missing_label]


Kinds = tuple[type, ...]
_TEXT_KEYS = (
    "id images summary source labels delimiter separator label_style missing_label unlabelled allow_missing tags"
)
_KEYS: dict[str, Kinds] = {
    **dict.fromkeys(_TEXT_KEYS.split(), (str,)),
    "version": (str, int),
    "columns": (dict,),
    "values": (dict,),
    "classes": (list, str),
    "class_filter": (dict,),
    "splits": (dict,),
    "split": (dict,),
    "boxes": (dict,),
    "expect": (dict,),
    "flippable": (bool,),
}
_TABLES: dict[str, dict[str, Kinds]] = {
    "columns": dict.fromkeys(("file", "split", "labels"), (str,)),
    "class_filter": dict.fromkeys(("min_train", "min_test"), (int,)),
    "splits": dict.fromkeys(PARTS, (str, list)),
    "split": {"test_fraction": (float,), "seed": (int,)},
    "boxes": {"file": (str,), "columns": (dict,)},
    "expect": dict.fromkeys(("classes", *PARTS, "boxes", "boxed_images"), (int,)),
}
_CHOICES = {
    "label_style": ("names", "indices", "columns"),
    "missing_label": ("negative", "unknown"),
    "unlabelled": ("keep", "drop"),
    "allow_missing": ("new-id",),
    "tags": ("left_out_classes",),
}
BOX_COLUMNS = ("file", "label", "x1", "y1", "x2", "y2")


def read_description(path: str | Path) -> Description:
    """Read and check a TOML description.

    DataError if the file is missing or not TOML; UsageError names the file and the key (and the nearest known one)
    for an unknown key, a wrong type or a value that cannot be.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such description") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not readable as TOML ({error})") from None
    where = path.name
    _check_keys(raw, _KEYS, where)
    for name, keys in _TABLES.items():
        _check_keys(raw.get(name, {}), keys, f"{where}: [{name}]")
    for name, choices in _CHOICES.items():
        if name in raw and raw[name] not in choices:
            raise unknown(f"value of '{name}'", raw[name], choices, where)
    for name in ("id", "images"):
        if not raw.get(name):
            raise UsageError(f"{where}: key '{name}' is missing")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", raw["id"]):
        raise UsageError(f"{where}: id '{raw['id']}' may hold letters, digits, dots, dashes and underscores only")
    return Description(
        where=where,
        **{
            **raw,
            "version": str(raw.get("version", "1")),
            "columns": {"file": "file", "labels": "labels", **raw.get("columns", {})},
            "classes": _classes(raw, where),
            "splits": _splits(raw, where),
            "split": _split(raw, where),
            "values": _values(raw, where),
            "boxes": _boxes(raw, where),
        },
    )


def _check_keys(table: Mapping[str, Any], keys: Mapping[str, Kinds], where: str) -> None:
    for key, value in table.items():
        if key not in keys:
            raise unknown("key", key, keys, where)
        allowed = keys[key]
        # bool is an int to Python, but 'min_train = true' is a slip.
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            names = " or ".join(kind.__name__ for kind in allowed)
            raise UsageError(f"{where}: key '{key}' is {value!r}, expected {names}")


def _classes(raw: Mapping[str, Any], where: str) -> tuple[str, ...] | str | None:
    classes = raw.get("classes")
    if classes is None and raw.get("label_style") == "indices":
        raise UsageError(f"{where}: label_style 'indices' needs the key 'classes' (a list of names, or their file)")
    if not isinstance(classes, list):
        return classes
    return check_class_names([str(name) for name in classes], f"{where}: classes")


def check_class_names(names: list[str], where: str) -> tuple[str, ...]:
    """Return `names` as a tuple; DataError if there are none, or an empty or repeated one."""
    if not names or "" in names:
        raise DataError(f"{where}: {'an empty class name' if names else 'no class'}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{where}: class named twice: {', '.join(repeated)}")
    return tuple(names)


def _splits(raw: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    if "splits" in raw and "split" in raw:
        raise UsageError(f"{where}: 'splits' (the source's) and 'split' (drawn) exclude each other")
    if "split" in raw:
        return {}
    if "splits" not in raw and "split" not in raw.get("columns", {}):
        raise UsageError(
            f"{where}: no split. Name the column (columns.split), the values or folders ([splits] train = ..., "
            "test = ...), or have it drawn (split = {test_fraction = 0.2, seed = 0})"
        )
    given = raw.get("splits") or {part: part for part in PARTS}
    splits = {part: tuple(map(str, value if isinstance(value, list) else [value])) for part, value in given.items()}
    for part in ("train", "test"):
        if not splits.get(part):
            raise UsageError(f"{where}: [splits] names no '{part}'")
    values = [value for part in splits.values() for value in part]
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{where}: [splits] uses '{value}' twice")
    return splits


def _split(raw: Mapping[str, Any], where: str) -> dict[str, float | int] | None:
    if "split" not in raw:
        return None
    fraction, seed = raw["split"].get("test_fraction"), raw["split"].get("seed")
    if fraction is None or seed is None or not 0 < fraction < 1:
        raise UsageError(f"{where}: [split] needs 'test_fraction' between 0 and 1 and 'seed', found {raw['split']}")
    return {"test_fraction": fraction, "seed": seed}


def _values(raw: Mapping[str, Any], where: str) -> dict[str, str] | None:
    for value, state in raw.get("values", {}).items():
        if state not in STATES:
            raise unknown("label state", state, STATES, f"{where}: [values] '{value}'")
    return raw.get("values")


def _boxes(raw: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    if "boxes" not in raw:
        return None
    columns = raw["boxes"].get("columns", {})
    _check_keys(columns, dict.fromkeys(BOX_COLUMNS, (str,)), f"{where}: [boxes.columns]")
    if "file" not in raw["boxes"]:
        raise UsageError(f"{where}: [boxes] key 'file' is missing")
    return {"file": raw["boxes"]["file"], "columns": {**{name: name for name in BOX_COLUMNS}, **columns}}
