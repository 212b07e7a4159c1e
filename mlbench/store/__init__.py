"""The run store: run keys, records and their files.

A run's key is the SHA-256 of its identity, so the same settings always lead to the same folder. The record is
written last and in one step: a folder with a ``record.json`` is complete, one without is not done. Records are
checked against ``mlbench/schema/record.json`` on writing and on reading.
"""

from mlbench.store.find import all_runs, find_run
from mlbench.store.published import scores_file
from mlbench.store.runs import (
    FILTERS,
    RECORD_FILE,
    SUBMITTED,
    find_records,
    is_submitted,
    publish_record,
    published_name,
    read_record,
    run_dir,
    summarise_records,
    value_at,
    verify_run,
    write_record,
)
from mlbench.store.schema import SCHEMA_VERSION, run_key, seal

__all__ = [
    "FILTERS",
    "RECORD_FILE",
    "SCHEMA_VERSION",
    "SUBMITTED",
    "all_runs",
    "find_records",
    "find_run",
    "is_submitted",
    "publish_record",
    "published_name",
    "read_record",
    "run_dir",
    "run_key",
    "scores_file",
    "seal",
    "summarise_records",
    "value_at",
    "verify_run",
    "write_record",
]
