"""Questions that only a board with all draws can answer, each a report made from its records: `mlbench report`.

Every number says of which data, methods and draws it is; where these do not suffice, the report says what would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlbench.datasets import Dataset, load_dataset
from mlbench.datasets.recorded import dataset_of, is_data_of
from mlbench.errors import DataError, UsageError, unknown
from mlbench.files import atomic_write
from mlbench.paths import store_dir
from mlbench.report.questions import classes, definitions, seeds_and_masks, tracks, worth_of_labels
from mlbench.report.questions.columns import Column, columns_of
from mlbench.store import find_records

Record = Mapping[str, Any]
Find = Callable[[Record], Dataset]

#: Reports by name, which is that of their file, too.
QUESTIONS: dict[str, Callable[[Sequence[Column], Find], str]] = {
    "definitions": lambda columns, _: definitions.report(columns),
    "seeds_and_masks": lambda columns, _: seeds_and_masks.report(columns),
    "tracks": lambda columns, _: tracks.report(columns),
    "worth_of_labels": lambda columns, _: worth_of_labels.report(columns),
    "classes": classes.report,
}


def reports(
    names: Sequence[str] = (), store: Path | None = None, places: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The reports `names` [all] as Markdown by name, from the records of `store` (or of a folder as results/runs).

    `places` say where data sets lie, by name: a description's path, or the folder of their files. Raises UsageError for
    an unknown name and a store without runs, DataError for a broken record.
    """
    for name in names:
        if name not in QUESTIONS:
            raise unknown("report", name, QUESTIONS)
    root = store or store_dir()
    records, problems = find_records(root)
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    if not records:
        raise UsageError(f"no finished run in {root} matches; `mlbench list runs` shows what is there")
    columns, find = columns_of(records), _finder(places or {})
    last = max(str(record["provenance"]["started"]) for record in records)[:10]
    foot = f"\n\nMade by `mlbench report {{}}` from {len(records)} records, the last of {last}.\n"
    return {name: QUESTIONS[name](columns, find) + foot.format(name) for name in names or QUESTIONS}


def write_reports(
    to: Path, names: Sequence[str] = (), store: Path | None = None, places: Mapping[str, str] | None = None
) -> list[Path]:
    """Write `reports` as ``TO/NAME.md``; returns the files."""
    found = reports(names, store, places)
    for name, text in found.items():
        atomic_write(to / f"{name}.md", text.encode("utf-8"))
    return [to / f"{name}.md" for name in found]


def _finder(places: Mapping[str, str]) -> Find:
    """A function that gives the data set of a record; each is loaded, and shown to be the record's, once."""
    loaded: dict[str, Dataset] = {}

    def find(record: Record) -> Dataset:
        name = str(record["identity"]["dataset"]["id"])
        if name not in loaded:
            place = places.get(name)
            described = place is not None and place.endswith(".toml")
            source = dataset_of(dict(record), place if described else None)
            loaded[name] = load_dataset(source, None if described or place is None else Path(place))
        if not is_data_of(loaded[name], record):
            raise DataError(f"data set '{name}' here is not the one the run was scored on (fingerprints differ)")
        return loaded[name]

    return find
