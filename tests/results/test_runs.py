"""Our own records, as committed."""

from __future__ import annotations

from pathlib import Path

import mlbench.results
from mlbench.registry import available
from mlbench.store import find_records, published_name

RUNS = Path(mlbench.results.__path__[0]) / "runs"


def test_every_record_is_valid_and_named_by_its_content() -> None:
    records, problems = find_records(RUNS)
    assert problems == []
    assert {published_name(record) for record in records} == {path.name for path in RUNS.glob("*.json")}


def test_every_record_comes_from_a_committed_state_and_a_registered_method() -> None:
    records, _ = find_records(RUNS)
    assert records
    for record in records:
        assert record["provenance"]["git"]["dirty"] is False, record["key"]
        assert record["identity"]["method"]["name"] in available()
