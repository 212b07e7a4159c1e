"""The age of a board's rows."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from mlbench.cli.main import cli
from mlbench.report.ages import age_of, ages_of, ages_text


def run(method: str, day: str, version: int = 1, mlbench: str = "0.2.0", harness: int = 2) -> dict[str, Any]:
    return {
        "identity": {"method": {"name": method, "version": version}, "harness": harness},
        "provenance": {"started": f"{day}T10:00:00Z", "mlbench": mlbench},
    }


def test_an_age_is_of_all_its_runs() -> None:
    found = age_of(
        [
            run("an", "2026-11-30"),
            run("an", "2026-02-03", 2, "0.10.0"),
            run("an", "2026-05-01", mlbench="0.9.1", harness=1),
        ]
    )
    assert (found.first, found.last, found.runs) == ("2026-02-03", "2026-11-30", 3)
    assert found.methods == (1, 2)
    assert found.mlbench == ("0.2.0", "0.9.1", "0.10.0")
    assert found.harness == (1, 2)
    with pytest.raises(ValueError, match="no record"):
        age_of([])


def test_ages_stand_by_method() -> None:
    records = [run("llr", "2026-11-30"), run("an", "2026-11-29"), run("llr", "2026-11-28")]
    assert [(age.method, age.runs) for age in ages_of(records)] == [("an", 1), ("llr", 2)]
    assert "| llr      |      2 | 2026-11-28  | 2026-11-30 | 1         | 0.2.0     | 2         |" in ages_text(records)


def test_the_table_lists_ages_below(tmp_path: Any) -> None:
    import shutil
    from pathlib import Path

    for path in (Path(__file__).parents[2] / "results" / "runs").glob("an__ccp__single_positive__*.json"):
        shutil.copy(path, tmp_path)
    result = CliRunner().invoke(cli, ["table", "--store", str(tmp_path), "--ages"])
    assert result.exit_code == 0, result.output
    assert "first run" in result.output
    refused = CliRunner().invoke(cli, ["table", "--store", str(tmp_path), "--ages", "--format", "csv"])
    assert refused.exit_code == 2
