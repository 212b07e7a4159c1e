"""The wheel holds what the package needs and nothing else, and everything registered can be loaded."""

from __future__ import annotations

import importlib.util
import json
import lzma
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from mlbench.datasets import load_dataset

ROOT = Path(__file__).resolve().parent.parent
#: What a build reads; the rest of the checkout stays where it is.
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
SOURCES += ("mlbench", "baselines", "protocols", "results")
#: What stays in the checkout: records are packed into one file, and nothing reads the others.
LEFT_OUT = ("results/runs/", "results/ablations/", "results/benchmarks/")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network from the sdist of a copy of the sources."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("setuptools and pip are needed to build a wheel without network")
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip(f"setuptools {version('setuptools')} is older than pyproject.toml asks for")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / "source" / name, ignore=ignored)
        else:
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(source, folder / "source" / name)
    pack = "from setuptools import build_meta; print(build_meta.build_sdist('..'))"
    done = subprocess.run(
        [sys.executable, "-c", pack], cwd=folder / "source", capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = folder.glob("mlbench_multilabel-*.tar.gz")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", folder, sdist], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("mlbench_multilabel-*-py3-none-any.whl")
    return path


@pytest.fixture(scope="module")
def wheel(built: Path) -> list[str]:
    """Names of the files in the wheel."""
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_the_wheel_has_one_top_level_package(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"mlbench"}


@pytest.mark.parametrize("pattern", ["**/*.py", "**/*.toml", "**/*.json", "**/*.csv", "**/py.typed"])
@pytest.mark.parametrize("folder", ["mlbench", "baselines", "protocols", "results"])
def test_every_source_and_data_file_is_in_the_wheel(wheel: list[str], folder: str, pattern: str) -> None:
    for path in (ROOT / folder).glob(pattern):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(LEFT_OUT):
            continue
        assert (name if folder == "mlbench" else f"mlbench/{name}") in wheel


def test_the_wheel_has_methods_protocols_published_tables_descriptions_and_schema(wheel: list[str]) -> None:
    for expected in (
        "mlbench/baselines/large_loss.py",
        "mlbench/protocols/single_positive.toml",
        "mlbench/results/papers/boostlu.csv",
        "mlbench/datasets/descriptions/corel5k-199.toml",
        "mlbench/schema/record.json",
        "mlbench/py.typed",
    ):
        assert expected in wheel
    assert not [name for name in wheel if "/tests/" in name or name.startswith("tests") or "__pycache__" in name]


def test_the_wheel_is_small_and_has_all_published_records_in_one_file(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        archive.extract("mlbench/results/runs.jsonl.xz", tmp_path)
        assert not [name for name in archive.namelist() if name.startswith("mlbench/results/runs/")]
    assert built.stat().st_size < 8_000_000
    lines = lzma.decompress((tmp_path / "mlbench" / "results" / "runs.jsonl.xz").read_bytes()).decode().splitlines()
    packed = dict(map(json.loads, lines))
    here = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "results" / "runs").glob("*.json")}
    assert packed == here


def test_installed_from_the_wheel_it_works_without_the_checkout(built: Path, photos: Path, tmp_path: Path) -> None:
    """List, run, table, site and submit; the published records where there is no store."""
    site, empty = tmp_path / "site-packages", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, built]
    subprocess.run(install, check=True, capture_output=True, timeout=600)
    environment = {**os.environ, "PYTHONPATH": str(site), "MLBENCH_CACHE": str(tmp_path / "cache")}

    def call(*arguments: object) -> str:
        command = [sys.executable, "-m", "mlbench", *map(str, arguments)]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [
        sys.executable,
        "-c",
        "import mlbench, mlbench.baselines; print(mlbench.__file__, mlbench.baselines.__file__)",
    ]
    found = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert all(Path(path).is_relative_to(site) for path in found), found

    published = json.loads(call("list", "runs", "--json"))["rows"]
    assert len(published) == len(list((ROOT / "results" / "runs").glob("*.json")))
    assert "llr_boostlu" in call("list", "methods")
    setting = ["--protocol", "single_positive", "--dataset", photos / "mine.toml"]
    run = [*setting, "--method", "prior", "--backbone", "scenes", "--track", "full", "--epochs", 1]
    call("run", *run, "--set", "train.image_size=32", "--device", "cpu", "--store", tmp_path / "runs")
    assert "prior" in call("table", "--store", tmp_path / "runs")
    call("site", "--output", tmp_path / "site", "--store", tmp_path / "runs")
    assert (tmp_path / "site" / "index.html").is_file()

    checked = json.loads(call("data", "verify", photos / "mine.toml", "--quiet", "--json"))
    (tmp_path / "card.toml").write_text(
        'name = "ours"\nversion = 1\ntitle = "Chance"\nauthors = ["A"]\nkind = "probability"\n'
        'supervision = ["observed"]\nbackbone = "none"\nsource = "https://example.org"\n'
        f'[dataset]\nid = "mine"\nversion = "1"\nfingerprint = "{checked["fingerprint"]}"\n'
    )
    test = load_dataset(str(photos / "mine.toml"))
    scores = np.random.default_rng(0).random((len(test.splits["test"]), len(test.classes)))
    rows = [",".join([sample, *map(str, row)]) for sample, row in zip(test.splits["test"].ids, scores, strict=True)]
    (tmp_path / "ours.csv").write_text("\n".join([",".join(["id", *test.classes]), *rows]) + "\n")
    told = call(
        "submit", tmp_path / "ours.csv", *setting, "--card", tmp_path / "card.toml", "--store", tmp_path / "runs"
    )
    assert "submitted/ours version 1 taken" in told


def test_the_packages_of_the_build_file_are_those_of_the_checkout() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "mlbench").rglob("__init__.py")
    }
    assert listed == found | {"mlbench.baselines", "mlbench.protocols", "mlbench.results"}


def test_data_files_are_found_from_the_installed_package() -> None:
    assert (files("mlbench.protocols") / "full.toml").is_file()
    assert (files("mlbench.results") / "papers" / "boostlu.csv").is_file()
    assert (files("mlbench") / "schema" / "record.json").is_file()


def test_entry_points_load_and_the_build_file_lists_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group, listed in project["entry-points"].items():
        ours = {point.name: point for point in entry_points(group=group)}
        for name, value in listed.items():
            assert name in ours, f"'{name}' is not installed: install the package again"
            assert ours[name].value == value
    for name, value in project["entry-points"]["mlbench.methods"].items():
        assert value.startswith("mlbench.baselines."), name
    (command,) = (point for point in entry_points(group="console_scripts") if point.name == "mlbench")
    assert callable(command.load())


def test_every_module_can_be_imported_and_none_is_a_top_level_package_of_ours() -> None:
    code = (
        "import importlib, pkgutil, sys, mlbench\n"
        "names = [m.name for m in pkgutil.walk_packages(mlbench.__path__, 'mlbench.')]\n"
        "names += [f'mlbench.baselines.{m.name}' for m in pkgutil.iter_modules(\n"
        "    importlib.import_module('mlbench.baselines').__path__)]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'):\n"
        "        importlib.import_module(name)\n"
        "wrong = {n.split('.')[0] for n in sys.modules} & {'baselines', 'protocols', 'results', 'tests'}\n"
        "assert not wrong, wrong\n"
        "print(len(names))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_mlbench_imports_nothing_of_the_methods() -> None:
    """Arrows point one way: methods come through the registry, as anybody's do."""
    for path in (ROOT / "mlbench").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                assert not words[1].startswith(("baselines", "mlbench.baselines")), f"{path}: {line}"
