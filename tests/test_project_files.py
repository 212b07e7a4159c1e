"""The files a project is met by say what is true of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import mlbench

ROOT = Path(__file__).parents[1]


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = re.search(r"(?m)^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = re.search(r"(?m)^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert citation is not None
    assert changes is not None
    assert {mlbench.__version__, citation[1], changes[1]} == {project["version"]}


def test_the_changes_name_the_present_harness_integer() -> None:
    newest = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1]
    assert f"Harness {mlbench.HARNESS_VERSION}" in newest


def test_the_architecture_shows_every_room() -> None:
    drawing = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("```")[1]
    names = {path.stem for path in (ROOT / "mlbench").iterdir() if path.suffix in ("", ".py")}
    rooms = {name for name in names if not name.startswith("_")} - {"schema"}
    assert rooms <= set(drawing.replace(":", " ").split())


def test_links_between_the_files_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "results").rglob("*.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not missing
