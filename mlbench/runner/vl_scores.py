"""Scores of images and classes that a vision-language model gave, read from a file: no such model runs here.

A file is safetensors or CSV as `mlbench submit` takes them: float32 or float64 "scores" [N, C] with their ids and
classes, in any order, of one or more whole parts of a data set. What made them (`ABOUT`) stands in the metadata of the
former, and in a TOML file of the same name beside the latter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlbench.canonical import canonical_json
from mlbench.datasets.base import Dataset
from mlbench.errors import DataError, UsageError, nearest
from mlbench.files import atomic_write
from mlbench.foreign.files import parse_toml, read_file, short
from mlbench.foreign.readers import Submitted, read_scores
from mlbench.paths import cache_dir

#: What a file says of its scores: the model with its weights, the text each class stood in, what of an image the model
#: saw, and which numbers these are (`RANGES`).
ABOUT = ("model", "prompt", "crop", "values")
#: Least and largest value there can be: cosines of image and text, a softmax of them over the classes (beside which
#: other texts may stand), or probabilities of each class for itself.
RANGES = {"cosine": (-1.0, 1.0), "softmax": (0.0, 1.0), "probability": (0.0, 1.0)}

_ENDINGS = (".safetensors", ".csv")
_LONGEST = 200
#: How far a score may lie out of its range: rounding in half precision, where most such models run.
_SLACK = 2e-3


@dataclass(frozen=True, eq=False)
class VLScores:
    """Checked scores.

    about : of `ABOUT`, texts. values : float32 [N, C] by split, rows and columns in the order of the data set.
    file_sha256 : of the file they were read from.
    """

    about: Mapping[str, str]
    values: Mapping[str, np.ndarray]
    file_sha256: str
    where: str

    @property
    def identity(self) -> dict[str, str]:
        """What the file says of its scores, and the SHA-256 of the scores, whatever kind of file held them."""
        digest = hashlib.sha256(canonical_json(dict(self.about)))
        for name, scores in sorted(self.values.items()):
            digest.update(f"\0{name} {list(scores.shape)}\0".encode() + np.ascontiguousarray(scores).tobytes())
        return {**self.about, "sha256": digest.hexdigest()}

    def of(self, split: str) -> np.ndarray:
        """float32 [N, C] of a split; DataError if the file has none of it."""
        if split not in self.values:
            raise DataError(
                f"{self.where}: has scores of {' and '.join(self.values)} images, and not of the {split} images that "
                "are asked for"
            )
        return self.values[split]


def read_vl_scores(path: Path, dataset: Dataset) -> VLScores:
    """Read and check the scores at `path` of images of `dataset`; a copy is kept in the cache (`kept_vl_scores`).

    Raises
    ------
    UsageError : another ending than .safetensors or .csv.
    DataError : naming the file, and the id or class: it says too little of itself, is of other images or classes, has
        a part of the data set only by halves, or holds a score that is not finite or out of its range.
    """
    ids = list(dict.fromkeys(sample for split in dataset.splits.values() for sample in split.ids))
    found, raw = read_scores(path, ids, dataset.classes, _ENDINGS, "scores", "samples of the data set")
    try:
        about = _about(found, path)
        columns = _columns(found.classes, dataset.classes)
        scores = np.ascontiguousarray(found.scores, dtype=np.float32)[:, columns]
        _check_values(scores, found.ids, dataset.classes, about["values"])
        values = _by_split(scores, found.ids, dataset)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    given = VLScores(about, values, hashlib.sha256(raw).hexdigest(), str(path))
    _keep(given, dataset)
    return given


def write_vl_scores(
    path: Path, scores: np.ndarray, ids: Sequence[str], classes: Sequence[str], about: Mapping[str, str]
) -> None:
    """Write scores [N, C] of `ids` and `classes`, with what made them (`ABOUT`), as a safetensors file."""
    from safetensors.numpy import save

    missing = [name for name in ABOUT if name not in about]
    if missing:
        raise UsageError(f"{path}: '{missing[0]}' is missing: scores come with {', '.join(ABOUT)}")
    lists = {"ids": json.dumps(list(ids)), "classes": json.dumps(list(classes))}
    atomic_write(path, save({"scores": np.ascontiguousarray(scores, dtype=np.float32)}, {**about, **lists}))


def kept_vl_scores(sha256: str) -> Path | None:
    """The copy in the cache of scores with this hash (`VLScores.identity`): a finished run finds them again by it."""
    path = cache_dir() / "vl_scores" / f"{sha256}.safetensors"
    return path if path.is_file() else None


def _keep(given: VLScores, dataset: Dataset) -> None:
    sha256 = given.identity["sha256"]
    if kept_vl_scores(sha256) is None:
        folder = cache_dir() / "vl_scores"
        folder.mkdir(parents=True, exist_ok=True)
        ids = [sample for name in given.values for sample in dataset.splits[name].ids]
        scores = np.concatenate(list(given.values.values()))
        write_vl_scores(folder / f"{sha256}.safetensors", scores, ids, dataset.classes, given.about)


def _about(found: Submitted, path: Path) -> dict[str, str]:
    """What the file says of its scores, or a TOML file beside it."""
    says, where = dict(found.says), "metadata"
    if path.suffix == ".csv":
        beside = path.with_suffix(".toml")
        if not beside.is_file():
            raise DataError(f"needs {beside.name} beside it, which says what made the scores: {', '.join(ABOUT)}")
        where = beside.name
        try:
            says = parse_toml(read_file(beside, 2**16, "description").decode("utf-8"))
        except ValueError as error:
            raise DataError(f"{beside.name}: not TOML: {short(str(error))}") from None
        for name in says:
            if name not in ABOUT:
                raise DataError(f"{beside.name}: unknown key '{name}'.{nearest(name, ABOUT)} Known: {', '.join(ABOUT)}")
    about = {}
    for name in ABOUT:
        value = says.get(name)
        if value is None:
            raise DataError(f"{where}: '{name}' is missing.{nearest(name, says)} Needed: {', '.join(ABOUT)}")
        if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST or not value.isprintable():
            raise DataError(f"{where}: {name} = {short(value)}: expected a line of text, at most {_LONGEST} characters")
        about[name] = value.strip()
    if about["values"] not in RANGES:
        raise DataError(
            f"{where}: values = '{about['values']}': expected one of {', '.join(RANGES)}."
            f"{nearest(about['values'], RANGES)}"
        )
    return about


def _columns(found: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Columns of the file for the data set's classes; DataError unless each of them is there once and no other."""
    place = {name: column for column, name in enumerate(found)}
    if len(place) < len(found):
        twice = next(name for name in found if list(found).count(name) > 1)
        raise DataError(f"class {short(twice)} stands twice")
    for name in found:
        if name not in classes:
            raise DataError(f"class {short(name)} is not of this data set.{nearest(name, classes)}")
    missing = [name for name in classes if name not in place]
    if missing:
        raise DataError(f"{len(missing)} of {len(classes)} classes are missing, the first is '{missing[0]}'")
    return np.array([place[name] for name in classes], dtype=np.int64)


def _by_split(scores: np.ndarray, found: Sequence[str], dataset: Dataset) -> dict[str, np.ndarray]:
    """Scores of each split that is there whole; DataError for a part of one, and for ids that are of none."""
    row = {sample: number for number, sample in enumerate(found)}
    if len(row) < len(found):
        seen: set[str] = set()
        twice = next(sample for sample in found if sample in seen or seen.add(sample))  # type: ignore[func-returns-value]
        raise DataError(f"id {short(twice)} stands twice")
    values: dict[str, np.ndarray] = {}
    known: set[str] = set()
    for name, split in dataset.splits.items():
        missing = [sample for sample in split.ids if sample not in row]
        known.update(split.ids)
        if not missing:
            values[name] = scores[[row[sample] for sample in split.ids]]
        elif len(missing) < len(split):
            raise DataError(f"{len(missing)} of {len(split)} {name} images have no scores, the first is '{missing[0]}'")
    for sample in found:
        if sample not in known:
            raise DataError(f"id {short(sample)} is not of this data set.{nearest(sample, known)}")
    if not values:
        raise DataError("no image of this data set has scores")
    return values


def _check_values(scores: np.ndarray, ids: Sequence[str], classes: Sequence[str], kind: str) -> None:
    low, high = RANGES[kind]
    bad = ~((scores >= low - _SLACK) & (scores <= high + _SLACK))  # true for NaN
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"score of id {short(ids[row])}, class {short(classes[column])} is {scores[row, column]}: expected a "
            f"{kind} from {low:g} to {high:g} ({int(bad.sum())} such scores)"
        )
    sums = scores.sum(axis=1, dtype=np.float64)
    if kind == "softmax" and len(sums) and sums.max() > 1 + 10 * _SLACK:
        row = int(sums.argmax())
        raise DataError(
            f"scores of id {short(ids[row])} add up to {sums[row]:.4g}: a softmax over the classes adds up to 1 at "
            "most. Say values = 'probability' where each class stands for itself"
        )
