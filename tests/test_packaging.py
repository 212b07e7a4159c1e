"""The wheel holds what the package needs and nothing else, and everything registered can be loaded."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: What a build reads; the rest of the checkout stays where it is.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "mlbench", "baselines", "protocols", "results")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in the wheel, built without network from a copy of the sources."""
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
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(folder / "source")], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("mlbench_multilabel-*-py3-none-any.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_wheel_has_one_top_level_package(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"mlbench"}


@pytest.mark.parametrize("pattern", ["**/*.py", "**/*.toml", "**/*.json", "**/*.csv", "**/py.typed"])
@pytest.mark.parametrize("folder", ["mlbench", "baselines", "protocols", "results"])
def test_every_source_and_data_file_is_in_the_wheel(wheel: list[str], folder: str, pattern: str) -> None:
    for path in (ROOT / folder).glob(pattern):
        name = path.relative_to(ROOT).as_posix()
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
