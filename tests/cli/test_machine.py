"""`mlbench doctor`, `env` and `cache`."""

from __future__ import annotations

import getpass
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlbench.cache import KINDS, clear, entries
from mlbench.cli import doctor
from mlbench.cli.machine import age_text, size_text
from mlbench.locks import locked
from mlbench.paths import cache_dir

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an entry of several files, one of another kind, given scores, the scenes, and a foreign folder."""
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))
    files = {
        "pixels/aa.npy": 3000,
        "pixels/aa.json": 10,
        "pixels/aa.lock": 5,
        "pixels/bb.part": 70,
        "pixels/only.lock": 5,
        "checked/cc.json": 20,
        "vl_scores/dd.safetensors": 40,
        "scenes-1/scenes.npz": 50,
        "thesis/chapter.tex": 60,
    }
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    os.utime(tmp_path / "checked" / "cc.json", (time.time() - 10 * 86400,) * 2)
    return tmp_path


def listed(mlbench: Call, *arguments: str) -> dict[str, int]:
    code, out, err = mlbench("cache", "list", *arguments, "--json")
    assert code == 0, err
    return {f"{row['kind']} {row['key']}": row["bytes"] for row in json.loads(out)["rows"]}


def test_the_list_has_sizes_by_kind_and_key(filled: Path, mlbench: Call) -> None:
    assert listed(mlbench) == {
        "pixels aa": 3010,
        "pixels bb": 70,
        "checked cc": 20,
        "scenes scenes-1/scenes.npz": 50,
        "vl_scores dd": 40,
    }
    assert listed(mlbench, "pixels", "--key", "b") == {"pixels bb": 70}
    _, out, _ = mlbench("cache", "list")
    assert "2.9 KiB" in out
    assert "10 d" in out
    assert f"3.1 KiB in 5 entries of {filled}" in out


def test_an_empty_cache_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlbench: Call) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "none"))
    assert mlbench("cache", "list")[1] == f"0 B in 0 entries of {tmp_path / 'none'}\n"
    assert mlbench("cache", "clear", "--yes")[1] == "nothing to clear\n"


def test_clearing_spares_what_was_given_and_what_is_not_ours(filled: Path, mlbench: Call) -> None:
    code, out, _ = mlbench("cache", "clear", "--yes")
    assert (code, out) == (0, "deleted 4 entries, 3.1 KiB\n")
    left = sorted(str(path.relative_to(filled)) for path in filled.rglob("*") if path.is_file())
    assert left == ["pixels/only.lock", "thesis/chapter.tex", "vl_scores/dd.safetensors"]
    assert mlbench("cache", "clear", "vl_scores", "--yes")[0] == 0
    assert not (filled / "vl_scores" / "dd.safetensors").exists()


def test_clearing_by_age_and_key(filled: Path, mlbench: Call) -> None:
    assert mlbench("cache", "clear", "--older", "9", "--yes")[1] == "deleted 1 entries, 20 B\n"
    assert mlbench("cache", "clear", "pixels", "--key", "aa", "--yes")[0] == 0
    assert listed(mlbench).keys() == {"pixels bb", "scenes scenes-1/scenes.npz", "vl_scores dd"}


def test_it_asks_first(filled: Path, mlbench: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "n")
    code, _, err = mlbench("cache", "clear", "pixels")
    assert (code, err) == (1, "stopped\n")
    assert "pixels aa" in listed(mlbench)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "y")
    assert mlbench("cache", "clear", "pixels")[0] == 0
    assert "pixels aa" not in listed(mlbench)


def test_what_a_process_is_making_is_left(filled: Path, mlbench: Call) -> None:
    with locked(filled / "pixels" / "aa.lock", wait=False):
        (held,) = entries(["pixels"], "aa")
        assert held.used
        _, out, _ = mlbench("cache", "clear", "pixels", "--yes")
        assert "left: pixels aa, which another process is making" in out
        assert (filled / "pixels" / "aa.npy").exists()
    assert not (filled / "pixels" / "bb.part").exists()
    assert clear(entries(["pixels"]))[0] == [held]


def test_an_unknown_kind_is_refused(filled: Path, mlbench: Call) -> None:
    code, _, err = mlbench("cache", "clear", "pixel", "--yes")
    assert code == 2
    assert "unknown kind of cache 'pixel'. Did you mean 'pixels'?" in err


def test_kinds_are_all_that_the_code_keeps() -> None:
    """Rooms of the cache that are named in the code; matrices without a name (scratch) leave nothing there."""
    import re

    root = Path(__file__).parents[2] / "mlbench"
    text = "\n".join(path.read_text(encoding="utf-8") for path in root.rglob("*.py"))
    named = set(re.findall(r'cache_dir\(\) / "(\w+)"', text)) | set(re.findall(r'cache_file\(\s*"(\w+)"', text))
    from mlbench.inputs.cache import ROOMS

    assert (named | set(ROOMS)) - {"scratch"} <= KINDS.keys()


def test_sizes_and_ages_have_a_unit() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, 20 * 2**20, 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "20 MiB",
        "1024 GiB",
    ]
    assert [age_text(s) for s in (3, 61, 7300, 200000)] == ["3 s", "1 min", "2 h", "2 d"]


def test_the_environment_names_no_person_machine_or_folder(mlbench: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_TOKEN", "hunter2")
    monkeypatch.setenv("MLBENCH_RUNS", "/home/somebody/runs")
    code, out, _ = mlbench("env")
    assert code == 0
    assert "MLBENCH_TOKEN" in out
    for secret in ("hunter2", "somebody", str(Path.home()), str(cache_dir()), os.getcwd(), platform.node()):
        assert secret not in out
    assert getpass.getuser() not in out.replace("root", "") or getpass.getuser() == "root"
    for what in ("mlbench", "python", "torch", "numpy", "harness 2"):
        assert what in out


def test_the_doctor_tells_data_sets_and_weights_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlbench: Call
) -> None:
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"")
    (tmp_path / "mine.toml").write_text("")
    code, out, err = mlbench("doctor", "--data-root", tmp_path, "--json")
    assert code == 0, err
    found = {(row["part"], row["name"]): row for row in json.loads(out)["rows"]}
    assert found["weights", "resnet18"]["state"] == "ok"
    assert found["weights", "resnet50"]["state"] == "missing"
    assert found["data sets", "voc2012"]["state"] == "missing"
    assert found["data sets", "mine.toml"]["state"] == "ok"
    assert "kd_wsd" in found["methods", "proposals"]["remark"]
    assert found["versions", "torch"]["state"] == "ok"


def test_the_doctor_fails_where_a_dependency_is_too_old(monkeypatch: pytest.MonkeyPatch, mlbench: Call) -> None:
    version = doctor.importlib.metadata.version
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "1.0" if name == "torch" else version(name))
    code, out, err = mlbench("doctor")
    assert code == 1
    assert "wanted torch>=" in out
    assert "missing: torch" in err
