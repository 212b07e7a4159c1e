"""The quick tests are chosen by measured time: the longest are left out until the others fit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import times

ROOT = Path(__file__).parents[1]


def test_the_fewest_tests_are_left_out() -> None:
    measured = {"a": 5.0, "b": 3.0, "c": 3.0, "d": 1.0}
    assert times.too_long(measured, rest=8.0, budget=20.0) == set()
    assert times.too_long(measured, rest=8.0, budget=15.0) == {"a"}
    assert times.too_long(measured, rest=8.0, budget=14.9) == {"a", "b"}
    assert times.too_long(measured, rest=8.0, budget=0.0) == set(measured)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "times.txt"
    times.write_times(path, {"t.py::a[x y]": 2.04, "t.py::b": 0.1, "t.py::c": 0.15, "t.py::d": 7.5})
    assert times.read_times(path) == ({"t.py::d": 7.5, "t.py::a[x y]": 2.0}, 0.2)
    assert times.read_times(tmp_path / "none.txt") == ({}, 0.0)


def test_tests_are_measured_with_their_children_and_left_out(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.8: pass\n"
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\nimport times\n"
        f"times.TIMES, times.BUDGET = times.Path({str(tmp_path / 'times.txt')!r}), 1.0\n"
        "pytest_plugins = 'times'\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import subprocess, sys\ndef test_short(): pass\n"
        f"def test_of_a_child(): subprocess.run([sys.executable, '-c', {burn!r}])\n"
    )
    (tmp_path / "test_shared.py").write_text(
        "import pytest, time\n@pytest.fixture(scope='module')\ndef made():\n    until = time.process_time() + 1.3\n"
        "    while time.process_time() < until: pass\ndef test_one(made): pass\ndef test_two(made): pass\n"
    )
    (tmp_path / "test_chain.py").write_text(
        "import pytest, time\npytestmark = pytest.mark.chained\ndef test_first(): pass\ndef test_second():\n"
        "    until = time.process_time() + 0.6\n    while time.process_time() < until: pass\n"
    )
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-n", "1"]
    subprocess.run([*pytest, "--times", "times.txt"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    found, rest = times.read_times(tmp_path / "times.txt")
    assert found.keys() == {"test_it.py::test_of_a_child", "test_shared.py", "test_chain.py"}
    assert 0.7 < found["test_it.py::test_of_a_child"] < 3
    assert found["test_shared.py"] > 1.2
    assert rest < 1
    done = subprocess.run([*pytest, "--quick"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "3 passed" in done.stdout, done.stdout  # the short one, and those of the chain


def test_the_committed_times_are_of_tests_that_are_there() -> None:
    found, _ = times.read_times()
    gone = []
    for name in found:
        path, _, test = name.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else ""
        function = test.rpartition("::")[2].partition("[")[0]
        if not text or (function and not re.search(rf"\b{re.escape(function)}\b", text)):
            gone.append(name)
    assert not gone, "tests/times.txt is old: copy build/times.txt of `make test` to it"
