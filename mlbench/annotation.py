"""Label states, and the annotation processes that hide labels.

A process is data: a name, its parameters and a seed. `draw_mask` applies it once to the labels of the whole
official training part and gives a `Mask`, which can be stored, checked and described.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.errors import DataError, UsageError, unknown
from mlbench.store import atomic_write


class State(IntEnum):
    """What is known of one (image, class) entry. Stored as int8.

    The codes of POSITIVE, NEGATIVE and UNKNOWN are those of the single-positive literature's observed labels
    (1, -1, 0). UNSPECIFIED is a raw state of the source (WIDER's 0, VOC's difficult): the annotator declined to
    say. A protocol maps it for each stage (training, AP, F1); where it is mapped to "ignore" it stays
    UNSPECIFIED and no loss or metric may count the entry.
    """

    UNKNOWN = 0
    POSITIVE = 1
    NEGATIVE = -1
    UNSPECIFIED = 2


_UNSPECIFIED_RULES = {
    "negative": State.NEGATIVE,
    "positive": State.POSITIVE,
    "unknown": State.UNKNOWN,
    "ignore": State.UNSPECIFIED,
}


def map_unspecified(labels: np.ndarray, rule: str) -> np.ndarray:
    """Apply a protocol's reading of UNSPECIFIED to raw labels.

    Parameters
    ----------
    labels : int8 [N, C] `State` values.
    rule : "negative", "positive", "unknown", or "ignore" (the entry stays UNSPECIFIED and counts nowhere).

    Returns
    -------
    int8 [N, C], a new array; every other state is unchanged. UsageError for another rule.
    """
    if rule not in _UNSPECIFIED_RULES:
        raise unknown("rule for unspecified labels", rule, _UNSPECIFIED_RULES)
    labels = check_labels(labels)
    return np.where(labels == State.UNSPECIFIED, np.int8(_UNSPECIFIED_RULES[rule]), labels)


def check_labels(labels: np.ndarray) -> np.ndarray:
    """Return `labels` as int8 [N, C]; DataError if it is not two-dimensional or holds no `State` value."""
    array = np.asarray(labels)
    if array.ndim != 2:
        raise DataError(f"labels: expected a matrix [samples, classes], found shape {array.shape}")
    foreign = ~np.isin(array, [int(state) for state in State])
    if foreign.any():
        row, column = np.argwhere(foreign)[0]
        raise DataError(
            f"labels: row {row}, class {column} holds {array[row, column]}, which is no State "
            f"({', '.join(f'{state.name} {int(state)}' for state in State)})"
        )
    return array.astype(np.int8)


def hash_ids(ids: Sequence[str]) -> str:
    """SHA-256 over sample ids in their order."""
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Mask:
    """What an annotation process left visible.

    Parameters
    ----------
    process, params, seed : the process of `PROCESSES` that was drawn, all its parameters, and its seed.
    observed : int8 [N, C] `State` values, UNKNOWN where the label is hidden; read-only. An entry that the source
        left UNSPECIFIED stays UNSPECIFIED under every process.
    ids_sha256 : `hash_ids` of the samples, in row order.
    """

    process: str
    params: Mapping[str, float | int]
    seed: int
    observed: np.ndarray
    ids_sha256: str

    def __post_init__(self) -> None:
        observed = np.ascontiguousarray(self.observed, dtype=np.int8).copy()
        observed.flags.writeable = False
        object.__setattr__(self, "observed", observed)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over process, parameters, seed, shape and the bytes of `observed`."""
        head = [self.process, dict(sorted(self.params.items())), self.seed, list(self.observed.shape)]
        return hashlib.sha256(json.dumps(head).encode() + b"\0" + self.observed.tobytes()).hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """Observed entries by state: ``positives``, ``negatives``, ``unknown``, ``unspecified``."""
        return {
            "positives": int((self.observed == State.POSITIVE).sum()),
            "negatives": int((self.observed == State.NEGATIVE).sum()),
            "unknown": int((self.observed == State.UNKNOWN).sum()),
            "unspecified": int((self.observed == State.UNSPECIFIED).sum()),
        }


def _uniform_words(process: str, seed: int, ids: Sequence[str], n_classes: int) -> np.ndarray:
    """One uniform 64-bit number an entry, uint64 [N, C].

    Row i is the SHAKE-256 stream of (process, seed, ids[i]): it does not depend on the other rows, so a subset
    keeps its draw, nor on any library's random generator. The numbers do not depend on a process's parameters
    either, so masks of one seed are nested: what is kept at 10 % is kept at 30 %.
    """
    words = np.empty((len(ids), n_classes), dtype=np.uint64)
    for row, sample in enumerate(ids):
        stream = hashlib.shake_256(f"{process}\0{seed}\0{sample}".encode()).digest(8 * n_classes)
        words[row] = np.frombuffer(stream, dtype="<u8")
    return words


def _keep_all(labels: np.ndarray, ids: Sequence[str], seed: int) -> np.ndarray:
    """Complete labels: nothing is hidden."""
    return np.ones(labels.shape, dtype=bool)


def _keep_partial(labels: np.ndarray, ids: Sequence[str], seed: int, keep: float) -> np.ndarray:
    """Each (image, class) entry is kept independently with probability `keep`.

    Source: facts 4.3, definition 2 (there given as the rate of dropping); the draw is our own.
    """
    words = _uniform_words("partial", seed, ids, labels.shape[1])
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 < keep


def hidden_per_image(n_classes: int, keep: float) -> int:
    """Number of entries an image loses under ``partial_exact``: the whole part of ``(1 - keep) * n_classes``.

    Computed on the decimal digits of `keep`, so that 0.9 of 10 classes hides 1 and not int(0.99...) = 0.
    Source: facts 4.3, definition 1, ``int((100 - x) * C / 100)``.
    """
    return int((1 - Fraction(repr(keep))) * n_classes)


def _keep_partial_exact(labels: np.ndarray, ids: Sequence[str], seed: int, keep: float) -> np.ndarray:
    """Per image exactly `hidden_per_image` entries are hidden, uniformly, positives and negatives alike.

    Source: facts 4.3, definition 1; the draw is our own.
    """
    n_classes = labels.shape[1]
    words = _uniform_words("partial_exact", seed, ids, n_classes)
    order = np.argsort(words, axis=1, kind="stable")
    kept = np.zeros(labels.shape, dtype=bool)
    np.put_along_axis(kept, order[:, : n_classes - hidden_per_image(n_classes, keep)], True, axis=1)
    return kept


def _keep_single_positive(labels: np.ndarray, ids: Sequence[str], seed: int) -> np.ndarray:
    """One positive an image, uniformly; images without a positive keep nothing. Our own draw."""
    positive = labels == State.POSITIVE
    # Halving leaves the largest word free to stand for "no positive here".
    words = _uniform_words("single_positive", seed, ids, labels.shape[1]) >> np.uint64(1)
    words[~positive] = np.iinfo(np.uint64).max
    kept = np.zeros(labels.shape, dtype=bool)
    rows = np.flatnonzero(positive.any(axis=1))
    kept[rows, words[rows].argmin(axis=1)] = True
    return kept


def _keep_single_positive_spml(
    labels: np.ndarray, ids: Sequence[str], seed: int, num_pos: int, num_neg: int
) -> np.ndarray:
    """The draw of the single-positive papers' code, bit for bit: `num_pos` positives, `num_neg` negatives an image.

    A number of -1 keeps all of that sign. One legacy generator runs through the rows in order, so the draw belongs
    to the whole official training part, in its row order, before any split. Everything that is not positive
    counts as negative in the shuffle, whatever a protocol makes of UNSPECIFIED. Source: facts 4.1
    (preproc/generate_observed_labels.py of Cole et al., CVPR 2021).
    """
    generator = np.random.RandomState(seed)
    kept = np.zeros(labels.shape, dtype=bool)
    for row, positive in enumerate(labels == State.POSITIVE):
        # Negatives are shuffled even where none is kept: it moves the generator on.
        for columns, number in ((np.flatnonzero(positive), num_pos), (np.flatnonzero(~positive), num_neg)):
            generator.shuffle(columns)
            kept[row, columns if number == -1 else columns[:number]] = True
    return kept


@dataclass(frozen=True)
class Process:
    """One annotation process: which entries it keeps, its parameters (None: must be given), its usual seed."""

    keep: Callable[..., np.ndarray]
    params: Mapping[str, float | int | None] = field(default_factory=dict)
    seed: int = 0


PROCESSES: Mapping[str, Process] = {
    "full": Process(_keep_all),
    "partial": Process(_keep_partial, {"keep": None}),
    "partial_exact": Process(_keep_partial_exact, {"keep": None}),
    "single_positive": Process(_keep_single_positive),
    "single_positive_spml": Process(_keep_single_positive_spml, {"num_pos": 1, "num_neg": 0}, seed=1200),
}


def check_process(process: str, params: Mapping[str, Any] | None = None) -> dict[str, float | int]:
    """All parameters of `process`, defaults filled in; UsageError for a wrong name or value."""
    if process not in PROCESSES:
        raise unknown("annotation process", process, PROCESSES)
    known = PROCESSES[process].params
    for name in params or {}:
        if name not in known:
            raise unknown("parameter", name, known, f"annotation process '{process}'")
    checked: dict[str, float | int] = {}
    for name, value in {**known, **(params or {})}.items():
        where = f"annotation process '{process}': parameter '{name}'"
        if value is None:
            raise UsageError(f"{where} is missing")
        if name == "keep":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UsageError(f"{where} is {value!r}, expected a fraction from 0 to 1 (10 % is 0.1)")
            checked[name] = float(value)
        else:
            if isinstance(value, bool) or not isinstance(value, int) or value < -1:
                raise UsageError(f"{where} is {value!r}, expected a whole number from 0 up, or -1 for all")
            checked[name] = value
    return checked


def draw_mask(
    labels: np.ndarray,
    process: str,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    *,
    ids: Sequence[str],
) -> Mask:
    """Hide labels by an annotation process.

    Parameters
    ----------
    labels : int8 [N, C] raw or mapped `State` values of the whole official training part. UNSPECIFIED counts as
        not positive in every draw and stays UNSPECIFIED in the result, hidden or not; a protocol that reads it as
        negative (VOC with single positives) maps it before drawing. UNKNOWN stays UNKNOWN.
    process : a name of `PROCESSES`.
    params : the process's parameters; what is left out takes its default.
    seed : defaults to the process's usual seed (1200 for ``single_positive_spml``, 0 elsewhere).
    ids : N sample ids. Every process but ``single_positive_spml`` draws a row from (seed, its id) alone.

    Returns
    -------
    Mask. UsageError for a wrong name or value, DataError for labels or ids that do not fit.
    """
    checked = check_process(process, params)
    labels = check_labels(labels)
    ids = list(ids)
    if len(ids) != len(labels):
        raise DataError(f"mask: {len(ids)} ids for {len(labels)} rows of labels")
    if len(set(ids)) != len(ids):
        raise DataError("mask: sample ids are not unique")
    chosen_seed = PROCESSES[process].seed if seed is None else int(seed)
    kept = PROCESSES[process].keep(labels, ids, chosen_seed, **checked)
    observed = np.where(kept | (labels == State.UNSPECIFIED), labels, np.int8(State.UNKNOWN))
    return Mask(process, checked, chosen_seed, observed, hash_ids(ids))


def describe(mask: Mask) -> str:
    """Tell in a few printable lines what `mask` is and what it leaves visible."""
    counts = mask.counts
    rows, columns = mask.observed.shape
    params = "".join(f", {name} {value}" for name, value in sorted(mask.params.items()))
    entries = max(mask.observed.size, 1)
    return "\n".join(
        [
            f"mask {mask.process}{params}, seed {mask.seed}: {rows} samples x {columns} classes",
            f"observed: {counts['positives']} positive, {counts['negatives']} negative, "
            f"{counts['unknown']} unknown ({100 * counts['unknown'] / entries:.1f} %), "
            f"{counts['unspecified']} unspecified",
            f"positives a sample: {counts['positives'] / max(rows, 1):.2f}; "
            f"samples without one: {int((~(mask.observed == State.POSITIVE).any(axis=1)).sum())}",
            f"sha256 {mask.sha256}",
        ]
    )


def save_mask(mask: Mask, path: str | Path) -> None:
    """Write `mask` as safetensors with its description in clear; a reader never sees half a file."""
    from safetensors.numpy import save

    metadata = {
        "kind": "mlbench.mask",
        "process": mask.process,
        "params": json.dumps(dict(sorted(mask.params.items()))),
        "seed": str(mask.seed),
        "ids_sha256": mask.ids_sha256,
        "sha256": mask.sha256,
    }
    atomic_write(path, save({"observed": mask.observed}, metadata))


def load_mask(path: str | Path, ids: Sequence[str] | None = None) -> Mask:
    """Read a mask that `save_mask` wrote.

    DataError names the file if it is missing or broken, if the content does not match the hash stored in it, or,
    where `ids` are given, if it was drawn for other samples or another order of them.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != "mlbench.mask":
                raise DataError(f"{path}: not a mask of mlbench")
            mask = Mask(
                metadata["process"],
                json.loads(metadata["params"]),
                int(metadata["seed"]),
                check_labels(file.get_tensor("observed")),
                metadata["ids_sha256"],
            )
    except FileNotFoundError:
        raise DataError(f"{path}: no such mask") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path}: broken mask file ({error})") from None
    if mask.sha256 != metadata.get("sha256"):
        raise DataError(f"{path}: content hash {mask.sha256} differs from the one stored, {metadata.get('sha256')}")
    if ids is not None and hash_ids(ids) != mask.ids_sha256:
        raise DataError(f"{path}: drawn for other samples, or the same in another order")
    return mask
