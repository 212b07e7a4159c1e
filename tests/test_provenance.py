from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mlbench
from mlbench import provenance
from mlbench.provenance import collect_provenance, own_commit, peak_memory_mib, shorten_argv, usable_cores

STARTED = datetime(2026, 11, 21, 10, 0, 5, tzinfo=UTC)


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *who, "-C", str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def checkout(folder: Path, track: bool = True) -> Path:
    """A folder with a package in it, committed or not; returns the package's folder."""
    package = folder / "mlbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (folder / "README.md").write_text("")
    git(folder, "init", "-q")
    git(folder, "add", "." if track else "README.md")
    git(folder, "commit", "-q", "-m", "first")
    return package


def test_provenance_states_versions_hardware_and_time() -> None:
    found = collect_provenance(
        started=STARTED, seconds=33.00049, images_per_s=2200.12345, processes=2, threads=3, argv=["/x/mlbench", "run"]
    )
    assert found["started"] == "2026-11-21T10:00:05Z"
    assert found["seconds"] == 33.0
    assert found["images_per_s"] == 2200.123
    assert (found["processes"], found["threads"], found["command"]) == (2, 3, "mlbench run")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["numpy"] == np.__version__
    assert found["hardware"]["cores"] == usable_cores() >= 1
    assert found["hardware"]["memory_gib"] > 0.1
    assert found["hardware"]["cpu"]
    assert found["peak_memory_mib"] > 1
    assert found["pixels_sha256"] == {}


def test_the_start_is_recorded_in_utc_and_needs_a_zone() -> None:
    started = datetime(2026, 11, 21, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert collect_provenance(started=started, seconds=1)["started"] == "2026-11-20T23:00:00Z"
    with pytest.raises(ValueError, match="zone"):
        collect_provenance(started=datetime(2026, 11, 21), seconds=1)


def test_packages_that_are_not_installed_are_left_out() -> None:
    found = provenance.package_versions(("numpy", "no-such-distribution-of-ours"))
    assert set(found) == {"numpy"}


def test_torch_is_asked_only_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, mlbench.provenance as p; p.hardware(); p._torch_threads(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "Card 9000")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, get_num_threads=lambda: 5))
    assert provenance.hardware()["accelerator"] == "Card 9000"
    assert collect_provenance(started=STARTED, seconds=1)["threads"] == 5
    cuda.is_available = lambda: False
    assert provenance.hardware()["accelerator"] == "none"


def test_usable_cores_follow_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == (os.cpu_count() or 1)


def test_peak_memory_is_in_mebibytes_on_both_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(provenance, "_read_text", lambda _: "")
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=512 * 1024))
    monkeypatch.setattr(sys, "platform", "linux")
    assert peak_memory_mib() == 512.0
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory_mib() == 0.5


def test_peak_memory_is_the_process_own_and_not_its_launchers() -> None:
    code = (
        "import mlbench.provenance as p; a = p.peak_memory_mib(); b = b'x' * (150 << 20); print(a, p.peak_memory_mib())"
    )
    ballast = bytearray(b"x") * (200 << 20)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before < 100 < 145 < after - before < 160
    assert len(ballast) == 200 << 20


def test_the_processor_has_a_name_on_systems_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_read_text", lambda _: "")
    assert provenance.hardware()["cpu"]


def test_own_commit_is_that_of_the_checkout_holding_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = checkout(tmp_path / "ours")
    checkout(tmp_path / "theirs")
    monkeypatch.chdir(tmp_path / "theirs")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    assert own_commit(package) == {"commit": git(package, "rev-parse", "HEAD"), "dirty": False}


def test_dirty_means_changed_or_new_code_not_documents(tmp_path: Path) -> None:
    package = checkout(tmp_path / "ours")
    (tmp_path / "ours" / "README.md").write_text("changed")
    assert own_commit(package)["dirty"] is False
    (package / "new.py").write_text("")
    assert own_commit(package)["dirty"] is True
    (package / "new.py").unlink()
    (package / "__init__.py").write_text("changed")
    assert own_commit(package)["dirty"] is True


def test_there_is_no_commit_for_a_package_that_is_not_its_own_checkout(tmp_path: Path) -> None:
    none = {"commit": None, "dirty": None}
    plain = tmp_path / "plain" / "mlbench"
    plain.mkdir(parents=True)
    assert own_commit(plain) == none  # installed from a wheel
    environment = checkout(tmp_path / "project") / "venv" / "site-packages" / "mlbench"
    environment.mkdir(parents=True)
    assert own_commit(environment) == none  # inside somebody's repository
    assert own_commit(checkout(tmp_path / "loose", track=False)) == none  # copied into somebody's repository


def test_there_is_no_commit_for_a_checkout_with_the_methods_of_another_one(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(mlbench.__file__).parent, other / "mlbench", ignore=shutil.ignore_patterns("__pycache__"))
    git(other, "init", "-q")
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "first")
    code = "import mlbench, mlbench.provenance as p; print(mlbench.__file__, p.own_commit()['commit'])"
    environment = os.environ | {"PYTHONPATH": str(other)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(other / "mlbench" / "__init__.py"), "None"]


def test_there_is_no_commit_without_git_or_before_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mlbench"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    assert own_commit(package) == {"commit": None, "dirty": None}
    monkeypatch.setenv("PATH", "")
    assert own_commit(package) == {"commit": None, "dirty": None}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/local/bin/mlbench", "run"], "mlbench run"),
        (["/site/mlbench/__main__.py", "run"], "mlbench run"),
        (["mlbench", "--store", "/home/ann/runs/"], "mlbench --store runs"),
        (["mlbench", "--store=/home/ann/my runs/x"], "mlbench --store=x"),
        (["mlbench", "--store", "~/runs/x"], "mlbench --store x"),
        (["mlbench", "--store", "../ann/x"], "mlbench --store x"),
        (["mlbench", "-o/home/ann/x"], "mlbench -ox"),
        (["mlbench", "--data", "/a/one:/b/two,/c/three /d/four"], "mlbench --data 'one:two,three four'"),
        (["mlbench", "--set", 'w="/home/ann/net.pt"'], "mlbench --set 'w=\"net.pt\"'"),
        (["mlbench", "--set", '["/a/x", "/b/y"]'], 'mlbench --set \'["x", "y"]\''),
        (["mlbench", "--data", r"C:\Users\ann\data"], "mlbench --data data"),
        (["mlbench", "--data", r"\\server\share\data"], "mlbench --data data"),
        (["mlbench", "--store", "s3://name:secret@host/bucket/runs"], "mlbench --store runs"),
        (["mlbench", "--store", "file:///home/ann/runs"], "mlbench --store runs"),
        (["mlbench", "--store", "/"], "mlbench --store /"),
        (["mlbench", "--set", "lr=1/3", "runs/x", "a~b"], "mlbench --set lr=1/3 runs/x 'a~b'"),
        ([], ""),
    ],
)
def test_the_command_keeps_only_the_last_part_of_a_path(argv: list[str], expected: str) -> None:
    assert shorten_argv(argv) == expected
