"""The badge of `check-method`: in records of the code that passed, and of no other."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from mlbench.badge import find_badge, leave_badge
from mlbench.conformance import Report
from mlbench.registry import load_method

SOURCE = '''
from mlbench.baselines.assume_negative import AssumeNegative


class Mine(AssumeNegative):
    """Mine."""

    name = "mine"
'''
ROWS = [("", "a", "passed", ""), ("full", "b", "passed", ""), ("full", "c", "skipped", "why")]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mine", module)
    spec.loader.exec_module(module)
    return module.Mine


def test_a_badge_holds_for_the_code_that_passed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    method = load(path, monkeypatch)
    assert find_badge(method) is None
    leave_badge(method, Report("mine", ROWS))
    badge = find_badge(method)
    assert badge is not None
    assert (badge["passed"], badge["skipped"]) == (2, 1)
    path.write_text(SOURCE + "# changed\n")
    assert find_badge(load(path, monkeypatch)) is None


def test_a_broken_badge_is_none(tmp_path: Path) -> None:
    leave_badge(load_method("an"), Report("an", ROWS))
    (path,) = (tmp_path / "cache" / "checked").iterdir()
    path.write_text("{")
    assert find_badge(load_method("an")) is None


def test_records_carry_the_badge_once_there_is_one(train) -> None:
    assert "conformance" not in train("prior")["provenance"]
    leave_badge(load_method("prior"), Report("prior", ROWS))
    assert train("prior", again=True)["provenance"]["conformance"]["passed"] == 2
