"""The example package of the documentation is installed from a wheel and comes in by all six doors.

What the suites of the other doors say of it, tests/test_commands_are_run.py asks: each page has that command.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlbench.store import find_records

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE = DOCS / "example-plugin"
DOORS = {
    "method": ("example_smoothing", "method.py"),
    "dataset": ("example_shapes", "dataset.py"),
    "backbone": ("example_net", "backbone.py"),
    "head": ("example_lme", "head.py"),
    "protocol": ("example_quick", "example_quick.toml"),
    "metric": ("example_brier", "metric.py"),
}
#: In one process, to import torch once: the method's suite, a run through all doors, its metric in record and table.
CODE = """
import sys
from mlbench.cli.main import cli
from mlbench.conformance.suite import check_method
from mlbench.registry import METHODS

assert str(METHODS.owner("example_smoothing")) == "mlbench-example 0.1.0"
assert METHODS["example_smoothing"].settings_for("example_shapes", "full") == {"amount": 0.05}
print(check_method("example_smoothing", processes=False).text())

def mlbench(*arguments):
    cli.main(list(arguments), standalone_mode=False)

mlbench("list", "datasets")
mlbench("run", "--protocol", "example_quick", "--method", "example_smoothing", "--dataset", "example_shapes",
        "--backbone", "example_net", "--head", "example_lme", "--set", "head.sharpness=2", "--track", "full",
        "--store", "runs", "--quiet")
mlbench("results", "rescore", "runs", "--store", "runs", "--metric", "example_brier", "--write")
mlbench("table", "--store", "runs", "--metric", "mAP,example_brier")
"""


def test_the_example_installs_without_network_and_comes_in_by_all_doors(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("setuptools and pip are needed to build the example without network")
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(source)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\w+): conforms$", done.stdout, re.MULTILINE) == ["example_smoothing"]
    assert "sees no hidden label" in done.stdout
    assert "Coloured bars on noise" in done.stdout
    assert "mlbench-example 0.1.0" in done.stdout
    assert "(lower is better: example_brier)" in done.stdout
    (record,), problems = find_records(tmp_path / "runs")
    assert problems == []
    identity = record["identity"]
    assert identity["method"]["name"] == "example_smoothing"
    assert identity["method"]["hyperparameters"]["amount"] == 0.05  # of the settings in the wheel
    assert (identity["dataset"]["id"], identity["backbone"]["name"]) == ("example_shapes", "example_net")
    assert identity["head"] == {"name": "example_lme", "version": 1, "hyperparameters": {"sharpness": 2.0}}
    assert record["protocol"]["name"] == "example_quick"
    assert record["measures"]["example_brier"]["owner"] == "mlbench-example 0.1.0"
    owners = record["provenance"]["owners"]
    assert owners == dict.fromkeys(("method", "dataset", "backbone", "head", "protocol"), "mlbench-example 0.1.0")


@pytest.mark.parametrize("door", [door for door in DOORS if door != "method"])
def test_each_page_of_the_guide_has_its_example_whole_and_short(door: str) -> None:
    name, file = DOORS[door]
    text = (EXAMPLE / "mlbench_example" / file).read_text()
    assert len(text.splitlines()) < 40
    page = (DOCS / f"add-a-{door}.md").read_text()
    assert f"\n{text}```\n" in page
    assert f"mlbench check {door} {name}" in page
    assert f'[project.entry-points."mlbench.{door}s"]' in page
