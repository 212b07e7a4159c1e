"""The badge of `check-method`: in records of the code that passed, and of no other."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import PackagePath
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlbench.methods import badge as badges
from mlbench.methods.badge import code_sha256, find_badge, leave_badge
from mlbench.registry import load_method

SOURCE = '''
from mlbench.baselines.assume_negative import AssumeNegative


class Mine(AssumeNegative):
    """Mine."""

    name = "mine"
'''
OUTCOMES = ["passed", "passed", "skipped"]


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
    leave_badge(method, OUTCOMES)
    badge = find_badge(method)
    assert badge is not None
    assert (badge["passed"], badge["skipped"]) == (2, 1)
    path.write_text(SOURCE + "# changed\n")
    assert find_badge(load(path, monkeypatch)) is None


def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """A method in a package of several files, and the folder of the package."""
    folder = tmp_path / "somebodys_plugin"
    (folder / "deep").mkdir(parents=True)
    for name, text in {"__init__": "", "method": SOURCE, "losses": "FACTOR = 1", "deep/__init__": ""}.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "constants.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("somebodys_plugin")]:
        monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module("somebodys_plugin.method")
    for name in [name for name in sys.modules if name.startswith("somebodys_plugin")]:
        monkeypatch.setitem(sys.modules, name, sys.modules[name])  # forgotten after the test
    return module.Mine, folder


@pytest.mark.parametrize("file", ["method.py", "losses.py", "constants.json", "deep/new.py"])
def test_a_badge_is_void_when_any_file_of_the_package_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    method, folder = package(tmp_path, monkeypatch)
    leave_badge(method, OUTCOMES)
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "losses.cpython-311.pyc").write_bytes(b"other")
    badge = find_badge(method)
    assert badge is not None
    assert badge["code_sha256"] == code_sha256(method)
    old = (folder / file).read_bytes() if (folder / file).exists() else None
    (folder / file).write_text("CHANGED = 1\n")
    assert find_badge(method) is None
    if old is not None:
        (folder / file).write_bytes(old)
        assert find_badge(method) == badge


def test_a_badge_covers_what_a_distribution_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second package that the same distribution installs, beside that of the class."""
    method, _ = package(tmp_path, monkeypatch)
    other = tmp_path / "helpers.py"
    other.write_text("A = 1\n")

    class Installed:
        files = (PackagePath("helpers.py"), PackagePath("x-1.dist-info/RECORD"), PackagePath("gone.py"))

        def locate_file(self, path: PackagePath) -> Path:
            return tmp_path / path

    point = SimpleNamespace(value="somebodys_plugin.method:Mine", dist=Installed())
    monkeypatch.setattr(badges.METHODS, "claims", lambda: {"mine": (point,)})
    before = code_sha256(method)
    other.write_text("A = 2\n")
    assert code_sha256(method) != before


def test_the_code_of_our_own_methods_is_all_of_this_package() -> None:
    names = {name for name, _ in badges._package_files(load_method("llr"))}
    assert {"mlbench/baselines/losses.py", "mlbench/runner/loop.py", "mlbench/methods/contract.py"} <= names
    assert not any(name.startswith(("mlbench/results/", "mlbench/protocols/")) or ".pyc" in name for name in names)
    assert code_sha256(load_method("llr")) != code_sha256(load_method("an"))


def test_a_broken_badge_is_none(tmp_path: Path) -> None:
    leave_badge(load_method("an"), OUTCOMES)
    (path,) = (tmp_path / "cache" / "checked").iterdir()
    path.write_text("{")
    assert find_badge(load_method("an")) is None


def test_records_carry_the_badge_once_there_is_one(train) -> None:
    assert "conformance" not in train("prior")["provenance"]
    leave_badge(load_method("prior"), OUTCOMES)
    assert train("prior", again=True)["provenance"]["conformance"]["passed"] == 2
