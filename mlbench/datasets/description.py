"""The TOML description of a data set of files: its keys, their meaning, and the checks on them."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mlbench.annotation import State
from mlbench.datasets.reading import holds_control, read_text
from mlbench.errors import DataError, UsageError, unknown, visible

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
    labels : CSV, JSONL or Parquet file, one picture a line. None: the folders between a split's folder and a picture
        are its labels (``train/cat+dog/1.jpg`` with separator "+"). Hidden and system entries are left out and counted,
        symbolic links are followed.
    columns : names of the columns ``file``, ``split`` (where there is one), ``labels``, and ``negatives`` (where there
        is one): the labels that are known to be absent.
    suffix : what is missing at the end of the names in the file column, ".jpg" for instance.
    delimiter : between the fields of a CSV line, one character; in TOML a tab is "\\t" in double quotes.
    label_style : "names" or "indices" (0-based, into `classes`), several in one field, or "columns", one a class.
    separator : between the labels in one field; not needed for lists, of JSON or written as text ("['oak', 'ash']").
    no_label : texts in the field of labels that mean that there is none, such as "nan" or "-".
    values : label_style "columns": state of each value, in the file's own spelling or another of the same whole number.
        By default 1 is positive, 0 or -1 negative; a file that uses both 0 and -1 must say what they mean. An empty
        field is a missing label.
    missing_label : state of a class that a picture is not labelled with, "negative" or "unknown".
    classes : list of names, or a file of one name a line, or None: the sorted names met.
    class_filter : ``min_train`` and ``min_test``: classes with fewer positives than that are left out.
    splits : part ("train", "val", "test") to the values of the split column, or to folder prefixes where there is no
        such column; of prefixes that lie inside one another the longest holds. With a split column it may be left out
        if the values are the names of the parts.
    split : ``test_fraction`` and ``seed`` where the source has no split: each picture is drawn by its own id.
    unlabelled : "keep" or "drop" pictures without a positive label.
    tags : "left_out_classes": the classes that `class_filter` leaves out are the pictures' tags, for methods that take
        tags (as there is nothing a picture's users said of it, held-out labels stand in).
    allow_missing : "new-id" accepts that listed pictures are not there; the data set is then called ``ID-partial``.
    equal_files : "merge": files of a part with equal bytes are one sample with the labels of all of them (a picture
        copied into the folder of each of its labels); its id is the first one's. "keep": they are meant.
    boxes : ``file``, and ``columns`` for ``file``, ``label``, ``x1``, ``y1``, ``x2``, ``y2``; 0-based. ``format``:
        "xyxy" (corners), "xywh" (x, y, width, height) or "cxcywh" (the middle, width, height), in this order in the
        columns ``x1`` to ``y2``; ``unit``: "pixels", "relative" (shares of width and height) or "percent". Where they
        are not given, corners in pixels are taken, and a note says where that looks wrong.
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
    suffix: str = ""
    no_label: tuple[str, ...] = ()
    values: Mapping[str, str] | None = None
    missing_label: str = "negative"
    classes: tuple[str, ...] | str | None = None
    class_filter: Mapping[str, int] = field(default_factory=dict)
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: Mapping[str, float | int] | None = None
    unlabelled: str = "keep"
    allow_missing: str = ""
    tags: str = ""
    equal_files: str = ""
    boxes: Mapping[str, Any] | None = None
    expect: Mapping[str, int] = field(default_factory=dict)
    flippable: bool = True

    @property
    def missing_state(self) -> State:
        return STATES[self.missing_label]


Kinds = tuple[type, ...]
_TEXT_KEYS = (
    "id images summary source labels delimiter separator label_style missing_label unlabelled allow_missing tags"
    " suffix equal_files"
)
_KEYS: dict[str, Kinds] = {
    **dict.fromkeys(_TEXT_KEYS.split(), (str,)),
    "version": (str, int),
    "columns": (dict,),
    "values": (dict,),
    "classes": (list, str),
    "no_label": (list,),
    "class_filter": (dict,),
    "splits": (dict,),
    "split": (dict,),
    "boxes": (dict,),
    "expect": (dict,),
    "flippable": (bool,),
}
_TABLES: dict[str, dict[str, Kinds]] = {
    "columns": dict.fromkeys(("file", "split", "labels", "negatives"), (str,)),
    "class_filter": dict.fromkeys(("min_train", "min_test"), (int,)),
    "splits": dict.fromkeys(PARTS, (str, list)),
    "split": {"test_fraction": (float,), "seed": (int,)},
    "boxes": {"file": (str,), "columns": (dict,), "format": (str,), "unit": (str,)},
    "expect": dict.fromkeys(("classes", *PARTS, "boxes", "boxed_images"), (int,)),
}
_CHOICES = {
    "label_style": ("names", "indices", "columns"),
    "missing_label": ("negative", "unknown"),
    "unlabelled": ("keep", "drop"),
    "allow_missing": ("new-id",),
    "tags": ("left_out_classes",),
    "equal_files": ("merge", "keep"),
}
BOX_FORMATS = ("xyxy", "xywh", "cxcywh")
BOX_UNITS = ("pixels", "relative", "percent")
BOX_COLUMNS = ("file", "label", "x1", "y1", "x2", "y2")


def read_description(path: str | Path) -> Description:
    """Read and check a TOML description.

    DataError if the file is missing or not TOML; UsageError names the file and the key (and the nearest known one)
    for an unknown key, a wrong type or a value that cannot be.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such description")
    try:
        raw = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested deep
        told = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{path}: not readable as TOML ({told})") from None
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
    _check_delimiter(raw.get("delimiter", ","), where)
    return Description(
        where=where,
        **{
            **raw,
            "version": str(raw.get("version", "1")),
            "columns": {"file": "file", "labels": "labels", **raw.get("columns", {})},
            "classes": _classes(raw, where),
            "no_label": _texts(raw.get("no_label", []), f"{where}: no_label"),
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


def _check_delimiter(delimiter: str, where: str) -> None:
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        tab = ' (a tab is "\\t" in double quotes; in single quotes it is two characters)' if "\\t" in delimiter else ""
        raise UsageError(f"{where}: key 'delimiter' is {delimiter!r}, expected one character{tab}")


def _texts(values: list[Any], where: str) -> tuple[str, ...]:
    """The list of names `values`; UsageError for what TOML does not keep as it is written (1.10 is 1.1 to it)."""
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise UsageError(f"{where}: {value!r} is no text: write it in quotes")
    return tuple(map(str, values))


def _classes(raw: Mapping[str, Any], where: str) -> tuple[str, ...] | str | None:
    classes = raw.get("classes")
    if classes is None and raw.get("label_style") == "indices":
        raise UsageError(f"{where}: label_style 'indices' needs the key 'classes' (a list of names, or their file)")
    if not isinstance(classes, list):
        return classes
    return check_class_names(list(_texts(classes, f"{where}: classes")), f"{where}: classes")


def check_class_names(names: list[str], where: str) -> tuple[str, ...]:
    """Return `names` as a tuple; DataError if there are none, or an empty or repeated one."""
    if not names or "" in names:
        raise DataError(f"{where}: {'an empty class name' if names else 'no class'}")
    strange = [name for name in names if holds_control(name)]
    if strange:
        raise DataError(f"{where}: the name of class '{visible(strange[0])}' holds control characters")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
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
    splits = {
        part: _texts(value if isinstance(value, list) else [value], f"{where}: [splits] {part}")
        for part, value in given.items()
    }
    if "split" not in raw.get("columns", {}):  # folders, in their plainest spelling; "." is all there is
        splits = {
            part: tuple(PurePosixPath(value.strip("/")).as_posix() for value in values)
            for part, values in splits.items()
        }
    for part in ("train", "test"):
        if not splits.get(part):
            raise UsageError(f"{where}: [splits] names no '{part}'")
    values = [value for part in splits.values() for value in part]
    for value, count in Counter(values).items():
        if count > 1:
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
    for name, choices in (("format", BOX_FORMATS), ("unit", BOX_UNITS)):
        if raw["boxes"].get(name, choices[0]) not in choices:
            raise unknown(f"value of '{name}'", raw["boxes"][name], choices, f"{where}: [boxes]")
    return {**raw["boxes"], "columns": {**{name: name for name in BOX_COLUMNS}, **columns}}
