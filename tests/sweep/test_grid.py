"""Grid files: what they may say, and the runs they stand for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.errors import UsageError
from mlbench.registry import load_method
from mlbench.runner.plan import resolve
from mlbench.sweep.freeze import freeze, request_of
from mlbench.sweep.grid import load_grid

ROOT = Path(__file__).parents[2]
PLANS = sorted(path for path in (ROOT / "benchmarks").glob("*.toml") if "methods" in path.read_text())


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_plans_of_the_benchmarks_are_grids(path: Path) -> None:
    """One run for each method, pair (or draw) of seed and mask, and varied value; those with seed = mask come first.

    Methods that are shown all labels, as all are under protocol full, have one run a seed.
    """
    grid, cells = load_grid(path), list(load_grid(path).cells())
    blind = [m for m in grid.methods if grid.protocol == "full" or "full" in load_method(m).supervision]
    if not (grid.seeds or grid.masks):  # draws
        for cell in cells:
            assert cell["mask_seed"] == (0 if cell["method"] in blind else cell["seed"])
        assert {cell["seed"] for cell in cells} == set(range(grid.draws or 9))
        assert len(cells) == len(grid.methods) * (grid.draws or 9) * len(grid.variants())
        return
    seeds, masks = grid.seeds, grid.masks or (0,)
    seeing = len(grid.methods) - len(blind)
    assert len(cells) == len(seeds) * (seeing * len(masks) + len(blind)) * len(grid.variants())
    assert len({json.dumps(cell) for cell in cells}) == len(cells)
    assert {cell["mask_seed"] for cell in cells if cell["method"] in blind} <= {0}
    if seeing:
        pairs = list(dict.fromkeys((c["seed"], c["mask_seed"]) for c in cells if c["method"] not in blind))
        assert pairs == sorted(itertools.product(seeds, masks), key=lambda pair: (pair[0] != pair[1], pair))


def test_nine_draws_are_the_default_each_of_its_own_seed_and_mask(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    text = 'methods = ["an", "full"]\nprotocol = "single_positive"\ndataset = "scenes"\n'

    def drawn(more: str, method: str) -> list[tuple[int, int]]:
        path.write_text(text + more)
        return [(c["seed"], c["mask_seed"]) for c in load_grid(path).cells() if c["method"] == method]

    assert drawn("", "an") == drawn("draws = 9", "an") == [(i, i) for i in range(9)]
    assert drawn("", "full") == [(i, 0) for i in range(9)]  # it sees no mask
    assert drawn("draws = 2", "an") == [(0, 0), (1, 1)]
    assert drawn("seeds = [1, 2]", "an") == [(1, 0), (2, 0)]
    assert drawn("masks = [4, 5]", "an") == [(0, 4), (0, 5)]
    assert drawn("masks = [4, 5]", "full") == [(0, 4)]


def test_several_data_sets_have_settings_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(
        'methods = ["an", "llr"]\nprotocols = ["single_positive", "own.toml"]\nseeds = [0, 1]\nbackbone = "resnet50"\n'
        '[set]\n"train.lr" = 0.1\n[datasets.ccp]\ndata_root = "ccp"\nset = { "train.lr" = 0.2 }\n'
        '[datasets.scenes]\nbackbone = "scenes"\n[vary]\n"annotation.keep" = [0.1, 0.5]\n"train.epochs" = [3]\n'
    )
    cells = list(load_grid(tmp_path / "g.toml").cells())
    assert len(cells) == 2 * 2 * 2 * 2 * 3
    assert {cell["protocol"] for cell in cells} == {"single_positive", str(tmp_path / "own.toml")}
    for cell in cells:
        ccp = cell["dataset"] == "ccp"
        assert cell["data_root"] == (str(tmp_path / "ccp") if ccp else None)
        assert cell["backbone"] == ("resnet50" if ccp else "scenes")
        assert cell["changes"]["train.lr"] == (0.2 if ccp else 0.1)
    assert {tuple(cell["changes"].items())[1:] for cell in cells} == {
        (("annotation.keep", 0.1),), (("annotation.keep", 0.5),), (("train.epochs", 3),),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods = ", "not valid TOML"),
        ('methods = ["an"]\nprotocol = "p"\ndataset = "d"\nsedes = [1]', "unknown key 'sedes'. Did you mean 'seeds'"),
        ('protocol = "p"\ndataset = "d"', "missing key 'methods'"),
        ('methods = []\nprotocol = "p"\ndataset = "d"', "methods = .*at least one"),
        ('methods = ["an", "an"]\nprotocol = "p"\ndataset = "d"', "stands there twice"),
        ('methods = ["an"]\ndataset = "d"', "either protocol or protocols"),
        ('methods = ["an"]\nprotocol = "p"\ndataset = "d"\ndatasets = ["e"]', "either dataset or datasets"),
        ('methods = ["an"]\nprotocol = "p"\n[datasets.d]\nroot = "x"', "unknown key 'root'. Did you mean 'data_root'"),
        ('methods = ["an"]\nprotocol = "p"\ndatasets.d = 1', "expected a table"),
        ('methods = ["an"]\nprotocol = "p"\ndataset = "d"\ndraws = 3\nseeds = [0]', "either draws or a grid of both"),
        ('methods = ["an"]\nprotocol = "p"\ndataset = "d"\ndraws = -1', "draws = -1: expected at least 0"),
        ('methods = ["an"]\nprotocol = "p"\ndataset = "d"\nretries = -1', "retries = -1: expected at least 0"),
        ('methods = ["an"]\nprotocol = "p"\ndataset = "d"\nvary = { lr = 3 }', "expected a list of values"),
        ('methods = ["an"]\nprotocol = "p"\ndataset = "d"\nseeds = ["a"]', "expected a whole number"),
    ],
)
def test_what_a_grid_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_grid(tmp_path / "g.toml")
    assert str(tmp_path / "g.toml") in str(caught.value)


def test_a_grid_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the grid: No such file"):
        load_grid(tmp_path / "g.toml")


def test_frozen_keys_are_those_of_single_runs(write_grid: Callable[..., Path]) -> None:
    grid = write_grid(methods=["an_boostlu_inference", "an", "llr"], seeds=[0, 1], masks=[0, 1])
    jobs = freeze(load_grid(grid), "g")
    assert len(jobs) == len({job.key for job in jobs}) == 12
    for job in jobs:
        assert resolve(request_of(job.request)).key == job.key
        assert job.asked


def test_side_inputs_go_to_the_methods_that_take_them(
    write_grid: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    from mlbench.datasets import load_dataset
    from mlbench.runner.vl_scores import write_vl_scores

    data = load_dataset(str(photos / "mine.toml"))
    about = {"model": "none: zeros", "prompt": "none", "crop": "none", "values": "cosine"}
    ids = [sample for split in data.splits.values() for sample in split.ids]
    write_vl_scores(tmp_path / "scores.safetensors", np.zeros((len(ids), len(data.classes))), ids, data.classes, about)
    path = write_grid(methods=["an", "vlpl"], seeds=[0], side={"vl_scores": "scores.safetensors"})
    jobs = freeze(load_grid(path), "g")
    requests = {job.request["method"]: request_of(job.request) for job in jobs}
    assert (requests["an"].side, list(requests["vlpl"].side)) == ({}, ["vl_scores"])
    assert [resolve(request_of(job.request)).key for job in jobs] == [job.key for job in jobs]
    with pytest.raises(UsageError, match=r"unknown side input 'scores'.*Known: vl_scores"):
        freeze(load_grid(write_grid(methods=["an"], seeds=[0], side={"scores": "x"})), "g")


def test_runs_that_others_build_on_come_first_and_once(write_grid: Callable[..., Path]) -> None:
    jobs = freeze(load_grid(write_grid(methods=["an_boostlu_inference"], seeds=[0, 1])), "g")
    assert [(job.request["method"], job.asked) for job in jobs] == [
        ("an", False), ("an_boostlu_inference", True), ("an", False), ("an_boostlu_inference", True),
    ]  # fmt: skip
    assert jobs[1].needs == (jobs[0].key,)
    assert jobs[3].needs == (jobs[2].key,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["an", "lrr"]}, "unknown method 'lrr'"),
        ({"methods": ["role_li"], "track": "head"}, "role_li on .*track"),
        ({"set": {"train.lr": -1.0}}, "lr = -1.0: expected more than 0"),
        ({"methods": ["llr"], "vary": {"detla": [1]}}, "no hyperparameter 'detla'. Did you mean 'delta'"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_starts(
    write_grid: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        freeze(load_grid(write_grid(**changes)), "g.toml")
    assert str(caught.value).startswith("g.toml: ")
