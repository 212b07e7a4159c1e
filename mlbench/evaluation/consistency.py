"""What a record says twice must agree: its numbers, those of the epoch selected, and those of its classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mlbench.errors import MlbenchError
from mlbench.evaluation.pretraining import pretraining_of
from mlbench.evaluation.selection import RULES, select

Numbers = Mapping[str, float | None]
#: How far two ways to compute one number may lie apart, in points: rounding.
_ROUNDING = 1e-6
_FLAVOURS = {"step": "mAP_step", "envelope": "mAP_envelope", "eleven_point": "mAP_11point"}


def contradictions(record: Mapping[str, Any]) -> list[str]:
    """A line for each number of `record` that another of its own denies; empty where it agrees with itself.

    Looked at are the selected epoch's numbers, the rule that selected it, the mean over classes, the numbers that
    follow from others (mAP is one of its flavours, an F1 the harmonic mean of its precision and recall), and what it
    says of pretraining.
    """
    return [*_selected(record), *_classes(record), *_derived(record), *_pretraining(record)]


def _selected(record: Mapping[str, Any]) -> Iterator[str]:
    chosen = record["selected"]
    rows = [row for row in record["epochs"] if row["phase"] == chosen["phase"]]
    position = next((i for i, row in enumerate(rows) if row["epoch"] == chosen["epoch"]), None)
    if position is None:
        if rows or chosen["epoch"]:
            yield f"selected is epoch {chosen['epoch']} of phase '{chosen['phase']}', which is not among its epochs"
        return
    for part, kept in (("val", "val"), ("test", "test_sealed")):
        numbers = record["results"].get(part, {})
        for name, value in rows[position].get(kept, {}).items():
            if name in numbers and not _same(numbers[name], value):
                shown = f"{_text(numbers[name])}, and was {_text(value)} in epoch {chosen['epoch']}, which was selected"
                yield f"results.{part}.{name} is {shown}"
    if chosen["rule"] in RULES:
        try:
            best = rows[select([row.get("val", {}) for row in rows], chosen["rule"])]["epoch"]
        except MlbenchError:
            return  # epochs without the number that the rule reads
        if best != chosen["epoch"]:
            yield f"selected is epoch {chosen['epoch']}; by '{chosen['rule']}' its epochs select {best}"


def _classes(record: Mapping[str, Any]) -> Iterator[str]:
    """Means over classes, where none is undefined: what an undefined class counts as is not in the record."""
    test = record["results"]["test"]
    for name, mean in (("AP", "mAP"), ("F1", "F1-C_mean")):
        values = list(record["per_class"].get(name, {}).values())
        if values and mean in test and None not in values and not _same(test[mean], math.fsum(values) / len(values)):
            found = math.fsum(values) / len(values)
            yield f"results.test.{mean} is {_text(test[mean])}; the mean of its classes' {name} is {_text(found)}"


def _derived(record: Mapping[str, Any]) -> Iterator[str]:
    flavour = _FLAVOURS.get(record["definitions"]["ap"], "")
    for part, numbers in record["results"].items():
        if flavour in numbers and "mAP" in numbers and not _same(numbers["mAP"], numbers[flavour]):
            yield f"results.{part}.mAP is {_text(numbers['mAP'])}; {flavour} is {_text(numbers[flavour])}"
        for name, value in numbers.items():
            group, _, metric = name.rpartition("/")
            kind = {"F1-C_hm": "C", "F1-O": "O"}.get(metric)
            pair = [numbers.get(f"{group}/{of}-{kind}".removeprefix("/")) for of in "PR"] if kind else []
            if pair and value is not None and None not in pair:
                p, r = pair
                found = 2 * p * r / (p + r) if p + r else 0.0  # type: ignore[operator]
                if not _same(value, found):
                    yield f"results.{part}.{name} is {_text(value)}; its precision and recall make {_text(found)}"


def _pretraining(record: Mapping[str, Any]) -> Iterator[str]:
    said, found = record["supervision"].get("pretraining"), pretraining_of(record)
    if said not in (None, found):
        yield f"supervision.pretraining is {said}; its identity makes it {found}"


def _same(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= _ROUNDING


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"
