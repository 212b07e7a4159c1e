"""`mlbench reproduce` from the command line to the report, on small photographs in place of a paper's data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlbench.store import find_records

SCENARIO = ("reproduce", "boostlu", "--table", "scenario_inference", "--budget", "rehearsal", "--quiet")
LOCAL = ("--workers", "1", "--device", "cpu", "--steps", "0")


def data_of(photos: Path) -> str:
    return f"voc2012={photos / 'mine.toml'}:{photos}"


def test_without_data_the_dry_run_lists_all_tables_by_published_counts(mlbench: Callable[..., Any]) -> None:
    code, out, err = mlbench("reproduce", "all", "--dry-run", "--store", "nowhere")
    assert (code, err) == (0, "")
    assert out.count("\n## ") + out.startswith("## ") == 13  # twelve tables, and the scale
    assert "missing 1: " in out
    assert "--data coco2014=DIR" in out or "no weights for backbone" in out
    assert "73.6 GB" in out  # COCO 2014 at 448 px
    assert "MLBENCH_PIXELS=decode" in out
    assert not Path("nowhere").exists()


def test_from_nothing_to_the_report(mlbench: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    store, report = tmp_path / "runs", tmp_path / "report"
    given = (*SCENARIO, *LOCAL, "--data", data_of(photos), "--store", store, "--report", report)
    code, out, _ = mlbench(*given, "--dry-run")
    assert code == 0
    assert "mine.toml in place of voc2012" in out
    assert "missing 1: data set 'coco2014' is not given" in out
    assert "2 runs: 0 there already, 2 to do" in out
    assert not store.exists()

    code, out, _ = mlbench(*given)
    assert code == 0, out
    assert "2 runs: 0 done before, 2 done now, 0 failed" in out
    records, _ = find_records(store)
    assert sorted(r["identity"]["method"]["name"] for r in records) == ["an", "an_boostlu_inference"]
    assert all(r["identity"]["backbone"]["name"] == "scenes" for r in records)
    markdown = (report / "report.md").read_text()
    assert "VOC (on mine in its place)" in markdown
    assert "Δ" not in markdown.partition("distance from the print")[0].replace("Δ is ours minus printed", "")
    assert "on mine in place of voc2012: not held against the print" in markdown
    assert "no claim on file" in markdown
    assert "data set 'coco2014' is not given" in markdown
    assert "Budget 'rehearsal', not the published recipe" in markdown
    assert (report / "report.tex").read_text().startswith("\\documentclass")
    assert "</html>" in (report / "report.html").read_text()
    cells = pd.read_csv(report / "cells.csv")
    assert cells[cells["dataset"] == "mine"]["n"].tolist() == [1, 1]

    # What is there is not run again; the report is written anew.
    (report / "report.md").unlink()
    code, out, _ = mlbench(*given)
    assert code == 0
    assert "2 runs: 2 there already, 0 to do" in out
    assert "2 of 2 there" not in out  # one draw each
    assert (report / "report.md").read_text() == markdown
    assert [r["key"] for r in find_records(store)[0]] == [r["key"] for r in records]

    # More draws of one row: only those are new, and with --only-missing none.
    more = (*given, "--rows", "an", "--draws", "2")
    assert "1 there already, 1 to do" in mlbench(*more, "--dry-run")[1]
    assert "1 there already, 0 to do" in mlbench(*more, "--dry-run", "--only-missing")[1]


def test_published_runs_are_found_by_key_and_not_run_again(
    mlbench: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlbench.reproduce import frozen

    first, second = tmp_path / "first", tmp_path / "second"
    given = (*SCENARIO, *LOCAL, "--data", data_of(photos))
    assert mlbench(*given, "--rows", "an", "--store", first)[0] == 0
    monkeypatch.setattr(frozen, "published_records", lambda: first)
    alone = mlbench(*given, "--rows", "an", "--store", second, "--dry-run")[1]
    assert "1 runs: 1 there already, 0 to do" in alone
    # A row that goes on with the weights of a published run needs its files: that run is made here again.
    both = mlbench(*given, "--store", second, "--dry-run")[1]
    assert "2 runs: 1 there already, 2 to do" in both


def test_what_cannot_be_run_is_told_and_the_rest_runs(
    mlbench: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    given = ("reproduce", "boostlu", "--table", "single_positive", "--rows", "an,role_li", "--track", "head")
    code, out, err = mlbench(*given, "--data", data_of(photos), "--backbone", "scenes", "--store", tmp_path / "runs")
    assert code == 2
    assert "method 'role_li' does not run on track 'head'" in out
    assert "no weights for backbone 'scenes' among --weights" in err
    code, out, err = mlbench("reproduce", "vac", "--table", "coco", "--store", tmp_path / "runs")
    assert code == 2
    assert "nothing of this can be run" in err


def test_before_it_starts_it_measures(mlbench: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    given = (*SCENARIO, "--rows", "an", "--workers", "1", "--device", "cpu", "--steps", "1")
    code, out, _ = mlbench(*given, "--data", data_of(photos), "--store", tmp_path / "runs")
    assert code == 0
    assert "epochs x steps x step" in out
    assert "GiB free" in out


def test_too_little_room_stops_it_before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbench.errors import MlbenchError
    from mlbench.reproduce import execute
    from mlbench.sweep.estimate import Cell, Plan
    from mlbench.sweep.jobs import Sweep
    from mlbench.sweep.pilot import Cost

    said: list[str] = []
    cost = Cost([], 1.0, memory_mib=4096.0, caches={"pixels": (60.0, 49 * 10**9)})
    made = Sweep(Path("runs"), "s", (), {"checkpoint_seconds": 30.0})
    measured = Plan(made, (Cell("a", 9, 9, cost),), workers=4, gpus=0, free=10**12)
    monkeypatch.setattr(execute, "memory_bytes", lambda: 64 * 2**30)
    execute.check(measured, said.append)
    assert "49 GB of decoded images and features will be written" in said[-1]
    with pytest.raises(MlbenchError, match=r"they take 49\.0 GB and 10\.0 GB are free"):
        execute.check(Plan(made, measured.cells, 4, 0, 10**10), said.append)
    monkeypatch.setattr(execute, "memory_bytes", lambda: 8 * 2**30)
    with pytest.raises(MlbenchError, match=r"take 16\.0 GiB and there are 8\.0\. Give --workers 2"):
        execute.check(measured, said.append)


def test_the_sweep_of_a_reproduction_has_its_own_name(
    mlbench: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    store = tmp_path / "runs"
    mlbench(*SCENARIO, *LOCAL, "--rows", "an", "--data", data_of(photos), "--store", store)
    sweep = json.loads((store / "sweeps" / "reproduce-boostlu.scenario_inference" / "sweep.json").read_text())
    assert len(sweep["jobs"]) == 1
    assert (store / "reports" / "boostlu.scenario_inference" / "report.md").is_file()
