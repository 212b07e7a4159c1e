"""What runs say about claims that were written down before them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlbench.catalogue import resolving
from mlbench.catalogue.declared import is_of_head
from mlbench.datasets.recorded import is_of_miniature
from mlbench.errors import DataError
from mlbench.protocol import load_protocol
from mlbench.report.cards.claims import POWER, Card, Setting
from mlbench.report.cards.printed import printed_definitions
from mlbench.settings import OF_IMAGES, RECIPE_DEFAULTS, to_plain
from mlbench.significance.comparability import (
    as_written,
    by_draw,
    column_of,
    require_one,
    sees_mask,
    settings_of,
)
from mlbench.significance.crossed import Draw, Gaps, Interval, gaps
from mlbench.significance.power import draws_needed

Record = Mapping[str, Any]

#: The head of a record that names none.
_LINEAR = "linear"
#: Why a claim cannot show in the setting that all others are held against.
_ITSELF = "its own runs are what it is held against"


@dataclass(frozen=True)
class Outcome:
    """What the runs say about one claim in one setting.

    pairs : draws that both methods have. interval : of the gain in points, None without a pair; both methods by the
    card's metric. needed : how many draws find a gain of the card's threshold in `POWER` of cases, None without two
    pairs. definitional : what the definitions that the print has for the two would add to the gain, None without a pair
    or where the print does not tell them. value, seconds : mean of the method's runs in points, and of their wall time;
    None without a run. against : the setting of the runs of `over`, where that is another.
    """

    method: str
    over: str
    setting: str
    pairs: int
    interval: Interval | None
    verdict: str
    why: str = ""
    needed: int | None = None
    definitional: float | None = None
    value: float | None = None
    seconds: float | None = None
    against: str = ""


def verdict_of(interval: Interval, threshold: float) -> str:
    """What an interval of a claimed gain says.

    "not reproduced" where it lies below `threshold`, "reproduced" where it lies above 0 otherwise, else
    "underpowered": it allows both no gain and one worth claiming.
    """
    if not np.isfinite([interval.low, interval.high]).all():
        return "underpowered"
    if interval.high < threshold:
        return "not reproduced"
    return "reproduced" if interval.low > 0 else "underpowered"


def judge(card: Card, records: Iterable[Record]) -> list[Outcome]:
    """An `Outcome` for every claim in every setting. A claim without all its runs has no verdict yet."""
    outcomes = []
    records = list(records)
    for name, setting in card.settings.items():
        runs = {method: runs_of(card, setting, method, records) for method in card.methods}
        every = [record for mine in runs.values() for record in mine.values()]
        require_one(every, column_of, f"claims of '{card.paper}', setting '{name}'")
        column = {method: values_by_draw(card, mine) for method, mine in runs.items() if mine}
        found = gaps(list(column.values()), card.confidence)
        place = {method: i for i, method in enumerate(column)}
        for number, (method, claim) in enumerate(card.pairs):
            untestable = {claim.against: _ITSELF, **claim.not_testable}
            if name in untestable:
                outcome = Outcome(method, claim.over, name, 0, None, "not testable here", untestable[name])
            elif claim.against:
                ours, theirs = runs[method], runs_of(card, card.settings[claim.against], claim.over, records)
                two = gaps([values_by_draw(card, mine) for mine in (ours, theirs)], card.confidence)
                pair = (0, 1) if ours and theirs else None
                outcome = _outcome(card, method, claim.over, name, ours, theirs, two, pair)
            else:
                ours, theirs = runs[method], runs[claim.over]
                pair = (place[method], place[claim.over]) if ours and theirs else None
                outcome = _outcome(card, method, claim.over, name, ours, theirs, found, pair)
            outcomes.append((number, dataclasses.replace(outcome, against=claim.against)))
    return [outcome for _, outcome in sorted(outcomes, key=lambda item: item[0])]


def values_by_draw(card: Card, runs: Mapping[tuple[int, int], Record]) -> dict[Draw, float]:
    """Values of a method's runs; those that differ in a mask that the method does not see are one."""
    drawn = by_draw(runs.values(), f"claims of '{card.paper}'")
    return {draw: _value(card, record) for draw, record in drawn.items()}


def _outcome(
    card: Card,
    method: str,
    over: str,
    setting: str,
    ours: dict[tuple[int, int], Record],
    theirs: dict[tuple[int, int], Record],
    found: Gaps,
    pair: tuple[int, int] | None,
) -> Outcome:
    value, seconds = (
        float(np.mean(numbers)) if numbers else None
        for numbers in (
            list(values_by_draw(card, ours).values()),
            [record["provenance"]["seconds"] for record in ours.values()],
        )
    )
    if pair is None or not found.draws[pair]:
        return Outcome(method, over, setting, 0, None, "no runs yet", value=value, seconds=seconds)
    interval = Interval(*(float(part[pair]) for part in (found.gap, found.low, found.high, found.deviation)))
    mine, other = values_by_draw(card, ours), values_by_draw(card, theirs)
    if math.isnan(interval.mean):  # one draw in common
        (only,) = _in_common(mine, other, card.plans)
        interval = Interval(_of(mine, only) - _of(other, only), *(math.nan,) * 3)
    present = [len(_in_common(mine, other, [plan])) for plan in card.plans]
    blind = all(mask is None for _, mask in (*mine, *other))
    planned = [len({seed for seed, _ in plan}) if blind else len(plan) for plan in card.plans]
    if all(have < want for have, want in zip(present, planned, strict=True)):
        have, want = max(zip(present, planned, strict=True), key=lambda counts: counts[0] / counts[1])
        verdict = f"incomplete: {have} of {want} pairs"
    else:
        verdict = verdict_of(interval, card.threshold)
    needed = None
    if not math.isnan(interval.deviation):
        needed = draws_needed(card.threshold, interval.deviation, POWER, 1 - card.confidence)
    both = [draw for draw in ours if draw in theirs]
    definitional = _definitional(card, method, over, [(ours[draw], theirs[draw]) for draw in both])
    pairs = int(found.draws[pair])
    return Outcome(method, over, setting, pairs, interval, verdict, "", needed, definitional, value, seconds)


def _of(values: Mapping[Draw, float], draw: tuple[int, int]) -> float:
    return values[draw] if draw in values else values[draw[0], None]


def _in_common(
    first: Mapping[Draw, float], second: Mapping[Draw, float], plans: Sequence[Sequence[tuple[int, int]]]
) -> set[tuple[int, int]]:
    """Planned draws that both methods have; of two methods that see no mask, one a seed."""
    blind = all(mask is None for _, mask in (*first, *second))
    return {
        (seed, 0 if blind else mask)
        for plan in plans
        for seed, mask in plan
        if all((seed, mask) in values or (seed, None) in values for values in (first, second))
    }


def _definitional(card: Card, method: str, over: str, pairs: Sequence[tuple[Record, Record]]) -> float | None:
    """Mean over `pairs` of runs: the gain by the definitions in print minus the gain by the card's metric."""
    definitions = printed_definitions(card, method, over)
    names = [f"{card.metric}_{definition}" for definition in definitions or ()]
    tests = [(ours["results"]["test"], theirs["results"]["test"]) for ours, theirs in pairs]
    if not names or any(names[0] not in ours or names[1] not in theirs for ours, theirs in tests):
        return None
    moved = [ours[names[0]] - ours[card.metric] - (theirs[names[1]] - theirs[card.metric]) for ours, theirs in tests]
    return float(np.mean(moved))


def runs_of(card: Card, setting: Setting, method: str, records: Iterable[Record]) -> dict[tuple[int, int], Record]:
    """The card's runs of `method` by (seed, mask): those made with the settings the method has here now.

    Their labels were hidden as the card's protocol is written, and none is of a miniature.
    """
    wanted = {"protocol": card.protocol, "track": setting.track, "selection": card.selection}
    of_head = {key.removeprefix("head."): value for key, value in setting.set.items() if is_of_head(key)}
    of_method = tuple((key, value) for key, value in setting.set.items() if not is_of_head(key))
    version, hyper, train = _present_settings(card.protocol, method, setting.dataset, setting.track, of_method)
    planned = {pair for plan in card.plans for pair in plan}
    unmasked = {(seed, 0) for seed, _ in planned}  # how sweeps draw a method that sees no mask
    found: dict[tuple[int, int], Record] = {}
    for record in records:
        identity = record["identity"]
        named, head = identity["method"], identity.get("head", {})
        if named["name"] != method:
            continue
        pair = identity["repetition"], identity["mask_seed"]
        if (
            named["version"] != version
            or named["hyperparameters"] != hyper
            or identity["dataset"]["id"] != setting.dataset
            or is_of_miniature(record)
            or identity["backbone"]["name"] != setting.backbone
            or head.get("name", _LINEAR) != (setting.head or named.get("head", _LINEAR))
            or any(head.get("hyperparameters", {}).get(key) != value for key, value in of_head.items())
            or any(identity[key] != value for key, value in wanted.items())
            or any(
                {**RECIPE_DEFAULTS, **identity["train"]}[key] != value
                for key, value in train.items()
                if key not in OF_IMAGES  # the run's track or data set may have ruled them out
            )
            or pair not in (planned if sees_mask(record) else planned | unmasked)
            or not as_written(record)
        ):
            continue
        if pair in found and found[pair]["key"] != record["key"]:
            what = f"claims of '{card.paper}': '{method}' on '{setting.dataset}', seed {pair[0]}, mask {pair[1]}"
            require_one([found[pair], record], settings_of, what)
            raise DataError(f"{what}: two runs, {found[pair]['key'][:16]} and {record['key'][:16]}")
        found[pair] = record
    return found


@functools.cache
def _present_settings(
    protocol: str, method: str, dataset: str, track: str, given: tuple[tuple[str, Any], ...]
) -> tuple[int, dict, dict]:
    """Version, hyperparameters and training settings that a run asked for now, with `given` set, would have."""
    cls = resolving(method)
    changes = {**cls.settings_for(dataset, track), **dict(given)}
    tuned = {k.removeprefix("train."): v for k, v in changes.items() if k.startswith("train.")}
    hyper = cls.resolve({k: v for k, v in changes.items() if not k.startswith("train.")})
    return cls.version, hyper, to_plain(_protocol(protocol).train_settings(dataset, track, tuned))


#: Every claim of a card asks for its protocol, and reading one takes its time.
_protocol = functools.cache(load_protocol)


def _value(card: Card, record: Record) -> float:
    return float(record["results"]["test"][card.metric])
