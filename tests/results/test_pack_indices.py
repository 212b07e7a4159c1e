"""The committed indices of packs name published records, and the scores that these name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlbench.repository.archive import FORMAT, entry_of
from mlbench.store.published import read_index

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("path", sorted((RESULTS / "packs").glob("*.json")), ids=lambda path: path.stem)
def test_an_index_is_of_published_records(path: Path) -> None:
    index = read_index(path)
    assert index["format"] == FORMAT
    assert index["archive"]["file"] == f"{path.stem}.zip"
    assert len({run["key"] for run in index["runs"]}) == len(index["runs"])
    for run in index["runs"]:
        record = json.loads((RESULTS / "runs" / Path(run["record"]).name).read_text())
        assert run == entry_of(record, run["predictions"]["bytes"])
        assert run["dataset"] == path.stem
