"""What a table of labels means, told from its cells: which column names the pictures, which the part, which labels."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mlbench.datasets.cells import NOTHING, plain, spelled
from mlbench.datasets.description import PARTS
from mlbench.datasets.folders import near_file
from mlbench.errors import DataError

#: Words for the parts, as split columns and folders have them.
PART_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "fit"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout", "held-out"), "test"),
}
_TEST_FLAGS = ("is_test", "test", "is_valid", "is_val", "is_validation", "valid")
_LABEL_NAMES = (
    *("labels", "label", "tags", "tag", "classes", "class", "categories", "category", "targets", "target"),
    *("class_name", "label_name", "attributes", "attribute", "genres", "genre", "names"),
)
_DELIMITERS = (",", ";", "\t", "|")
_SEPARATORS = ("|", ";", ",", "/", "&", "+", " ")
#: State of each spelling in a column of one class, beside those that `values` need not name.
_WORDS = {
    **dict.fromkeys(("true", "yes", "y", "t", "present", "positive"), "positive"),
    **dict.fromkeys(("false", "no", "n", "f", "absent", "negative"), "negative"),
    **dict.fromkeys((*NOTHING, "?", "u", "unknown"), "unknown"),
    "0.5": "unspecified",
}
_MOST_VALUES = 6


@dataclass
class Guess:
    """Keys of a description, and what was seen, one line each."""

    keys: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def find_delimiter(path: Path) -> str:
    """What parts the fields of a CSV file: what gives the most columns, the same number in the first lines."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        head = [line for line in (file.readline(2**20) for _ in range(20)) if line.strip()]
    widths = {}
    for delimiter in _DELIMITERS:
        counts = {len(row) for row in csv.reader(head, delimiter=delimiter) if row}
        widths[delimiter] = counts.pop() if len(counts) == 1 else 0
    return max(_DELIMITERS, key=lambda delimiter: widths[delimiter])


def find_files(rows: Sequence[Mapping[str, Any]], present: Sequence[str], where: str) -> tuple[str, str, str]:
    """(column, suffix, folder): ``folder / (value + suffix)`` is a picture for most rows; DataError if none is."""
    folders = {"."} | {PurePosixPath(name).parent.as_posix() for name in present}
    suffixes = ["", *dict.fromkeys(PurePosixPath(name).suffix for name in present)]
    columns = list(rows[0])
    lying = set(present)
    best, chosen = 0.0, ("", "", "")
    for column in columns:
        values = list(dict.fromkeys(_plainest(spelled(row.get(column))) for row in rows))
        for folder in sorted(folders, key=lambda name: (len(name), name))[:200]:
            before = "" if folder == "." else f"{folder}/"
            for suffix in suffixes:
                share = sum(f"{before}{value}{suffix}" in lying for value in values) / len(values)
                if share > best:
                    best, chosen = share, (column, suffix, folder)
        if best == 1:
            break
    if not best:
        sample = spelled(rows[0][columns[0]])
        raise DataError(
            f"{where}: no column names pictures; looked for '{sample}' and the like{near_file(sample, present)} "
            "(--images says which folder they lie in)"
        )
    return chosen


def _plainest(name: str) -> str:
    return PurePosixPath(name).as_posix() if name else ""


def guess_split(rows: Sequence[Mapping[str, Any]], column_of_files: str, guess: Guess) -> str | None:
    """The column that tells the parts, if there is one; its values go into ``splits``."""
    for column in rows[0]:
        if column == column_of_files:
            continue
        values = Counter(spelled(row.get(column)) for row in rows)
        parts = {value: PART_WORDS.get(value.lower()) for value in values}
        if len(values) > _MOST_VALUES or not all(parts.values()):
            words = {"0": "train", "1": "test", "true": "test", "false": "train"}
            flags = {value: words.get(plain(value).lower()) for value in values}
            if column.lower() not in _TEST_FLAGS or len(values) != 2 or not all(flags.values()):
                continue
            parts = flags
        if set_splits(
            {part: [v for v, p in parts.items() if p == part] for part in set(parts.values()) if part}, guess
        ):
            counts = ", ".join(f"{value} {count:,}" for value, count in values.items())
            guess.said.insert(len(guess.said) - 1, f"part: column '{column}' ({counts})")
            return column
    return None


def set_splits(values: Mapping[str, list[str]], guess: Guess) -> bool:
    """Put the values or folders of each part into ``splits``; a validation part alone is the test part."""
    found = {part: values[part] for part in PARTS if values.get(part)}
    if "train" not in found or len(found) < 2:
        return False
    alone = "test" not in found
    if alone:
        found["test"] = found.pop("val")
    guess.keys["splits"] = {part: named[0] if len(named) == 1 else named for part, named in found.items()}
    told = ", ".join(f"{part} = {' and '.join(named)}" for part, named in found.items())
    guess.said.append(f"parts: {told}" + (" (there is no other test part than the validation one)" if alone else ""))
    return True


def guess_labels(
    rows: Sequence[Mapping[str, Any]], taken: Sequence[str | None], guess: Guess, where: str
) -> str | None:
    """Which columns hold labels, and how; the column of texts or lists, or None for a column a class."""
    free = [column for column in rows[0] if column not in taken and column]
    flags = [column for column in free if _is_flag(rows, column)]
    by_name = {column.lower(): column for column in free if column not in flags}
    named = next((by_name[name] for name in _LABEL_NAMES if name in by_name), None)
    if flags and named is None:
        _guess_values(rows, flags, guess)
        guess.keys |= {"label_style": "columns", "classes": flags}
        guess.said.append(f"labels: a column a class, {len(flags)} of them ({_few(flags)})")
        _say_unused([column for column in free if column not in flags], guess)
        return None
    column = named or next((column for column in free if _repeats(rows, column)), None)
    if column is None:
        raise DataError(f"{where}: no column holds labels (columns: {', '.join(rows[0])})")
    _guess_separator(rows, column, guess)
    _say_unused([other for other in free if other != column], guess)
    return column


def _is_flag(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column says of one class whether it is there."""
    values = {spelled(row.get(column)) for row in rows}
    if len(values) > _MOST_VALUES or any(isinstance(row.get(column), list) for row in rows):
        return False
    return all(plain(value) in ("1", "0", "-1", "") or value.lower() in _WORDS for value in values) and any(
        plain(value) == "1" or _WORDS.get(value.lower()) == "positive" for value in values
    )


def _guess_values(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], guess: Guess) -> None:
    """The state of each spelling in the columns of classes."""
    counts = Counter(spelled(row.get(column)) for row in rows for column in columns)
    numbers = {plain(value) for value in counts} & {"1", "0", "-1"}
    empty = counts.pop("", 0)
    states = {"1": "positive", "0": "negative", "-1": "negative"}
    if {"0", "-1"} <= numbers:
        # Reports of radiologists leave a field empty for "not mentioned" and write -1 for "uncertain".
        states |= {"-1": "unspecified"} if empty else {"0": "unknown"}
    coding = {value: states.get(plain(value)) or _WORDS[value.lower()] for value in counts}
    if {"0", "-1"} <= numbers or any(value.lower() in _WORDS for value in coding):
        guess.keys["values"] = coding
    if empty:
        guess.keys["missing_label"] = "unknown"
    told = [f"{value} is {state} ({counts[value]:,})" for value, state in coding.items()]
    told += [f"an empty field is unknown ({empty:,})"] if empty else []
    guess.said.append(f"coding: {', '.join(told)}")
    if not empty and "unknown" not in coding.values():
        guess.said.append("unknown labels: none, what is not present is taken as absent")


def _guess_separator(rows: Sequence[Mapping[str, Any]], column: str, guess: Guess) -> None:
    fields = [row.get(column) for row in rows]
    texts = [spelled(value) for value in fields if not isinstance(value, list)]
    nothing = sorted({text for text in texts if text.lower() in NOTHING})
    if nothing:
        guess.keys["no_label"] = nothing
        guess.said.append(f"no label: {', '.join(map(repr, nothing))}")
    texts = [text for text in texts if text and text not in nothing]
    if not texts or all(text.startswith("[") and text.endswith("]") for text in texts):
        guess.said.append(f"labels: lists in column '{column}'")
        return
    separator = next((mark for mark in _SEPARATORS if _parts_labels(texts, mark)), None)
    guess.keys["separator"] = separator or "|"
    how = f"parted by {separator!r}" if separator else "one a picture"
    guess.said.append(f"labels: names in column '{column}', {how}")


def _parts_labels(texts: Sequence[str], separator: str) -> bool:
    """Whether `separator` parts labels: what it leaves comes again in other fields."""
    whole = set(texts)
    if not any(separator in text for text in whole):
        return False
    parts = Counter(part.strip() for text in whole for part in set(text.split(separator)))
    if separator != " ":
        return max(parts.values()) > 1 or len(whole) == 1
    # Blanks stand in names, too ("red oak"): only where they part few words that make many fields, or stand alone.
    mixed = [text for text in whole if separator in text]
    return len(parts) < len(whole) or all(part in whole for text in mixed for part in text.split())


def _repeats(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column's fields come again and again, as labels do."""
    values = [row.get(column) for row in rows]
    if any(isinstance(value, list) for value in values):
        return True
    texts = [spelled(value) for value in values]
    distinct = len(set(texts))
    return 1 < distinct <= max(len(texts) // 2, 2) or any(_parts_labels(texts, mark) for mark in "|;,")


def _say_unused(columns: Sequence[str], guess: Guess) -> None:
    if columns:
        guess.said.append(f"not used: column{'s' if len(columns) > 1 else ''} {_few(columns)}")


def _few(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
