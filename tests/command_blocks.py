"""The command blocks of README and the guide, and the words of their commands; shared by the tests that read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "start.md",  # which is read next
    *(page for room in (".", "docs", "benchmarks") for page in sorted((ROOT / room).glob("*.md"))),
]
_BLOCK = re.compile(r"(?ms)^(?:( *)<!-- not run: (.+?) -->\n\n?)?^( *)```(?:sh|bash|console)\n(.*?)^\3```")
_OPERATORS = {"|", "||", "&&", ";", "&", "(", ")"}


class Block(NamedTuple):
    """Commands in a fence; `not_run` is the reason that the page gives for it, in a comment above the fence."""

    place: str
    text: str
    not_run: str | None


def blocks() -> Iterator[Block]:
    """Every block of shell commands, README and the start first; `place` is page:line of its first command."""
    for page in dict.fromkeys(PAGES):
        text = page.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            line = text[: found.start(4)].count("\n") + 1
            yield Block(f"{page.relative_to(ROOT)}:{line}", found[4], found[2])


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of `text`, without assignments before it and redirections behind."""
    text = text.replace("\\\n", " ")
    for name, value in re.findall(r'(?m)^(\w+)="(.*)"\s*(?:#.*)?$', text):
        text = text.replace(f"${name}", value)
    for line in text.splitlines():
        reader = shlex.shlex(line.removeprefix("$ ").strip(), posix=True, punctuation_chars="|&;()<>")
        reader.whitespace_split = True
        words: list[str] = []
        skip = False
        for word in [*reader, ";"]:
            if word in _OPERATORS:
                if words:
                    yield words
                words = []
            elif skip:
                skip = False
            elif set(word) <= set("<>&"):
                skip = True
                if words and words[-1].isdigit():
                    words.pop()
            elif words or not (re.fullmatch(r"\w+=.*", word) or word in ("do", "then", "nice", "time", "sudo")):
                words.append(word)


def ours(words: list[str]) -> list[str] | None:
    """The arguments of a call of mlbench, however it is started; None for other programs."""
    program = words[0].removeprefix(".venv/bin/")
    if program == "mlbench":
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1] == "mlbench":
        return words[words.index("-m") + 2 :]
    return None
