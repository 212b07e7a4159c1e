"""Which runs a command looks at: ``--store``, its old name, and the published records where there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.paths import published_records


def test_the_old_name_is_taken_with_a_note(mlbench: Callable[..., Any], tmp_path: Path) -> None:
    tmp_path.joinpath("runs").mkdir()
    new = mlbench("list", "runs", "--store", tmp_path / "runs")
    code, out, err = mlbench("list", "runs", "--output", tmp_path / "runs")
    assert (code, out) == new[:2]
    assert "--store" in err


def test_without_a_store_the_published_records_are_read_and_that_is_said(
    mlbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = mlbench(
        "table", "--protocol", "single_positive", "--datasets", "corel5k-199", "--methods", "an,llr"
    )
    assert code == 0
    assert "llr" in out
    assert str(published_records()) in err
    (tmp_path / "runs").mkdir()
    assert "published" not in mlbench("list", "runs")[2]
    monkeypatch.setenv("MLBENCH_RUNS", str(tmp_path / "elsewhere"))
    assert "published" not in mlbench("list", "runs")[2]
