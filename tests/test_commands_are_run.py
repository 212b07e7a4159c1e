"""The command blocks of README and the guide are run as they stand, in one folder and store, in the order of reading.

What they say is done to a stand-in of the embedded data set, with few pictures, in this process, which imports torch
once; `pip install` is done before, by what registers the packages of the guide. RUN and RUNS stand for a person's own,
and are those of the blocks before. Of a pipe what is ours is run. A block
that is not run says why in a comment above it.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from command_blocks import ROOT, Block, blocks, commands, ours

from mlbench import registry
from mlbench.conformance.testing import tiny_dataset
from mlbench.datasets import DATASETS
from mlbench.protocol import Protocol
from mlbench.store import find_records

pytestmark = pytest.mark.chained
BLOCKS = list(blocks())
#: What may stand in a block that is run and is not ours: it installs, or follows in a pipe.
BESIDE = {"pip", "jq", "tee"}
#: Reasons that a page may give, by how they begin.
REASONS = ("needs ", "takes ", "stands for ", "run by ")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[Path]:
    """A folder with what a reader has: a checkout's results, own pictures, the packages of the guide installed."""
    folder = tmp_path_factory.mktemp("reader")
    for room in ("results", "benchmarks"):
        (folder / room).symlink_to(ROOT / room)
    shutil.copytree(photos / "pictures", folder / "photos")
    shutil.copy(photos / "labels.csv", folder)
    site = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(ROOT / "docs" / "example-plugin" / "mlbench_example", site / "mlbench_example")
    register(site, (ROOT / "docs" / "example-plugin" / "pyproject.toml").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    package, module = (re.search(rf"```{kind}\n(.+?)```", page, re.DOTALL) for kind in ("toml", "python"))
    assert package is not None
    assert module is not None
    (site / "my_methods.py").write_text(module[1])
    register(site, package[1])
    data = tiny_dataset(train=48, val=16, test=24, classes=10)
    data = replace(data, id="scenes", version="stand-in", classes=tuple("0123456789"), flippable=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)  # for processes that commands start
        registry.forget()
        patch.setattr(type(DATASETS["scenes"]), "load", stand_in(type(DATASETS["scenes"]).load, data))
        patch.setattr(Protocol, "check_counts", lambda *_, **__: None)  # of pictures, which are fewer
        yield folder
    registry.forget()


def register(site: Path, pyproject: str) -> None:
    """Leave in `site` what an installation of the project would: its name and entry points."""
    project = tomllib.loads(pyproject)["project"]
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")


def stand_in(load: Callable[..., Any], data: Any) -> Callable[..., Any]:
    """`load` of an entry, that gives `data` for the embedded data set."""

    def loads(entry: Any, root: Path | None = None) -> Any:
        return data if entry is DATASETS["scenes"] else load(entry, root)

    return loads


def filled_in(arguments: list[str]) -> list[str]:
    """`arguments` with runs and store of this folder for RUN and RUNS, and without dots."""
    keys: Iterator[str] = iter(())
    if "RUN" in arguments:
        found = [record for record in find_records(Path("runs"))[0] if record["identity"]["dataset"]["id"] == "scenes"]
        keys = cycle(record["key"] for record in found)
    words = [word for word in arguments if word != "..."]
    return ["runs" if word == "RUNS" else next(keys) if word == "RUN" else word for word in words]


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.not_run is None], ids=lambda block: block.place)
def test_a_block_does_what_it_says(
    block: Block, workspace: Path, mlbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    for words in commands(block.text):
        arguments = ours(words)
        if arguments is None:
            assert words[0] in BESIDE, f"{block.place}: nothing here runs {words[0]}: say why above the block"
        else:
            code, printed, said = mlbench(*filled_in(arguments))
            assert code == 0, f"{block.place}: mlbench {' '.join(arguments)}: {printed[-3000:]}{said}"


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.not_run is not None], ids=lambda block: block.place)
def test_a_block_that_is_not_run_has_a_reason_and_where_a_test_runs_it_that_is_there(block: Block) -> None:
    reason = str(block.not_run)
    assert reason.startswith(REASONS), f"{block.place}: {reason}"
    for path in re.findall(r"tests/[\w/.]+\.py", reason):
        assert (ROOT / path).is_file(), f"{block.place}: {path}"
