"""The verbs for Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mlbench
from mlbench.errors import UsageError


def test_a_run_is_made_scored_tabulated_and_listed(photos: Path, tmp_path: Path) -> None:
    where = {"dataset": str(photos / "mine.toml"), "data_root": photos}
    records = [
        mlbench.run("single_positive", "prior", **where, store=tmp_path, mask_seed=draw, track="full")
        for draw in (0, 1)
    ]
    assert mlbench.run("single_positive", "prior", **where, store=str(tmp_path), track="full") == records[0]
    found = mlbench.score(records[0], tmp_path, **where)
    assert found["mAP"] == pytest.approx(records[0]["results"]["test"]["mAP"], abs=1e-9)
    assert "prior" in mlbench.table(tmp_path).to_markdown()
    results = mlbench.Results(tmp_path)
    assert len(results) == 2
    assert {record["key"] for record in results} == {record["key"] for record in records}
    frame = results.to_pandas(["mAP"], method="prior")
    assert dict(zip(frame["mask_seed"], frame["mAP"], strict=True)) == {
        draw: record["results"]["test"]["mAP"] for draw, record in enumerate(records)
    }
    assert "F1-O" in results.to_pandas()


def test_what_is_wrong_is_said_as_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prior"):
        mlbench.run("single_positive", "priot", store=tmp_path)
    with pytest.raises(AttributeError, match="runs"):
        mlbench.runs  # noqa: B018


def test_importing_the_package_alone_imports_nothing_heavy() -> None:
    heavy = "import sys, mlbench; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0
