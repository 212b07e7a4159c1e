"""Finished runs of a store, found by their keys, and published ones, found by name too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlbench.errors import DataError, UsageError
from mlbench.paths import store_dir
from mlbench.store.published import PREFIX, find_published
from mlbench.store.runs import find_records, is_submitted


def all_runs(store: Path | None = None) -> list[dict[str, Any]]:
    """Every finished run in `store`, oldest first, without submissions.

    DataError if one of its records is broken, UsageError if there is none.
    """
    root = store or store_dir()
    records, problems = find_records(root)
    if problems:
        raise DataError(f"{len(problems)} broken records in {root}: {problems[0]}")
    records = [record for record in records if not is_submitted(record)]
    if not records:
        raise UsageError(f"no finished run in {root}")
    return sorted(records, key=lambda record: record["provenance"]["started"])


def find_run(prefix: str, store: Path | None = None) -> dict[str, Any]:
    """The one finished run in `store` whose key begins with `prefix`.

    DataError if its record is broken, UsageError if there is none or more than one.
    ``published:METHOD@DATASET`` means a published run instead; see `mlbench.store.published`.
    """
    if prefix.startswith(PREFIX):
        return find_published(prefix)
    root = store or store_dir()
    found, problems = find_records(root, key=prefix)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"run '{prefix}': {len(found)} runs begin so; give more characters of the key")
    own = [line for line in problems if prefix and line.startswith(str(root / prefix[:16]))]
    if own:
        raise DataError(own[0])
    broken = f" ({len(problems)} broken records there)" if problems else ""
    raise UsageError(f"no run '{prefix}' in {root}{broken}; `mlbench list runs` shows the keys")
