"""`mlbench sweep status`: a table of the jobs of a sweep, once or as long as it is driven."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mlbench.errors import UsageError, visible
from mlbench.sweep.jobs import Sweep, load_sweep
from mlbench.sweep.states import Row, driven, rows_of

_STATES = ("done", "running", "queued", "elsewhere", "waiting", "stopped", "failed")


def sweeps_in(store: Path) -> list[str]:
    """Names of the sweeps in `store`, the latest first."""
    found = sorted(store.glob("sweeps/*/sweep.json"), key=lambda path: -path.stat().st_mtime)
    return [path.parent.name for path in found]


def find_sweep(store: Path, name: str | None = None) -> Sweep:
    """The sweep `name`, or the latest; UsageError if there is none."""
    there = sweeps_in(store)
    if not there:
        raise UsageError(f"no sweep in {store}")
    if name is not None and name not in there:
        raise UsageError(f"no sweep '{name}' in {store}. There are: {', '.join(there)}")
    return load_sweep(store, name or there[0])


def counts(rows: list[Row]) -> str:
    """How many jobs are in each state, in one line."""
    found = Counter(row.state for row in rows)
    return ", ".join(f"{found[state]} {state}" for state in _STATES if found[state])


def status_table(sweep: Sweep, rows: list[Row], limit: int | None = None) -> Table:
    """The jobs of `sweep`; of more than `limit` those that are done or waiting are left out first."""
    shown = rows
    if limit is not None and len(rows) > limit:
        order = ("failed", "running", "stopped", "elsewhere", "queued", "done", "waiting")
        kept = sorted(range(len(rows)), key=lambda i: (order.index(rows[i].state), i))[: max(1, limit)]
        shown = [rows[i] for i in sorted(kept)]
    table = Table(box=None, pad_edge=False, title_justify="left", caption_justify="left")
    table.caption = f"sweep '{sweep.name}': {counts(rows)} of {len(rows)} runs"
    if len(shown) < len(rows):
        table.caption += f"; {len(rows) - len(shown)} of them not shown"
    for name in ("run", "what", "state", "try", "seconds", "last heard"):
        table.add_column(name, overflow="fold" if name in ("what", "last heard") else "ellipsis")
    for row in shown:
        table.add_row(
            *(row.job.name, visible(row.job.title), row.state, str(row.attempt or "")),
            *("" if row.seconds is None else f"{row.seconds:.0f}", visible(row.remark)),
        )
    return table


def plain_rows(sweep: Sweep) -> list[dict[str, object]]:
    """The jobs of `sweep` now: key, run, state, try, seconds, and what was heard last."""
    return [
        {
            **{"key": row.job.key, "run": row.job.title, "state": row.state, "try": row.attempt},
            **{"seconds": row.seconds, "heard": row.remark},
        }
        for row in rows_of(sweep)
    ]


def show_status(store: Path, name: str | None = None, watch: bool = False) -> None:
    """Print the table; with `watch` again and again until the sweep has no driver."""
    sweep, console = find_sweep(store, name), Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 160
    if not watch:
        console.print(status_table(sweep, rows_of(sweep)), markup=False)
        return

    def view() -> Table:
        limit = console.height - 4 if console.is_terminal else None
        return status_table(sweep, rows_of(sweep), limit)

    with Live(view(), console=console, auto_refresh=False) as live:
        while driven(sweep):
            time.sleep(2.0)
            live.update(view(), refresh=True)
        live.update(view(), refresh=True)
