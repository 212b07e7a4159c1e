"""OpenImages V3 with its 5,000 trainable classes, human-verified labels only, read from the official files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation import State
from mlbench.annotation.sparse import SparseLabels
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.official import find_folder, read_lines, refuse_shared, rows_present
from mlbench.errors import DataError, nearest, unknown
from mlbench.images.decode import FileImages, first_few
from mlbench.images.names import HexNames

#: Number of trainable classes of V3.
N_CLASSES = 5000

#: Official part behind each split, and how many human-verified labels (positive, negative) its file in V3 holds, over
#: all classes, not only the trainable ones (partial-label facts 4.2; READMEV3.md of openimages/dataset).
PARTS: dict[str, tuple[str, int, int]] = {
    "train": ("train", 9741876, 11126879),
    "val": ("validation", 365772, 185618),
    "test": ("test", 1105052, 562347),
}

#: Label file of a part, by the edition of the files.
LABEL_FILES = {"v3": "{part}/annotations-human.csv", "v4": "{part}-annotations-human-imagelabels.csv"}

COLUMNS = ("ImageID", "Source", "LabelName", "Confidence")

#: Sources of a human-verified label, the second in V4 and later only [memory, unverified].
HUMAN = ("verification", "crowdsource-verification")

_LINES_AT_ONCE = 1_000_000
_STATES = {"1": State.POSITIVE, "1.0": State.POSITIVE, "0": State.NEGATIVE, "0.0": State.NEGATIVE}


def load_openimages(edition: str, root: str | Path, partial: bool = False) -> Dataset:
    """Load OpenImages: training images with a label, official validation and test.

    Parameters
    ----------
    edition : "v3", or "v4" for the files of V4 and later, which hold other labels: results must not be mixed.
    root : the folder, or one that holds it as ``2017_11`` or ``openimages``, with ``classes-trainable.txt`` and
        ``class-descriptions.csv`` (those of V3 in either edition), the label files
        ``{train,validation,test}/annotations-human.csv`` (V4: ``{train,validation,test}-annotations-human-imagelabels
        .csv``), and the images as ``{train,validation,test}/{ImageID}.jpg``, there or in `root`.
    partial : accept a copy with fewer images; the data set is then called ``openimages-{edition}-partial``. Without it
        such a copy is a DataError, and in V3 also one with another number of labels than the official one.

    Returns
    -------
    Dataset with sparse labels: a verified label is POSITIVE or NEGATIVE, everything else UNKNOWN. Rows are in the
    order of the sorted image ids (in the source's code the order came out of a set and is not defined); classes, named
    ``"{MID} {description}"``, in that of classes-trainable.txt. Left out and counted: images without a label in the
    5,000 classes, labels of other classes, labels not verified by a person, repeated labels, and (image, class)
    pairs verified both ways. The source's boxes are not read.

    Raises
    ------
    DataError naming the file (and line) for anything missing, malformed or not as many as expected.

    Notes
    -----
    Source: partial-label facts 4.2. Labels are held by the known entry and image ids as numbers
    (`benchmarks/openimages_index.py` measures both at full size).
    """
    if edition not in LABEL_FILES:
        raise unknown("edition of OpenImages", edition, LABEL_FILES)
    name = f"openimages-{edition}"
    folder = _folder(Path(root), edition)
    classes, others = read_classes(folder)
    splits: dict[str, Split] = {}
    notes: list[str] = []
    for split, (part, positives, negatives) in PARTS.items():
        path = folder / LABEL_FILES[edition].format(part=part)
        found = read_labels(path, list(classes), others)
        if edition == "v3" and not partial and (found.positives, found.negatives) != (positives, negatives):
            raise DataError(
                f"{path}: {found.positives} positive and {found.negatives} negative labels, expected {positives} and "
                f"{negatives}; ask for '{name}-partial' to use a partial copy"
            )
        notes += [f"{part}: {note}" for note in found.notes]
        if not len(found.images):
            raise DataError(f"{path}: no image has a label in the {len(classes)} trainable classes")
        place = Path(root) if (Path(root) / part).is_dir() else folder
        files = HexNames(found.images, f"{part}/", ".jpg")
        rows = rows_present(place, files, part, None, name, partial, notes)
        kept = found.images[rows]
        images = FileImages(place, HexNames(kept, f"{part}/", ".jpg"))
        splits[split] = Split(HexNames(kept), found.labels.take(rows), images)
    refuse_shared({f"{folder}: {LABEL_FILES[edition].format(part=PARTS[s][0])}": p.ids for s, p in splits.items()})
    return Dataset(
        id=f"{name}-partial" if partial else name,
        version="1",
        classes=tuple(f"{mid} {described}" for mid, described in classes.items()),
        splits=splits,
        notes=tuple(notes),
        source=f"OpenImages, {LABEL_FILES[edition].format(part='*')}",
    )


def _folder(root: Path, edition: str) -> Path:
    inside = {name: file.format(part="train") for name, file in LABEL_FILES.items()}
    try:
        return find_folder(root, inside[edition], "2017_11", "openimages")
    except DataError:
        other = "v4" if edition == "v3" else "v3"
        if (root / inside[other]).is_file():
            raise DataError(
                f"{root}: no {inside[edition]} there, but {inside[other]}: ask for 'openimages-{other}'"
            ) from None
        raise


def read_classes(folder: Path) -> tuple[dict[str, str], set[str]]:
    """Description by MID of the trainable classes, in the order of classes-trainable.txt, and all other MIDs."""
    path = folder / "classes-trainable.txt"
    trainable = read_lines(path)
    if not len(set(trainable)) == len(trainable) == N_CLASSES:
        raise DataError(
            f"{path}: {len(trainable)} lines with {len(set(trainable))} classes, expected {N_CLASSES}, one a line"
        )
    path = folder / "class-descriptions.csv"
    described: dict[str, str] = {}
    for number, fields in enumerate(csv.reader(read_lines(path)), start=1):
        if len(fields) != 2 or not fields[0] or fields[0] in described:
            wrong = f"class '{fields[0]}' stands twice" if fields and fields[0] in described else f"{fields}"
            raise DataError(f"{path}, line {number}: {wrong}, expected a class (MID) of its own and its description")
        described[fields[0]] = fields[1].strip()
    for mid in trainable:
        if mid not in described:
            raise DataError(f"{path}: does not describe the trainable class '{mid}'.{nearest(mid, described)}")
    return {mid: described[mid] for mid in trainable}, described.keys() - set(trainable)


@dataclass
class FoundLabels:
    """A label file: uint64 [N] image ids, ascending, with their labels; all lines by sign; what was left out."""

    images: np.ndarray
    labels: SparseLabels
    positives: int
    negatives: int
    notes: list[str]


@dataclass
class _Lines:
    """The labels of a file that count, in its order, and the numbers of those that do not."""

    images: list[np.ndarray] = field(default_factory=list)
    classes: list[np.ndarray] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    bare: list[np.ndarray] = field(default_factory=list)
    signs: Counter[int] = field(default_factory=Counter)
    other_classes: Counter[str] = field(default_factory=Counter)
    strange_classes: Counter[str] = field(default_factory=Counter)
    other_sources: Counter[str] = field(default_factory=Counter)


def read_labels(path: Path, trainable: Sequence[str], others: set[str]) -> FoundLabels:
    """Read a file of labels in pieces.

    Parameters
    ----------
    path : csv with the columns `COLUMNS`, in any order; a byte-order mark and CRLF ends are accepted.
    trainable : MIDs of the classes, in column order. others : MIDs whose labels are left out.

    Returns
    -------
    FoundLabels. DataError naming file and line for anything malformed.
    """
    lines = _Lines()
    column = {mid: number for number, mid in enumerate(trainable)}
    for first, piece in _pieces(path):
        _read_piece(path, first, piece, column, others, lines)
    notes: list[str] = []
    for what, left_out in (
        ("labels of classes that are not trainable", lines.other_classes),
        ("labels of classes that class-descriptions.csv does not list", lines.strange_classes),
        ("labels whose source is not a verification by a person", lines.other_sources),
    ):
        if left_out:
            listed = first_few(sorted(left_out))
            notes.append(f"{left_out.total()} {what} left out: {listed}")
    empty = np.zeros(0, dtype=np.uint64)
    images, labels = _to_matrix(lines, len(trainable), notes)
    bare = np.setdiff1d(np.unique(np.concatenate([empty, *lines.bare])), images, assume_unique=True)
    if len(bare):
        listed = first_few(list(HexNames(bare[:11])), 10)
        notes.append(f"{len(bare)} images without a label in the trainable classes left out: {listed}")
    return FoundLabels(images, labels, lines.signs[State.POSITIVE], lines.signs[State.NEGATIVE], notes)


def _pieces(path: Path) -> Any:
    """Yield (line number of the first row, table of some rows)."""
    import pandas

    types = {"ImageID": "S17", "Source": "category", "LabelName": "category", "Confidence": "category"}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in file.readline().split(",")]
            for name in COLUMNS:
                if header.count(name) != 1:
                    raise DataError(
                        f"{path}: {'no' if name not in header else 'more than one'} column '{name}'."
                        f"{nearest(name, header)} Columns: {', '.join(header)}"
                    )
            first = 2
            for piece in pandas.read_csv(
                file,
                names=header,
                header=None,
                dtype={name: types.get(name, "str") for name in header},
                chunksize=_LINES_AT_ONCE,
                na_filter=False,
                quoting=csv.QUOTE_NONE,
                skip_blank_lines=False,
                low_memory=False,
            ):
                if not isinstance(piece.index, pandas.RangeIndex):
                    raise DataError(f"{path}, line {first}: more fields than the header has ({len(header)})")
                yield first, piece
                first += len(piece)
            if first == 2:
                raise DataError(f"{path}: no labels, only a header")
    except pandas.errors.ParserError as error:
        raise DataError(f"{path}: malformed ({error})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None


def _read_piece(path: Path, first: int, piece: Any, column: dict[str, int], others: set[str], lines: _Lines) -> None:
    ids = piece["ImageID"].to_numpy().astype("S17")
    sources, mids, confidences = (piece[name].cat for name in COLUMNS[1:])
    images, whole = parse_ids(ids)
    states = np.array([_STATES.get(str(text), State.UNKNOWN) for text in confidences.categories], dtype=np.int8)
    states = states[confidences.codes.to_numpy()]
    wrong = ~whole | (states == State.UNKNOWN)
    blank = wrong & (ids == b"") & (piece["LabelName"] == "").to_numpy()
    if (wrong & ~blank).any():
        row = int(np.flatnonzero(wrong & ~blank)[0])
        found = ", ".join(_text(piece[name].iloc[row]) for name in COLUMNS)
        raise DataError(
            f"{path}, line {first + row}: '{found}', expected an image id of 16 hex digits, a source, a class (MID), "
            "and 0 or 1"
        )
    human = np.isin(sources.categories.astype(str), HUMAN)[sources.codes.to_numpy()]
    # Of each class named in this piece: its column, -1 for another known class, -2 for one that nobody knows.
    kinds = [column.get(mid, -1 if mid in others else -2) for mid in mids.categories.astype(str)]
    columns = np.array(kinds, dtype=np.int32)[mids.codes.to_numpy()]
    for texts, codes, mask, counter in (
        (sources.categories, sources.codes, ~human & ~blank, lines.other_sources),
        (mids.categories, mids.codes, human & (columns == -1), lines.other_classes),
        (mids.categories, mids.codes, human & (columns == -2) & ~blank, lines.strange_classes),
    ):
        counts = np.bincount(codes.to_numpy()[mask], minlength=len(texts))
        counter.update({str(texts[code]): int(counts[code]) for code in np.flatnonzero(counts)})
    for state in (State.POSITIVE, State.NEGATIVE):
        lines.signs[state] += int(np.count_nonzero(human & ~blank & (states == state)))
    kept = human & (columns >= 0)
    lines.images.append(images[kept])
    lines.classes.append(columns[kept].astype(np.int16))
    lines.states.append(states[kept])
    lines.bare.append(np.unique(images[~kept & ~blank]))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def parse_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes [N] of at most 17 characters to uint64 [N], and bool [N]: whether they are 16 lower-case hex digits."""
    width = 17
    letters = np.ascontiguousarray(ids.astype(f"S{width}")).view(np.uint8).reshape(len(ids), width)
    digit = np.full(256, 255, dtype=np.uint8)
    digit[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16, dtype=np.uint8)
    values = digit[letters[:, :16]]
    whole = (values < 16).all(axis=1) & (letters[:, 16] == 0)
    pairs = values[:, ::2] << 4 | (values[:, 1::2] & 15)
    return np.ascontiguousarray(pairs).view(">u8")[:, 0].astype(np.uint64), whole


def _to_matrix(lines: _Lines, n_classes: int, notes: list[str]) -> tuple[np.ndarray, SparseLabels]:
    """Image ids, ascending, and their labels; repeated and contradicting lines are counted in `notes`."""
    all_images, classes, states = (
        np.concatenate(kept) if kept else np.zeros(0, dtype=np.int8)
        for kept in (lines.images, lines.classes, lines.states)
    )
    for kept in (lines.images, lines.classes, lines.states):
        kept.clear()
    images, rows = np.unique(all_images, return_inverse=True)
    del all_images
    keys = rows * np.int64(n_classes) + classes
    order = np.argsort(keys, kind="stable")
    keys, states = keys[order], states[order]
    del rows, classes, order
    new = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
    starts = np.flatnonzero(new)
    if len(starts) < len(keys):
        low, high = (extreme.reduceat(states, starts) for extreme in (np.minimum, np.maximum))
        clash = low != high
        counts = np.diff(np.append(starts, len(keys)))
        repeated = int((counts[~clash] - 1).sum())
        if repeated:
            notes.append(f"{repeated} repeated labels counted once")
        if clash.any():
            pairs = keys[starts[clash]][:6] // n_classes
            listed = first_few(list(HexNames(images[pairs])))
            notes.append(
                f"{int(clash.sum())} (image, class) pairs verified as present and as absent, taken as unknown: {listed}"
            )
        starts = starts[~clash]
    keys, states = keys[starts], states[starts]
    rows = keys // n_classes
    # An image whose labels all contradict each other is left without one.
    labelled = np.zeros(len(images), dtype=bool)
    labelled[rows] = True
    lines.bare.append(images[~labelled])
    images = images[labelled]
    rows = (np.cumsum(labelled) - 1)[rows]
    indptr = np.zeros(len(images) + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=len(images)), out=indptr[1:])
    return images, SparseLabels(indptr, (keys % n_classes).astype(np.int16), states, n_classes)
