"""`mlbench data`: quick to list and to help, and masks from end to end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LIGHT = """
import sys
sys.argv = ["mlbench", *sys.argv[1:]]
from mlbench.cli.main import main
try:
    main()
finally:
    print([name for name in ("torch", "pandas", "numpy", "PIL", "fiftyone", "mlbench.acquire") if name in sys.modules])
"""


@pytest.mark.parametrize("arguments", [["--help"], ["data", "--help"], ["data", "prepare", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_data_set_gets_the_nearest(mlbench: Callable[..., Any], tmp_path: Path) -> None:
    code, _, err = mlbench("data", "prepare", "voc2021", "--root", tmp_path / "x")
    assert code == 2
    assert "Did you mean 'voc2012'" in err
    assert not (tmp_path / "x").exists()


def test_the_root_may_be_named_as_in_a_run(mlbench: Callable[..., Any], photos: Path) -> None:
    for option in ("--root", "--data-root"):
        code, out, err = mlbench("data", "describe", photos / "mine.toml", option, photos)
        assert code == 0, err
        assert "mine, version 1: 3 classes" in out


def test_a_mask_is_made_shown_exported_and_imported(mlbench: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    data = ("--dataset", photos / "mine.toml")
    mask, table, back = tmp_path / "m.safetensors", tmp_path / "m.csv", tmp_path / "back.safetensors"
    code, made, err = mlbench(
        *("data", "mask", "make", *data, "--protocol", "partial", "--set", "annotation.keep=0.5", "--output", mask)
    )
    assert code == 0, err
    assert f"wrote {mask}" in made
    code, out, err = mlbench("data", "mask", "show", mask, *data, "--picture", tmp_path / "m.svg")
    assert code == 0, err
    assert (tmp_path / "m.svg").is_file()
    assert "red" in out
    code, out, err = mlbench("data", "mask", "export", mask, *data, "--output", table)
    assert code == 0, err
    code, imported, err = mlbench("data", "mask", "import", table, *data, "--protocol", "partial", "--output", back)
    assert code == 0, err
    sha = [line for line in made.splitlines() if line.startswith("sha256")]
    assert sha
    assert sha == [line for line in imported.splitlines() if line.startswith("sha256")]
