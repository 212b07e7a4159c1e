"""`cards`: the claims of a paper with their verdicts and our numbers, as Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from mlbench.errors import DataError, UsageError, unknown
from mlbench.grid import grid
from mlbench.paths import store_dir
from mlbench.report.cards.claims import DRAWS, POWER, Card
from mlbench.report.cards.judge import Outcome, Record, judge, runs_of, values_by_draw
from mlbench.report.cards.printed import agreement, published_gains
from mlbench.significance.describe import spread
from mlbench.significance.where import choose, parse_where
from mlbench.store import find_records, is_submitted


def records_for(store: Path | None = None, conditions: Sequence[str] = ()) -> list[Record]:
    """The runs in `store` that claims can be held against; DataError for a broken record.

    `conditions`, as "precision=fp32", choose among the runs; see `mlbench.significance.where`.
    A store that is not named and not there is an empty one.
    """
    root = store or store_dir()
    records, problems = find_records(root) if store is not None or root.is_dir() else ([], [])
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    return choose([r for r in records if not is_submitted(r)], parse_where(conditions), others=True)


def outcomes_of(card: Card, records: Iterable[Record], methods: Sequence[str] | None = None) -> list[Outcome]:
    """What the runs say of each claim about `methods` [all]; UsageError where there is none."""
    claimed = list(dict.fromkeys(method for method, _ in card.pairs))
    for method in methods or ():
        if method not in claimed:
            raise unknown("method", method, claimed, f"the claims of '{card.paper}'")
    outcomes = [outcome for outcome in judge(card, records) if methods is None or outcome.method in methods]
    if not outcomes:
        raise UsageError(f"no claim of '{card.paper}' is about these methods")
    return outcomes


def cards_text(card: Card, records: Iterable[Record], methods: Sequence[str] | None = None) -> str:
    """Claims with their verdicts, our numbers with both spreads, and the agreement of the orders, as Markdown."""
    records = list(records)
    outcomes = outcomes_of(card, records, methods)
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
            f"## `{method}` over `{claim.over}`{f' of `{claim.against}`' if claim.against else ''}",
            "",
            f"{claim.statement} Published gain over `{claim.over}`: {printed}.",
            "",
        ]
        lines += [tabulate(body, headers="keys", tablefmt="github", disable_numparse=True), ""]
    orders = order_agreement(card, records)
    if methods is None and orders:
        lines += ["## Order of the methods", "", grid(orders, "keys", tablefmt="github", floatfmt=".2f"), ""]
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
    values = values_by_draw(card, runs)
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


def order_agreement(card: Card, records: Iterable[Record]) -> list[dict[str, Any]]:
    """Kendall's tau-b of our order of the methods with the published one, a row for each setting and column."""
    records = list(records)
    means: dict[str, dict[str, float]] = {name: {} for name in card.settings}
    for (name, setting), method in itertools.product(card.settings.items(), card.methods):
        runs = runs_of(card, setting, method, records)
        if runs:
            means[name][method] = float(np.mean([r["results"]["test"][card.metric] for r in runs.values()]))
    return agreement(card, means)
