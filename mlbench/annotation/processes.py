"""The annotation processes by name, their parameters, and the draw of a mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlbench.annotation import biased, draws, imperfect, per_class
from mlbench.annotation.masks import Mask
from mlbench.annotation.material import Material, Statistics
from mlbench.annotation.states import State, check_labels, hash_ids
from mlbench.errors import DataError, UsageError, nearest, unknown


@dataclass(frozen=True)
class Param:
    """A parameter of a process: a number from `low` to `high`, or one of `choices`.

    Without a `default` it must be given. `expected` says in words what may stand there.
    """

    expected: str
    default: float | int | str | None = None
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    @property
    def kind(self) -> type:
        """float, int (where the default is one) or str."""
        return str if self.choices else int if isinstance(self.default, int) else float

    def check(self, value: Any, where: str) -> float | int | str:
        """`value` as `kind`; UsageError that begins with `where` if it is none or out of range."""
        if self.choices:
            if value not in self.choices:
                raise UsageError(f"{where} is {value!r}, expected {self.expected}.{nearest(str(value), self.choices)}")
            return str(value)
        if self.kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        number = isinstance(value, int if self.kind is int else int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not self.low <= value <= self.high:
            raise UsageError(f"{where} is {value!r}, expected {self.expected}")
        return self.kind(value) + 0  # -0.0 is 0.0


@dataclass(frozen=True)
class Process:
    """One annotation process.

    draw : called with labels int8 [N, C], ids, seed, what `needs` names and the parameters; gives what is shown of
        each entry, [N, C]: 1 or True its state, 0 or False nothing, -1 (only where `noisy`) the opposite state. Some
        rows after the others may be drawn at a time.
    params : its parameters. seed : its usual seed.
    needs : what of `Material` it takes: "boxes", "statistics" (of the labels trained on), "quota", "generator",
        "lists" (published ones, of shown labels).
    by_entry : draw is called once with class, state and random word of each positive and negative entry [M], in row
        order, and the parameters; gives bool [M], the entries that are shown.
    noisy : shown labels may be false on purpose.
    """

    draw: Callable[..., np.ndarray]
    params: Mapping[str, Param] = field(default_factory=dict)
    seed: int = 0
    needs: tuple[str, ...] = ()
    by_entry: bool = False
    noisy: bool = False


def share(default: float | None = None) -> Param:
    """A parameter that is a fraction."""
    return Param("a fraction from 0 to 1 (10 % is 0.1)", default, 0, 1)


def count(default: int) -> Param:
    """A parameter that is a number of labels, -1 for all of them."""
    return Param("a whole number from 0 up, or -1 for all", default, -1)


def choice(*choices: str) -> Param:
    """A parameter that is one of `choices`; the first is the default."""
    return Param(f"one of {', '.join(choices)}", choices[0], choices=choices)


_BIAS = Param("a number; 0 is uniform")
_STATISTICS = ("statistics",)

PROCESSES: Mapping[str, Process] = {
    "full": Process(draws.keep_all),
    "partial": Process(draws.keep_partial, {"keep": share()}),
    "partial_exact": Process(draws.keep_partial_exact, {"keep": share()}),
    "partial_per_class": Process(per_class.keep_partial_per_class, {"n": count(1000)}, by_entry=True),
    "partial_fraction": Process(per_class.keep_partial_fraction, {"keep": share()}, by_entry=True),
    "single_positive": Process(draws.keep_single_positive),
    "single_positive_spml": Process(
        draws.keep_single_positive_spml,
        {"num_pos": count(1), "num_neg": count(0)},
        seed=1200,
        needs=("generator",),
    ),
    "listed": Process(draws.keep_listed, {"list": choice("single", "0.4", "0.75", "full")}, needs=("lists",)),
    "single_positive_size": Process(
        biased.keep_by_size, {"bias": Param("a number from 0 up; 0 is uniform", low=0)}, needs=("boxes",)
    ),
    "single_positive_frequency": Process(biased.keep_by_frequency, {"bias": _BIAS}, needs=_STATISTICS),
    "single_positive_cooccurrence": Process(biased.keep_by_cooccurrence, {"bias": _BIAS}, needs=_STATISTICS),
    "per_class_missing": Process(
        imperfect.keep_by_class_rate,
        {
            "mean": share(),
            "spread": share(0.5),
            "by": choice("beta", "rare", "frequent"),
            "negatives": choice("hidden", "same"),
        },
        needs=_STATISTICS,
    ),
    "label_noise": Process(
        imperfect.flip_by_class_rate,
        {"false_negative": share(), "false_positive": share(), "spread": share(0.0)},
        noisy=True,
    ),
    "annotator_budget": Process(
        imperfect.answer_queries,
        {"budget": share(), "order": choice("random", "popularity")},
        needs=("statistics", "quota"),
    ),
}


def check_process(process: str, params: Mapping[str, Any] | None = None) -> dict[str, float | int | str]:
    """All parameters of `process`, defaults filled in; UsageError for a wrong name or value."""
    if process not in PROCESSES:
        raise unknown("annotation process", process, PROCESSES)
    known = PROCESSES[process].params
    given = params or {}
    for name in given:
        if name not in known:
            raise unknown("parameter", name, known, f"annotation process '{process}'")
    checked: dict[str, float | int | str] = {}
    for name, param in known.items():
        where = f"annotation process '{process}': parameter '{name}'"
        value = given.get(name, param.default)
        if value is None:
            raise UsageError(f"{where} is missing")
        checked[name] = param.check(value, where)
    return checked


def draw_mask(
    labels: np.ndarray,
    process: str,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    *,
    ids: Sequence[str],
    boxes: np.ndarray | None = None,
    train_labels: np.ndarray | None = None,
    lists: Callable[[str], np.ndarray] | None = None,
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
    ids : N sample ids. A row's random numbers come from (seed, its id) alone, but for ``single_positive_spml``,
        whose generator runs through all rows. A process with class statistics or a budget sees the other rows
        through these only.
    boxes : float [M, 6] rows (sample row, class, x1, y1, x2, y2), which ``single_positive_size`` needs.
    lists : gives int8 [N, C] of a published list, POSITIVE where it shows a label, which ``listed`` needs.
    train_labels : int8 [n, C], what class statistics are counted on; defaults to `labels`. A validation part is
        drawn with the statistics of training.

    Returns
    -------
    Mask. UsageError for a wrong name or value, DataError for labels, ids or boxes that do not fit or are missing.
    """
    checked = check_process(process, params)
    labels = check_labels(labels)
    ids = list(ids)
    if len(ids) != len(labels):
        raise DataError(f"mask: {len(ids)} ids for {len(labels)} rows of labels")
    if len(set(ids)) != len(ids):
        raise DataError("mask: sample ids are not unique")
    rule = PROCESSES[process]
    chosen_seed = rule.seed if seed is None else int(seed)
    if rule.by_entry:
        rows, classes = np.nonzero((labels == State.POSITIVE) | (labels == State.NEGATIVE))
        words = draws.uniform_words(process, chosen_seed, ids, labels.shape[1])[rows, classes]
        shown = np.zeros(labels.shape, dtype=np.int8)
        shown[rows, classes] = rule.draw(classes, labels[rows, classes], words, **checked)
    else:
        trained = labels if train_labels is None else train_labels
        about = (process, ids, labels.shape[1], chosen_seed, checked, boxes)
        material = Material(*about, lambda: Statistics.of(check_labels(trained)), lists).of(rule.needs, slice(None))
        shown = rule.draw(labels, ids, chosen_seed, **material, **checked).astype(np.int8)
    # NEGATIVE is minus POSITIVE, and UNKNOWN is 0.
    observed = np.where(labels == State.UNSPECIFIED, labels, labels * shown)
    return Mask(process, checked, chosen_seed, observed, hash_ids(ids))
