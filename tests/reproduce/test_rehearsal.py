"""A short rehearsal: two of the papers' tables on miniatures, end to end. All of them: benchmarks/rehearsal.py."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from mlbench.reproduce.plans import load_plan

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def rehearsal(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = spec_from_file_location("benchmark_rehearsal", SCRIPTS / "rehearsal.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("timing", None)
    return module


def test_two_tables_on_miniatures_leave_no_printed_number_alone(rehearsal: ModuleType, tmp_path: Path) -> None:
    for name, printed in (("boostlu.scenario_inference", 4), ("spml_2026.family_b", 11)):
        plan = load_plan(name)
        done = rehearsal.rehearse(plan, tmp_path, images=60, workers=1)
        row = rehearsal.counted(plan, done)
        assert row["printed"] == printed
        assert row["neither"] == row["failed"] == 0
        assert row["numbers"] + row["reasons"] == printed
        report = next(path for path in done.files if path.suffix == ".md").read_text()
        assert "REHEARSAL ON MINIATURES" in report
        assert "on a miniature: not held against the print" in report
        assert "Δ" not in report.replace("Δ is ours minus printed", "")
        assert rehearsal.compiles(next(path for path in done.files if path.suffix == ".tex")) is not False
        if name.startswith("boostlu"):
            assert row["numbers"] == printed
        else:
            assert row["why"] == [plan.rows["scpnet"].reason]
