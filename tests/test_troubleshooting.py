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


#: Modules that read what people feed it.
READING = (
    "adopt",
    "boxes",
    "cells",
    "description",
    "files",
    "folders",
    "guess",
    "reading",
    "rows",
    "sources",
    "tables",
)


def _said(node: ast.expr) -> str:
    """The text of a message, "..." for what is put into it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_said, node.values))
    inside = node.value if isinstance(node, ast.FormattedValue) else None
    return _said(inside.body) if isinstance(inside, ast.IfExp) else "..."


def _errors() -> list[tuple[str, str]]:
    """(module and line, message) of each error of `READING`."""
    found = []
    for name in READING:
        tree = ast.parse((ROOT / "mlbench" / "datasets" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id != "ValueError":
                text = "unknown ... '...'" if call.func.id == "unknown" else _said(call.args[0])
                found.append((f"{name}:{node.lineno}", text))
    return found


@pytest.mark.parametrize(("where", "text"), _errors(), ids=lambda value: value if ":" in value[:20] else "")
def test_each_error_of_reading_is_explained(where: str, text: str) -> None:
    explained = [phrase for phrase in EXPLAINED if re.search(".*?".join(map(re.escape, phrase.split("..."))), text)]
    assert explained, f"{where}: {text}"


def test_there_is_something_to_explain() -> None:
    assert len(EXPLAINED) == len(set(EXPLAINED)) > 20
