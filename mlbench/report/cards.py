"""Reproduction cards: claims written down before their runs, and what the runs say about them."""

from __future__ import annotations

import functools
import itertools
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from mlbench.errors import DataError, UsageError, unknown
from mlbench.grid import grid
from mlbench.paths import store_dir
from mlbench.protocol import load_protocol
from mlbench.registry import load_method
from mlbench.settings import OF_IMAGES, RECIPE_DEFAULTS, build, to_plain
from mlbench.significance.comparability import as_written, by_draw, column_of, require_one, settings_of
from mlbench.significance.crossed import Draw, Gaps, Interval, gaps
from mlbench.significance.describe import kendall, spread
from mlbench.significance.power import draws_needed
from mlbench.significance.where import choose, parse_where
from mlbench.store import find_records, is_submitted
from mlbench.store.papers import load_published

Record = Mapping[str, Any]
#: Draws of a claim that does not say how many, and the chance at which `Outcome.needed` finds the threshold.
DRAWS, POWER = 9, 0.8


@dataclass(frozen=True)
class Setting:
    """Where a claim is tested, and what was spent on choosing each method's settings.

    set : what all its runs set otherwise than protocol and method (`--set`, or a plan's ``[set]``), by name.
    head : what all its runs have (``--head``); empty: each method its own.
    """

    dataset: str
    track: str
    backbone: str
    budget: str
    set: Mapping[str, Any] = field(default_factory=dict)
    head: str = ""


@dataclass(frozen=True)
class Claim:
    """A method gains over another. `not_testable` gives, by setting, why it cannot show there.

    method : the method that gains; empty where the claim's name in the card is its key.
    """

    over: str
    statement: str
    not_testable: Mapping[str, str] = field(default_factory=dict)
    method: str = ""


@dataclass(frozen=True)
class Card:
    """The claims of one paper's tables (a file of ``results/cards``).

    title : what the claims are about, where a paper has several such files. protocol : of our runs.
    printed_protocols : of the printed rows, where that is another. threshold : the smallest gain worth claiming, in
    points of `metric`. draws : runs of each method, draw i being of seed i and mask i. seeds, masks : instead, a run of
    each pair; with `draws` as well, all these runs count, and either makes a claim complete.
    """

    paper: str
    table: str
    protocol: str
    metric: str
    selection: str
    threshold: float
    confidence: float
    settings: Mapping[str, Setting]
    claims: Mapping[str, Claim]
    draws: int = 0
    seeds: tuple[int, ...] = ()
    masks: tuple[int, ...] = ()
    more_tables: tuple[str, ...] = ()
    printed_protocols: tuple[str, ...] = ()
    title: str = ""

    @property
    def plans(self) -> list[list[tuple[int, int]]]:
        """The (seed, mask) of each method's runs, by grid, by draws, or either."""
        grid = list(itertools.product(self.seeds, self.masks))
        draws = self.draws or (0 if grid else DRAWS)
        return [plan for plan in ([(i, i) for i in range(draws)], grid) if plan]

    @property
    def tables(self) -> tuple[str, ...]:
        return (self.table, *self.more_tables)

    @property
    def pairs(self) -> list[tuple[str, Claim]]:
        """Each claim with the method that gains."""
        return [(claim.method or name, claim) for name, claim in self.claims.items()]

    @property
    def methods(self) -> list[str]:
        """All methods that a claim names."""
        return list(dict.fromkeys(name for method, claim in self.pairs for name in (method, claim.over)))


@dataclass(frozen=True)
class Outcome:
    """What the runs say about one claim in one setting.

    pairs : draws that both methods have. interval : of the gain in points, None without a pair; both methods by the
    card's metric. needed : how many draws find a gain of the card's threshold in `POWER` of cases, None without two
    pairs. definitional : what the definitions that the print has for the two would add to the gain, None without a pair
    or where the print does not tell them. value, seconds : mean of the method's runs in points, and of their wall time;
    None without a run.
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


def load_card(paper: str) -> Card:
    """The claims in the file `paper`; UsageError where there is none, DataError for a broken one."""
    folder = {f.name.removesuffix(".toml"): f for f in (files("mlbench.results") / "cards").iterdir()}
    known = sorted(name for name in folder if not name.startswith("_"))
    if paper not in known:
        raise unknown("paper", paper, known)
    where = f"results/cards/{paper}.toml"
    table = tomllib.loads(folder[paper].read_text(encoding="utf-8"))
    for key, cls in (("settings", Setting), ("claims", Claim)):
        entries = table.get(key, {})
        table[key] = {name: build(cls, entry, f"{where}: [{key}.{name}]") for name, entry in entries.items()}
    card: Card = build(Card, table, where)
    for name, claim in card.claims.items():
        for setting in claim.not_testable:
            if setting not in card.settings:
                raise unknown("setting", setting, card.settings, f"{where}: [claims.{name}]")
    return card


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
        column = {method: _by_draw(card, mine) for method, mine in runs.items() if mine}
        found = gaps(list(column.values()), card.confidence)
        place = {method: i for i, method in enumerate(column)}
        for number, (method, claim) in enumerate(card.pairs):
            if name in claim.not_testable:
                why = claim.not_testable[name]
                outcome = Outcome(method, claim.over, name, 0, None, "not testable here", why)
            else:
                ours, theirs = runs[method], runs[claim.over]
                pair = (place[method], place[claim.over]) if ours and theirs else None
                outcome = _outcome(card, method, claim.over, name, ours, theirs, found, pair)
            outcomes.append((number, outcome))
    return [outcome for _, outcome in sorted(outcomes, key=lambda item: item[0])]


def _by_draw(card: Card, runs: Mapping[tuple[int, int], Record]) -> dict[Draw, float]:
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
            list(_by_draw(card, ours).values()),
            [record["provenance"]["seconds"] for record in ours.values()],
        )
    )
    if pair is None or not found.draws[pair]:
        return Outcome(method, over, setting, 0, None, "no runs yet", value=value, seconds=seconds)
    interval = Interval(*(float(part[pair]) for part in (found.gap, found.low, found.high, found.deviation)))
    mine, other = _by_draw(card, ours), _by_draw(card, theirs)
    if math.isnan(interval.mean):  # one draw in common
        (only,) = _in_common(mine, other, card.plans)
        interval = Interval(_of(mine, only) - _of(other, only), *(math.nan,) * 3)
    present = [len(_in_common(mine, other, [plan])) for plan in card.plans]
    blind = all(mask is None for _, mask in (*mine, *other))
    planned = [len({seed for seed, _ in plan}) if blind else len(plan) for plan in card.plans]
    if all(have < want for have, want in zip(present, planned, strict=True)):
        verdict = f"incomplete: {present[0]} of {planned[0]} pairs"
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
    rows = _published(card)
    definitions = []
    for table in dict.fromkeys([*card.tables, *rows["table"]]):
        found = rows[rows["table"].eq(table)].drop_duplicates("method").set_index("method")["definition"]
        if method in found.index and over in found.index:
            definitions = [found[method], found[over]]
            break
    names = [f"{card.metric}_{definition}" for definition in definitions]
    tests = [(ours["results"]["test"], theirs["results"]["test"]) for ours, theirs in pairs]
    if not names or any(names[0] not in ours or names[1] not in theirs for ours, theirs in tests):
        return None
    moved = [ours[names[0]] - ours[card.metric] - (theirs[names[1]] - theirs[card.metric]) for ours, theirs in tests]
    return float(np.mean(moved))


def runs_of(card: Card, setting: Setting, method: str, records: Iterable[Record]) -> dict[tuple[int, int], Record]:
    """The card's runs of `method` by (seed, mask): those made with the settings the method has here now.

    Their labels were hidden as the card's protocol is written.
    """
    from mlbench.models.head_choice import LINEAR  # with torch

    wanted = {"protocol": card.protocol, "track": setting.track, "selection": card.selection}
    version, hyper, train = _present_settings(
        card.protocol, method, setting.dataset, setting.track, tuple(setting.set.items())
    )
    planned = {pair for plan in card.plans for pair in plan}
    head = setting.head or load_method(method).default_head
    found: dict[tuple[int, int], Record] = {}
    for record in records:
        identity = record["identity"]
        pair = identity["repetition"], identity["mask_seed"]
        if (
            identity["method"]["name"] != method
            or identity["method"]["version"] != version
            or identity["method"]["hyperparameters"] != hyper
            or identity["dataset"]["id"] != setting.dataset
            or identity["backbone"]["name"] != setting.backbone
            or identity.get("head", {}).get("name", LINEAR) != head
            or any(identity[key] != value for key, value in wanted.items())
            or any(
                {**RECIPE_DEFAULTS, **identity["train"]}[key] != value
                for key, value in train.items()
                if key not in OF_IMAGES  # the run's track or data set may have ruled them out
            )
            or pair not in planned
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
    cls = load_method(method)
    changes = {**cls.settings_for(dataset, track), **dict(given)}
    tuned = {k.removeprefix("train."): v for k, v in changes.items() if k.startswith("train.")}
    hyper = cls.resolve({k: v for k, v in changes.items() if not k.startswith("train.")})
    return cls.version, hyper, to_plain(load_protocol(protocol).train_settings(dataset, track, tuned))


def _value(card: Card, record: Record) -> float:
    return float(record["results"]["test"][card.metric])


def published_gains(card: Card, method: str, over: str) -> dict[str, float]:
    """The gain in print, in points: from the card's tables, else from another of the paper that has both.

    By data set, and by data set and backbone where the tables have the two methods on several. A row that does not tell
    its backbone is held against every one.
    """
    rows = _published(card)
    tables = dict.fromkeys([*card.tables, *rows["table"]])
    found: dict[tuple[str, str], float] = {}
    for name in tables:
        table = rows[rows["table"].eq(name)]
        mine, other = (
            table[table["method"].eq(key)].groupby(["dataset", "backbone"], as_index=False)["value"].mean()
            for key in (method, over)
        )
        for row in mine.merge(other, on="dataset", suffixes=("", "_over")).to_dict("records"):
            backbones = {row["backbone"], row["backbone_over"]} - {""}
            if len(backbones) < 2:
                backbone = next(iter(backbones), "")
                found.setdefault((row["dataset"], backbone), float(row["value"] - row["value_over"]))
    datasets = [dataset for dataset, _ in found]
    return {
        dataset if datasets.count(dataset) == 1 else f"{dataset} {backbone}": gain
        for (dataset, backbone), gain in found.items()
    }


def order_agreement(card: Card, records: Iterable[Record]) -> list[dict[str, Any]]:
    """Kendall's tau-b of our order of the methods with the published one, a row for each setting and column."""
    rows, records = _published(card), list(records)
    rows = rows[rows["table"].isin(card.tables)]
    table = []
    for name, setting in card.settings.items():
        means = {}
        for method in card.methods:
            runs = runs_of(card, setting, method, records)
            if runs:
                means[method] = float(np.mean([_value(card, record) for record in runs.values()]))
        for dataset, column in rows.groupby("dataset", sort=False):
            theirs = column.drop_duplicates("method").set_index("method")["value"]
            shared = [method for method in means if method in theirs.index]
            if len(shared) < 2:
                continue
            tau, p = kendall([means[m] for m in shared], [float(theirs[m]) for m in shared])
            table.append({"setting": name, "published column": dataset, "methods": len(shared), "tau": tau, "p": p})
    return table


def _published(card: Card) -> pd.DataFrame:
    rows = load_published(card.paper)
    protocols = card.printed_protocols or (card.protocol,)
    return rows[rows["metric"].eq(card.metric) & rows["protocol"].isin(protocols) & rows["group"].eq("all")]


def reproduction_cards(
    paper: str, store: Path | None = None, methods: Sequence[str] | None = None, conditions: Sequence[str] = ()
) -> str:
    """`cards_text` of a paper's claims over the runs in `store`; DataError for a broken record.

    `conditions`, as "precision=fp32", choose among the runs; see `mlbench.significance.where`.
    A store that is not named and not there is an empty one.
    """
    root = store or store_dir()
    records, problems = find_records(root) if store is not None or root.is_dir() else ([], [])
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    chosen = choose([r for r in records if not is_submitted(r)], parse_where(conditions), others=True)
    return cards_text(load_card(paper), chosen, methods)


def cards_text(card: Card, records: Iterable[Record], methods: Sequence[str] | None = None) -> str:
    """Claims with their verdicts, our numbers with both spreads, and the agreement of the orders, as Markdown."""
    records = list(records)
    claimed = [method for method, _ in card.pairs]
    for method in methods or ():
        if method not in claimed:
            raise unknown("method", method, claimed, f"the claims of '{card.paper}'")
    outcomes = [outcome for outcome in judge(card, records) if methods is None or outcome.method in methods]
    if not outcomes:
        raise UsageError(f"no claim of '{card.paper}' is about these methods")
    share = f"{100 * card.confidence:g} %"
    lines = [
        f"# Claims of {card.paper}{f', {card.title}' if card.title else ''}: {', '.join(card.tables)}",
        "",
        f"Gains in test {card.metric}, paired over {_planned(card)}, with {share} intervals, both methods by one "
        "definition (the real part); the variances are pooled over the claims' methods of a setting as far as they are "
        f"alike. Threshold of a gain worth claiming: {card.threshold:g} points; draws needed, each of its own seed and "
        f"mask, find such a gain in {100 * POWER:g} % of cases. Selection: {card.selection}. Definitional "
        "part: what the two definitions in print would add to the gain; empty where the print does not tell them.",
        "",
        *(
            f"* `{name}`: {setting.dataset}, track {setting.track}, {setting.backbone}. Tuning: {setting.budget}."
            for name, setting in card.settings.items()
        ),
        "",
    ]
    for method, claim in card.pairs:
        body = []
        for outcome in (o for o in outcomes if (o.method, o.over) == (method, claim.over)):
            mine = runs_of(card, card.settings[outcome.setting], method, records)
            body.append({"setting": outcome.setting, **_numbers(card, mine), **_gain(outcome)})
        if not body:
            continue
        gains = published_gains(card, method, claim.over)
        printed = ", ".join(f"{name} {gain:+.2f}" for name, gain in gains.items()) or "not in these tables"
        lines += [
            f"## `{method}` over `{claim.over}`",
            "",
            f"{claim.statement} Published gain over `{claim.over}`: {printed}.",
            "",
        ]
        lines += [tabulate(body, headers="keys", tablefmt="github", disable_numparse=True), ""]
    agreement = order_agreement(card, records)
    if methods is None and agreement:
        lines += ["## Order of the methods", "", grid(agreement, "keys", tablefmt="github", floatfmt=".2f"), ""]
    return "\n".join(lines).rstrip() + "\n"


def _planned(card: Card) -> str:
    said = [f"draws {_listed(range(card.draws or DRAWS))} of seed and mask"] if card.draws or not card.seeds else []
    if card.seeds:
        said.append(f"seeds {_listed(card.seeds)} and masks {_listed(card.masks)}")
    return ", or ".join(said)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _numbers(card: Card, runs: dict[tuple[int, int], Record]) -> dict[str, str]:
    """Mean, both spreads where the grid is full, number of runs, and what a run cost."""
    values = _by_draw(card, runs)
    seeds = masks = mean = seconds = ""
    if values:
        mean = f"{np.mean(list(values.values())):.2f}"
        seconds = f"{np.mean([record['provenance']['seconds'] for record in runs.values()]):.0f}"
    if all(mask is None for _, mask in values):
        seeds = f"{np.std(list(values.values()), ddof=1):.2f}" if len(values) > 1 else ""
    elif card.seeds and all(pair in values for pair in itertools.product(card.seeds, card.masks)):
        found = spread(np.array([[values[seed, mask] for mask in card.masks] for seed in card.seeds]))
        seeds, masks = f"{found.over_seeds:.2f}", f"{found.over_masks:.2f}"
    names = (card.metric, "sd seeds", "sd masks", "runs", "seconds a run")
    return dict(zip(names, (mean, seeds, masks, str(len(values)), seconds), strict=True))


def _gain(outcome: Outcome) -> dict[str, Any]:
    gain = ""
    if outcome.interval is not None:
        gain = f"{outcome.interval.mean:+.2f}"
        if np.isfinite(outcome.interval.low):
            gain += f" [{outcome.interval.low:+.2f}, {outcome.interval.high:+.2f}]"
    verdict = f"{outcome.verdict}: {outcome.why}" if outcome.why else outcome.verdict
    part = "" if outcome.definitional is None else f"{outcome.definitional:+.2f}"
    needed = "" if outcome.needed is None else str(outcome.needed)
    return {
        f"gain over {outcome.over}": gain,
        "draws needed": needed,
        "definitional part": part,
        "verdict": verdict,
    }
