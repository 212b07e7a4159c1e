"""The example package of the documentation is installed as anybody's is, and its method conforms and runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlbench.store import find_records

EXAMPLE = Path(__file__).parents[1] / "docs" / "example-plugin"
CODE = """
from mlbench.conformance.suite import check_method
from mlbench.registry import available, load_method
assert available()["example_smoothing"].dist.name == "mlbench-example"
assert load_method("example_smoothing").__module__ == "mlbench_example"
print(check_method("example_smoothing", processes=False).text())
"""


def test_the_example_installs_without_network_conforms_and_runs(tmp_path: Path, photos: Path) -> None:
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("setuptools and pip are needed to build the example without network")
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("example_smoothing: conforms\n")
    assert "sees no hidden label" in done.stdout
    command = [sys.executable, "-m", "mlbench", "run", "--protocol", "single_positive", "--method", "example_smoothing"]
    command += ["--set", "amount=0.05", "--dataset", str(photos / "mine.toml"), "--data-root", str(photos)]
    command += ["--backbone", "scenes", "--set", "train.image_size=32", "--epochs", "1", "--output", "runs"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,), problems = find_records(tmp_path / "runs")
    assert problems == []
    assert record["identity"]["method"]["name"] == "example_smoothing"
    assert record["identity"]["method"]["hyperparameters"]["amount"] == 0.05
