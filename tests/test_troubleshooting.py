"""What docs/troubleshooting.md explains is what the code says: its headings are the words that stay."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXPLAINED = [
    phrase
    for line in (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("### ")
    for phrase in re.findall("`([^`]+)`", line)
]


@pytest.fixture(scope="module")
def code() -> str:
    """All code, its texts joined where a line breaks them."""
    files = (path.read_text(encoding="utf-8") for path in sorted((ROOT / "mlbench").rglob("*.py")))
    return "\n".join(re.sub(r'"\s*\n\s*f?r?"', "", text) for text in files)


@pytest.mark.parametrize("phrase", EXPLAINED)
def test_an_explained_error_is_one_that_the_code_gives(phrase: str, code: str) -> None:
    pattern = r"\{[^{}\n]+\}".join(map(re.escape, phrase.split("...")))
    assert re.search(pattern, code) or re.search(pattern, code.replace('\\"', '"')), phrase


#: What builds an error for people.
ERRORS = ("UsageError", "DataError", "MlbenchError", "MethodError")
#: Rooms whose errors are not explained one by one: `mlbench check` prints them below one that is (`does not conform`).
EXCEPTED = ("conformance",)
#: What is left of a message that only says where, and passes on the words of another error or of the system.
PASSED_ON = re.compile(r"(run |line |checkpoint |[^a-z])*")


def _said(node: ast.expr) -> str:
    """The text of a message, "..." for what is put into it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_said, node.values))
    inside = node.value if isinstance(node, ast.FormattedValue) else None
    return _said(inside.body) if isinstance(inside, ast.IfExp) else "..."


def _errors(path: Path) -> list[tuple[int, str]]:
    """(line, message) of each error that a module builds."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ERRORS:
                found.append((node.lineno, _said(node.args[0])))
            elif name == "unknown":
                found.append((node.lineno, "unknown ... '...'"))
    return found


ROOMS = sorted(path for path in (ROOT / "mlbench").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())


@pytest.mark.parametrize("room", [room for room in ROOMS if room.name not in EXCEPTED], ids=lambda room: room.stem)
def test_each_error_is_explained(room: Path) -> None:
    patterns = [re.compile(".*?".join(map(re.escape, phrase.split("...")))) for phrase in EXPLAINED]
    missing = [
        f"{path.name}:{line}: {text}"
        for path in ([room] if room.suffix else sorted(room.rglob("*.py")))
        for line, text in _errors(path)
        if not PASSED_ON.fullmatch(text) and not any(pattern.search(text) for pattern in patterns)
    ]
    assert not missing, "docs/troubleshooting.md does not explain:\n" + "\n".join(missing)


def test_errors_are_found() -> None:
    rooms = {room.stem: sum(len(_errors(path)) for path in room.rglob("*.py")) for room in ROOMS if not room.suffix}
    assert min(rooms[name] for name in ("datasets", "runner", "protocol", "store", "sweep", "submit")) > 20


def test_there_is_something_to_explain() -> None:
    assert len(EXPLAINED) == len(set(EXPLAINED)) > 20
