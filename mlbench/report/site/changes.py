"""What changed since when, by the dates of records: a page, and a feed of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from mlbench.errors import visible
from mlbench.report.site.boards import Board, Column, Ranked

#: Characters that XML 1.0 cannot hold are escapes already by `visible`.
_FEED = "urn:mlbench:site"


@dataclass
class Change:
    """What a day brought to rows that are ranked together.

    new : methods with their number of runs that had none before; more : those that had some. first, before : the
    highest mean after the day and before it, with its method; `before` is None where there was no run.
    """

    board: Board
    column: Column
    ranked: Ranked
    new: list[tuple[str, int]] = field(default_factory=list)
    more: list[tuple[str, int]] = field(default_factory=list)
    first: tuple[str, float] | None = None
    before: tuple[str, float] | None = None

    @property
    def runs(self) -> int:
        return sum(count for _, count in (*self.new, *self.more))

    @property
    def led(self) -> str:
        """What became of the highest mean, in words."""
        if self.first is None:
            return ""
        name, value = self.first
        if self.before is None:
            return f"highest: {name} {value:.1f}"
        if self.before[0] == name:
            return f"highest still {name} {value:.1f}"
        return f"highest now {name} {value:.1f}, before {self.before[0]} {self.before[1]:.1f}"


@dataclass
class Day:
    """A day's changes, boards in their order; `newest` is the last time a run started on it."""

    date: str
    newest: str
    changes: list[Change]

    @property
    def runs(self) -> int:
        return sum(change.runs for change in self.changes)


def days(boards: Sequence[Board]) -> list[Day]:
    """What each day brought, the newest first; submissions are not told."""
    found: dict[str, Day] = {}
    for board in boards:
        for column in board.columns:
            for ranked in column.sets:
                for date, newest, change in _changes(board, column, ranked):
                    day = found.setdefault(date, Day(date, newest, []))
                    day.newest = max(day.newest, newest)
                    day.changes.append(change)
    return [found[date] for date in sorted(found, reverse=True)]


def _changes(board: Board, column: Column, ranked: Ranked) -> list[tuple[str, str, Change]]:
    metric = board.metrics[0]
    runs: list[tuple[str, str, int, float]] = []
    for at, row in enumerate(ranked.rows):
        for record in row.records:
            value = record["results"].get("test", {}).get(metric)
            runs.append((str(record["provenance"]["started"]), row.method, at, np.nan if value is None else value))
    seen: dict[int, list[float]] = {}
    found = []
    for date in sorted({started[:10] for started, *_ in runs}):
        today = [run for run in runs if run[0][:10] == date]
        change = Change(board, column, ranked, before=_highest(ranked, seen))
        for at in dict.fromkeys(run[2] for run in today):
            of = [run for run in today if run[2] == at]
            (change.more if at in seen else change.new).append((of[0][1], len(of)))
        for _, _, at, value in today:
            seen.setdefault(at, []).append(value)
        change.first = _highest(ranked, seen)
        found.append((date, max(run[0] for run in today), change))
    return found


def _highest(ranked: Ranked, seen: Mapping[int, list[float]]) -> tuple[str, float] | None:
    means = {ranked.rows[at].method: float(np.mean(values)) for at, values in seen.items()}
    means = {name: mean for name, mean in means.items() if not np.isnan(mean)}
    name = max(means, key=lambda name: means[name], default=None)
    return None if name is None else (name, means[name])


def feed(found: Sequence[Day]) -> str:
    """An Atom feed (RFC 4287) with an entry for each day; its links are relative to where it lies."""
    entries = []
    for day in found:
        lines = "".join(f"<li>{escape(_line(change))}</li>" for change in day.changes)
        entries.append(
            f"<entry><id>{_FEED}:{escape(day.date)}</id><title>{day.runs} runs on {escape(day.date)}</title>"
            f"<updated>{escape(day.newest)}</updated>"
            f'<link rel="alternate" type="text/html" href="changes.html#since-{escape(day.date)}"/>'
            f'<content type="html">{escape(f"<ul>{lines}</ul>")}</content></entry>'
        )
    updated = found[0].newest if found else "1970-01-01T00:00:00Z"
    return visible(
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<id>{_FEED}</id><title>mlbench: new runs</title><updated>{escape(updated)}</updated>"
        "<author><name>mlbench</name></author>"
        '<link rel="alternate" type="text/html" href="changes.html"/><link rel="self" href="feed.xml"/>'
        f"{''.join(entries)}</feed>\n"
    )


def change_lines(found: Sequence[Day]) -> list[dict[str, object]]:
    """A line for each change, as data."""
    return [
        {
            "date": day.date,
            "board": change.board.title,
            "table": change.column.name,
            "supervision": change.ranked.supervision,
            "runs": change.runs,
            "new": " ".join(name for name, _ in change.new),
            "more": " ".join(name for name, _ in change.more),
            "highest": change.first[0] if change.first else None,
            "value": change.first[1] if change.first else None,
            "highest_before": change.before[0] if change.before else None,
        }
        for day in found
        for change in day.changes
    ]


def _line(change: Change) -> str:
    new = ", ".join(f"{name} ({count})" for name, count in change.new)
    more = ", ".join(f"{name} ({count})" for name, count in change.more)
    said = [f"new: {new}" if new else "", f"more runs: {more}" if more else "", change.led]
    return f"{change.board.title}, {change.column.name}: {'; '.join(filter(None, said))}"
