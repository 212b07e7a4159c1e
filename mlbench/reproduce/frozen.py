"""What of the plans asked for can be run here: runs frozen to their keys, those that are there, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlbench.datasets.miniature import find_marker
from mlbench.errors import UsageError
from mlbench.paths import published_records
from mlbench.report.paper_tables import Chosen
from mlbench.reproduce.runs import Asked, Entry, entries_of
from mlbench.store import find_records
from mlbench.sweep.freeze import freeze_each
from mlbench.sweep.jobs import Job, finished

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Frozen:
    """Entries with the keys of their runs and the reasons where there are none (both in the order of `entries`).

    jobs : all runs, and those that others build on, which come first. records : of those that are done, here or
    published. to_do : the others, and what they build on where its files are not in the store.
    """

    asked: Asked
    entries: tuple[Entry, ...]
    keys: tuple[tuple[str, ...], ...]
    reasons: tuple[str, ...]
    jobs: tuple[Job, ...]
    records: Mapping[str, Record]
    to_do: tuple[Job, ...]

    def with_failures(self, why: Mapping[str, str]) -> Frozen:
        """Itself, runs having failed for a reason by their key, which is that of an entry without any run."""

        def reason(own: Sequence[str], known: str) -> str:
            failed = [why[key] for key in own if key in why]
            return f"its run failed: {failed[0]}" if failed and not known else known

        return replace(self, reasons=tuple(map(reason, self.keys, self.reasons)))

    def chosen(self, table: str) -> Chosen:
        """For `mlbench.report.paper_tables`: what stands in the rows of one table."""
        runs: dict[tuple[str, str, str], set[str]] = {}
        reasons = {}
        for entry, keys, reason in zip(self.entries, self.keys, self.reasons, strict=True):
            if entry.plan.table == table:
                runs.setdefault(entry.place, set()).update(keys)
                if reason:
                    reasons[entry.place, entry.data] = reason
        in_place = {data: place.id for data, place in self.asked.data.items() if place.stands_in(data)}
        return Chosen(runs, in_place, reasons)


def freeze_plans(asked: Asked, store: Path, only_missing: bool = False) -> Frozen:
    """Resolve every run of the plans asked for. With `only_missing`, of rows that have no run yet on a data set."""
    on_miniatures(asked)
    entries = tuple(entries_of(asked))
    budget = {key: value for plan in asked.plans for key, value in plan.budget(asked.budget).set.items()}
    cells = [(n, cell) for n, entry in enumerate(entries) if not entry.reason for cell in entry.requests()]
    jobs, found = freeze_each((cell for _, cell in cells), budget)
    keys: list[list[str]] = [[] for _ in entries]
    reasons = [entry.reason for entry in entries]
    for (number, _), one in zip(cells, found, strict=True):
        if isinstance(one, str):
            keys[number] += [one] if one not in keys[number] else []
        else:
            reasons[number] = reasons[number] or str(one)
    records = records_of({job.key for job in jobs}, store)
    if only_missing:
        filled = {key for own in keys if any(key in records for key in own) for key in own}
        shared = {key for own in keys if not any(key in records for key in own) for key in own}
        jobs_left = [job for job in jobs if job.key not in filled or job.key in shared]
    else:
        jobs_left = list(jobs)
    return Frozen(
        asked, entries, tuple(map(tuple, keys)), tuple(reasons), jobs, records, _to_do(jobs, jobs_left, records, store)
    )


def on_miniatures(asked: Asked) -> bool:
    """Whether the data given are miniatures; UsageError where some are and others are not."""
    places = {data: place for data, place in asked.data.items() if place.root is not None}
    made_up = [data for data, place in places.items() if find_marker(place.root) is not None]  # type: ignore[arg-type]
    if made_up and len(made_up) < len(asked.data):
        others = [data for data in asked.data if data not in made_up]
        raise UsageError(f"--data {made_up[0]}: is a miniature and {others[0]} is none: one table cannot have both")
    return bool(made_up)


def records_of(keys: set[str], store: Path) -> dict[str, Record]:
    """The records of runs `keys` that are in the store, or else among the published ones."""
    published = published_records()
    found: dict[str, Record] = {}
    if keys and published is not None:
        found = {record["key"]: record for record in find_records(published)[0] if record["key"] in keys}
    here = {key: finished(store, key) for key in keys}
    return found | {key: record for key, record in here.items() if record is not None}


def _to_do(jobs: tuple[Job, ...], wanted: list[Job], records: Mapping[str, Record], store: Path) -> tuple[Job, ...]:
    """The asked of `wanted` without a record, with all that these build on and whose files are not in the store."""
    by_key = {job.key: job for job in jobs}
    needed: dict[str, Job] = {}

    def add(job: Job) -> None:
        for key in job.needs:
            if finished(store, key) is None:
                add(by_key[key])
        needed[job.key] = job

    for job in wanted:
        if job.asked and job.key not in records:
            add(job)
    return tuple(needed.values())
