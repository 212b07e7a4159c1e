"""Masks as files: drawn by a protocol, looked at, written as a table, and read from one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation import Mask, State, describe, hash_ids, load_mask, map_unspecified, save_mask, sparse
from mlbench.annotation.sparse import LabelMatrix
from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset, Split
from mlbench.datasets.cells import plain, spelled
from mlbench.datasets.tables import read_table
from mlbench.errors import DataError, UsageError, nearest
from mlbench.files import atomic_write
from mlbench.grid import grid
from mlbench.masks.picture import mask_picture
from mlbench.protocol import load_protocol

COLUMNS = ("sample", "class", "state")
IMPORTED = "imported"
_HEAD = "# mlbench mask"
_STATES = {state.name.lower(): state for state in State}


def make_mask(
    dataset: str | Dataset,
    protocol: str = "single_positive",
    *,
    mask_seed: int = 0,
    changes: Mapping[str, Any] | None = None,
    data_root: Path | None = None,
    output: Path = Path("mask.safetensors"),
) -> Mask:
    """Draw the mask that a run of `protocol` on `dataset` draws, and write it to `output`.

    Parameters
    ----------
    dataset : a name or ``.toml`` path of `mlbench.datasets.load_dataset`, or the data set itself.
    protocol : a protocol's name or path.
    mask_seed : as ``mlbench run --mask-seed``.
    changes : as ``mlbench run --set``: ``{"annotation.keep": 0.3}``.
    data_root : folder the data set was unpacked in.

    Returns
    -------
    Mask, over the whole official training part. UsageError for a wrong name or value, DataError for data that are
    missing or lack the boxes the process needs.
    """
    from mlbench.runner.data import make_parts

    data, rules = _load(dataset, data_root), load_protocol(protocol)
    annotation = rules.annotation_for(data.id)
    params: dict[str, Any] = {}
    for key, value in (changes or {}).items():
        if not key.startswith("annotation."):
            raise UsageError(f"--set {key}: a mask has settings annotation.KEY only")
        params[key.removeprefix("annotation.")] = value
    annotation.changed(params, "--set annotation")
    if mask_seed < 0:
        raise UsageError(f"--mask-seed {mask_seed}: expected a whole number from 0")
    if mask_seed and annotation.seed is not None:
        raise UsageError(f"--mask-seed: protocol '{rules.name}' uses one published draw for all runs")
    mask = make_parts(data, rules, mask_seed, params)[1]
    save_mask(mask, output)
    return mask


def show_mask(
    mask: Path | Mask,
    dataset: str | Dataset,
    *,
    data_root: Path | None = None,
    picture: Path | None = None,
) -> str:
    """Tell what `mask` leaves of the labels of `dataset`: counts, and true and shown labels of each class.

    Labels that the source left UNSPECIFIED count as no class's here. With `picture` (a name that ends in ``.svg``)
    the same is drawn: positives of each class, and positives an image, true beside shown. DataError if the mask is
    of other samples or classes.
    """
    if picture is not None and picture.suffix.lower() != ".svg":
        raise UsageError(f"--picture {picture}: expected a name that ends in .svg")
    data = _load(dataset, data_root)
    train = data.splits["train"]
    mask = _mask_of(mask, train)
    labels, observed = train.labels, mask.observed
    if picture is not None:
        drawn = mask_picture(
            data.classes, labels == State.POSITIVE, observed == State.POSITIVE, f"{data.id}: {mask.process}"
        )
        atomic_write(picture, drawn.encode())
    tables = [_class_table(labels, observed, data.classes), _image_table(labels, observed)]
    return "\n\n".join([describe(mask), *tables])


def export_mask(mask: Path | Mask, dataset: str | Dataset, output: Path, *, data_root: Path | None = None) -> int:
    """Write `mask` as CSV with the columns sample, class, state; returns the number of labels written.

    A state is "positive", "negative" or "unspecified"; an entry that is not listed is unknown. The first row says
    how the mask was drawn, so that `import_mask` gives the same one. DataError if it is of other samples or classes.
    """
    data = _load(dataset, data_root)
    train = data.splits["train"]
    mask = _mask_of(mask, train)
    about = {"process": mask.process, "params": dict(sorted(mask.params.items())), "seed": mask.seed}
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerow([_HEAD, json.dumps({**about, "sha256": mask.sha256}), ""])
    count = 0
    for start, _, shown in _blocks(train.labels, mask.observed):
        for row, c in np.argwhere(shown != State.UNKNOWN):
            writer.writerow([train.ids[start + int(row)], data.classes[c], State(shown[row, c]).name.lower()])
            count += 1
    atomic_write(output, buffer.getvalue().encode())
    return count


def import_mask(
    source: Path,
    dataset: str | Dataset,
    protocol: str = "single_positive",
    *,
    data_root: Path | None = None,
    contradictions: bool = False,
    output: Path = Path("mask.safetensors"),
) -> Mask:
    """Read a mask from a CSV (or JSONL) file with the columns sample, class, state, and write it to `output`.

    Parameters
    ----------
    source : one label a row; states are "positive", "negative", "unspecified" and "unknown", or 1, -1, 2 and 0. Column
        order, further columns, a byte-order mark and CRLF ends do not matter. What is not listed is unknown, or
        unspecified where the data set's label is.
    dataset, data_root : as for `make_mask`.
    protocol : whose reading of UNSPECIFIED labels the file's labels are checked against.
    contradictions : take labels that contradict the data set too (annotators err); they are counted in the mask's
        parameters. Without it they are refused.

    Returns
    -------
    Mask: the one that was exported, or one of process "imported". DataError names file and line for an unknown
    sample, class or state and a label given twice; it is raised too for labels that contradict the data set, for
    labels where the data set knows none, and for an exported file that was changed.
    """
    from mlbench.runner.data import check_mask

    data = _load(dataset, data_root)
    train = data.splits["train"]
    truth = map_unspecified(np.asarray(train.labels), load_protocol(protocol).unspecified_for(data.id).train)
    if len(train) * len(data.classes) > sparse.MAX_DENSE:
        raise DataError(
            f"{source}: {len(train):,} samples x {len(data.classes):,} classes are too many entries for a mask from a "
            f"table (at most {sparse.MAX_DENSE:,}): let a protocol draw it"
        )
    observed, about = _read_states(source, train.ids, data.classes)
    observed = np.where((observed == State.UNKNOWN) & (truth == State.UNSPECIFIED), truth, observed)
    ids_sha256 = hash_ids(train.ids)
    if about:
        mask = Mask(about["process"], about["params"], about["seed"], observed, ids_sha256)
        if mask.sha256 != about["sha256"]:
            raise DataError(
                f"{source}: not what was exported: labels were changed, or the data set is another one. To take it as "
                f"labels of your own, delete the row that begins with '{_HEAD}'"
            )
    else:
        opposed = observed * truth == -1  # POSITIVE against NEGATIVE
        if opposed.any() and not contradictions:
            row, c = np.argwhere(opposed)[0]
            raise DataError(
                f"{source}: {int(opposed.sum())} labels contradict the data set, the first at sample "
                f"'{train.ids[row]}', class '{data.classes[c]}'. If the annotators may err, allow contradictions "
                "(--contradictions)"
            )
        params = {"contradictions": int(opposed.sum())} if opposed.any() else {}
        mask = Mask(IMPORTED, params, 0, observed, ids_sha256)
    try:
        check_mask(mask, train, truth)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    save_mask(mask, output)
    return mask


def _load(dataset: str | Dataset, data_root: Path | None) -> Dataset:
    return dataset if isinstance(dataset, Dataset) else load_dataset(dataset, data_root)


def _mask_of(mask: Path | Mask, train: Split) -> Mask:
    """`mask`, read if it is a path; DataError if it is not one of these samples and classes."""
    where = "mask" if isinstance(mask, Mask) else str(mask)
    mask = mask if isinstance(mask, Mask) else load_mask(mask)
    if mask.observed.shape != train.labels.shape or mask.ids_sha256 != hash_ids(train.ids):
        sizes = [f"{n} samples x {c} classes" for n, c in (mask.observed.shape, train.labels.shape)]
        raise DataError(
            f"{where}: of other samples or classes than the data set's training part "
            f"({sizes[0]}, the data set's {sizes[1]})"
        )
    return mask


def _blocks(labels: LabelMatrix, observed: LabelMatrix) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """First row, true and shown states [n, C] of some rows at a time: of sparse labels few are made dense."""
    step = max(1, 2**24 // labels.shape[1])
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        yield start, np.asarray(labels[rows]), np.asarray(observed[rows])


def _class_table(labels: LabelMatrix, observed: LabelMatrix, classes: Sequence[str]) -> str:
    """True and shown labels of each class, what is missing of them in percent, and shown labels that are false."""
    counts = np.zeros((5, len(classes)), dtype=np.int64)
    for _, states, seen in _blocks(labels, observed):
        for place, state in ((0, State.POSITIVE), (2, State.NEGATIVE)):
            true, shown = states == state, seen == state
            counts[place] += true.sum(axis=0)
            counts[place + 1] += (true & shown).sum(axis=0)
        counts[4] += (states * seen == -1).sum(axis=0)  # POSITIVE against NEGATIVE
    lines = counts.T.tolist()
    lines.append(np.sum(lines, axis=0).tolist())
    rows = [
        (name, positives, shown, _missing(positives, shown), negatives, denied, _missing(negatives, denied), wrong)
        for name, (positives, shown, negatives, denied, wrong) in zip([*classes, "all"], lines, strict=True)
    ]
    kind = ["shown", "missing %"]
    headers = ["class", "positives", *kind, "negatives", *kind, "shown falsely"]
    return grid(rows, headers=headers, floatfmt=".1f", missingval="-")


def _missing(true: int, shown: int) -> float | None:
    return 100 * (true - shown) / true if true else None


def _image_table(labels: LabelMatrix, observed: LabelMatrix) -> str:
    """How many images have 0, 1, 2, ... positives, in truth and in the mask."""
    counts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for _, *both in _blocks(labels, observed):
        for of, states in zip(counts, both, strict=True):
            of.append((states == State.POSITIVE).sum(axis=1))
    found = [np.bincount(np.concatenate(of)).tolist() for of in counts]
    rows = [(n, *pair) for n, pair in enumerate(zip_longest(*found, fillvalue=0))]
    return grid(rows, headers=["positives an image", "images", "images as shown"])


def _read_states(source: Path, ids: Sequence[str], classes: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """The states int8 [N, C] of a table, and what its first row says of the mask (empty: nothing)."""
    row_of = {sample: row for row, sample in enumerate(ids)}
    column_of = {name: c for c, name in enumerate(classes)}
    observed = np.full((len(ids), len(classes)), State.UNKNOWN, dtype=np.int8)
    given = np.zeros(observed.shape, dtype=bool)
    about: dict[str, Any] = {}
    for line, entry in read_table(source, COLUMNS):
        sample, name = spelled(entry["sample"]), spelled(entry["class"])
        where = f"{source}, line {line}"
        if sample == _HEAD and sample not in row_of:
            about = _read_about(name, where)
            continue
        if sample not in row_of:
            raise DataError(f"{where}: no sample '{sample}' in the training part.{nearest(sample, ids)}")
        if name not in column_of:
            raise DataError(f"{where}: no class '{name}' in the data set.{nearest(name, classes)}")
        place = row_of[sample], column_of[name]
        if given[place]:
            raise DataError(f"{where}: sample '{sample}', class '{name}' was given before")
        given[place] = True
        observed[place] = _state(spelled(entry["state"]), where)
    return observed, about


def _state(text: str, where: str) -> State:
    try:
        return _STATES[text.lower()] if text.lower() in _STATES else State(int(plain(text)))
    except ValueError:
        raise DataError(
            f"{where}: '{text}' is no state.{nearest(text, _STATES)} Known: {', '.join(_STATES)}, or "
            f"{', '.join(str(int(state)) for state in State)}"
        ) from None


def _read_about(text: str, where: str) -> dict[str, Any]:
    """The first row of an exported mask."""
    try:
        about = json.loads(text)
        kinds = {"process": str, "params": dict, "seed": int, "sha256": str}
        if not isinstance(about, dict) or not all(isinstance(about.get(key), kind) for key, kind in kinds.items()):
            raise ValueError(f"expected {', '.join(kinds)}")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: the row that describes the mask is broken ({error})") from None
    return about
