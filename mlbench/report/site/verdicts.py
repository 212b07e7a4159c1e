"""What the published claims and the papers' tables come to with the runs there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from mlbench.errors import MlbenchError, UsageError
from mlbench.report.cards import judge, load_card, published_gains
from mlbench.report.layouts import load_layouts
from mlbench.report.paper_tables import paper_tables
from mlbench.report.site.rows import Record
from mlbench.store import is_submitted


def verdicts(records: Sequence[dict[str, Any]]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Claims and outcomes by method, and a line for each paper whose claims could not be judged."""
    found: dict[str, list[dict[str, Any]]] = {}
    notes = []
    reproduced = [record for record in records if not is_submitted(record)]
    folder = files("mlbench.results") / "cards"
    for paper in sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if not f.name.startswith("_")):
        try:
            card = load_card(paper)
            claims = {(method, claim.over): claim.statement for method, claim in card.pairs}
            printed = {pair: published_gains(card, *pair) for pair in claims}
            for outcome in judge(card, reproduced):
                pair = outcome.method, outcome.over
                text = ", ".join(f"{name} {gain:+.1f}" for name, gain in printed[pair].items())
                entry = {"paper": paper, "metric": card.metric, "statement": claims[pair], "printed": text}
                found.setdefault(outcome.method, []).append({**entry, "outcome": outcome})
        except MlbenchError as error:
            notes.append(f"claims of {paper} were not judged: {error}")
    return found, notes


def claim_lines(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each claim of a method and its outcome, as data."""
    names = ("verdict", "setting", "over", "against", "pairs", "definitional", "value", "seconds", "needed", "why")
    lines = []
    for claim in claims:
        outcome = claim["outcome"]
        gain = outcome.interval
        found = {} if gain is None else {"gain": gain.mean, "low": gain.low, "high": gain.high}
        said = {name: claim[name] for name in ("paper", "metric", "statement", "printed")}
        lines.append({name: getattr(outcome, name) for name in names} | found | said)
    return lines


def papers(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """The papers' tables, each as HTML, LaTeX and lines of data; `problem` says why one is without our runs."""
    for layout in load_layouts():
        runs = [record for record in records if record["identity"]["protocol"] == layout.protocol]
        problem = ""
        try:
            (table,) = paper_tables(runs, layout.paper, layout.name)
        except UsageError as error:
            problem = str(error)
            (table,) = paper_tables([], layout.paper, layout.name)
        yield {
            "name": f"{layout.paper}-{layout.name}",
            "title": table.title,
            "problem": problem,
            "grid": Markup(table.to_html()),
            "latex": table.to_latex(),
            "lines": table.cells.to_dict("records"),
        }
