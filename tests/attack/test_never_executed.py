"""What docs/security.md says is never executed: nothing is unpickled, no text becomes code, templates escape all."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attacks import strike
from on_submissions import submit, write

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "mlbench").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")])
#: Names that make code of data, or run a shell.
CODE = {"eval", "exec", "compile", "__import__", "execfile"}
LOADERS = {("pickle", "load"), ("pickle", "loads"), ("marshal", "load"), ("marshal", "loads"), ("joblib", "load")}
LOADERS |= {("pickle", "Unpickler"), ("shelve", "open"), ("dill", "load"), ("dill", "loads"), ("yaml", "load")}
LOADERS |= {("os", "system"), ("os", "popen"), ("pd", "read_pickle"), ("pandas", "read_pickle")}
#: What a loader that could unpickle must be told.
SAFE = {("torch", "load"): ("weights_only", True), ("np", "load"): ("allow_pickle", False)}


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_no_code_here_unpickles_evaluates_or_runs_a_shell() -> None:
    wrong, safe = [], 0
    for place, call in calls():
        given = {word.arg: word.value for word in call.keywords}
        if isinstance(call.func, ast.Name) and call.func.id in CODE:
            wrong.append(place)
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            name = (call.func.value.id, call.func.attr)
            if name in LOADERS:
                wrong.append(place)
            if name in SAFE:
                word, value = SAFE[name]
                told = given.get(word)
                safe += 1
                if not isinstance(told, ast.Constant) or told.value is not value:
                    wrong.append(place)
        if "shell" in given:
            wrong.append(place)
    assert wrong == []
    assert safe >= 4


_SEEN: list[tuple[str, str]] = []
_WATCHING: list[bool] = []
_STARTED = ("os.fork", "os.posix_spawn", "subprocess.Popen")
_EVENTS = ("pickle.find_class", "os.system", "os.exec", "socket.connect", *_STARTED)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHING:
        return
    if event in _EVENTS:
        _SEEN.append((event, str(arguments[:2])))
    elif event in ("exec", "compile"):
        name = getattr(arguments[0], "co_filename", None) if event == "exec" else arguments[1]
        if not name or not Path(str(name)).is_file():  # a module that is imported late has a file
            _SEEN.append((event, str(name)))


@contextmanager
def heard() -> Iterator[list[tuple[str, str]]]:
    """What is unpickled, executed, started or connected to meanwhile, as Python's audit events tell."""
    if not getattr(sys, "_mlbench_hears", False):  # a hook stays for the life of the process
        sys.addaudithook(_hear)
        sys._mlbench_hears = True  # type: ignore[attr-defined]
    _SEEN.clear()
    _WATCHING.append(True)
    try:
        yield _SEEN
    finally:
        _WATCHING.clear()


def test_the_ear_hears() -> None:
    import pickle

    with heard() as events:
        pickle.loads(b"cbuiltins\nlen\n.")
        exec("1 + 1")
    assert {event for event, _ in events} == {"pickle.find_class", "compile", "exec"}


@pytest.mark.parametrize("name", ["cards", "submissions"])
def test_nothing_of_a_submission_is_executed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does taking one connect anywhere, or start more than what decodes Parquet, and git for the record."""
    monkeypatch.chdir(tmp_path)
    (home := tmp_path / "honest").mkdir()
    pytest.importorskip("pyarrow", reason="pyarrow, an extra, is not installed")
    for form in ("csv", "safetensors", "parquet"):  # whatever is imported late, is
        assert submit(*write(home, form), home / form) == "taken"
    with heard() as events:
        for seed in range(500, 540):
            (folder := tmp_path / str(seed)).mkdir()
            strike(name, seed, folder)
        found = list(events)
    started = [said for event, said in found if event == "subprocess.Popen"]
    assert [
        said for said in started if "'-m', 'mlbench.foreign.parquet'" not in said and not said.startswith("('git'")
    ] == []
    assert [entry for entry in found if entry[0] not in (_STARTED if started else ())] == []


def test_pages_escape_whatever_they_are_given() -> None:
    from mlbench.inspection import gallery
    from mlbench.report.site import rendering

    assert rendering.ENVIRONMENT.autoescape is True
    assert "autoescape=True" in Path(gallery.__file__).read_text(encoding="utf-8")
    templates = [*(ROOT / "mlbench").rglob("*.html")]
    assert len(templates) >= 5
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert "safe" not in text.replace("unsafe", ""), path
        assert "autoescape" not in text, path
        assert " href={{" not in text, path  # an attribute without quotes ends at a blank
        if "<script" in text:
            assert "Content-Security-Policy" in text, path
