"""What docs/troubleshooting.md explains is what the code says: its headings are the words that stay."""

from __future__ import annotations

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


def test_there_is_something_to_explain() -> None:
    assert len(EXPLAINED) == len(set(EXPLAINED)) > 20
