"""docs/scale.md as written: every command is understood, every grid is read, and what one machine can run is run."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from mlbench.cli.main import cli
from mlbench.store import find_records
from mlbench.sweep.grid import BY_DATASET, Grid, load_grid

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


#: Words of each line of each ``sh`` block, by the program called.
LINES = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines() if line.strip()]
GRID, *ADDITIONS = blocks("toml")


def lines_of(*start: str) -> list[list[str]]:
    return [words for words in LINES if words[: len(start)] == list(start)]


def swapped(text: str, *changes: tuple[str, str]) -> str:
    """`text` with each first text, which must stand there, replaced by the second."""
    for old, new in changes:
        assert old in text, f"docs/scale.md has no longer: {old}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def tiny_grid(tmp_path: Path, photos: Path) -> Path:
    """The page's first grid with two tiny runs."""
    path = tmp_path / "grid.toml"
    path.write_text(
        swapped(
            GRID,
            ('methods = ["an", "llr", "llr_boostlu", "full"]', 'methods = ["an"]\nepochs = 1\ndevice = "cpu"'),
            ("draws = 9", "draws = 2"),
            ('track = "head"', 'track = "full"'),
            ('backbone = "resnet50"', 'backbone = "scenes"'),
            (
                'weights = "weights/resnet50.pth"',
                'set = { "train.image_size" = 32, "train.batch_size" = 8, "train.lr" = 0.01 }',
            ),
            ("[datasets.corel5k-199]", f'[datasets."{photos / "mine.toml"}"]'),
            ('data_root = "data/corel5k"', f'data_root = "{photos}"'),
            ('[datasets.ccp]\ndata_root = "data/ccp"', ""),
        )
    )
    return path


def test_every_line_is_of_a_kind_that_is_tested_here() -> None:
    kinds = (("mlbench",), ("accelerate", "launch"), ("torchrun",), ("ray", "start"), ("pip", "install"))
    assert sum(len(lines_of(*kind)) for kind in kinds) == len(LINES)
    assert len(LINES) == sum(line.strip() != "" for block in blocks("sh") for line in block.splitlines())
    assert not blocks("python")


def leaves(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from leaves(command)
        else:
            yield command


@pytest.mark.parametrize("words", [words[words.index("mlbench") + 1 :] for words in LINES if "mlbench" in words])
def test_a_command_has_the_options_it_is_shown_with(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[dict[str, Any]] = []
    for command in leaves(cli):
        monkeypatch.setattr(command, "callback", lambda **given: called.append(given))
    cli.main([str(ROOT) if word == "DIR" else word for word in words], standalone_mode=False)
    assert len(called) == 1


@pytest.mark.parametrize("words", lines_of("ray"))
def test_ray_takes_its_options(words: list[str]) -> None:
    scripts = pytest.importorskip("ray.scripts.scripts", reason="Ray is not installed (extra 'cluster')")
    command = scripts.cli.commands[words[1]]
    assert command.make_context("ray start", words[2:]).params["head"] is ("--head" in words)


@pytest.mark.parametrize("words", lines_of("pip", "install"))
def test_the_extras_exist(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, extra = re.fullmatch(r"(.+)\[(.+)\]", words[2]).groups()  # type: ignore[union-attr]
    assert name == project["name"]
    assert extra in project["optional-dependencies"]


def test_the_grid_is_read_and_has_as_many_runs_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    cells = list(load_grid(path).cells())
    assert f"= {len(cells)} runs" in GRID
    assert {cell["weights"] for cell in cells} == {str(tmp_path / "weights/resnet50.pth")}
    assert {cell["data_root"] for cell in cells} == {str(tmp_path / "data" / name) for name in ("corel5k", "ccp")}


@pytest.mark.parametrize("addition", ADDITIONS)
def test_what_is_added_to_a_grid_is_read(addition: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(f'protocol = "single_positive"\ndataset = "scenes"\nmethods = ["an"]\n{addition}')
    read, wanted = load_grid(path), tomllib.loads(addition)
    assert {name: getattr(read, name) for name in wanted} == wanted


def test_the_table_of_keys_names_keys() -> None:
    known = {field.name for field in fields(Grid)}
    shown = re.findall(r"^\| (`.*?) \|", PAGE[: PAGE.index("## Before")], re.MULTILINE)
    named = {name.strip("[]") for row in shown for name in re.findall(r"`(\S+?)`", row)}
    assert named
    assert named <= known
    assert known - named - {*BY_DATASET} <= {"tune_seed", "grid"}  # of plans in benchmarks/
    assert all(f"`{name}`" in PAGE for name in BY_DATASET)


def test_files_and_functions_the_page_names_exist() -> None:
    for name in re.findall(r"`(?:python )?((?:tests|benchmarks|docs)/[\w./]*)", PAGE):
        assert (ROOT / name).exists(), name
    for name, arguments in re.findall(r"`(mlbench(?:\.\w+)+)\(([\w, ]+)\)`", PAGE):
        module, _, function = name.rpartition(".")
        taken = list(inspect.signature(getattr(import_module(module), function)).parameters)
        assert taken[: len(arguments.split(", "))] == arguments.split(", ")


@pytest.mark.parametrize("words", [text.split() for text in re.findall(r"`python (benchmarks/.*?)`", PAGE)])
def test_a_script_has_the_options_it_is_shown_with(words: list[str]) -> None:
    done = subprocess.run([sys.executable, ROOT / words[0], "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {word for word in words if word.startswith("--")} <= set(done.stdout.replace(",", " ").split())


def test_one_machine(tiny_grid: Path, mlbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_grid.parent)
    monkeypatch.setenv("MLBENCH_RUNS", str(tiny_grid.parent / "runs"))
    (plan,) = lines_of("mlbench", "plan")
    code, out, _ = mlbench(*plan[1:], "--steps", 2)
    assert code == 0
    assert "2 runs to do, 2 at a time" in out
    local = [words for words in lines_of("mlbench", "sweep", "grid.toml") if "--executor" not in words]
    begin, resume, together = local
    assert "--resume" in resume
    assert "--together" in together
    code, out, _ = mlbench(*begin[1:])
    assert code == 0
    assert "2 runs: 0 done before, 2 done now, 0 failed" in out
    for words in (resume, together):
        code, out, _ = mlbench(*words[1:])
        assert code == 0
        assert "2 runs: 2 done before, 0 done now, 0 failed" in out
    (status,) = lines_of("mlbench", "sweep", "status")
    code, out, _ = mlbench(*status[1:])
    assert code == 0
    assert "2 done" in out


@pytest.mark.parametrize("words", [*lines_of("accelerate"), *lines_of("torchrun")], ids=lambda words: words[0])
def test_one_run_in_two_processes(words: list[str], photos: Path, tmp_path: Path) -> None:
    assert "4" in words
    words = ["2" if word == "4" else word for word in words]
    # On GPUs accelerate starts several processes by itself; here it has to be told, and others may have the usual port.
    launcher = ["--multi_gpu", "--main_process_port", "0"] if words[0] == "accelerate" else ["--standalone"]
    at = words.index("-m")
    tiny = [*("--dataset", str(photos / "mine.toml"), "--data-root", str(photos), "--device", "cpu", "--quiet")]
    tiny += [*("--track", "full", "--backbone", "scenes", "--epochs", "1", "--store", str(tmp_path / "runs"))]
    tiny += [word for key in ("image_size=32", "batch_size=8", "lr=0.01") for word in ("--set", f"train.{key}")]
    program = str(Path(sys.executable).with_name(words[0]))
    done = subprocess.run(
        [program, *words[1:at], *launcher, *words[at:], *tiny], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ((record,), _) = find_records(tmp_path / "runs")
    assert record["provenance"]["processes"] == 2
