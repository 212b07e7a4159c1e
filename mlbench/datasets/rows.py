"""The pictures that a description lists, each with its part and the states of its labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlbench.annotation import State
from mlbench.datasets.cells import Spellings, labels_in, plain, spelled
from mlbench.datasets.description import STATES, Description
from mlbench.datasets.folders import Contents, equal_files, look_into, near_file
from mlbench.datasets.reading import file_name, holds_control
from mlbench.datasets.tables import read_table
from mlbench.errors import DataError, UsageError, nearest, visible
from mlbench.images.decode import file_size, first_few


@dataclass(frozen=True)
class Row:
    """One picture: its name as listed, its file below the image folder, its part, states by class name or index."""

    name: str
    file: str
    part: str
    states: Mapping[str | int, State]
    where: str


def note(notes: list[str], what: str, names: Sequence[str]) -> None:
    """Add "WHAT: N (the first names)" unless there is none."""
    if names:
        notes.append(f"{what}: {len(names)} ({first_few(names, 10)})")


def read_rows(about: Description, root: Path, notes: list[str]) -> tuple[list[Row], bool]:
    """All rows whose picture is there, and whether listed pictures are missing (a partial copy).

    Rows stand in the order of the label file; of folders, sorted by name. Whatever was left out or looked odd is added
    to `notes`. DataError, UsageError name file and line of what is wrong.
    """
    folder = root / about.images
    part_of = _parts(about, notes)
    if about.labels is None:
        contents = look_into(folder, [prefix for values in about.splits.values() for prefix in values] or ["."])
        rows, partial = _rows_of_folders(about, folder, contents, part_of, notes), False
        note(notes, "files that are no images by their suffix, left out", contents.others)
        note(notes, "hidden and system entries, left out", contents.hidden)
    else:
        rows = _rows_of_table(about, root, part_of, notes)
        contents = look_into(folder) if folder.is_dir() else Contents()
        listed = {row.file for row in rows}
        others = [name for name in contents.images if name not in listed]
        rows, partial = _present(about, folder, rows, others, notes)
        note(notes, f"images not listed in {about.labels}, left out", others)
    return _merge_equal(about, folder, rows, notes), partial


# --- label files ------------------------------------------------------------------------------------------------------


def _rows_of_table(
    about: Description, root: Path, part_of: Callable[[str, Any, str], str], notes: list[str]
) -> list[Row]:
    path, columns = root / str(about.labels), about.columns
    wanted = [columns["file"], *([columns["split"]] if "split" in columns else [])]
    wanted += [columns["labels"]] if about.label_style != "columns" else []
    wanted += [columns["negatives"]] if "negatives" in columns else []
    by_column = about.label_style == "columns"
    classes = about.classes if isinstance(about.classes, tuple) else None
    rows: list[Row] = []
    met: dict[str, Row] = {}
    repeated: list[str] = []
    cells = _Cells(about)
    table = read_table(path, wanted, about.delimiter, lambda name: by_column and (classes is None or name in classes))
    for line, fields in table:
        where = f"{path}, line {line}"
        name = spelled(fields[columns["file"]])
        file = file_name(f"{name}{about.suffix}" if name else "", where)
        if file in met:
            raise DataError(f"{where}: '{name}' is listed twice (before: {_before(met[file], name)})")
        if by_column:
            states = cells.states(fields, where)
        else:
            labels = labels_in(about, fields[columns["labels"]], where)
            repeated += [name] if len(set(labels)) < len(labels) else []
            states = dict.fromkeys(labels, State.POSITIVE)
        if "negatives" in columns:
            for label in labels_in(about, fields[columns["negatives"]], where):
                if states.get(label) == State.POSITIVE:
                    raise DataError(f"{where}: '{label}' stands among the labels and among the negatives")
                states[label] = State.NEGATIVE
        row = Row(name, file, part_of(file, fields.get(columns.get("split", "")), where), states, where)
        met[file] = row
        rows.append(row)
    note(notes, "images that name a class more than once (counted once)", repeated)
    return rows


def _before(row: Row, name: str) -> str:
    line = row.where.rpartition(", ")[2]
    return line if row.name == name else f"{line}, as '{row.name}'"


class _Cells:
    """What the cells of the columns of classes mean; each spelling is looked up once."""

    def __init__(self, about: Description) -> None:
        self.about = about
        named = about.values
        self.values = None if named is None else Spellings({value: STATES[state] for value, state in named.items()})
        self.others = {about.columns["file"], about.columns.get("split"), about.columns.get("negatives")}
        self.first: dict[str, str] = {}  # where each value was met first
        self.known: dict[str, State] = {}

    def states(self, fields: Mapping[str, Any], where: str) -> dict[str | int, State]:
        """States of one row."""
        classes = self.about.classes
        wanted = classes if isinstance(classes, tuple) else [name for name in fields if name not in self.others]
        states: dict[str | int, State] = {}
        for name in wanted:
            if name not in fields:
                raise DataError(f"{where}: no column for class '{name}'.{nearest(name, list(fields))}")
            value = fields[name]
            state = self.known.get(value) if isinstance(value, str) else None
            if state is None:
                state = self._state(value, name, where)
                if isinstance(value, str):
                    self.known[value] = state
            states[name] = state
        return states

    def _state(self, cell: Any, name: str, where: str) -> State:
        value = plain(cell)
        self.first.setdefault(value, where)
        if self.values is None and {"0", "-1"} <= self.first.keys():
            raise UsageError(
                f"{self.about.where}: labels hold both 0 ({self.first['0']}) and -1 ({self.first['-1']}): say what "
                'they mean, for example values = {"1" = "positive", "0" = "unspecified", "-1" = "negative"}'
            )
        state = None if self.values is None else self.values.get(cell)
        if state is not None:
            return state
        if value == "":
            return self.about.missing_state
        if self.values is None and value in ("1", "0", "-1"):
            return State.POSITIVE if value == "1" else State.NEGATIVE
        raise DataError(
            f"{where}: value '{spelled(cell)}' of class '{name}'; expected {_known_values(self.about)} "
            "(the key 'values' says what others mean)"
        )


def _known_values(about: Description) -> str:
    return ", ".join(about.values or ("1", "0", "-1")) + " or nothing"


def _present(
    about: Description, folder: Path, rows: list[Row], others: Sequence[str], notes: list[str]
) -> tuple[list[Row], bool]:
    """Rows whose picture exists, and whether that makes the copy a partial one; `others` lie there unlisted."""
    missing = [row for row in rows if file_size(folder / row.file) < 0]
    if not missing:
        return rows, False
    names = sorted(row.name for row in missing)
    if len(missing) == len(rows) or about.allow_missing != "new-id":
        looked = f"Looked for {folder / missing[0].file}{near_file(missing[0].file, others)}."
        advice = (
            f' A partial copy is another data set: allow_missing = "new-id" in the description loads it as '
            f"'{about.id}-partial'"
        )
        raise DataError(
            f"{folder}: {len(missing)} of {len(rows)} listed images missing: {first_few(names)}. {looked}"
            f"{advice if len(missing) < len(rows) else ''}"
        )
    note(notes, f"partial copy, listed images missing of {len(rows)}", names)
    gone = {row.file for row in missing}
    return [row for row in rows if row.file not in gone], True


# --- folders ----------------------------------------------------------------------------------------------------------


def _rows_of_folders(
    about: Description, folder: Path, contents: Contents, part_of: Callable[[str, Any, str], str], notes: list[str]
) -> list[Row]:
    if not contents.images:
        raise DataError(f"{folder}: no images")
    prefixes = _prefixes(about)
    rows = []
    for name in contents.images:
        where = visible(str(folder / name))
        if holds_control(name):
            raise DataError(f"{where}: a name that is not UTF-8 or holds control characters ({name!a}): rename it")
        prefix = next((prefix for prefix, _ in prefixes if _lies_in(name, prefix)), ".")
        below = name if prefix == "." else name.removeprefix(f"{prefix}/")
        labels = [label for part in PurePosixPath(below).parts[:-1] for label in labels_in(about, part, where, True)]
        rows.append(Row(name, name, part_of(name, None, where), dict.fromkeys(labels, State.POSITIVE), where))
    return rows


# --- parts ------------------------------------------------------------------------------------------------------------


def _prefixes(about: Description) -> list[tuple[str, str]]:
    """(folder, part), those that lie in others before them."""
    pairs = [(prefix, part) for part, values in about.splits.items() for prefix in values]
    return sorted(pairs, key=lambda pair: (pair[0] == ".", -len(PurePosixPath(pair[0]).parts), pair[0]))


def _lies_in(name: str, prefix: str) -> bool:
    return prefix == "." or name.startswith(f"{prefix}/")


def _parts(about: Description, notes: list[str]) -> Callable[[str, Any, str], str]:
    """What tells the part of a picture by (file, field of the split column, where it is listed)."""
    values = Spellings({value: part for part, named in about.splits.items() for value in named})
    prefixes = _prefixes(about)
    by_folder = about.split is None and "split" not in about.columns
    if by_folder:
        nested = [
            f"{inner} ({part}) in {outer} ({other})"
            for inner, part in prefixes
            for outer, other in prefixes
            if inner != outer and part != other and _lies_in(inner, outer)
        ]
        note(notes, "folders of a part inside those of another, the longer one holds", nested)

    def part_of(file: str, value: Any, where: str) -> str:
        if about.split is not None:
            key = hashlib.sha256(f"split\0{about.split['seed']}\0{file}".encode()).digest()
            return "test" if int.from_bytes(key[:6], "big") / 2**48 < about.split["test_fraction"] else "train"
        if by_folder:
            part = next((part for prefix, part in prefixes if _lies_in(file, prefix)), None)
        else:
            part = values.get(value)
        if part is None:
            known = ", ".join(values.named)
            what = f"the folder of '{file}'" if by_folder else f"split '{spelled(value)}'"
            raise DataError(f"{where}: {what} belongs to no part; {about.where} knows {known}")
        return part

    return part_of


# --- files that are the same ------------------------------------------------------------------------------------------


def _merge_equal(about: Description, folder: Path, rows: list[Row], notes: list[str]) -> list[Row]:
    """With ``equal_files = "merge"``: rows of a part whose files are equal made one; otherwise an offer in `notes`."""
    if about.equal_files != "merge":
        if about.equal_files == "" and about.labels is None:
            _offer_merging(folder, rows, notes)
        return rows
    gone: set[int] = set()
    merged: dict[int, Row] = {}
    told = []
    for group in equal_files((number, row.part, folder / row.file) for number, row in enumerate(rows)):
        first, *others = (rows[number] for number in group)
        states = dict(first.states)
        for other in others:
            for label, state in other.states.items():
                if states.setdefault(label, state) != state:
                    raise DataError(
                        f"{other.where}: '{other.name}' has the same bytes as '{first.name}' ({first.where}), but "
                        f"another label for '{label}'"
                    )
        merged[group[0]] = replace(first, states=states)
        gone.update(group[1:])
        told.append(" = ".join(rows[number].name for number in group))
    note(notes, "pictures of equal bytes, each one sample with the labels of all its files", told)
    return [merged.get(number, row) for number, row in enumerate(rows) if number not in gone]


def _offer_merging(folder: Path, rows: Sequence[Row], notes: list[str]) -> None:
    """Say so where a picture lies in the folders of several labels: the same name, the same bytes."""
    kinds = (
        (number, f"{row.part}/{PurePosixPath(row.file).name}", folder / row.file) for number, row in enumerate(rows)
    )
    told = [" = ".join(rows[number].name for number in group) for group in equal_files(kinds)]
    if told:
        note(
            notes,
            "pictures copied into the folders of several labels, each copy a sample that lacks the others' labels "
            '(equal_files = "merge" takes them as one, "keep" says that it is meant)',
            told,
        )
